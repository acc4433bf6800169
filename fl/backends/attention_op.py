"""Attention as an operator of torch, with gradients, computed by the kernels of the runtime.

``scaled_dot_product_attention`` stands in for torch's function of that name on a CPU. Below it is
the operator ``hocket::attention``, which torch can trace, compile and differentiate once.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from hocket.fl.backends.kernel_tensors import (
    DTYPES,
    as_array,
    as_mask,
    empty_gradients,
    empty_results,
    laid_out_as,
    layout_of,
    of_rank_four,
)
from hocket.runtime.errors import UnsupportedError
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.kernels.gradients import make_attention_gradient
from hocket.runtime.kernels.parameters import AttentionParameters
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from hocket.runtime.kernels.attention import AttentionKernel
    from hocket.runtime.kernels.gradients import AttentionGradient

# Blocks of query rows that threads take one by one, and keys done at a time, at most.
_QUERY_ROWS = 192
_KV_COLUMNS = 128
_KERNELS_KEPT = 256

_pool: WorkerPool | None = None
_choosing_pool = threading.Lock()


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute what ``torch.nn.functional.scaled_dot_product_attention`` does, with its gradients.

    Tensors are of the same dtype, float64, float32, float16 or bfloat16, and on the CPU. Those of
    16 bits are computed in float32. A row whose keys are all masked becomes 0 and has no gradient.
    Rows masked by finite numbers alone, far beyond -10000, have no gradient to speak of.

    Args:
        query: ``[..., query heads, query length, head size]``.
        key, value: ``[..., heads, key length, head size]``; the size of value may differ.
        attn_mask: Broadcasts to ``[..., query heads, query length, key length]``: bool, false
            where a key is hidden, or numbers to be added to the scores.
        dropout_p: Must be 0.
        is_causal: Whether row ``i`` sees keys up to ``i`` only, of what the mask leaves.
        scale: Factor on the scores; by default one over the root of the head size.
        enable_gqa: Whether key and value may have fewer heads, each for a group of query's.

    Raises:
        UnsupportedError: Dropout is wanted, or the tensors have other dtypes or sizes.
    """
    if dropout_p:
        raise UnsupportedError(f"dropout_p must be 0, got {dropout_p}: weights are never stored")
    tensors, rank = {"query": query, "key": key, "value": value}, query.dim()
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.dtype != query.dtype:
            names = ", ".join(map(str, DTYPES.values()))
            raise UnsupportedError(
                f"{name}: want the dtype of query, one of {names}; got {tensor.dtype}"
            )
        if tensor.dim() < 2 or tensor.dim() != rank:
            raise UnsupportedError(
                f"{name}: want rank 2 or more and that of query, got {list(tensor.shape)}"
            )
    if any(tensor.numel() == 0 for tensor in tensors.values()):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    batches = query.shape[:-3]
    if rank != 4 or not batches == key.shape[:-3] == value.shape[:-3]:
        batches = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
            *(tensor.shape[:-3] for tensor in tensors.values())
        )
        query, key, value = (of_rank_four(tensor, batches) for tensor in tensors.values())
    heads, shared = query.shape[1], key.shape[1]
    if shared != value.shape[1] or heads % shared or not (enable_gqa or shared in (1, heads)):
        raise UnsupportedError(
            f"{heads} heads of query do not go with {shared} of key and {value.shape[1]} of value; "
            "set enable_gqa where each of these is for a group of those"
        )
    mask = None
    if attn_mask is not None:
        scores_shape = (*batches, heads, query.shape[2], key.shape[2])[-rank:]
        mask = as_mask(attn_mask, scores_shape)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    output: torch.Tensor = attention(query, key, value, mask, is_causal, float(scale))[0]
    if output.dim() == rank:
        return output
    return output.reshape((*batches, *output.shape[1:])[-rank:])


