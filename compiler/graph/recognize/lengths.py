"""Masks that say how many keys of each batch are there, read as lengths that kernels take.

A cache of fixed size is filled up to some key, and a mask that is computed from it hides what lies
behind. Kernels that know the length do not look there at all, and nobody need make the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.match import MaskRole
from hocket.compiler.graph.values import (
    constant_array,
    element_type,
    is_op,
    static_shape,
    uniform_constant,
)
from hocket.compiler.problem import NO_RULES, ScoreRules
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from hocket.compiler.graph.recognize.match import MaskTerm

    Scores = tuple[int, int, int, int]

_INTEGERS = (DType.INT64, DType.INT32)
_SWAPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}


@dataclass(frozen=True)
class KeyLengths:
    """What is left of masks once lengths are taken out of them.

    Attributes:
        terms: The masks that are still needed.
        rules: Which lengths go with: none of positions, or where queries stand and what they see.
        base: One whole number for each batch; None if no mask speaks of lengths.
        added: What to add to it for the lengths.
    """

    terms: tuple[MaskTerm, ...]
    rules: ScoreRules = NO_RULES
    base: ir.Value | None = None
    added: int = 0

    @property
    def has_positions(self) -> bool:
        """Whether where queries stand is among the rules."""
        return self.rules.counts_from_end


@dataclass(frozen=True)
class _Place:
    """A position: a number for each batch, plus multiples of row and column, plus a number.

    Attributes:
        base: One number for each batch, known at run time; None for 0.
    """

    base: ir.Value | None
    row: int
    column: int
    added: int


@dataclass(frozen=True)
class _Bound:
    """A key is seen below, or else from, some place on."""

    place: _Place
    is_end: bool


def find_lengths(terms: tuple[MaskTerm, ...], scores: Scores) -> KeyLengths:
    """Take one mask for the lengths that it is made of.

    Before and after, for a cache of 512 keys of which so many are filled::

        s = Where(Less([0..511], Reshape(filled, [2, 1, 1, 1])), scores, -inf)
        lengths = Cast(Reshape(filled, [-1])); scores of so many keys

    Where rows see one key more each, up to the last one that is filled, queries are the last keys::

        s = Where(Less([0..511], filled - 3 + [[1], [2], [3]]), scores, -inf)

    Args:
        terms: In the order in which they act.
        scores: Batch, heads, rows and columns of the scores.
    """
    for term in terms:
        condition = _condition(term)
        bounds = None if condition is None else _bounds(condition, scores)
        found = None if bounds is None else _understood(bounds, scores)
        if found is not None:
            base, added, rules = found
            left = tuple(each for each in terms if each is not term)
            return KeyLengths(left, rules, base, added)
    return KeyLengths(terms)


def merge_rules(positions: ScoreRules, lengths: ScoreRules, softcap: float) -> ScoreRules:
    """Return the rules of masks that say where queries stand, or how many keys there are."""
    if lengths.counts_from_end:
        return replace(lengths, softcap=softcap)
    return replace(positions, has_kv_lengths=lengths.has_kv_lengths, softcap=softcap)


def _condition(term: MaskTerm) -> ir.Value | None:
    """Return what must be true of keys that are seen, where all others are hidden for good."""
    if len(term.scores_shape) != 4:
        return None
    if term.role is MaskRole.KEEP:
        return term.value if term.masked_value == -np.inf else None
    node = term.value.producer()
    if term.role is not MaskRole.ADD or term.factor <= 0.0 or not is_op(node, "Where"):
        return None
    shown, hidden = (uniform_constant(value) for value in node.inputs[1:])
    return node.inputs[0] if shown == 0.0 and hidden == -np.inf else None


def _bounds(condition: ir.Value | None, scores: Scores) -> list[_Bound] | None:
    """Return the bounds that a condition is made of, None if it is made of anything else."""
    node = None if condition is None else condition.producer()
    if is_op(node, "And"):
        parts = [_bounds(value, scores) for value in node.inputs]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else [bound for part in known for bound in part]
    if is_op(node, "Not"):
        inner = _bounds(node.inputs[0], scores)
        if inner is None or len(inner) != 1:
            return None
        return [_Bound(inner[0].place, is_end=not inner[0].is_end)]
    if not is_op(node, "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        return None
    small, large = (_place(value, scores) for value in node.inputs)
    if small is None or large is None:
        return None
    if node.op_type in _SWAPPED:
        small, large = large, small
    return _compared(small, large, includes=_SWAPPED.get(node.op_type, node.op_type) != "Less")


def _compared(small: _Place, large: _Place, *, includes: bool) -> list[_Bound] | None:
    """Return the bound in "one place is below the other", of which one must be the key's."""
    key = _Place(None, 0, 1, 0)
    if replace(small, added=0) == key and not large.column:
        end = large.added - small.added + includes
        return [_Bound(replace(large, added=end), is_end=True)]
    if replace(large, added=0) == key and not small.column:
        start = small.added - large.added + (not includes)
        return [_Bound(replace(small, added=start), is_end=False)]
    return None


