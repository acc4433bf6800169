"""Parts of the keys follow from the shape, and memory from the parts."""

from __future__ import annotations

from typing import Any

import pytest
from support.kernel_strategies import make_parameters

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.kernels.decode_plan import (
    DecodeLayout,
    decode_layout,
    decode_sizes,
    decodes,
    near_rows,
)
from hocket.runtime.kernels.plan import KernelForm, kernel_form
from hocket.runtime.kernels.schedule import plan_kernel

CPU = CpuFeatures("any", 16, 32)
BF16_CPU = CpuFeatures("any", 16, 32, extensions=("avx512dq", "avx512bf16"))


def form_of(cpu: CpuFeatures = CPU, **changes: Any) -> KernelForm:
    return kernel_form(make_parameters(**changes), cpu)


def sizes_of(**changes: Any) -> dict[str, int]:
    return decode_sizes(make_parameters(**changes), form_of(**changes))


def layout_of(**changes: Any) -> DecodeLayout:
    return decode_layout(make_parameters(**changes), form_of(**changes))


@pytest.mark.parametrize(
    ("cpu", "dtype", "most"),
    [
        (CPU, DType.FLOAT32, 16),
        (CPU, DType.FLOAT64, 16),
        (CPU, DType.FLOAT16, 16),
        (CPU, DType.BFLOAT16, 16),
        (BF16_CPU, DType.BFLOAT16, 12),
    ],
)
def test_rows_are_few_while_they_do_not_fill_lanes(
    cpu: CpuFeatures, dtype: DType, most: int
) -> None:
    for length in (1, most, most + 1):
        parameters = make_parameters(query_length=length, dtype=dtype)
        assert decodes(parameters, kernel_form(parameters, cpu)) == (length <= most)


@pytest.mark.parametrize(
    ("batch", "kv_heads", "kv_length", "num_parts"),
    [
        (1, 1, 100, 1),
        (1, 1, 1023, 1),
        (1, 1, 1024, 2),
        (1, 8, 4096, 8),
        (1, 8, 100_000, 8),
        (1, 1, 100_000, 64),
        (1, 1, 4096, 8),
        (3, 32, 100_000, 1),
    ],
)
def test_parts_are_many_and_long(batch: int, kv_heads: int, kv_length: int, num_parts: int) -> None:
    sizes = sizes_of(
        query_length=2, batch=batch, query_heads=kv_heads, kv_heads=kv_heads, kv_length=kv_length
    )
    assert sizes["num_blocks"] == num_parts
    assert sizes["num_items"] == num_parts * batch * kv_heads
    assert sizes["block_rows"] == 512


@pytest.mark.parametrize(
    ("query_heads", "kv_length", "strip"),
    [(1, 9, 16), (1, 100, 112), (1, 4096, 256), (16, 4096, 256), (32, 4096, 128), (300, 4096, 64)],
)
def test_scores_of_a_strip_stay_near(query_heads: int, kv_length: int, strip: int) -> None:
    sizes = sizes_of(query_length=1, query_heads=query_heads, kv_length=kv_length)
    assert sizes["chunk_rows"] == strip


@pytest.mark.parametrize(
    ("depth", "dtype", "rows"),
    [
        (128, DType.FLOAT32, 32),
        (128, DType.FLOAT16, 64),
        (64, DType.FLOAT32, 64),
        (100, DType.FLOAT32, 32),
        (1, DType.FLOAT32, 256),
        (1024, DType.FLOAT32, 16),
    ],
)
def test_keys_at_a_time_fit_the_first_level_cache(depth: int, dtype: DType, rows: int) -> None:
    assert near_rows(form_of(dtype=dtype), depth) == rows


def test_memory_is_for_rows_of_a_group_and_for_parts() -> None:
    changes = {"query_heads": 6, "kv_heads": 2, "query_length": 2, "head_dim": 20, "value_dim": 33}
    short = layout_of(**changes, kv_length=1000)
    assert short.query_bytes == 2 * 64
    assert short.state_bytes == (3 + 4) * 64
    assert short.worker_bytes == 6 * (2 * 64 + 7 * 64 + 256 * 4)
    assert short.shared_bytes == 64
    long = layout_of(**changes, kv_length=2048)
    assert long.worker_bytes == short.worker_bytes
    assert long.shared_bytes == 64 + 2 * 4 * 6 * 7 * 64


def test_pairs_of_bfloat16_take_half_the_room_of_a_query() -> None:
    parameters = make_parameters(query_length=1, head_dim=128, dtype=DType.BFLOAT16)
    for cpu, size in ((CPU, 512), (BF16_CPU, 256)):
        assert decode_layout(parameters, kernel_form(parameters, cpu)).query_bytes == size


def test_each_head_has_a_counter() -> None:
    parameters = make_parameters(batch=3, query_heads=8, kv_heads=4, query_length=1)
    plan = plan_kernel(parameters, kernel_form(parameters, CPU))
    assert plan.num_counters == 12
    assert plan.shared_bytes == 128
    many = make_parameters(query_length=100)
    assert plan_kernel(many, kernel_form(many, CPU)).num_counters == 0
