"""What a mask can be at most and at least, whatever the inputs: enough to prove it causal.

Each number of a tensor is held between two bounds. Constants have both alike; of what depends on an
input all that is known is what the steps on the way leave: a Where between 0 and -inf lies between
them, and stays at -inf where its condition is known to be false.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.compiler.graph.recognize.axes import permutation_of
from hocket.compiler.graph.values import constant_array, element_type, static_shape
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MAX_ELEMENTS = 1 << 24
"""Larger masks are not looked at: two bounds of this many take a quarter of a gigabyte."""

_MAX_DEPTH = 64


@dataclass(frozen=True)
class Bounds:
    """Two arrays that a tensor lies between, element by element; truth values are 0 and 1.

    Attributes:
        low, high: float64, of the tensor's shape; they may be views of fewer numbers.
    """

    low: Floats
    high: Floats

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Where the tensor is the same whatever the inputs."""
        known: NDArray[np.bool_] = self.low == self.high
        return known


class BoundFinder:
    """Finds bounds, each value's once."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, Bounds] = {}

    def find(self, value: ir.Value | None, depth: int = _MAX_DEPTH) -> Bounds | None:
        """Return the bounds of a value; None if its sizes are not known or too many."""
        shape = static_shape(value)
        if value is None or shape is None or math.prod(shape) > MAX_ELEMENTS:
            return None
        if value not in self._found:
            self._found[value] = self._compute(value, shape, depth)
        return self._found[value]

    def _compute(self, value: ir.Value, shape: tuple[int, ...], depth: int) -> Bounds:
        constant = fixed_array(value)
        if constant is not None:
            numbers = constant.astype(np.float64).reshape(shape)
            return _checked(value, numbers, numbers)
        node = value.producer()
        rule = None if node is None or node.domain or depth == 0 else _RULES.get(node.op_type)
        if node is None or rule is None or node.outputs[0] is not value:
            return _unknown(value, shape)
        inputs = [self.find(each, depth - 1) for each in node.inputs]
        with np.errstate(invalid="ignore", over="ignore"):
            found = rule(node, inputs, shape)
        if found is None:
            return _unknown(value, shape)
        low, high = (np.broadcast_to(part, shape) for part in found)
        return _checked(value, low, high)


def fixed_array(value: ir.Value) -> NDArray[Any] | None:
    """Return the array of a constant; of floats that training may change, none."""
    array = constant_array(value)
    if array is None or array.dtype.kind in "OSU":
        return None
    if value.is_initializer() and array.dtype.kind == "f" and array.size > 1:
        # What holds such numbers is a mask, not a weight.
        return array if bool(np.any(np.abs(array) >= 1e30)) else None
    return array


def _checked(value: ir.Value, low: Floats, high: Floats) -> Bounds:
    """Return bounds in which what is not a number may be anything."""
    odd = np.isnan(low) | np.isnan(high)
    if np.any(odd):
        unknown = _unknown(value, low.shape)
        return Bounds(np.where(odd, unknown.low, low), np.where(odd, unknown.high, high))
    return Bounds(low, high)


def _unknown(value: ir.Value, shape: tuple[int, ...]) -> Bounds:
    low, high = (0.0, 1.0) if element_type(value) is DType.BOOL else (-math.inf, math.inf)
    return Bounds(np.broadcast_to(low, shape), np.broadcast_to(high, shape))


_Found = tuple[Any, Any] | None
_Inputs = list[Bounds | None]


def _reshaped(_node: ir.Node, inputs: _Inputs, shape: tuple[int, ...]) -> _Found:
    first = inputs[0]
    if first is None or math.prod(shape) != first.low.size:
        return None
    return first.low.reshape(shape), first.high.reshape(shape)


def _handed_on(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    return None if inputs[0] is None else (inputs[0].low, inputs[0].high)


def _cast(node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    first = inputs[0]
    dtype = element_type(node.outputs[0])
    if first is None or dtype is None:
        return None
    if dtype is DType.BOOL:
        never = (first.low == 0) & (first.high == 0)
        always = (first.low > 0) | (first.high < 0)
        return always.astype(np.float64), (~never).astype(np.float64)
    if dtype.is_floating:
        # Casting may round, but never across what a bound is rounded to.
        kind = DType.FLOAT32 if dtype is DType.BFLOAT16 else dtype
        low, high = (part.astype(kind.to_numpy()).astype(np.float64) for part in _parts(first))
        return low, high
    whole = element_type(node.inputs[0]) is not None and not _is_floating(node.inputs[0])
    return (first.low, first.high) if whole else (np.floor(first.low), np.ceil(first.high))


def _transposed(node: ir.Node, inputs: _Inputs, shape: tuple[int, ...]) -> _Found:
    first = inputs[0]
    if first is None:
        return None
    order = permutation_of(node, len(shape))
    return first.low.transpose(order), first.high.transpose(order)


def _sliced(node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    first = inputs[0]
    if first is None or len(node.inputs) < 3:
        return None  # before op set 10 the bounds are attributes
    arrays = [constant_array(value) for value in node.inputs[1:]]
    if any(
        array is None and value is not None
        for array, value in zip(arrays, node.inputs[1:], strict=True)
    ):
        return None
    starts, ends, axes, steps = [*arrays, None, None][:4]
    if starts is None or ends is None:
        return None
    cut = [slice(None)] * first.low.ndim
    for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = position if axes is None else int(axes.reshape(-1)[position])
        step = 1 if steps is None else int(steps.reshape(-1)[position])
        if step < 1:
            return None
        cut[axis] = slice(start, end, step)
    return first.low[tuple(cut)], first.high[tuple(cut)]


def _gathered(node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    first, indices = inputs[0], constant_array(node.inputs[1])
    if first is None or indices is None:
        return None
    attribute = node.attributes.get("axis")
    axis = 0 if attribute is None else attribute.as_int()
    low, high = (np.take(part, indices.astype(np.intp), axis=axis) for part in _parts(first))
    return low, high


def _concatenated(node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    if any(each is None for each in inputs):
        return None
    axis = node.attributes["axis"].as_int()
    known = [each for each in inputs if each is not None]
    return (
        np.concatenate([each.low for each in known], axis=axis),
        np.concatenate([each.high for each in known], axis=axis),
    )


def _trilu(node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    first = inputs[0]
    diagonal: NDArray[Any] | None = np.zeros(1)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        diagonal = constant_array(node.inputs[1])
    if first is None or diagonal is None:
        return None
    attribute = node.attributes.get("upper")
    keep = np.triu if attribute is None or attribute.as_int() else np.tril
    number = int(diagonal.reshape(-1)[0])
    # Not of the numbers themselves: -inf times 0 is not 0.
    kept = keep(np.ones(first.low.shape[-2:], dtype=bool), number)
    return np.where(kept, first.low, 0.0), np.where(kept, first.high, 0.0)


def _chosen(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    condition, left, right = inputs
    if condition is None or left is None or right is None:
        return None
    low = np.minimum(left.low, right.low)
    high = np.maximum(left.high, right.high)
    always, never = condition.low == 1, condition.high == 0
    low = np.where(always, left.low, np.where(never, right.low, low))
    return low, np.where(always, left.high, np.where(never, right.high, high))


def _negated(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    return None if inputs[0] is None else (1.0 - inputs[0].high, 1.0 - inputs[0].low)


def _monotone(function: Callable[..., Any]) -> Callable[..., _Found]:
    """Return the rule of a function that grows with each of its arguments."""

    def rule(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
        known = [each for each in inputs if each is not None]
        if len(known) != len(inputs) or not known:
            return None
        low, high = known[0].low, known[0].high
        for each in known[1:]:
            low, high = function(low, each.low), function(high, each.high)
        return low, high

    return rule


def _subtracted(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    left, right = inputs
    if left is None or right is None:
        return None
    return left.low - right.high, left.high - right.low


def _multiplied(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    left, right = inputs
    if left is None or right is None:
        return None
    corners = [one * other for one in _parts(left) for other in _parts(right)]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = np.minimum(low, corner), np.maximum(high, corner)
    return low, high


def _minus(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    return None if inputs[0] is None else (-inputs[0].high, -inputs[0].low)


def _compared(
    always: Callable[[Bounds, Bounds], Any], never: Callable[[Bounds, Bounds], Any]
) -> Callable[..., _Found]:
    """Return the rule of a comparison, from when it holds and when it does not."""

    def rule(_node: ir.Node, inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
        left, right = inputs
        if left is None or right is None:
            return None
        holds, fails = always(left, right), never(left, right)
        return np.asarray(holds, np.float64), 1.0 - np.asarray(fails, np.float64)

    return rule


def _parts(bounds: Bounds) -> tuple[Floats, Floats]:
    return bounds.low, bounds.high


def _is_floating(value: ir.Value | None) -> bool:
    dtype = element_type(value)
    return dtype is not None and dtype.is_floating


def _apart(one: Bounds, other: Bounds) -> Any:
    return (one.high < other.low) | (one.low > other.high)


def _filled(node: ir.Node, _inputs: _Inputs, _shape: tuple[int, ...]) -> _Found:
    fill = node.attributes.get("value")
    number = 0.0 if fill is None else float(fill.as_tensor().numpy().reshape(-1)[0])
    return number, number


_RULES: dict[str, Callable[[ir.Node, _Inputs, tuple[int, ...]], _Found]] = {
    "Identity": _handed_on,
    "Expand": _handed_on,
    "ConstantOfShape": _filled,
    "Cast": _cast,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Flatten": _reshaped,
    "Transpose": _transposed,
    "Slice": _sliced,
    "Gather": _gathered,
    "Concat": _concatenated,
    "Trilu": _trilu,
    "Where": _chosen,
    "Not": _negated,
    "And": _monotone(np.minimum),
    "Or": _monotone(np.maximum),
    "Min": _monotone(np.minimum),
    "Max": _monotone(np.maximum),
    "Add": _monotone(np.add),
    "Sub": _subtracted,
    "Mul": _multiplied,
    "Neg": _minus,
    "Equal": _compared(
        lambda one, other: one.is_known & other.is_known & (one.low == other.low), _apart
    ),
    "Less": _compared(
        lambda one, other: one.high < other.low, lambda one, other: one.low >= other.high
    ),
    "LessOrEqual": _compared(
        lambda one, other: one.high <= other.low, lambda one, other: one.low > other.high
    ),
    "Greater": _compared(
        lambda one, other: one.low > other.high, lambda one, other: one.high <= other.low
    ),
    "GreaterOrEqual": _compared(
        lambda one, other: one.low >= other.high, lambda one, other: one.high < other.low
    ),
}
