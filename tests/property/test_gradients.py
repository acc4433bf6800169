"""Gradients of any attention are those of the reference, however the work is divided."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attention_reference import Operands, as_stored, random_operands
from support.gradient_reference import Saved, differentiate
from support.kernel_runs import GUARD, AllAtOnce, garbage
from support.kernel_strategies import FORMS, Form, attention_parameters, make_parameters

from hocket.hwmodels.dtypes import DType
from hocket.runtime.cpu import CpuFeatures, detect_cpu
from hocket.runtime.kernels.gradients import AttentionGradient, make_attention_gradient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.workers import WorkerPool

    Make = Callable[..., AttentionGradient]

ADDITIVE_FORMS = tuple(form for form in FORMS if form.mask == "additive")
SOME_FORMS = (
    Form(16, 16),
    Form(5, 3, is_causal=True),
    Form(9, 6, "boolean", "both", masked_rows="zero"),
    Form(
        6,
        7,
        "additive",
        "key",
        has_left_window=True,
        has_right_window=True,
        has_softcap=True,
        has_kv_lengths=True,
        counts_from_end=True,
        has_slopes=True,
    ),
    Form(6, 7, is_causal=True, dtype=DType.FLOAT16),
    Form(7, 6, "additive", "query", is_causal=True, dtype=DType.FLOAT64),
)
CPUS = (
    replace(detect_cpu(), extensions=()),
    CpuFeatures("narrow", 8, 16),
    CpuFeatures("narrow", 4, 32),
    CpuFeatures("narrow", 4, 16),
)

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("kernels")

    def make_gradient(
        parameters: AttentionParameters,
        cpu: CpuFeatures | None = None,
        *,
        has_mask_gradient: bool = False,
    ) -> AttentionGradient:
        return make_attention_gradient(parameters, cpu, folder, has_mask_gradient=has_mask_gradient)

    return make_gradient


@pytest.fixture(scope="module")
def pools() -> Iterator[list[WorkerPool]]:
    with AllAtOnce(2) as two, AllAtOnce(3) as three, AllAtOnce(7) as seven:
        yield [two, three, seven]


def compute(
    kernel: AttentionGradient, operands: Operands, saved: Saved, pool: WorkerPool | None = None
) -> list[NDArray[Any]]:
    """Run a kernel on memory full of garbage, in exactly the space it asks for.

    Returns the gradients of query, key, value and, if the kernel makes it, mask.
    """
    parameters = kernel.parameters
    dtype = parameters.computed_dtype.to_numpy()
    shapes = [parameters.query_shape, parameters.key_shape, parameters.value_shape]
    if kernel.form.has_mask_gradient:
        assert parameters.mask_shape is not None
        shapes.append(parameters.mask_shape)
    memories, gradients = zip(*(garbage(shape, dtype) for shape in shapes), strict=True)
    num_threads = 1 if pool is None else pool.num_threads
    scratch_memory = np.full(kernel.scratch_bytes(num_threads) + GUARD, 0xFF, np.uint8)
    names = ("query_gradient", "key_gradient", "value_gradient", "mask_gradient")
    kernel.bind(
        operands.query,
        operands.key,
        operands.value,
        mask=operands.mask,
        kv_lengths=operands.kv_lengths,
        slopes=operands.slopes,
        output=saved.output,
        log_sum_exp=saved.log_sum_exp,
        output_gradient=saved.output_gradient,
        **dict(zip(names, gradients, strict=False)),
        scratch=scratch_memory[:-GUARD],
    ).run(pool)
    for memory in (*memories, scratch_memory):
        assert (memory[-GUARD:] == 0xFF).all()
    return list(gradients)


def check(kernel: AttentionGradient, seed: int) -> None:
    """Compare a kernel with the reference, on random operands."""
    operands = random_operands(kernel.parameters, seed)
    saved, expected = differentiate(kernel.parameters, operands, seed)
    query, key, value, *mask = compute(kernel, operands, saved)
    expected.query.check(query)
    expected.key.check(key)
    expected.value.check(value)
    if mask:
        assert expected.mask is not None
        expected.mask.check(mask[0])


@given(parameters=attention_parameters(), seed=seeds)
def test_gradients_are_those_of_the_reference(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    check(make(parameters), seed)


@given(parameters=attention_parameters(ADDITIVE_FORMS), seed=seeds)
def test_masks_that_are_added_have_gradients_too(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    check(make(parameters, has_mask_gradient=True), seed)


@given(parameters=attention_parameters(SOME_FORMS), seed=seeds, cpu=st.sampled_from(CPUS))
def test_other_cpus_compute_the_same(
    make: Make, parameters: AttentionParameters, seed: int, cpu: CpuFeatures
) -> None:
    has_mask_gradient = parameters.mask == "additive"
    check(make(parameters, cpu, has_mask_gradient=has_mask_gradient), seed)


@given(
    parameters=attention_parameters(SOME_FORMS + ADDITIVE_FORMS, max_length=300),
    seed=seeds,
    has_mask_gradient=st.booleans(),
)
def test_bits_do_not_depend_on_threads(
    make: Make,
    pools: list[WorkerPool],
    parameters: AttentionParameters,
    seed: int,
    has_mask_gradient: bool,
) -> None:
    wants_mask = has_mask_gradient and parameters.mask == "additive"
    kernel = make(parameters, has_mask_gradient=wants_mask)
    operands = random_operands(parameters, seed)
    saved, _ = differentiate(parameters, operands, seed)
    alone = [gradient.tobytes() for gradient in compute(kernel, operands, saved)]
    for pool in pools:
        together = compute(kernel, operands, saved, pool)
        assert [gradient.tobytes() for gradient in together] == alone


@given(parameters=attention_parameters(SOME_FORMS[2:4]), seed=seeds)
def test_rows_without_any_key_give_no_gradient(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    parameters = replace(parameters, masked_value=-math.inf)
    operands = random_operands(parameters, seed)
    assert operands.mask is not None
    operands.mask[:] = False if parameters.mask == "boolean" else -np.inf
    saved, _ = differentiate(parameters, operands, seed)
    # What the output holds there does not matter.
    saved.output[:] = np.nan
    for gradient in compute(make(parameters), operands, saved):
        np.testing.assert_array_equal(gradient, 0)


@given(parameters=attention_parameters(SOME_FORMS[3:4]), seed=seeds)
def test_masks_that_hide_everything_have_no_gradient(
    make: Make, parameters: AttentionParameters, seed: int
) -> None:
    operands = random_operands(parameters, seed)
    assert operands.mask is not None
    operands.mask[:] = -np.inf
    saved, _ = differentiate(parameters, operands, seed)
    kernel = make(parameters, has_mask_gradient=True)
    np.testing.assert_array_equal(compute(kernel, operands, saved)[3], 0)


def test_hidden_keys_may_hold_anything(make: Make) -> None:
    parameters = make_parameters(mask="boolean", mask_shape=(1, 1, 1, 16))
    operands = random_operands(parameters, seed=2)
    assert operands.mask is not None
    operands.mask[..., :10], operands.mask[..., 10:] = True, False
    saved, _ = differentiate(parameters, operands, seed=2)
    clean = compute(make(parameters), operands, saved)
    operands.value[..., 10:, :] = 3e38
    for gradient, expected in zip(compute(make(parameters), operands, saved), clean, strict=True):
        np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
@pytest.mark.parametrize("masked_value", [-1e4, -3.4028234663852886e38, -1e38])
def test_rows_masked_by_finite_numbers_stay_finite(
    make: Make, dtype: DType, masked_value: float
) -> None:
    parameters = make_parameters(
        mask="boolean", mask_shape=(1, 1, 16, 1), masked_value=masked_value, dtype=dtype
    )
    operands = random_operands(parameters, seed=3)
    assert operands.mask is not None
    operands.mask[:] = False
    saved, _ = differentiate(parameters, operands, seed=3)
    for gradient in compute(make(parameters), operands, saved):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(1, 1), (1, 64), (64, 1), (80, 96), (1024, 1), (7, 1024)]
)
def test_head_sizes_of_any_kind(make: Make, head_dim: int, value_dim: int) -> None:
    parameters = make_parameters(
        head_dim=head_dim,
        value_dim=value_dim,
        scale=head_dim**-0.5,
        query_length=37,
        kv_length=53,
        key_layout="bnhd",
    )
    check(make(parameters), head_dim)


@pytest.mark.parametrize("length", [128, 1000])
def test_error_is_a_few_roundings(make: Make, length: int) -> None:
    """For standard normal operands, measured against float64: about 1e-6 at most."""
    parameters = make_parameters(
        query_heads=2,
        kv_heads=2,
        query_length=length,
        kv_length=length,
        head_dim=64,
        value_dim=64,
        scale=0.125,
    )
    operands = random_operands(parameters, seed=1)
    saved, expected = differentiate(parameters, operands, seed=1)
    found = compute(make(parameters), operands, saved)
    for gradient, right in zip(found, (expected.query, expected.key, expected.value), strict=True):
        assert np.abs(gradient - right.numbers).max() < 3e-6


def test_rounding_of_stored_types_is_all_they_cost(make: Make) -> None:
    """Gradients of float16 come in float32: they are complete before they are rounded."""
    parameters = make_parameters(dtype=DType.FLOAT16, query_length=300, kv_length=300)
    operands = random_operands(parameters, seed=4)
    wide = replace(parameters, dtype=DType.FLOAT32)
    wide_operands = Operands(
        *(
            as_stored(array.astype(np.float32), DType.FLOAT32)
            for array in (operands.query, operands.key, operands.value)
        ),
        None,
    )
    saved, _ = differentiate(parameters, operands, seed=4)
    wide_saved = Saved(
        saved.output.astype(np.float32), saved.log_sum_exp, saved.output_gradient.astype(np.float32)
    )
    for narrow, other in zip(
        compute(make(parameters), operands, saved),
        compute(make(wide), wide_operands, wide_saved),
        strict=True,
    ):
        np.testing.assert_array_equal(narrow, other)