def _place(value: ir.Value | None, scores: Scores) -> _Place | None:
    """Return a position as what it is made of."""
    if value is None or element_type(value) not in _INTEGERS:
        return None
    array = constant_array(value)
    if array is not None:
        return _constant_place(array, scores)
    node = value.producer()
    if is_op(node, "Add", "Sub"):
        one, other = (_place(each, scores) for each in node.inputs)
        sign = 1 if node.op_type == "Add" else -1
        if one is None or other is None or (other.base is not None and (one.base or sign < 0)):
            return None if static_shape(value) is None else _base(value, scores)
        return _Place(
            one.base or other.base,
            one.row + sign * other.row,
            one.column + sign * other.column,
            one.added + sign * other.added,
        )
    return _base(value, scores)


def _base(value: ir.Value, scores: Scores) -> _Place | None:
    """Return the place that is a number for each batch, known at run time."""
    shape = static_shape(value)
    if shape is None or len(shape) > 4:
        return None
    padded = (1,) * (4 - len(shape)) + shape
    return _Place(value, 0, 0, 0) if padded == (scores[0], 1, 1, 1) else None


def _constant_place(array: np.ndarray, scores: Scores) -> _Place | None:
    """Return a constant that grows evenly along rows and columns."""
    if array.ndim > 4 or array.size == 0 or any(size != 1 for size in array.shape[:-2]):
        return None
    matrix = array.reshape((1,) * (2 - min(array.ndim, 2)) + array.shape[-2:]).astype(np.int64)
    if any(size not in (1, full) for size, full in zip(matrix.shape, scores[2:], strict=True)):
        return None
    first = int(matrix[0, 0])
    row = int(matrix[1, 0]) - first if len(matrix) > 1 else 0
    column = int(matrix[0, 1]) - first if matrix.shape[1] > 1 else 0
    rows, columns = np.indices(matrix.shape)
    is_even = np.array_equal(matrix, first + row * rows + column * columns)
    return _Place(None, row, column, first) if is_even else None


def _understood(bounds: list[_Bound], scores: Scores) -> tuple[ir.Value, int, ScoreRules] | None:
    """Return lengths, as a value and what to add to it, and the rules that go with them."""
    ends = [bound.place for bound in bounds if bound.is_end]
    starts = [bound.place for bound in bounds if not bound.is_end]
    if len(ends) != 1 or len(starts) > 1:
        return None
    (end,), rows = ends, scores[2]
    base = end.base
    if base is None:
        return None
    if not starts and (rows == 1 or end.row == 0):
        return base, end.added, ScoreRules(has_kv_lengths=True)
    if rows > 1 and any(place.row != 1 for place in (end, *starts)):
        return None
    windows = [end.added - 1 - start.added for start in starts]
    if any(start.base is not base for start in starts) or any(w < 0 for w in windows):
        return None
    rules = ScoreRules(
        left_window=windows[0] if windows else None,
        right_window=0,
        has_kv_lengths=True,
        counts_from_end=True,
    )
    # The last row sees all keys there are.
    return base, end.added + (rows - 1), rules


def make_lengths(lengths: KeyLengths) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """Make nodes that compute lengths, int64 ``[batch]``; they are part of no graph yet."""
    base = lengths.base
    if base is None or base.dtype is None:
        return None, ()
    nodes: list[ir.Node] = []
    size = int(np.prod(static_shape(base) or ()))

    def emit(op_type: str, inputs: list[ir.Value], dtype: ir.DataType, **more: int) -> ir.Value:
        kind = ir.TensorType(dtype)
        output = ir.Value(name=f"{base.name}/{op_type}", shape=ir.Shape((size,)), type=kind)
        nodes.append(ir.node(op_type, inputs, more, outputs=[output]))
        return output

    def constant(number: int) -> ir.Value:
        kind = ir.TensorType(ir.DataType.INT64)
        output = ir.Value(name="hocket/constant", shape=ir.Shape((1,)), type=kind)
        attribute = ir.AttrTensor("value", ir.tensor(np.array([number], np.int64)))
        nodes.append(ir.Node("", "Constant", [], [attribute], outputs=[output]))
        return output

    flat = emit("Reshape", [base, constant(-1)], base.dtype)
    value = emit("Cast", [flat], ir.DataType.INT64, to=ir.DataType.INT64)
    if lengths.added:
        value = emit("Add", [value, constant(lengths.added)], ir.DataType.INT64)
    return value, tuple(nodes)
