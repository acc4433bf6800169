"""Sizes of a kernel follow the tiling, as far as vectors and the cache allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.kernel_strategies import make_parameters

from hocket.runtime.cpu import CpuFeatures
from hocket.runtime.kernels.plan import (
    SIZE_NAMES,
    kernel_form,
    plan_sizes,
    scratch_layout,
    worker_scratch_bytes,
)

CPU = CpuFeatures("any", 16, 32, l2_bytes=1 << 20)


def sizes_of(cpu: CpuFeatures = CPU, **changes: Any) -> dict[str, int]:
    parameters = make_parameters(**changes)
    sizes = plan_sizes(parameters, kernel_form(parameters, cpu), cpu.l2_bytes)
    return dict(zip(SIZE_NAMES, sizes.tolist(), strict=True))


def scratch_of(**changes: Any) -> int:
    form = kernel_form(make_parameters(**changes), CPU)
    return worker_scratch_bytes(form, sizes_of(**changes)["chunk_rows"])


@pytest.mark.parametrize(("query_rows", "block_rows"), [(1, 16), (16, 16), (17, 32), (300, 304)])
def test_blocks_are_the_tiling_in_whole_vectors(query_rows: int, block_rows: int) -> None:
    sizes = sizes_of(query_rows=query_rows, query_length=100, query_heads=6, batch=2)
    assert sizes["block_rows"] == block_rows
    assert sizes["num_blocks"] == -(-100 // block_rows)
    assert sizes["num_items"] == sizes["num_blocks"] * 12


def test_scores_of_all_keys_are_kept_while_they_fit() -> None:
    budget = (1 << 19) // (48 * 4)
    assert sizes_of(kv_length=budget, kv_columns=100)["chunk_rows"] == budget
    assert sizes_of(kv_length=budget + 1, kv_columns=100)["chunk_rows"] == 112
    assert sizes_of(kv_length=1 << 20, kv_columns=1 << 20)["chunk_rows"] == budget


def test_scratch_is_a_few_tiles_however_long_the_sequence() -> None:
    usual = scratch_of(head_dim=64, value_dim=64, kv_length=512, query_length=512)
    assert usual < 128 * 1024
    longest = scratch_of(head_dim=64, value_dim=64, kv_length=1 << 16, query_length=1 << 16)
    assert longest < usual
    assert longest == scratch_of(
        head_dim=64, value_dim=64, kv_length=1 << 20, query_length=1, query_heads=64
    )


def test_parts_of_scratch_do_not_overlap() -> None:
    form = kernel_form(make_parameters(head_dim=5, value_dim=7), CPU)
    layout = scratch_layout(form)
    row = layout.row_bytes
    assert layout.queries == 0
    assert layout.output == layout.queries + 5 * row
    assert layout.statistics == layout.output + 7 * row
    assert layout.scores > layout.statistics
    assert worker_scratch_bytes(form, 20) >= layout.scores + (20 + 15) * row
    assert worker_scratch_bytes(form, 20) % 64 == 0


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
