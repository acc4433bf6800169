"""Sizes of a kernel follow the tiling, as far as vectors and the cache allow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.kernel_strategies import make_parameters

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.kernels.plan import (
    ARGUMENT_NAMES,
    OPERANDS,
    REAL_NAMES,
    kernel_form,
    make_arguments,
    plan_reals,
    plan_sizes,
    scratch_layout,
)

CPU = CpuFeatures("any", 16, 32, l2_bytes=1 << 20)
LOWEST = float(np.finfo(np.float32).min)
BF16_CPU = CpuFeatures("any", 16, 32, extensions=("avx512dq", "avx512bf16"))


def sizes_of(cpu: CpuFeatures = CPU, **changes: Any) -> dict[str, int]:
    parameters = make_parameters(**changes)
    return plan_sizes(parameters, kernel_form(parameters, cpu))


def scratch_of(cpu: CpuFeatures = CPU, **changes: Any) -> int:
    form = kernel_form(make_parameters(**changes), cpu)
    return scratch_layout(form, sizes_of(cpu, **changes)["chunk_rows"]).total_bytes


@pytest.mark.parametrize(
    ("query_rows", "block_rows"), [(1, 48), (48, 48), (49, 96), (144, 144), (300, 336)]
)
def test_blocks_are_the_tiling_in_whole_pieces(query_rows: int, block_rows: int) -> None:
    sizes = sizes_of(query_rows=query_rows, query_length=1000, query_heads=60, batch=2)
    assert sizes["block_rows"] == block_rows
    assert sizes["num_blocks"] == -(-1000 // block_rows)
    assert sizes["num_items"] == sizes["num_blocks"] * 120


def test_blocks_are_large_where_many_are_left() -> None:
    sizes = sizes_of(query_rows=512, query_length=4096, query_heads=32, kv_heads=32, batch=8)
    assert sizes["block_rows"] == 528
    assert sizes["num_items"] >= 256
    few = sizes_of(query_rows=512, query_length=4096, query_heads=8, kv_heads=8)
    assert few["block_rows"] == 96
    assert few["num_items"] >= 256


def test_chunks_are_the_tiling_as_far_as_the_first_level_cache_has_room() -> None:
    assert sizes_of(kv_length=1000, kv_columns=100)["chunk_rows"] == 112
    assert sizes_of(kv_length=40, kv_columns=100)["chunk_rows"] == 48
    assert sizes_of(kv_length=1 << 20, kv_columns=1 << 20)["chunk_rows"] == 128


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16])
def test_scratch_is_a_few_tiles_however_long_the_sequence(dtype: DType) -> None:
    for cpu in (CPU, BF16_CPU):
        sizes = {"head_dim": 64, "value_dim": 64, "kv_columns": 512, "dtype": dtype}
        usual = scratch_of(cpu, kv_length=512, query_length=512, **sizes)
        assert usual < 128 * 1024
        longest = scratch_of(cpu, kv_length=1 << 20, query_length=1 << 4, **sizes)
        assert longest == usual


def test_scratch_of_wide_heads_stays_within_its_bound() -> None:
    wide = {"head_dim": 128, "value_dim": 128, "kv_columns": 512, "kv_length": 4096}
    assert scratch_of(**wide) <= 128 * 1024
    for dtype in (DType.FLOAT16, DType.BFLOAT16):
        for cpu in (CPU, BF16_CPU):
            assert scratch_of(cpu, dtype=dtype, **wide) <= 128 * 1024


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16])
def test_parts_of_scratch_do_not_overlap(dtype: DType) -> None:
    form = kernel_form(make_parameters(head_dim=6, value_dim=7, dtype=dtype), BF16_CPU)
    layout = scratch_layout(form, 20)
    row = layout.row_bytes
    assert layout.queries == 0
    assert layout.output == layout.queries + form.score_depth * row
    assert layout.statistics == layout.output + 7 * row
    assert layout.staged == layout.statistics + 6 * row
    staged_bytes = {"float32": 0, "float16": 20 * 7 * 4, "bfloat16": 20 * 7 * 2}[dtype.value]
    assert layout.scores >= layout.staged + staged_bytes
    assert layout.scores % 64 == 0
    assert layout.total_bytes >= layout.scores + (20 + 15) * row
    assert layout.total_bytes % 64 == 0


def test_arguments_hold_every_number_in_its_place() -> None:
    parameters = make_parameters(scale=0.5, softcap=3.0, query_length=5, is_causal=True)
    form = kernel_form(parameters, CPU)
    sizes, reals = plan_sizes(parameters, form), plan_reals(parameters, form)
    arguments = make_arguments(sizes, reals)
    assert arguments.dtype == np.int64
    by_name = dict(zip(ARGUMENT_NAMES, arguments.tolist(), strict=True))
    assert all(by_name[name] == 0 for name in OPERANDS)
    assert {name: by_name[name] for name in sizes} == sizes
    bits = arguments[-len(REAL_NAMES) :].view(np.float64)
    assert dict(zip(REAL_NAMES, bits.tolist(), strict=True)) == reals


@pytest.mark.parametrize(("masked_value", "kept"), [(-math.inf, -math.inf), (LOWEST, LOWEST)])
def test_no_masked_value_becomes_infinite_by_its_unit(masked_value: float, kept: float) -> None:
    parameters = make_parameters(
        mask="boolean", mask_shape=(1, 1, 1, 16), masked_value=masked_value
    )
    assert plan_reals(parameters, kernel_form(parameters, CPU))["masked_value"] == kept


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
def test_strides_are_those_of_the_arrays(layout: str) -> None:
    changes = {"query_heads": 6, "kv_heads": 3, "batch": 2, "query_length": 7, "kv_length": 9}
    names = ("query", "key", "value", "output")
    layouts = {f"{name}_layout": layout for name in names}
    parameters = make_parameters(**changes, **layouts)
    sizes = sizes_of(**changes, **layouts)
    head, row = (1, 2) if layout == "bhnd" else (2, 1)
    for name in names:
        strides = np.empty(getattr(parameters, f"{name}_shape"), np.float32).strides
        assert sizes[f"{name}_batch_stride"] == strides[0]
        assert sizes[f"{name}_head_stride"] == strides[head]
        assert sizes[f"{name}_row_stride"] == strides[row]


def test_axes_along_which_a_mask_is_repeated_have_stride_zero() -> None:
    sizes = sizes_of(batch=2, query_heads=3, kv_heads=3, mask="boolean", mask_shape=(2, 1, 16, 16))
    assert [sizes[f"mask_{axis}_stride"] for axis in ("batch", "head", "row", "column")] == [
        256,
        0,
        16,
        1,
    ]
    sizes = sizes_of(mask="additive", mask_shape=(1, 1, 1, 1))
    assert sizes["mask_column_stride"] == 0
