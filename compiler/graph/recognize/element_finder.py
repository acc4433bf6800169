"""Follows an entry of a mask back through the graph, see ``mask_elements``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.compiler.graph.affine import affine_size, number
from hocket.compiler.graph.recognize.element_rules import RULES
from hocket.compiler.graph.recognize.mask_bounds import fixed_array
from hocket.compiler.graph.recognize.mask_elements import ANYTHING, Element
from hocket.compiler.graph.recognize.open_shapes import SHAPE_RULES
from hocket.compiler.graph.values import element_type, name_of
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from hocket.compiler.graph.affine import Affine, Facts
    from hocket.compiler.graph.recognize.mask_elements import Index, Sizes
    from hocket.hwmodels.sizes import Size

_MAX_DEPTH = 100

# Whole numbers up to which a type holds all.
_EXACT = {
    DType.INT64: 1 << 62,
    DType.INT32: (1 << 31) - 1,
    DType.FLOAT64: 1 << 53,
    DType.FLOAT32: 1 << 24,
    DType.FLOAT16: 1 << 11,
    DType.BFLOAT16: 1 << 8,
}


class ElementFinder:
    """Finds what entries are under some facts.

    Args:
        sizes: The shapes of values by their names, None for a size that is not known.
        facts: Of the unknowns in indices.

    Attributes:
        undecided: Sums whose sign would have told what a comparison comes to, but is not known.
    """

    def __init__(self, sizes: Mapping[str, Sequence[Size | None]], facts: Facts) -> None:
        self._sizes = sizes
        self.facts = facts
        self.undecided: list[Affine] = []
        self._found: dict[tuple[ir.Value, Index], Element] = {}
        self._shapes: dict[ir.Value, Sizes] = {}
        self._depth = 0

    def shape(self, value: ir.Value) -> Sizes:
        """Return the sizes of a value; None if its rank is not known."""
        if value not in self._shapes:
            self._shapes[value] = self._find_shape(value)
        return self._shapes[value]

    def find(self, value: ir.Value | None, index: Index) -> Element:
        """Return what is known of an entry."""
        if value is None:
            return ANYTHING
        key = (value, index)
        if key not in self._found:
            self._depth += 1
            found = self._compute(value, index) if self._depth < _MAX_DEPTH else None
            self._depth -= 1
            self._found[key] = _held(value, found)
        return self._found[key]

    def find_like(self, value: ir.Value | None, output: ir.Value, index: Index) -> Element:
        """Return what is known of the entry of an input that broadcasts to an entry."""
        mine = None if value is None else self.shape(value)
        whole = self.shape(output)
        if mine is None or whole is None or not len(mine) <= len(whole) == len(index):
            return self.find_any(value)
        ahead = len(whole) - len(mine)
        places = zip(mine, whole[ahead:], index[ahead:], strict=True)
        return self.find(value, tuple(self._along(*place) for place in places))

    def find_any(self, value: ir.Value | None) -> Element:
        """Return what is known of all entries of a value."""
        shape = None if value is None else self.shape(value)
        return _held(value, None) if shape is None else self.find(value, (None,) * len(shape))

    def between(self, position: Affine) -> Element:
        """Return a position with its bounds."""
        low, high = self.facts.span(position)
        return Element(low, high, position)

    @staticmethod
    def _along(mine: Affine | None, whole: Affine | None, index: Affine | None) -> Affine | None:
        """Return where an entry of the whole comes from, along an axis that may be broadcast."""
        if mine == number(1):
            return number(0)
        return index if mine is not None and mine == whole else None

    def _find_shape(self, value: ir.Value) -> Sizes:
        array = fixed_array(value)
        if array is not None:
            return tuple(number(size) for size in array.shape)
        sizes = self._sizes.get(name_of(value))
        if sizes is not None:
            return tuple(None if size is None else affine_size(size) for size in sizes)
        node = value.producer()
        rule = None if node is None or node.domain else SHAPE_RULES.get(node.op_type)
        if node is None or rule is None or self._depth >= _MAX_DEPTH:
            return None
        self._depth += 1
        found = rule(self, node)
        self._depth -= 1
        return found

    def _compute(self, value: ir.Value, index: Index) -> Element | None:
        array = fixed_array(value)
        if array is not None:
            return self._entry_of(array, index)
        node = value.producer()
        rule = None if node is None or node.domain else RULES.get(node.op_type)
        if node is None or rule is None or node.outputs[0] is not value:
            return None
        return rule(self, node, index)

    def _entry_of(self, array: NDArray[Any], index: Index) -> Element | None:
        """Return what the entries of a constant have in common, by where they can stand."""
        if array.dtype.kind not in "bifu" or array.size == 0 or len(index) != array.ndim:
            return None
        cut: list[slice] = []
        for axis, size in enumerate(array.shape):
            first, last = self._places(index[axis], size)
            cut.append(slice(first, last + 1))
        kept = array[tuple(cut)].astype(np.float64)
        kept = np.where(self._diagonals(kept, cut, index), kept, np.nan)
        if np.all(np.isnan(kept)):
            return None
        low, high = float(np.nanmin(kept)), float(np.nanmax(kept))
        if np.any(np.isnan(array)):
            return None
        is_whole = low == high and array.dtype.kind != "f" and abs(low) <= _EXACT[DType.FLOAT64]
        return Element(low, high, number(int(low)) if is_whole else None)

    def _places(self, index: Affine | None, size: int) -> tuple[int, int]:
        """Return the first and last place along an axis that an index may point at."""
        low, high = (0.0, size - 1.0) if index is None else self.facts.span(index)
        return int(min(max(low, 0), size)), int(max(min(high, size - 1), -1))

    def _diagonals(
        self, kept: NDArray[Any], cut: Sequence[slice], index: Index
    ) -> NDArray[np.bool_] | bool:
        """Return which entries of a matrix lie as far right of its diagonal as they must."""
        if kept.ndim < 2 or index[-2] is None or index[-1] is None:
            return True
        low, high = self.facts.span(index[-1] - index[-2])
        rows = np.arange(kept.shape[-2])[:, None] + cut[-2].start
        right = np.arange(kept.shape[-1]) + cut[-1].start - rows
        inside: NDArray[np.bool_] = (right >= low) & (right <= high)
        return inside


def _held(value: ir.Value | None, found: Element | None) -> Element:
    """Return an element within what its type holds."""
    dtype = element_type(value)
    if found is None or math.isnan(found.low) or math.isnan(found.high):
        return Element(0.0, 1.0) if dtype is DType.BOOL else ANYTHING
    limit = None if dtype is None else _EXACT.get(dtype)
    if limit is not None and max(abs(found.low), abs(found.high)) <= limit:
        return found
    if dtype is DType.BOOL or (dtype is not None and dtype.is_floating):
        return Element(found.low, found.high)
    return ANYTHING  # a whole number that may have overflowed
