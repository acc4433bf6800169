"""Products with weights, by oneDNN where torch has it.

Torch computes products of float32 by MKL, which on CPUs of other makers than Intel does not use
their widest instructions. Torch also has oneDNN, which does: products of [1024, 384] and
[384, 1536] took 7.0 ms on a Zen 5 core and 14.2 by MKL (torch 2.13), those of the backward pass
alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_LEAST_MACS = 1 << 20
"""Multiply-accumulates below which the product is no longer most of the time that it takes."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x @ weight.T + bias``, differentiable once.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``, in any order in memory.
        bias: ``[out]``.

    Under torch's autocast products are of bfloat16, as torch's own are.
    """
    is_large = x.numel() * weight.shape[0] >= _LEAST_MACS
    if not (is_large and HAS_ONEDNN and weight.dtype is torch.float32):
        return functional.linear(x, weight, bias)
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16:
        # Torch casts for its own functions alone.
        x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        bias = None if bias is None else bias.to(torch.bfloat16)
    if x.dtype is not weight.dtype:
        return functional.linear(x, weight, bias)
    found: torch.Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


def _find_onednn() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS_ONEDNN = _find_onednn()
"""Whether this torch has the product that its compiler calls for models that are frozen."""


def _product(
    one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``one @ other.T + bias`` of two matrices."""
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(one, other, bias, "none", [], "")
    return found


def _weight_gradient(gradient: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return ``gradient.T @ rows``; the product copies its first operand, so the narrower goes."""
    if gradient.shape[1] <= rows.shape[1]:
        return _product(gradient.t(), rows.t())
    return _product(rows.t(), gradient.t()).t()


class _Linear(torch.autograd.Function):
    """The product and its gradients, which are products, too."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        return _product(rows, weight, bias).reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()).reshape(ctx.shape) if wants_x else None,
            _weight_gradient(gradient, rows) if wants_weight else None,
            gradient.sum(0) if wants_bias else None,
        )
