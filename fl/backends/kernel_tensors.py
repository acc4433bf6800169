"""Tensors of torch as the kernels of the runtime take them: axes, order in memory, results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hocket.hwmodels.dtypes import DType
from hocket.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = {
    torch.float64: DType.FLOAT64,
    torch.float32: DType.FLOAT32,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
}
"""Types of tensors that kernels compute on."""


def of_rank_four(tensor: torch.Tensor, batches: torch.Size) -> torch.Tensor:
    """Return a tensor with one axis of batches, in front of heads, rows and columns."""
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    if len(batches) > 0:
        tensor = tensor.expand(*batches, *tensor.shape[-3:])
    return tensor.flatten(0, -4)


def as_mask(mask: torch.Tensor, scores_shape: tuple[int, ...]) -> torch.Tensor:
    """Return a mask of rank 4 that holds each entry once, however often it is repeated.

    Args:
        mask: As it was given.
        scores_shape: What it broadcasts to, with all axes of batches.
    """
    if mask.dtype is not torch.bool and mask.dtype not in DTYPES:
        raise UnsupportedError(f"attn_mask: want bool or floating point, got {mask.dtype}")
    fits = mask.dim() <= len(scores_shape) and all(
        size in (1, full)
        for size, full in zip(reversed(mask.shape), reversed(scores_shape), strict=False)
    )
    if not fits:
        raise UnsupportedError(
            f"attn_mask: {list(mask.shape)} does not broadcast to {list(scores_shape)}"
        )
    for axis, stride in enumerate(mask.stride()):
        if stride == 0:
            mask = mask.narrow(axis, 0, 1)
    while mask.dim() < 4:
        mask = mask.unsqueeze(0)
    if len(scores_shape) > 4 and any(size > 1 for size in mask.shape[:-3]):
        mask = mask.expand(*scores_shape[:-3], *mask.shape[-3:])
    return mask.flatten(0, -4)


def layout_of(tensor: torch.Tensor) -> str:
    """Return the order of axes in memory, one of ``parameters.LAYOUTS``, to read a tensor in."""
    is_plain = tensor.is_contiguous() or not tensor.transpose(1, 2).is_contiguous()
    return "bhnd" if is_plain else "bnhd"


def laid_out_as(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a tensor with its axes in an order in memory, copied if it must be."""
    if layout == "bhnd":
        return tensor.contiguous()
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the memory of a tensor as the kernels want it, copied if they could not read it."""
    tensor = tensor.detach()
    if tensor.dim() == 4:
        layout = layout_of(tensor)
        tensor = laid_out_as(tensor, layout)
        tensor = tensor if layout == "bhnd" else tensor.transpose(1, 2)
    array: NDArray[Any] = (
        tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
    ).numpy()
    return array


def _empty(like: torch.Tensor, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor like another, in its layout, with other columns and dtype."""
    batch, heads, rows, _ = like.shape
    if layout_of(like) == "bhnd":
        return like.new_empty((batch, heads, rows, columns), dtype=dtype)
    return like.new_empty((batch, rows, heads, columns), dtype=dtype).transpose(1, 2)


def _computed_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def empty_results(query: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tensors for the output of an attention and its log-sum-exp."""
    output = _empty(query, value.shape[3], query.dtype)
    return output, query.new_empty(query.shape[:3], dtype=_computed_dtype(query))


def empty_gradients(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tensors for gradients, of the dtype that is computed in."""
    dtype = _computed_dtype(query)
    return (
        _empty(query, query.shape[3], dtype),
        _empty(key, key.shape[3], dtype),
        _empty(value, value.shape[3], dtype),
        query.new_empty((0,) if mask is None else mask.shape, dtype=dtype),
    )
