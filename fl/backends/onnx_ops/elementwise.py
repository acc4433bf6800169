"""Operators that work on each element alone."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from hocket.fl.backends.onnx_ops.node import Operator, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.backends.onnx_ops.node import Compute, Site


def _divide(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    # Integers are divided towards zero, as ONNX has it and C.
    if one.is_floating_point():
        return one / other
    return torch.div(one, other, rounding_mode="trunc")


def _power(base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def _make_power(site: Site) -> Compute:
    exponent = site.known[1]
    if exponent is None or exponent.numel() != 1:
        return _power
    number = exponent.item()
    if number == 2:
        return lambda base, _: base * base
    # A number and no tensor, so that torch differentiates by the base alone.
    return lambda base, _: torch.pow(base, number).to(base.dtype)


def _modulo(site: Site) -> Compute:
    return torch.fmod if site.get("fmod", 0) else torch.remainder


def _fold(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def compute(*tensors: torch.Tensor) -> torch.Tensor:
        return functools.reduce(function, tensors)

    return plain(compute)


def _mean(*tensors: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.add, tensors) / len(tensors)


def _gelu(site: Site) -> Compute:
    approximate = site.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _clip(site: Site) -> Compute:
    if site.node.opset < 11:
        low, high = site.get("min", -math.inf), site.get("max", math.inf)
        return lambda x: x.clamp(low, high)

    def compute(
        x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None
    ) -> torch.Tensor:
        # As numbers these need no gradient; torch.clamp would share one out where they are equal.
        if low is not None:
            x = torch.maximum(x, low) if low.requires_grad else x.clamp(min=low)
        if high is not None:
            x = torch.minimum(x, high) if high.requires_grad else x.clamp(max=high)
        return x

    return compute


def _leaky(site: Site) -> Compute:
    slope = site.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


def _elu(site: Site) -> Compute:
    alpha = site.get("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def _celu(site: Site) -> Compute:
    alpha = site.get("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def _selu(site: Site) -> Compute:
    alpha, gamma = site.get("alpha", 1.6732632), site.get("gamma", 1.0507010)
    return lambda x: gamma * functional.elu(x, alpha)


def _hard_sigmoid(site: Site) -> Compute:
    alpha, beta = site.get("alpha", 0.2), site.get("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _thresholded(site: Site) -> Compute:
    alpha = site.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, 0.0)


def _swish(site: Site) -> Compute:
    alpha = site.get("alpha", 1.0)
    if alpha == 1.0:
        return functional.silu
    return lambda x: x * torch.sigmoid(alpha * x)


def _is_infinite(site: Site) -> Compute:
    positive, negative = site.get("detect_positive", 1), site.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf
    return torch.isposinf if positive else torch.isneginf


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return functional.softplus(x, threshold=50.0)


ELEMENTWISE: dict[str, Operator] = {
    "Abs": plain(torch.abs),
    "Acos": plain(torch.acos),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Asin": plain(torch.asin),
    "Atan": plain(torch.atan),
    "Ceil": plain(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": plain(torch.cos),
    "Cosh": plain(torch.cosh),
    "Div": plain(_divide),
    "Elu": _elu,
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": _gelu,
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(functional.hardswish),
    "IsInf": _is_infinite,
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": _leaky,
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "Max": _fold(torch.maximum),
    "Mean": plain(_mean),
    "Min": _fold(torch.minimum),
    "Mish": plain(functional.mish),
    "Mod": _modulo,
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": plain(_prelu),
    "Pow": _make_power,
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Selu": _selu,
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Sinh": plain(torch.sinh),
    "Softplus": plain(_softplus),
    "Softsign": plain(functional.softsign),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": _fold(torch.add),
    "Swish": _swish,
    "Tan": plain(torch.tan),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Where": plain(torch.where),
    "Xor": plain(torch.logical_xor),
}
"""Operators by their names in ONNX."""
