"""Which numbers make sense for an integer input, seen from what the model does with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hocket.compiler.graph.values import (
    element_type,
    is_op,
    name_of,
    static_shape,
)
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators whose output holds the numbers of their first input and no others.
_HANDING_ON = (
    "Identity",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Flatten",
    "Transpose",
    "Expand",
    "Slice",
    "Split",
    "Tile",
)
_COMPARING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not")
_INDEXING = ("Gather", "GatherElements")
_FLAGS = (0, 2)


@dataclass
class _Uses:
    """What becomes of one input.

    Attributes:
        lengths: Sizes of the axes it indexes.
        is_flag: Whether it is cast to float or bool, or compared.
        is_other: Whether anything else is done with it.
    """

    lengths: list[int] = field(default_factory=list)
    is_flag: bool = False
    is_other: bool = False


def find_value_ranges(graph: ir.Graph) -> dict[str, tuple[int, int]]:
    """Return the half-open range of useful values of each integer input that shows one.

    An input that indexes an axis of n entries takes 0 to n - 1; one that is only compared, or cast
    to float or bool, is taken for a mask of zeros and ones::

        ids: int64 -> Gather(table[30522, 384], ids)        mask: int64 -> Cast(float) -> Sub(1, .)
        (of the others nothing is known)
        {"ids": (0, 30522), "mask": (0, 2)}
    """
    ranges = {}
    for value in graph.inputs:
        dtype = element_type(value)
        if dtype is None or dtype.is_floating or dtype is DType.BOOL:
            continue
        uses = _Uses()
        _collect_uses(value, uses, set())
        if uses.lengths:
            ranges[name_of(value)] = (0, min(uses.lengths))
        elif uses.is_flag and not uses.is_other:
            ranges[name_of(value)] = _FLAGS
    return ranges


def _collect_uses(value: ir.Value, uses: _Uses, seen: set[ir.Value]) -> None:
    if value in seen:
        return
    seen.add(value)
    for node, index in value.uses():
        if is_op(node, *_INDEXING) and index == 1:
            _collect_index(node, uses)
        elif index == 0 and (is_op(node, *_HANDING_ON, *_INDEXING)):
            for output in node.outputs:
                _collect_uses(output, uses, seen)
        elif is_op(node, "Cast"):
            dtype = element_type(node.outputs[0])
            if dtype is None or dtype.is_floating or dtype is DType.BOOL:
                uses.is_flag = True
            else:
                _collect_uses(node.outputs[0], uses, seen)
        elif is_op(node, *_COMPARING):
            uses.is_flag = True
        elif not is_op(node, "Shape"):
            uses.is_other = True


def _collect_index(node: ir.Node, uses: _Uses) -> None:
    shape = static_shape(node.inputs[0])
    attribute = node.attributes.get("axis")
    axis = 0 if attribute is None else attribute.as_int()
    if shape and -len(shape) <= axis < len(shape):
        uses.lengths.append(shape[axis])
    else:
        uses.is_other = True
