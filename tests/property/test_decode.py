"""The kernel for few query rows computes what the reference computes, whatever its parts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.attention_reference import as_floats, as_stored, attend, random_operands
from support.kernel_runs import AllAtOnce, compute, compute_all
from support.kernel_strategies import (
    FEW_LENGTHS,
    FORMS,
    Form,
    attention_parameters,
    make_parameters,
)

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures, detect_cpu
from hocket.runtime.kernels.attention import AttentionKernel, make_attention_kernel
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hocket.runtime.kernels.parameters import AttentionParameters

    Make = Callable[..., AttentionKernel]

# Long enough for two parts, and for strips that are not all whole.
LONGEST = 1400

DECODE_FORMS = (
    *FORMS,
    Form(144, 136, is_causal=True),
    Form(96, 33, has_kv_lengths=True, dtype=DType.FLOAT16),
    Form(140, 17, has_left_window=True, is_causal=True, dtype=DType.BFLOAT16),
)
MASKED_FORMS = tuple(form for form in DECODE_FORMS if form.mask != "none")
NARROW_FORMS = (
    Form(80, 40, is_causal=True),
    Form(9, 6, "boolean", "key", masked_rows="zero"),
    Form(
        6,
        7,
        "additive",
        "both",
        masked_rows="zero",
        has_left_window=True,
        has_right_window=True,
        has_softcap=True,
        has_kv_lengths=True,
        counts_from_end=True,
        has_slopes=True,
        saves_log_sum_exp=True,
    ),
    Form(20, 33, dtype=DType.BFLOAT16),
    Form(17, 9, "boolean", "query", "zero", dtype=DType.FLOAT64),
)

PLACES = ("query", "key", "value", "mask")

seeds = st.integers(0, 2**32 - 1)


def few_rows(forms: tuple[Form, ...] = DECODE_FORMS) -> st.SearchStrategy[AttentionParameters]:
    return attention_parameters(forms, max_length=LONGEST, query_lengths=FEW_LENGTHS)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AttentionKernel]:
    """Makes kernels in a cache of this module's own, so that nothing but these tests compiles."""
    folder = tmp_path_factory.mktemp("kernels")

    def make_kernel(
        parameters: AttentionParameters, cpu: CpuFeatures | None = None
    ) -> AttentionKernel:
        kernel = make_attention_kernel(parameters, cpu, folder)
        assert "decode_products" in kernel.source.text
        return kernel

    return make_kernel


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with AllAtOnce(3) as three_threads:
        yield three_threads