@torch.library.custom_op(
    "hocket::attention",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor query, Tensor key, Tensor value, Tensor? mask, bool is_causal, float scale,"
    " Tensor? kv_lengths=None, str rules='') -> (Tensor, Tensor)",
)
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    kv_lengths: torch.Tensor | None = None,
    rules: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of an attention and its log-sum-exp, which has no gradient.

    Args:
        query: ``[batch, query heads, query length, head size]``; fastest if it is contiguous, or
            would be with heads and rows swapped. So are the others.
        key, value: Alike; their heads divide query's.
        mask: Rank 4, each extent that of the scores or 1: bool, or numbers to be added.
        is_causal: Whether row ``i`` sees keys up to ``i`` only.
        scale: Factor on the scores.
        kv_lengths: int64 ``[batch]``, how many keys of a batch are seen; None for all.
        rules: JSON of further fields of ``AttentionParameters``: windows, softcap, where queries
            stand, what hidden scores become; a ``masked_value`` is text there.
    """
    kernel = _kernel(*_description(query, key, value, mask, is_causal, scale, kv_lengths, rules))
    output, log_sum_exp = empty_results(query, value)
    pool = _worker_pool()
    kernel.bind(
        as_array(query),
        as_array(key),
        as_array(value),
        mask=None if mask is None else as_array(mask.contiguous()),
        kv_lengths=None if kv_lengths is None else as_array(kv_lengths.contiguous()),
        output=as_array(output),
        log_sum_exp=as_array(log_sum_exp),
        scratch=np.empty(kernel.scratch_bytes(pool.num_threads), np.uint8),
    ).run(pool)
    return output, log_sum_exp


@torch.library.custom_op(
    "hocket::attention_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor output,"
    " Tensor log_sum_exp, bool is_causal, float scale, bool has_mask_gradient,"
    " Tensor? kv_lengths=None, str rules='')"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    output: torch.Tensor,
    log_sum_exp: torch.Tensor,
    is_causal: bool,
    scale: float,
    has_mask_gradient: bool,
    kv_lengths: torch.Tensor | None = None,
    rules: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key, value and mask, the last empty unless it is wanted.

    Args:
        gradient: Of the output.
        query, key, value, mask, is_causal, scale, kv_lengths, rules: Those of ``attention``.
        output, log_sum_exp: What that returned.
        has_mask_gradient: Whether the gradient of the mask is wanted.
    """
    description = _description(query, key, value, mask, is_causal, scale, kv_lengths, rules)
    kernel = _gradient_kernel(*description, has_mask_gradient)
    results = empty_gradients(query, key, value, mask if has_mask_gradient else None)
    pool = _worker_pool()
    kernel.bind(
        as_array(query),
        as_array(key),
        as_array(value),
        mask=None if mask is None else as_array(mask.contiguous()),
        kv_lengths=None if kv_lengths is None else as_array(kv_lengths.contiguous()),
        output=as_array(output),
        log_sum_exp=as_array(log_sum_exp),
        output_gradient=as_array(laid_out_as(gradient, layout_of(output))),
        query_gradient=as_array(results[0]),
        key_gradient=as_array(results[1]),
        value_gradient=as_array(results[2]),
        mask_gradient=as_array(results[3]) if has_mask_gradient else None,
        scratch=np.empty(kernel.scratch_bytes(pool.num_threads), np.uint8),
    ).run(pool)
    query_gradient, key_gradient, value_gradient, mask_gradient = results
    if mask is not None and has_mask_gradient:
        mask_gradient = mask_gradient.to(mask.dtype)
    return (
        query_gradient.to(query.dtype),
        key_gradient.to(key.dtype),
        value_gradient.to(value.dtype),
        mask_gradient,
    )


