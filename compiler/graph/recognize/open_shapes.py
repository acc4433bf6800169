"""Sizes of values whose nodes are folded away where sizes are bound, so that no sample has them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.affine import number
from hocket.compiler.graph.recognize.axes import permutation_of
from hocket.compiler.graph.values import constant_array

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from hocket.compiler.graph.affine import Affine
    from hocket.compiler.graph.recognize.mask_elements import Finder, Sizes

    Rule = Callable[[Finder, ir.Node], Sizes]


def _of(finder: Finder, value: ir.Value | None) -> Sizes:
    return None if value is None else finder.shape(value)


def _same(finder: Finder, node: ir.Node) -> Sizes:
    return _of(finder, node.inputs[0])


def _broadcast(*shapes: Sizes) -> Sizes:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    one = number(1)
    sizes: list[Affine | None] = []
    for column in itertools.zip_longest(*(reversed(shape) for shape in known), fillvalue=one):
        wide = {size for size in column if size != one}
        sizes.append(one if not wide else wide.pop() if len(wide) == 1 else None)
    return tuple(reversed(sizes))


def _elementwise(finder: Finder, node: ir.Node) -> Sizes:
    return _broadcast(*(_of(finder, value) for value in node.inputs))


def _vector(finder: Finder, value: ir.Value | None) -> Sizes:
    """Return the numbers of a list of sizes."""
    shape = _of(finder, value)
    if shape is None or len(shape) != 1 or shape[0] is None or not shape[0].is_number:
        return None
    return tuple(finder.find(value, (number(n),)).position for n in range(shape[0].constant))


def _filled(finder: Finder, node: ir.Node) -> Sizes:
    return _vector(finder, node.inputs[0])


def _expanded(finder: Finder, node: ir.Node) -> Sizes:
    return _broadcast(_of(finder, node.inputs[0]), _vector(finder, node.inputs[1]))


def _reshaped(finder: Finder, node: ir.Node) -> Sizes:
    wanted, before = _vector(finder, node.inputs[1]), _of(finder, node.inputs[0])
    if wanted is None:
        return None
    sizes: list[Affine | None] = []
    for axis, size in enumerate(wanted):
        if size == number(0):
            sizes.append(before[axis] if before is not None and axis < len(before) else None)
        else:
            is_size = size is not None and finder.facts.span(size)[0] >= 1
            sizes.append(size if is_size else None)
    return tuple(sizes)


def _counted(finder: Finder, node: ir.Node) -> Sizes:
    start, end, step = (finder.find_any(value).position for value in node.inputs)
    if start is None or end is None or step != number(1):
        return (None,)
    size = end - start
    return (size if finder.facts.span(size)[0] >= 0 else None,)


def _axes(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    array = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(axis) for axis in array.reshape(-1)]


def _unsqueezed(finder: Finder, node: ir.Node) -> Sizes:
    before, axes = _of(finder, node.inputs[0]), _axes(node)
    if before is None or axes is None:
        return None
    rank = len(before) + len(axes)
    added = {axis % rank for axis in axes}
    left = iter(before)
    return tuple(number(1) if axis in added else next(left) for axis in range(rank))


def _squeezed(finder: Finder, node: ir.Node) -> Sizes:
    before, axes = _of(finder, node.inputs[0]), _axes(node)
    if before is None or axes is None:
        return None
    gone = {axis % len(before) for axis in axes}
    return tuple(size for axis, size in enumerate(before) if axis not in gone)


def _transposed(finder: Finder, node: ir.Node) -> Sizes:
    before = _of(finder, node.inputs[0])
    return before and tuple(before[axis] for axis in permutation_of(node, len(before)))


def _gathered(finder: Finder, node: ir.Node) -> Sizes:
    before, picked = (_of(finder, value) for value in node.inputs)
    if not before or picked is None:
        return None
    attribute = node.attributes.get("axis")
    axis = (0 if attribute is None else attribute.as_int()) % len(before)
    return (*before[:axis], *picked, *before[axis + 1 :])


def _concatenated(finder: Finder, node: ir.Node) -> Sizes:
    shapes = [_of(finder, value) for value in node.inputs]
    first = shapes[0]
    if not first:
        return None
    axis = node.attributes["axis"].as_int() % len(first)
    total: Affine | None = number(0)
    for shape in shapes:
        if shape is None or len(shape) != len(first):
            return None
        size = shape[axis]
        total = None if total is None or size is None else total + size
    return (*first[:axis], total, *first[axis + 1 :])


def _counts_axes(finder: Finder, node: ir.Node) -> Sizes:
    before = _of(finder, node.inputs[0])
    if before is None or node.attributes.get("start") or node.attributes.get("end"):
        return None
    return (number(len(before)),)


def _cut(finder: Finder, node: ir.Node) -> Sizes:
    """Return the sizes of a slice that begins at the first entry of each axis it cuts."""
    before = _of(finder, node.inputs[0])
    if before is None or len(node.inputs) < 3:
        return None
    starts, ends = (_vector(finder, value) for value in node.inputs[1:3])
    axes = constant_array(node.inputs[3]) if len(node.inputs) > 3 else np.arange(len(before))
    if starts is None or ends is None or axes is None:
        return None
    sizes = list(before)
    for axis, start, end in zip(axes.reshape(-1).tolist(), starts, ends, strict=False):
        whole, sizes[axis] = sizes[axis], None
        if len(node.inputs) > 4 or start != number(0) or end is None or whole is None:
            continue
        if finder.facts.span(end)[0] >= 0 and finder.facts.span(whole - end)[0] >= 0:
            sizes[axis] = end
    return tuple(sizes)


SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "Cast", "Not", "Neg", "Trilu"), _same),
    **dict.fromkeys(
        (
            *("Where", "And", "Or", "Min", "Max", "Add", "Sub", "Mul", "Equal"),
            *("Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
        ),
        _elementwise,
    ),
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Reshape": _reshaped,
    "Range": _counted,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Gather": _gathered,
    "Concat": _concatenated,
    "Slice": _cut,
    "Shape": _counts_axes,
}
"""By operator of the standard domain, the sizes of its output."""
