"""Products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hocket.fl.backends.linear import linear
from hocket.fl.backends.onnx_ops.node import Operator, plain

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Compute, Site


def _gemm(site: Site) -> Compute:
    alpha, beta = site.get("alpha", 1.0), site.get("beta", 1.0)
    is_one_turned, is_other_turned = site.get("transA", 0), site.get("transB", 0)
    if alpha == beta == 1.0 and not is_one_turned:
        return _linear if is_other_turned else _product_and_sum

    def compute(
        one: torch.Tensor, other: torch.Tensor, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        one = one.t() if is_one_turned else one
        other = other.t() if is_other_turned else other
        if added is None:
            return alpha * (one @ other) if alpha != 1.0 else one @ other
        return torch.addmm(added, one, other, beta=beta, alpha=alpha)

    return compute


def _product_and_sum(
    one: torch.Tensor, other: torch.Tensor, added: torch.Tensor | None = None
) -> torch.Tensor:
    return _linear(one, other.t(), added)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    if bias is None or bias.shape == weight.shape[:1]:
        return linear(x, weight, bias)
    return linear(x, weight) + bias


def _einsum(site: Site) -> Compute:
    equation = site.get("equation")
    return lambda *tensors: torch.einsum(equation, *tensors)


def _linear_in_out(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return _linear(x, weight.t(), bias)


PRODUCTS: dict[str, Operator] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": plain(torch.matmul),
}
"""Operators by their names in ONNX."""

FUSED_PRODUCTS: dict[str, Operator] = {
    # Of a weight [out, in], and of one [in, out].
    "Linear": plain(_linear),
    "LinearInOut": plain(_linear_in_out),
}
"""Operators that ``fusion.py`` makes of several."""
