"""Causal kernels on masks that hide rows throughout by a finite number: they see all keys then."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attention_reference import Operands
from support.kernel_runs import compute
from support.kernel_strategies import make_parameters

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import detect_cpu
from hocket.runtime.errors import UnsupportedError
from hocket.runtime.kernels.attention import make_attention_kernel
from hocket.runtime.kernels.generator import generate_source


@settings(max_examples=40)
@given(
    st.sampled_from([DType.FLOAT32, DType.FLOAT64]),
    st.booleans(),
    st.integers(2, 90),
    st.integers(0, 60),
    st.sampled_from([None, 0, 7]),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_they_compute_what_the_mask_alone_says(
    dtype: DType,
    boolean: bool,
    rows: int,
    past: int,
    window: int | None,
    hidden: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    columns = rows + past
    ahead = np.arange(columns) - np.arange(rows)[:, None] - past
    keep = ahead <= 0
    if window is not None:
        keep &= ahead >= -window
    keep = keep & (rng.random((2, 1, 1, columns)) >= hidden)
    mask = keep if boolean else np.where(keep, 0.0, np.finfo(np.float32).min)
    plain = make_parameters(
        batch=2,
        query_heads=2,
        query_length=rows,
        kv_length=columns,
        dtype=dtype,
        mask="boolean" if boolean else "additive",
        mask_shape=(2, 1, rows, columns),
        masked_value=-1e35 if boolean else -math.inf,
        kv_columns=32,
    )
    guided = dataclasses.replace(
        plain,
        is_causal=not past,
        right_window=0 if past else None,
        query_offset=past,
        left_window=window,
        mask_hides_rest=True,
    )
    shapes = (plain.query_shape, plain.key_shape, plain.value_shape)
    arrays = [rng.standard_normal(shape).astype(dtype.to_numpy()) for shape in shapes]
    stored = mask if boolean else mask.astype(dtype.to_numpy())
    operands = Operands(*arrays, stored)
    expected, found = (compute(make_attention_kernel(each), operands) for each in (plain, guided))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_only_blocks_of_rows_with_causality_try_again() -> None:
    shape = (1, 1, 40, 40)
    causal = make_parameters(
        query_length=40,
        kv_length=40,
        mask="additive",
        mask_shape=shape,
        is_causal=True,
        mask_hides_rest=True,
    )
    cpu = detect_cpu()
    assert "sees_all" in generate_source(causal, cpu).text
    few = dataclasses.replace(causal, query_length=2, mask_shape=(1, 1, 2, 40))
    assert "sees_all" not in generate_source(few, cpu).text
    assert (
        generate_source(few, cpu).text
        == generate_source(
            dataclasses.replace(few, is_causal=False, mask_hides_rest=False), cpu
        ).text
    )


def test_without_a_mask_nothing_hides_the_rest() -> None:
    with pytest.raises(UnsupportedError, match="mask_hides_rest is for a mask"):
        make_parameters(is_causal=True, mask_hides_rest=True)