@attention.register_fake
def _attention_without_numbers(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    kv_lengths: torch.Tensor | None = None,
    rules: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    del key, mask, is_causal, scale, kv_lengths, rules
    return empty_results(query, value)


@attention_backward.register_fake
def _attention_backward_without_numbers(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    output: torch.Tensor,
    log_sum_exp: torch.Tensor,
    is_causal: bool,
    scale: float,
    has_mask_gradient: bool,
    kv_lengths: torch.Tensor | None = None,
    rules: str = "",
) -> tuple[torch.Tensor, ...]:
    del gradient, output, log_sum_exp, is_causal, scale, kv_lengths, rules
    results = empty_gradients(query, key, value, mask if has_mask_gradient else None)
    operands = (query, key, value, mask if has_mask_gradient and mask is not None else results[3])
    return tuple(
        result.to(operand.dtype) for result, operand in zip(results, operands, strict=True)
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    query, key, value, mask, ctx.is_causal, ctx.scale, kv_lengths, ctx.rules = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, mask, kv_lengths, *output)


def _differentiate(
    ctx: Any, gradient: torch.Tensor, _gradient_of_sums: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    query, key, value, mask, kv_lengths, output, log_sum_exp = ctx.saved_tensors
    has_mask_gradient = ctx.needs_input_grad[3]
    gradients = attention_backward(
        gradient,
        query,
        key,
        value,
        mask,
        output,
        log_sum_exp,
        ctx.is_causal,
        ctx.scale,
        has_mask_gradient,
        kv_lengths,
        ctx.rules,
    )
    wanted = ctx.needs_input_grad[:4]
    return (
        *(found if want else None for found, want in zip(gradients, wanted, strict=True)),
        None,
        None,
        None,
        None,
    )


attention.register_autograd(_differentiate, setup_context=_keep_for_backward)


def _description(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scale: float,
    kv_lengths: torch.Tensor | None,
    rules: str,
) -> tuple[Any, ...]:
    """Return what kernels are made for, in things that have hashes."""
    return (
        tuple(query.shape),
        (*key.shape[:3], value.shape[3]),
        tuple(map(layout_of, (query, key, value))),
        query.dtype,
        None if mask is None else (tuple(mask.shape), mask.dtype),
        is_causal,
        scale,
        kv_lengths is not None,
        rules,
    )


@functools.lru_cache(_KERNELS_KEPT)
def _parameters(
    query_shape: tuple[int, ...],
    key_shape: tuple[int, ...],
    layouts: tuple[str, str, str],
    dtype: torch.dtype,
    mask: tuple[tuple[int, int, int, int], torch.dtype] | None,
    is_causal: bool,
    scale: float,
    has_kv_lengths: bool,
    rules: str,
) -> AttentionParameters:
    batch, query_heads, query_length, head_dim = query_shape
    _, kv_heads, kv_length, value_dim = key_shape
    is_added = mask is not None and mask[1] is not torch.bool
    ruled: dict[str, Any] = {
        "masked_value": "-inf",
        "masked_rows": "zero",
        **json.loads(rules or "{}"),
    }
    ruled["masked_value"] = float(ruled["masked_value"])
    return AttentionParameters(
        batch=batch,
        query_heads=query_heads,
        kv_heads=kv_heads,
        query_length=query_length,
        kv_length=kv_length,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=DTYPES[dtype],
        scale=scale,
        mask="none" if mask is None else "additive" if is_added else "boolean",
        mask_shape=None if mask is None else mask[0],
        mask_dtype=DTYPES[mask[1]] if mask is not None and is_added else None,
        is_causal=is_causal,
        query_layout=layouts[0],
        key_layout=layouts[1],
        value_layout=layouts[2],
        output_layout=layouts[0],
        query_rows=_QUERY_ROWS,
        kv_columns=_KV_COLUMNS,
        has_kv_lengths=has_kv_lengths,
        saves_log_sum_exp=True,
        **ruled,
    )


@functools.lru_cache(_KERNELS_KEPT)
def _kernel(*description: Any) -> AttentionKernel:
    return make_attention_kernel(_parameters(*description))


@functools.lru_cache(_KERNELS_KEPT)
def _gradient_kernel(*description: Any) -> AttentionGradient:
    *attended, has_mask_gradient = description
    parameters = _parameters(*attended)
    return make_attention_gradient(parameters, has_mask_gradient=has_mask_gradient)


def _worker_pool() -> WorkerPool:
    """Return threads, as many as torch would use."""
    global _pool  # noqa: PLW0603 - as torch's own number of threads is
    with _choosing_pool:
        if _pool is None or _pool.num_threads != torch.get_num_threads():
            _pool = WorkerPool(torch.get_num_threads())
        return _pool
