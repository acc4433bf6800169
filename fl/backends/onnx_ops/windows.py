"""Convolutions and pooling: operators that slide a window over the last axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from hocket.fl.backends.onnx_ops.node import Operator, plain

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Compute, Site

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _window_pads(
    site: Site,
    sizes: tuple[int, ...],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> list[int]:
    """Return how much is added before each of the last axes, and after each."""
    auto = site.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(site.get("pads") or [0] * (2 * len(kernel)))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    before, after = [], []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        count = -(-size // stride)
        total = max((count - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return before + after


def _as_torch_pads(pads: list[int]) -> list[int]:
    half = len(pads) // 2
    return [side for axis in reversed(range(half)) for side in (pads[axis], pads[half + axis])]


def _is_even(pads: list[int]) -> bool:
    half = len(pads) // 2
    return pads[:half] == pads[half:]


def _convolution(site: Site) -> Compute:
    groups = site.get("group", 1)

    def compute(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        rank = x.dim() - 2
        strides = site.get("strides") or [1] * rank
        dilations = site.get("dilations") or [1] * rank
        kernel = list(weight.shape[2:])
        pads = _window_pads(site, tuple(x.shape[2:]), kernel, strides, dilations)
        if not _is_even(pads):
            x, pads = functional.pad(x, _as_torch_pads(pads)), [0] * (2 * rank)
        return _CONVOLUTIONS[rank](x, weight, bias, strides, pads[:rank], dilations, groups)

    return compute


def _transposed_convolution(site: Site) -> Compute:
    if site.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or site.get("output_shape"):
        site.refuse("auto_pad and output_shape are not supported; give pads")
    groups = site.get("group", 1)

    def compute(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        rank = x.dim() - 2
        strides = site.get("strides") or [1] * rank
        dilations = site.get("dilations") or [1] * rank
        added = site.get("output_padding") or [0] * rank
        pads = site.get("pads") or [0] * (2 * rank)
        even = pads if _is_even(pads) else [0] * (2 * rank)
        x = _TRANSPOSED[rank](x, weight, bias, strides, even[:rank], added, groups, dilations)
        if even is not pads:
            x = functional.pad(x, [-each for each in _as_torch_pads(pads)])
        return x

    return compute


def _max_pool(site: Site) -> Compute:
    kernel = site.get("kernel_shape")
    rank = len(kernel)
    strides = site.get("strides") or [1] * rank
    dilations = site.get("dilations") or [1] * rank
    is_ceiled = bool(site.get("ceil_mode", 0))

    def compute(x: torch.Tensor) -> torch.Tensor:
        pads = _window_pads(site, tuple(x.shape[2:]), kernel, strides, dilations)
        # Torch pads evenly, and by half a window at most.
        if not _is_even(pads) or any(
            2 * pad > extent for pad, extent in zip(pads[:rank], kernel, strict=True)
        ):
            x = functional.pad(x, _as_torch_pads(pads), value=-math.inf)
            pads = [0] * (2 * rank)
        return _MAX_POOLS[rank](x, kernel, strides, pads[:rank], dilations, is_ceiled)

    return compute


def _mean_pool(site: Site) -> Compute:
    kernel = site.get("kernel_shape")
    rank = len(kernel)
    strides = site.get("strides") or [1] * rank
    is_ceiled = bool(site.get("ceil_mode", 0))
    counts_pads = bool(site.get("count_include_pad", 0))
    if any(each != 1 for each in site.get("dilations") or []):
        site.refuse("torch has no dilated mean; dilations must be 1")

    def compute(x: torch.Tensor) -> torch.Tensor:
        pads = _window_pads(site, tuple(x.shape[2:]), kernel, strides, [1] * rank)
        pool = _MEAN_POOLS[rank]
        if _is_even(pads) and all(
            2 * pad <= extent for pad, extent in zip(pads[:rank], kernel, strict=True)
        ):
            return pool(x, kernel, strides, pads[:rank], is_ceiled, counts_pads)
        sides = _as_torch_pads(pads)
        total = pool(functional.pad(x, sides), kernel, strides, 0, is_ceiled)
        if counts_pads:
            return total
        # The mean over a window with zeros in it, by the share of it that is no zero.
        ones = functional.pad(torch.ones_like(x[:1, :1]), sides)
        return total / pool(ones, kernel, strides, 0, is_ceiled)

    return compute


def _global_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _global_max(x: torch.Tensor) -> torch.Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


WINDOWS: dict[str, Operator] = {
    "AveragePool": _mean_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "GlobalAveragePool": plain(_global_mean),
    "GlobalMaxPool": plain(_global_max),
    "MaxPool": _max_pool,
}
"""Operators by their names in ONNX."""