@given(parameters=few_rows(), seed=seeds)
def test_kernel_computes_what_the_reference_computes(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    operands = random_operands(parameters, seed)
    expected = attend(parameters, operands)
    output, log_sum_exp = compute_all(make(parameters), operands)
    expected.check(output)
    if log_sum_exp is not None:
        expected.check_log_sum(log_sum_exp)


@given(parameters=few_rows(), seed=seeds)
def test_cpus_without_extensions_compute_the_same(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    cpu = replace(detect_cpu(), extensions=())
    operands = random_operands(parameters, seed)
    attend(parameters, operands).check(compute(make(parameters, cpu), operands))


@given(parameters=few_rows(NARROW_FORMS), seed=seeds, lanes=st.sampled_from((4, 8)))
def test_narrower_vectors_compute_the_same(
    make: Make, parameters: AttentionParameters, seed: int, lanes: int
) -> None:
    cpu = CpuFeatures("narrow", lanes, 32 if lanes == 4 else 16)
    operands = random_operands(parameters, seed)
    attend(parameters, operands).check(compute(make(parameters, cpu), operands))


@given(parameters=few_rows(), seed=seeds)
def test_bits_do_not_depend_on_threads(
    make: Make, pool: WorkerPool, parameters: AttentionParameters, seed: int
) -> None:
    kernel = make(parameters)
    operands = random_operands(parameters, seed)
    alone = compute(kernel, operands)
    for _ in range(3):
        together = compute(kernel, operands, pool)
        assert alone.tobytes() == together.tobytes()


def test_many_parts_on_many_threads_are_put_together_alike(make: Make, pool: WorkerPool) -> None:
    parameters = make_parameters(query_length=3, query_heads=4, kv_length=20_000, head_dim=24)
    kernel = make(parameters)
    assert kernel.num_work_items > 30
    operands = random_operands(parameters, seed=0)
    alone = compute(kernel, operands)
    attend(parameters, operands).check(alone)
    for _ in range(20):
        assert alone.tobytes() == compute(kernel, operands, pool).tobytes()


def test_scratch_serves_run_after_run(make: Make, pool: WorkerPool) -> None:
    parameters = make_parameters(query_length=1, kv_length=5000)
    kernel = make(parameters)
    operands = random_operands(parameters, seed=1)
    expected = attend(parameters, operands)
    output = np.zeros(parameters.output_shape, np.float32)
    scratch = np.zeros(kernel.scratch_bytes(3), np.uint8)
    bound = kernel.bind(
        operands.query, operands.key, operands.value, output=output, scratch=scratch
    )
    for threads in (None, pool, pool, None):
        output[:] = math.nan
        bound.run(threads)
        expected.check(output)
        scratch[:] = 0xFF  # as another kernel may leave it


@given(parameters=few_rows(), seed=seeds)
def test_rising_scores_and_constant_rows_stay_exact(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    """Scores in the hundreds that rise from key to key rescale the sums in every strip."""
    operands = random_operands(parameters, seed)
    rising = np.linspace(-40, 40, parameters.kv_length, dtype=np.float32)
    by_row = (1, 1, -1, 1) if parameters.key_layout == "bhnd" else (1, -1, 1, 1)
    operands.key[:] = as_stored(rising, parameters.dtype).reshape(by_row)
    operands.query[as_floats(operands.query) < -1] = 0
    attend(parameters, operands).check(compute(make(parameters), operands))


@given(
    parameters=few_rows(),
    seed=seeds,
    odd=st.sampled_from([(place, x) for place in PLACES for x in (math.nan, math.inf, -math.inf)]),
)
def test_what_is_not_finite_goes_through_as_in_plain_softmax(
    make: Make,
    parameters: AttentionParameters,
    seed: int,
    odd: tuple[str, float],
) -> None:
    where, oddity = odd
    assume(where != "mask" or parameters.mask == "additive")
    # Keys that causality hides may be read or not, and weights far below the smallest float32
    # are 0 for us and not for float64; either shows when the value is not finite.
    hides = parameters.has_kv_lengths or parameters.left_window is not None
    hides = hides or parameters.last_ahead is not None
    assume(where != "value" or (parameters.scale < 1 and not hides))
    assume(parameters.scale != 0)
    operands = random_operands(parameters, seed)
    array = getattr(operands, where)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        place = tuple(rng.integers(size) for size in array.shape)
        array[place] = as_stored(np.array([oddity], np.float32), parameters.dtype)[0]
    attend(parameters, operands).check(compute(make(parameters), operands))


@given(parameters=few_rows(MASKED_FORMS), seed=seeds)
def test_rows_without_any_key_become_what_was_asked_for(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    parameters = replace(parameters, masked_value=-math.inf)
    operands = random_operands(parameters, seed)
    assert operands.mask is not None
    # All of the first batch's keys, in masks of every shape.
    nothing = as_stored(np.array([-np.inf], np.float32), parameters.dtype)[0]
    operands.mask[0] = False if parameters.mask == "boolean" else nothing
    output = compute(make(parameters), operands)
    attend(parameters, operands).check(output)
    first = as_floats(output[0])
    assert np.isnan(first).all() if parameters.masked_rows == "nan" else (first == 0).all()


@pytest.mark.parametrize("masked_rows", ["nan", "zero"])
@pytest.mark.parametrize("counts_from_end", [False, True])
def test_lengths_may_leave_nothing_or_little_of_a_long_cache(
    make: Make, pool: WorkerPool, masked_rows: str, counts_from_end: bool
) -> None:
    """Parts are of what lengths leave; where that is little, all of it is one part."""
    lengths = np.array([0, 1, 2, 3, 511, 512, 513, 1024, 1025, 2999, 3000, 9000], np.int64)
    parameters = make_parameters(
        batch=lengths.size,
        query_heads=2,
        query_length=3,
        kv_length=3000,
        has_kv_lengths=True,
        counts_from_end=counts_from_end,
        is_causal=counts_from_end,
        masked_rows=masked_rows,
        saves_log_sum_exp=True,
    )
    kernel = make(parameters)
    operands = random_operands(parameters, seed=3)
    operands = replace(operands, kv_lengths=lengths)
    expected = attend(parameters, operands)
    for threads in (None, pool):
        output, log_sum_exp = compute_all(kernel, operands, threads)
        expected.check(output)
        assert log_sum_exp is not None
        expected.check_log_sum(log_sum_exp)


@pytest.mark.parametrize("left_window", [0, 5, 700, 2100])
def test_windows_leave_a_part_of_a_long_cache(make: Make, left_window: int) -> None:
    parameters = make_parameters(
        query_heads=6,
        kv_heads=2,
        query_length=5,
        kv_length=2500,
        query_offset=2400,
        is_causal=True,
        left_window=left_window,
    )
    operands = random_operands(parameters, seed=4)
    attend(parameters, operands).check(compute(make(parameters), operands))


@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(1, 1), (1, 64), (64, 1), (80, 96), (1024, 1), (7, 1024)]
)
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_head_sizes_of_any_kind(make: Make, head_dim: int, value_dim: int, dtype: DType) -> None:
    parameters = make_parameters(
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        scale=head_dim**-0.5,
        query_heads=7,
        query_length=1,
        kv_length=353,
        key_layout="bnhd",
    )
    operands = random_operands(parameters, seed=head_dim)
    attend(parameters, operands).check(compute(make(parameters), operands))


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 5, 7, 8, 11, 64])
def test_groups_of_any_size(make: Make, group_size: int) -> None:
    parameters = make_parameters(query_heads=group_size, query_length=1, kv_length=300)
    operands = random_operands(parameters, seed=group_size)
    attend(parameters, operands).check(compute(make(parameters), operands))


@pytest.mark.parametrize("kv_length", [128, 3000])
def test_error_is_a_few_roundings(make: Make, kv_length: int) -> None:
    """For standard normal operands, measured against float64: about 1e-6 at most."""
    parameters = make_parameters(
        query_heads=8,
        kv_heads=4,
        query_length=6,
        kv_length=kv_length,
        head_dim=64,
        value_dim=64,
        scale=0.125,
    )
    operands = random_operands(parameters, seed=1)
    expected = attend(parameters, operands)
    assert np.abs(compute(make(parameters), operands) - expected.output).max() < 1.5e-6


def test_hidden_keys_may_hold_anything(make: Make) -> None:
    """Padding behind a mask is often garbage; a weight of zero leaves none of it."""
    arguments: dict[str, Any] = {"mask": "additive", "mask_shape": (1, 1, 1, 16)}
    parameters = make_parameters(query_length=2, **arguments)
    operands = random_operands(parameters, seed=2)
    assert operands.mask is not None
    operands.mask[:] = 0
    operands.mask[..., 10:] = -np.inf
    clean = compute(make(parameters), operands)
    operands.value[..., 10:, :] = 3e38
    np.testing.assert_array_equal(compute(make(parameters), operands), clean)
