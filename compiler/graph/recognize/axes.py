"""Following the axes of an attention tensor through Transpose, Reshape and the like.

A tensor is seen as groups of named axes, one group for each of its dimensions: b (batch), h (head),
n (row), d (column), and g, the copies of a head that grouped queries share. A Transpose moves whole
groups; a Reshape keeps the order of the axes and cuts it anew; an Expand makes the copies. So each
tensor on the way can be asked whether its bytes are in an order kernels read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.graph.values import (
    element_type,
    is_op,
    only_reader,
    static_shape,
    uniform_constant,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from hocket.compiler.graph.regions import Layout

Groups = tuple[tuple[str, ...], ...]
"""Axes by dimension. Axes of size 1 are left out: where they stand changes nothing."""

_ORDERS: dict[Layout, tuple[str, ...]] = {
    "bhnd": ("b", "h", "n", "d"),
    "bnhd": ("b", "n", "h", "d"),
}

_REGROUPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class Axes:
    """Sizes of the axes of one tensor of an attention.

    Attributes:
        b, h, n, d: Batch, heads, rows and columns.
        g: Copies of each head, one behind the other; they are not in what is read.
    """

    b: int
    h: int
    n: int
    d: int
    g: int = 1

    def size(self, axis: str) -> int:
        """Size of an axis, by its letter."""
        return {"b": self.b, "h": self.h, "n": self.n, "d": self.d, "g": self.g}[axis]

    def groups(self, *dimensions: str) -> Groups:
        """Groups of a tensor with these dimensions, ``groups("b", "n", "hd")`` for the rank-3 form.

        Example:
            >>> Axes(b=1, h=12, n=128, d=32).groups("b", "n", "hd")
            ((), ('n',), ('h', 'd'))
        """
        return tuple(
            tuple(axis for axis in dimension if self.size(axis) > 1) for dimension in dimensions
        )


@dataclass(frozen=True)
class Operand:
    """A tensor that an attention can read or write as it lies in memory.

    Attributes:
        value: The value in the graph.
        layout: Order of its axes.
        scale: Factor between it and what the attention wants.
        steps: Operators of that factor, for the report.
    """

    value: ir.Value
    layout: Layout
    scale: float = 1.0
    steps: tuple[str, ...] = ()


def find_layout(groups: Groups, axes: Axes, shape: tuple[int, ...]) -> Layout | None:
    """Return the layout that kernels read a tensor in, None if they cannot.

    They read ``[b, h, n, d]`` and ``[b * h, n, d]`` as bhnd, ``[b, n, h, d]`` and
    ``[b, n, h * d]`` as bnhd.
    """
    order = tuple(axis for group in groups for axis in group)
    for layout, letters in _ORDERS.items():
        if order != tuple(axis for axis in letters if axes.size(axis) > 1):
            continue
        if shape == tuple(axes.size(axis) for axis in letters):
            return layout
        # Of one head both are the same shape, which is called bnhd.
        if layout == "bhnd" and axes.h > 1 and shape == (axes.b * axes.h, axes.n, axes.d):
            return layout
        if layout == "bnhd" and shape == (axes.b, axes.n, axes.h * axes.d):
            return layout
    # With one head or one row the order is both; the rank-3 form must still be found.
    return None


def find_source(value: ir.Value, groups: Groups, axes: Axes, *, scaled: bool) -> Operand | None:
    """Return the value furthest up the graph that holds the same numbers in a readable order.

    Before and after, for the query of a layer written out::

        x[1,128,384] -> Reshape -> [1,128,12,32] -> Transpose(0,2,1,3) -> Mul(0.18) -> q
        (q is read as bhnd, scale 1)
        x is read as bnhd, scale 0.18

    Args:
        value: Where to begin.
        groups: Its axes.
        axes: Their sizes.
        scaled: Whether factors may be taken out, as is right for query and key.
    """
    dtype = element_type(value)
    best = None
    scale = 1.0
    steps: tuple[str, ...] = ()
    current: ir.Value | None = value
    while current is not None:
        shape = static_shape(current)
        if shape is None or element_type(current) is not dtype:
            break
        layout = find_layout(groups, axes, shape)
        if layout is not None:
            best = Operand(current, layout, scale, steps)
        node = current.producer()
        if node is None or node.graph is not value.graph:
            break
        factor = scale_factor(node) if scaled else None
        if factor is not None:
            index, number = factor
            current, scale, steps = node.inputs[index], scale * number, (node.op_type, *steps)
            continue
        moved = _before(node, groups, axes)
        if moved is None:
            break
        current, groups = node.inputs[0], moved
    return best


def find_target(value: ir.Value, groups: Groups, axes: Axes) -> Operand | None:
    """Return the value furthest down the graph that an attention can write instead of this one.

    Before and after, for the output of a layer written out::

        y[1,12,128,32] -> Transpose(0,2,1,3) -> [1,128,12,32] -> Reshape -> z[1,128,384]
        (y is written as bhnd)
        z is written as bnhd
    """
    best = None
    current = value
    while True:
        shape = static_shape(current)
        layout = None if shape is None else find_layout(groups, axes, shape)
        if layout is not None:
            best = Operand(current, layout)
        node = only_reader(current)
        if node is None or len(node.outputs) != 1 or node.inputs[0] is not current:
            return best
        moved = _after(node, groups, axes)
        if moved is None:
            return best
        current, groups = node.outputs[0], moved


def find_copies(value: ir.Value, max_steps: int = 8) -> int:
    """Return how many copies an Expand or Tile above a key or value makes of each head; 1 if none.

    It is only a guess at what to look for: ``find_source`` sees whether they are copies of heads.
    """
    current: ir.Value | None = value
    for _ in range(max_steps):
        node = None if current is None else current.producer()
        if node is None:
            return 1
        if is_op(node, "Expand", "Tile"):
            before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
            if not before or not after:
                return 1
            copies = math.prod(after) // math.prod(before)
            if copies > 1:
                return copies
        factor = scale_factor(node)
        if factor is None and not (
            is_identity(node) or is_op(node, "Transpose", "Expand", "Tile", *_REGROUPING)
        ):
            return 1
        current = node.inputs[0 if factor is None else factor[0]]
    return 1


def scale_factor(node: ir.Node) -> tuple[int, float] | None:
    """Return which input a node multiplies by a number, and the number; None for any other node.

    ``Mul(x, 0.5)`` and ``Mul(0.5, x)`` give 0.5, ``Div(x, 8)`` gives 0.125. A number that cannot be
    come back out of a product (zero, infinity) is none.
    """
    if not is_op(node, "Mul", "Div"):
        return None
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        number = _single_number(node.inputs[1 - index])
        if number is None or static_shape(node.inputs[index]) != static_shape(node.outputs[0]):
            continue
        if number == 0.0 or not math.isfinite(number):
            continue
        return index, number if node.op_type == "Mul" else 1.0 / number
    return None


def _single_number(value: ir.Value | None) -> float | None:
    shape = static_shape(value)
    if shape is None or math.prod(shape) != 1:
        return None
    return uniform_constant(value)


def _before(node: ir.Node, groups: Groups, axes: Axes) -> Groups | None:
    """Groups of the first input of a node whose output has these groups."""
    if is_identity(node):
        return groups
    if is_op(node, "Transpose"):
        perm = permutation_of(node, len(groups))
        moved: list[tuple[str, ...]] = [()] * len(groups)
        for target, source in enumerate(perm):
            moved[source] = groups[target]
        return tuple(moved)
    if is_op(node, *_REGROUPING):
        return _regroup(groups, axes, static_shape(node.inputs[0]))
    if is_op(node, "Expand", "Tile"):
        return _without_copies(groups, static_shape(node.inputs[0]), static_shape(node.outputs[0]))
    return None


def _without_copies(
    groups: Groups, before: tuple[int, ...] | None, after: tuple[int, ...] | None
) -> Groups | None:
    """Groups before an Expand or Tile that makes nothing but the copies of heads."""
    if before is None or after is None or len(before) > len(after):
        return None
    added = len(after) - len(before)
    result: list[tuple[str, ...]] = []
    for group, small, large in zip(groups, (1,) * added + before, after, strict=True):
        if small == large:
            result.append(group)
        elif small == 1 and group == ("g",):
            result.append(())
        else:
            return None
    return None if any(result[:added]) else tuple(result[added:])


def _after(node: ir.Node, groups: Groups, axes: Axes) -> Groups | None:
    """Groups of the output of a node whose first input has these groups."""
    if is_identity(node):
        return groups
    if is_op(node, "Transpose"):
        return tuple(groups[source] for source in permutation_of(node, len(groups)))
    if is_op(node, *_REGROUPING):
        return _regroup(groups, axes, static_shape(node.outputs[0]))
    return None


def _regroup(groups: Groups, axes: Axes, shape: tuple[int, ...] | None) -> Groups | None:
    """Cut the same order of axes into the dimensions of a shape; None if a cut is inside an axis.

    Example:
        >>> _regroup((("n",), ("h",), ("d",)), Axes(1, 12, 128, 32), (1, 128, 384))
        ((), ('n',), ('h', 'd'))
    """
    if shape is None:
        return None
    flat: Iterator[str] = iter([axis for group in groups for axis in group])
    result = []
    for size in shape:
        group: list[str] = []
        product = 1
        while product < size:
            axis = next(flat, None)
            if axis is None:
                return None
            group.append(axis)
            product *= axes.size(axis)
        if product != size:
            return None
        result.append(tuple(group))
    return tuple(result) if next(flat, None) is None else None


def permutation_of(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Return the permutation of a Transpose, which reverses the axes if it names none."""
    attribute = node.attributes.get("perm")
    if attribute is None:
        return tuple(reversed(range(rank)))
    return tuple(attribute.as_ints())


def is_identity(node: ir.Node) -> bool:
    """Whether a node hands on its first input: Identity, and Dropout that is for inference only.

    The folder has removed what later op sets allow Dropout to be; before op set 12 it is always
    for inference.
    """
    if is_op(node, "Dropout"):
        unread = all(not output.uses() for output in node.outputs[1:])
        opsets = {} if node.graph is None else node.graph.opset_imports
        return unread and opsets.get("", 12) < 12 and len(node.inputs) == 1
    return is_op(node, "Identity")
