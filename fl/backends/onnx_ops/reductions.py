"""Operators that reduce axes, or compute along one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.backends.onnx_ops.node import Compute, Operator, Site

    Reduce = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _reduction(function: Reduce) -> Operator:
    """Return the operator of a function of a tensor, its axes, and whether these stay as 1."""

    def make(site: Site) -> Compute:
        axes = site.integers(1, "axes")
        keeps = bool(site.get("keepdims", 1))
        is_noop = not axes and site.get("noop_with_empty_axes", 0)

        def compute(x: torch.Tensor, _axes: torch.Tensor | None = None) -> torch.Tensor:
            if is_noop:
                return x
            return function(x, tuple(axes or range(x.dim())), keeps)

        return compute

    return make


def _product(x: torch.Tensor, axes: tuple[int, ...], keeps: bool) -> torch.Tensor:
    # From the last axis on, as those behind a reduced one may move. Integers stay what they are.
    for axis in sorted((each % x.dim() for each in axes), reverse=True):
        x = x.prod(axis, keepdim=keeps, dtype=x.dtype)
    return x


def _sum(x: torch.Tensor, axes: tuple[int, ...], keeps: bool) -> torch.Tensor:
    return x.sum(axes, keepdim=keeps, dtype=x.dtype)


def _arg(function: Callable[..., torch.Tensor]) -> Operator:
    def make(site: Site) -> Compute:
        axis, keeps = site.get("axis", 0), bool(site.get("keepdims", 1))
        if site.get("select_last_index", 0):
            site.refuse("of equal elements torch takes the first, not the last")
        return lambda x: function(x, dim=axis, keepdim=keeps)

    return make


def _softmax(function: Callable[..., torch.Tensor]) -> Operator:
    def make(site: Site) -> Compute:
        is_old = site.node.opset < 13
        axis = site.get("axis", 1 if is_old else -1)
        if not is_old:
            return lambda x: function(x, dim=axis)

        def compute(x: torch.Tensor) -> torch.Tensor:
            # Before opset 13 all axes from this one on were taken as one.
            return function(x.flatten(axis % x.dim()), dim=-1).reshape(x.shape)

        return compute

    return make


def _cumulative(site: Site) -> Compute:
    axis = int(site.value(1).item())
    is_exclusive, is_reverse = site.get("exclusive", 0), site.get("reverse", 0)

    def compute(x: torch.Tensor, _axis: torch.Tensor) -> torch.Tensor:
        if is_reverse:
            x = x.flip(axis)
        total = x.cumsum(axis, dtype=x.dtype)
        if is_exclusive:
            total = total - x
        return total.flip(axis) if is_reverse else total

    return compute


def _top(site: Site) -> Compute:
    count = (site.integers(1) or [1])[0]
    axis, is_largest = site.get("axis", -1), bool(site.get("largest", 1))
    return lambda x, _=None: torch.topk(x, count, axis, is_largest)


REDUCTIONS: dict[str, Operator] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulative,
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceL1": _reduction(lambda x, axes, keeps: x.abs().sum(axes, keepdim=keeps)),
    "ReduceL2": _reduction(lambda x, axes, keeps: torch.linalg.vector_norm(x, 2, axes, keeps)),
    "ReduceLogSum": _reduction(lambda x, axes, keeps: x.sum(axes, keepdim=keeps).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keeps: x.logsumexp(axes, keepdim=keeps)),
    "ReduceMax": _reduction(lambda x, axes, keeps: x.amax(axes, keepdim=keeps)),
    "ReduceMean": _reduction(lambda x, axes, keeps: x.mean(axes, keepdim=keeps)),
    "ReduceMin": _reduction(lambda x, axes, keeps: x.amin(axes, keepdim=keeps)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keeps: (x * x).sum(axes, keepdim=keeps)),
    "Softmax": _softmax(torch.softmax),
    "TopK": _top,
}
"""Operators by their names in ONNX."""
