"""Hypothesis strategies for attention problems, small machines, and a float64 reference."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hocket.compiler.attention.schedule.dataflows import Dataflow
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.problem import AttentionProblem, MaskedRows, MaskKind
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel

Tensors = dict[str, NDArray[Any]]


@st.composite
def problems(draw: st.DrawFn, max_length: int = 40, max_dim: int = 12) -> AttentionProblem:
    """Small attention problems of every form."""
    kv_heads = draw(st.integers(1, 2))
    batch = draw(st.integers(1, 2))
    query_heads = kv_heads * draw(st.integers(1, 2))
    query_length = draw(st.integers(1, max_length))
    kv_length = draw(st.integers(1, max_length))
    full = (batch, query_heads, query_length, kv_length)
    mask = draw(st.sampled_from(MaskKind))
    shape = None
    if mask is not MaskKind.NONE:
        shape = tuple(draw(st.sampled_from(sorted({1, size}))) for size in full)
    return AttentionProblem(
        batch,
        query_heads,
        kv_heads,
        query_length,
        kv_length,
        head_dim=draw(st.integers(1, max_dim)),
        value_dim=draw(st.integers(1, max_dim)),
        dtype=DType.FLOAT32,
        scale=draw(st.sampled_from([1.0, 0.125, 0.3])),
        mask=mask,
        mask_shape=shape,
        masked_value=draw(st.sampled_from([-math.inf, -1e4, -3.4e38])),
        masked_rows=draw(st.sampled_from(MaskedRows)),
        is_causal=draw(st.booleans()),
    )


@st.composite
def machines(draw: st.DrawFn, min_capacity: int = 1 << 12) -> HardwareModel:
    """Small machines, some with hardly any memory."""
    base = load_target("mas-edge")
    block = draw(st.sampled_from([(2, 2), (4, 4), (3, 5)]))
    return dataclasses.replace(
        base,
        num_cores=draw(st.integers(1, 3)),
        has_concurrent_units=draw(st.booleans()),
        alignment_bytes=draw(st.sampled_from([2, 16, 64])),
        matrix_unit=dataclasses.replace(
            base.matrix_unit,
            block_rows=block[0],
            block_columns=block[1],
            macs_per_cycle=block[0] * block[1],
        ),
        vector_unit=dataclasses.replace(
            base.vector_unit,
            lanes=draw(st.integers(1, 8)),
            exp_lane_cycles=draw(st.floats(0, 20)),
            port_bytes_per_cycle=draw(st.sampled_from([0.0, 16.0])),
        ),
        on_chip_memory=dataclasses.replace(
            base.on_chip_memory,
            capacity_bytes=draw(st.integers(min_capacity, 1 << 18)),
        ),
        dma=dataclasses.replace(
            base.dma,
            latency_cycles=draw(st.integers(0, 50)),
            has_separate_write_port=draw(st.booleans()),
        ),
    )


@st.composite
def tilings(
    draw: st.DrawFn, problem: AttentionProblem, machine: HardwareModel, dataflow: Dataflow
) -> Tiling:
    """Any tiling that a dataflow allows, whether it fits or not; sizes need not divide anything."""
    softmax = draw(st.sampled_from(dataflow.softmaxes))
    splits = [
        split
        for split in dataflow.splits
        if split is not Split.KEYS or softmax is not Softmax.FULL_ROW
    ]
    split = draw(st.sampled_from(splits))
    live_blocks = draw(st.sampled_from(dataflow.live_blocks))
    fills = dataflow.fills and split is Split.ROWS and softmax is not Softmax.ONLINE
    return Tiling(
        query_rows=draw(st.integers(1, problem.query_length)),
        kv_columns=draw(st.integers(1, problem.kv_length)),
        resident_tiles=draw(st.integers(1, 12)),
        heads=draw(st.integers(1, problem.group_size)) if dataflow.stacks_heads else 1,
        live_blocks=live_blocks,
        prefetch_blocks=draw(st.integers(0, 5)),
        store_blocks=draw(st.integers(0, 4)),
        softmax=softmax,
        split=split,
        fill_columns=draw(st.integers(0, problem.kv_length)) if fills else 0,
    )


def make_tensors(problem: AttentionProblem, seed: int) -> Tensors:
    """Random float64 tensors, each ``[matrices, rows, columns]``, and an output of NaN."""
    generator = np.random.default_rng(seed)
    num_query = problem.batch * problem.query_heads
    num_kv = problem.batch * problem.kv_heads
    tensors: Tensors = {
        "query": generator.standard_normal((num_query, problem.query_length, problem.head_dim)),
        "key": generator.standard_normal((num_kv, problem.kv_length, problem.head_dim)),
        "value": generator.standard_normal((num_kv, problem.kv_length, problem.value_dim)),
        "output": np.full((num_query, problem.query_length, problem.value_dim), np.nan),
        # Where dataflows put scores that do not stay on chip.
        "scores": np.full((num_query, problem.query_length, problem.kv_length), np.nan),
    }
    if problem.mask_shape is not None:
        batch, heads, rows, columns = problem.mask_shape
        shape = (batch * heads, rows, columns)
        if problem.mask is MaskKind.BOOLEAN:
            tensors["mask"] = generator.random(shape) < 0.6
        else:
            mask = generator.standard_normal(shape)
            tensors["mask"] = np.where(generator.random(shape) < 0.2, -np.inf, mask)
    return tensors


def reference_attention(problem: AttentionProblem, tensors: Tensors) -> NDArray[np.float64]:
    """Attention in float64, written straight from its definition."""
    batch, heads = problem.batch, problem.query_heads
    query = tensors["query"].reshape(batch, heads, problem.query_length, problem.head_dim)
    key = tensors["key"].reshape(batch, problem.kv_heads, problem.kv_length, problem.head_dim)
    value = tensors["value"].reshape(batch, problem.kv_heads, problem.kv_length, problem.value_dim)
    key = np.repeat(key, problem.group_size, axis=1)
    value = np.repeat(value, problem.group_size, axis=1)
    scores = problem.scale * np.einsum("bhqd,bhkd->bhqk", query, key)
    if problem.mask is MaskKind.ADDITIVE:
        scores = scores + tensors["mask"].reshape(problem.mask_shape)
    elif problem.mask is MaskKind.BOOLEAN:
        mask = tensors["mask"].reshape(problem.mask_shape)
        scores = np.where(mask, scores, problem.masked_value)
    if problem.is_causal:
        seen = np.tri(problem.query_length, problem.kv_length, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    if problem.masked_rows is MaskedRows.ZERO:
        hidden = np.isneginf(scores).all(axis=-1, keepdims=True)
        probabilities = np.where(hidden, 0.0, probabilities)
    output: NDArray[np.float64] = np.einsum("bhqk,bhkd->bhqd", probabilities, value)
    return output.reshape(batch * heads, problem.query_length, problem.value_dim)
