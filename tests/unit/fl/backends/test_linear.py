"""Products by oneDNN beside torch's own, large enough to be given to it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hocket.fl.backends import linear as module
from hocket.fl.backends.linear import HAS_ONEDNN, linear


@pytest.mark.parametrize("is_turned", [False, True], ids=["out-in", "in-out"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("sizes", [(64, 160, 128), (64, 128, 160)], ids=["wider", "narrower"])
def test_products_and_gradients_are_those_of_torch(
    sizes: tuple[int, int, int], has_bias: bool, is_turned: bool
) -> None:
    rows, width_in, width_out = sizes
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, rows // 2, width_in, generator=generator)
    weight = torch.randn(width_out, width_in, generator=generator)
    weight = weight.t().contiguous().t() if is_turned else weight
    bias = torch.randn(width_out, generator=generator) if has_bias else None
    gradient = torch.randn(2, rows // 2, width_out, generator=generator)
    assert x.numel() * width_out >= module._LEAST_MACS
    found = []
    for function in (linear, functional.linear):
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias) if each is not None]
        y = function(*leaves)
        # Gradients come in any order in memory.
        y.backward(gradient.transpose(0, 1).contiguous().transpose(0, 1))
        found.append([y, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no such product")
def test_large_products_are_given_to_onednn_and_others_are_not() -> None:
    def made_by(x: torch.Tensor, weight: torch.Tensor) -> str:
        return type(linear(x, weight.requires_grad_()).grad_fn).__name__

    large = made_by(torch.ones(64, 128), torch.ones(128, 128))
    assert "_Linear" in large
    assert made_by(torch.ones(2, 128), torch.ones(128, 128)) != large
    double = torch.ones(64, 128, dtype=torch.float64)
    assert made_by(double, torch.ones(128, 128, dtype=torch.float64)) != large


def test_a_weight_that_is_not_trained_gets_no_gradient() -> None:
    x, weight = torch.ones(64, 128, requires_grad=True), torch.ones(160, 128)
    linear(x, weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, torch.full((64, 128), 160.0))


@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [2, 64], ids=["small", "large"])
def test_autocast_makes_products_of_bfloat16(rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(size, generator=generator) for size in ((rows, 128), (160, 128)))
    bias = torch.randn(160, generator=generator) if has_bias else None
    gradient = torch.randn(rows, 160, generator=generator)
    found = []
    for function in (linear, functional.linear):
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias) if each is not None]
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*leaves)
        assert y.dtype is torch.bfloat16
        y.backward(gradient.to(y.dtype))
        assert all(leaf.grad is not None and leaf.grad.dtype is torch.float32 for leaf in leaves)
        found.append([y, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        # Sums of 160 products, whose order is another, rounded to 8 bits.
        torch.testing.assert_close(one, other, rtol=2e-2, atol=0.25)
