"""What each operator makes an entry of, for ``mask_elements``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.affine import Affine, number
from hocket.compiler.graph.recognize.axes import permutation_of
from hocket.compiler.graph.recognize.mask_elements import Element
from hocket.compiler.graph.values import constant_array, element_type
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from hocket.compiler.graph.recognize.mask_elements import Finder, Index

    Rule = Callable[[Finder, ir.Node, Index], Element | None]


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _either(*elements: Element) -> Element:
    """Return what is known of one of several elements."""
    first = elements[0]
    if all(each.position is not None and each.position == first.position for each in elements):
        return first
    return Element(min(each.low for each in elements), max(each.high for each in elements))


def _handed_on(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    return finder.find(node.inputs[0], index)


def _expanded(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    return finder.find_like(node.inputs[0], node.outputs[0], index)


def _any_entry(finder: Finder, node: ir.Node, _index: Index) -> Element | None:
    return finder.find_any(node.inputs[0])


def _reshaped(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    """Follow axes of more than one entry, where they are the same before and after."""
    source = node.inputs[0]
    before = None if source is None else finder.shape(source)
    after = finder.shape(node.outputs[0])
    if before is None or after is None or len(after) != len(index):
        return finder.find_any(source)
    one = number(1)
    places = [place for size, place in zip(after, index, strict=True) if size != one]
    sizes = [size for size in after if size != one]
    if None in sizes or sizes != [size for size in before if size != one]:
        return finder.find_any(source)
    left = iter(places)
    return finder.find(source, tuple(number(0) if size == one else next(left) for size in before))


def _transposed(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    before: list[Affine | None] = [None] * len(index)
    for place, axis in zip(index, permutation_of(node, len(index)), strict=True):
        before[axis] = place
    return finder.find(node.inputs[0], tuple(before))


def _sliced(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    source = node.inputs[0]
    shape = None if source is None else finder.shape(source)
    if shape is None or len(shape) != len(index) or len(node.inputs) < 3:
        return finder.find_any(source)
    starts, _, axes, steps = [*node.inputs[1:], None, None][:4]
    counted = None if starts is None else finder.shape(starts)
    if starts is None or counted is None or len(counted) != 1 or counted[0] is None:
        return finder.find_any(source)
    if not counted[0].is_number:
        return finder.find_any(source)
    before = list(index)
    named = constant_array(axes)
    if axes is not None and named is None:
        return finder.find_any(source)
    for place in range(counted[0].constant):
        axis = place if named is None else int(named.reshape(-1)[place])
        start = finder.find(starts, (number(place),)).position
        step = number(1) if steps is None else finder.find(steps, (number(place),)).position
        before[axis] = _stepped(finder, index[axis], start, step, shape[axis])
    return finder.find(source, tuple(before))


def _stepped(
    finder: Finder,
    place: Affine | None,
    start: Affine | None,
    step: Affine | None,
    size: Affine | None,
) -> Affine | None:
    """Return where an entry of a slice stands along the axis that was cut."""
    if place is None or start is None or step is None or finder.facts.span(step)[0] < 1:
        return None
    if finder.facts.span(start)[1] < 0 and size is not None:
        start = size + start
    # A start behind the last entry leaves none to look at; one before the first is moved there.
    return start + place * step if finder.facts.span(start)[0] >= 0 else None


def _gathered(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    source, indices = node.inputs[0], node.inputs[1]
    shape = None if source is None else finder.shape(source)
    picked = None if indices is None else finder.shape(indices)
    if shape is None or picked is None or not shape:
        return finder.find_any(source)
    axis = _integer(node, "axis", 0) % len(shape)
    end = axis + len(picked)
    if len(index) != len(shape) - 1 + len(picked):
        return finder.find_any(source)
    place = finder.find(indices, index[axis:end]).position
    if place is not None:
        low, high = finder.facts.span(place)
        size = shape[axis]
        if high < 0 and size is not None:
            place = place + size
        elif low < 0:
            place = None
    return finder.find(source, (*index[:axis], place, *index[end:]))


def _concatenated(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    axis = _integer(node, "axis", 0) % len(index)
    place, start = index[axis], number(0)
    found = []
    for value in node.inputs:
        shape = None if value is None else finder.shape(value)
        size = None if shape is None else shape[axis]
        if size is None or place is None:
            return _either(*(finder.find_any(each) for each in node.inputs))
        inside = place - start
        is_before = finder.facts.span(inside)[1] < 0
        is_behind = finder.facts.span(inside - size)[0] >= 0
        if not is_before and not is_behind:
            found.append(finder.find(value, (*index[:axis], inside, *index[axis + 1 :])))
        start = start + size
    return _either(*found) if found else None


def _shape(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    source, place = node.inputs[0], index[0]
    shape = None if source is None else finder.shape(source)
    if shape is None or place is None or not place.is_number:
        return None
    start = _integer(node, "start", 0)
    start = max(start + len(shape), 0) if start < 0 else start
    axis = start + place.constant
    size = shape[axis] if 0 <= axis < len(shape) else None
    return None if size is None else finder.between(size)


def _counted(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    start, step = (finder.find_any(node.inputs[place]).position for place in (0, 2))
    if start is None or step is None or index[0] is None:
        return None
    return finder.between(start + index[0] * step)


def _filled(_finder: Finder, node: ir.Node, _index: Index) -> Element | None:
    fill = node.attributes.get("value")
    array = np.zeros(1, np.float32) if fill is None else np.asarray(fill.as_tensor().numpy())
    content = array.reshape(-1)[0].item()
    if isinstance(content, float):
        return Element(content, content)
    return Element(content, content, number(int(content)))


def _triangle(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    source = node.inputs[0]
    diagonal: Affine | None = number(0)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        diagonal = finder.find_any(node.inputs[1]).position
    row, column = index[-2:]
    if diagonal is None or row is None or column is None:
        return _either(finder.find(source, index), Element(0.0, 0.0))
    is_upper = _integer(node, "upper", 1) != 0
    right = column - row - diagonal
    is_kept = _sign(finder, right if is_upper else -right)
    if is_kept is False:
        return Element(0.0, 0.0, number(0))
    kept = finder.find(source, index)
    return kept if is_kept else _either(kept, Element(0.0, 0.0, number(0)))


def _sign(finder: Finder, total: Affine) -> bool | None:
    """Return whether a sum is at least 0, None where that is not known."""
    low, high = finder.facts.span(total)
    if low >= 0 or high < 0:
        return low >= 0
    finder.undecided.append(total)
    return None


def _chosen(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    condition, left, right = (
        finder.find_like(value, node.outputs[0], index) for value in node.inputs
    )
    if condition.low == 1:
        return left
    return right if condition.high == 0 else _either(left, right)


def _operands(finder: Finder, node: ir.Node, index: Index) -> list[Element]:
    return [finder.find_like(value, node.outputs[0], index) for value in node.inputs]


def _negated(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    found = finder.find(node.inputs[0], index)
    return Element(1.0 - found.high, 1.0 - found.low)


def _monotone(function: Callable[[float, float], float]) -> Rule:
    """Return the rule of a function that grows with each of its arguments."""

    def rule(finder: Finder, node: ir.Node, index: Index) -> Element | None:
        found = _operands(finder, node, index)
        total = found[0]
        for each in found[1:]:
            total = Element(function(total.low, each.low), function(total.high, each.high))
        return total

    return rule


def _summed(*, subtracts: bool) -> Rule:
    def rule(finder: Finder, node: ir.Node, index: Index) -> Element | None:
        left, right = _operands(finder, node, index)
        if left.position is not None and right.position is not None:
            other = -right.position if subtracts else right.position
            return finder.between(left.position + other)
        if subtracts:
            return Element(left.low - right.high, left.high - right.low)
        return Element(left.low + right.low, left.high + right.high)

    return rule


def _multiplied(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    left, right = _operands(finder, node, index)
    if left.position is not None and right.position is not None:
        return finder.between(left.position * right.position)
    corners = [one * other for one in (left.low, left.high) for other in (right.low, right.high)]
    if any(math.isnan(corner) for corner in corners):
        return None
    return Element(min(corners), max(corners))


def _minus(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    found = finder.find(node.inputs[0], index)
    return Element(-found.high, -found.low, None if found.position is None else -found.position)


def _truth(*, holds: bool | None) -> Element:
    if holds is None:
        return Element(0.0, 1.0)
    return Element(float(holds), float(holds), number(int(holds)))


def _compared(*, swaps: bool, is_strict: bool) -> Rule:
    """Return the rule of "the second is larger", or with ``swaps`` of "the first is"."""

    def rule(finder: Finder, node: ir.Node, index: Index) -> Element | None:
        small, large = _operands(finder, node, index)
        if swaps:
            small, large = large, small
        if small.position is not None and large.position is not None:
            gap = large.position - small.position - number(int(is_strict))
            return _truth(holds=_sign(finder, gap))
        if small.high < large.low or (not is_strict and small.high <= large.low):
            return _truth(holds=True)
        if small.low > large.high or (is_strict and small.low >= large.high):
            return _truth(holds=False)
        return None

    return rule


def _equal(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    left, right = _operands(finder, node, index)
    if left.position is not None and right.position is not None:
        low, high = finder.facts.span(left.position - right.position)
        if low > 0 or high < 0 or low == high == 0:
            return _truth(holds=low == high)
        return None
    if left.high < right.low or left.low > right.high:
        return _truth(holds=False)
    if left.is_known and right.is_known and left.low == right.low:
        return _truth(holds=True)
    return None


def _cast(finder: Finder, node: ir.Node, index: Index) -> Element | None:
    found = finder.find_like(node.inputs[0], node.outputs[0], index)
    wanted, given = element_type(node.outputs[0]), element_type(node.inputs[0])
    if wanted is None or given is None:
        return None
    if wanted is DType.BOOL:
        if found.low == found.high == 0:
            return _truth(holds=False)
        return _truth(holds=True if found.low > 0 or found.high < 0 else None)
    if not wanted.is_floating:
        if given.is_floating and found.position is None:
            return Element(_whole(found.low, math.floor), _whole(found.high, math.ceil))
        return found if wanted in (DType.INT64, DType.INT32) or given is DType.BOOL else None
    # Casting may round, but never across what a bound is rounded to.
    kind = DType.FLOAT32 if wanted is DType.BFLOAT16 else wanted
    with np.errstate(over="ignore"):
        low, high = (float(np.float64(each).astype(kind.to_numpy())) for each in _ends(found))
    return Element(low, high, found.position)


def _ends(element: Element) -> tuple[float, float]:
    return element.low, element.high


def _whole(bound: float, rounds: Callable[[float], int]) -> float:
    return bound if math.isinf(bound) else float(rounds(bound))


RULES: dict[str, Rule] = {
    "Identity": _handed_on,
    "Expand": _expanded,
    "Shape": _shape,
    "Range": _counted,
    "ConstantOfShape": _filled,
    "Cast": _cast,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Flatten": _reshaped,
    "Transpose": _transposed,
    "Slice": _sliced,
    "Gather": _gathered,
    "GatherND": _any_entry,
    "GatherElements": _any_entry,
    "Tile": _any_entry,
    "Concat": _concatenated,
    "Trilu": _triangle,
    "Where": _chosen,
    "Not": _negated,
    "And": _monotone(min),
    "Or": _monotone(max),
    "Min": _monotone(min),
    "Max": _monotone(max),
    "Add": _summed(subtracts=False),
    "Sub": _summed(subtracts=True),
    "Mul": _multiplied,
    "Neg": _minus,
    "Equal": _equal,
    "Less": _compared(swaps=False, is_strict=True),
    "LessOrEqual": _compared(swaps=False, is_strict=False),
    "Greater": _compared(swaps=True, is_strict=True),
    "GreaterOrEqual": _compared(swaps=True, is_strict=False),
}
"""By operator of the standard domain; of what others make, nothing is known."""
