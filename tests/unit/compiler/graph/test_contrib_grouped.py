"""``com.microsoft::GroupQueryAttention`` against onnxruntime, in each of its forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.contrib_models import Arrays, cut_and_check, int32, numbers, refusal_of
from support.graph_wing import host_ops

from hocket.compiler.problem import MaskedRows

HEADS, KV_HEADS, DIM = 4, 2, 16
COUNTS = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
OUTPUTS = ("output", "present_key", "present_value")


def inputs(
    batch: int,
    rows: int,
    past: int | None,
    lengths: tuple[int, ...],
    total: int,
    *,
    packed: bool = False,
) -> Arrays:
    """Return the inputs of an operator; ``lengths`` are those with the new rows."""
    arrays = {
        "query": numbers(0, batch, rows, HEADS * DIM),
        "key": numbers(1, batch, rows, KV_HEADS * DIM),
        "value": numbers(2, batch, rows, KV_HEADS * DIM),
    }
    if packed:
        arrays = {"query": np.concatenate(list(arrays.values()), axis=2)}
    if past is not None:
        arrays["past_key"] = numbers(3, batch, KV_HEADS, past, DIM)
        arrays["past_value"] = numbers(4, batch, KV_HEADS, past, DIM)
    arrays["seqlens_k"] = int32(*lengths) - 1
    arrays["total_sequence_length"] = np.array(total, np.int32)
    return arrays


def angles(rows: int = 12, half: int = DIM // 2) -> Arrays:
    turn = numbers(5, rows, half)
    return {"cos_cache": np.cos(turn), "sin_cache": np.sin(turn)}


def check(arrays: Arrays, *, known: bool = False, **choices: Any) -> Any:
    constants = ["total_sequence_length", *["seqlens_k"] * known]
    return cut_and_check(
        "GroupQueryAttention",
        arrays,
        constants=constants,
        outputs=OUTPUTS,
        **COUNTS,
        **choices,
    )


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 23])
def test_a_prompt_of_known_length(opset: int) -> None:
    region, partitioned = check(inputs(2, 5, None, (5, 5), 5), known=True, opset=opset)
    problem = region.problem
    assert problem.is_causal
    assert (problem.query_heads, problem.kv_heads) == (HEADS, KV_HEADS)
    assert region.mask is None
    assert set(host_ops(partitioned)) <= {"Transpose", "Reshape", "Identity"}


@pytest.mark.parametrize("packed", [True, False])
def test_a_prompt_with_padding(packed: bool) -> None:
    region, _ = check(inputs(3, 5, None, (5, 3, 1), 5, packed=packed))
    assert region.problem.is_causal
    assert region.mask is None
    assert region.kv_lengths is not None


def test_a_prompt_that_says_its_total_when_it_runs() -> None:
    arrays = inputs(2, 5, None, (5, 3), 5)
    region, _ = cut_and_check("GroupQueryAttention", arrays, outputs=OUTPUTS, **COUNTS)
    assert region.problem.is_causal


def test_only_its_output_is_wanted() -> None:
    cut_and_check("GroupQueryAttention", inputs(2, 5, None, (5, 3), 5), **COUNTS)


@pytest.mark.parametrize("known", [True, False])
def test_a_prompt_into_a_buffer(known: bool) -> None:
    region, _ = check(inputs(2, 4, 7, (4, 4), 4), known=known)
    assert region.problem.kv_length == 4


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("past", [6, 9])
@pytest.mark.parametrize("packed", [True, False])
def test_the_next_token(known: bool, past: int, packed: bool) -> None:
    region, _ = check(inputs(2, 1, past, (7, 7), 7, packed=packed), known=known)
    assert region.problem.kv_length == 7
    assert region.mask is None
    assert (region.kv_lengths is None) == known


@pytest.mark.parametrize("known", [True, False])
def test_the_next_token_behind_pasts_of_different_lengths(known: bool) -> None:
    check(inputs(3, 1, 6, (7, 2, 1), 7), known=known)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("length", [7, 5, 3])
@pytest.mark.parametrize("past", [4, 9])
def test_several_tokens_behind_a_past(known: bool, length: int, past: int) -> None:
    region, _ = check(inputs(1, 3, past, (length,), 7), known=known)
    if known:
        assert region.problem.is_causal == (length == 3)
        assert region.problem.rules.query_offset == length - 3


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 20])
def test_a_window(known: bool, window: int) -> None:
    region, _ = check(inputs(2, 6, None, (6, 6), 6), known=known, local_window_size=window)
    left = None if window == 20 else window - 1
    assert region.problem.rules.left_window == left
    check(inputs(2, 1, 6, (7, 7), 7), known=known, local_window_size=window)
    check(inputs(1, 3, 4, (7,), 7), known=known, local_window_size=window)


def test_rows_of_padding_behind_a_window_are_zero() -> None:
    region, _ = check(inputs(2, 6, None, (6, 2), 6), local_window_size=2)
    assert region.problem.masked_rows is MaskedRows.ZERO


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("heads", [1, HEADS])
def test_an_attention_bias(batch: int, heads: int) -> None:
    bias = {"attention_bias": numbers(6, batch, heads, 5, 5)}
    region, _ = check({**inputs(2, 5, None, (5, 4), 5), **bias})
    assert region.problem.is_causal
    bias = {"attention_bias": numbers(6, batch, heads, 1, 7)}
    check({**inputs(2, 1, 9, (7, 4), 7), **bias})
    check({**inputs(2, 1, 9, (5, 5), 7), **bias}, known=True)
    bias = {"attention_bias": numbers(6, 1, heads, 3, 7)}
    check({**inputs(1, 3, 4, (6,), 7), **bias})


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_that_the_bias_hides(rows: int, softcap: float, dtype: str) -> None:
    # Onnxruntime has one kernel that gives zeros, and one that gives NaN.
    bias = numbers(6, 1, 1, rows, 5)
    bias[..., 0, :] = -np.inf
    arrays = inputs(1, rows, None if rows == 5 else 4, (5,), 5) | {"attention_bias": bias}
    arrays = {
        name: array.astype(dtype) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }
    tolerance = 2e-5 if dtype == "float32" else 4e-3
    region, _ = check(arrays, tolerance=tolerance, softcap=softcap)
    is_zero = dtype == "float32" and not softcap
    assert region.problem.masked_rows is (MaskedRows.ZERO if is_zero else MaskedRows.NAN)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_softcap_acts_before_the_bias(has_bias: bool) -> None:
    bias = {"attention_bias": numbers(6, 1, 1, 5, 5)} if has_bias else {}
    arrays = {**inputs(2, 5, None, (5, 5), 5), **bias}
    region, _ = check(arrays, softcap=1.5, scale=2.0)
    assert region.problem.rules.softcap == pytest.approx(1.5)
    assert region.problem.scale == pytest.approx(2.0)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("half", [DIM // 2, 8])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("has_positions", [True, False])
def test_rotary(
    interleaved: int, half: int, packed: bool, known: bool, has_positions: bool
) -> None:
    choices = {"known": known, "do_rotary": 1, "rotary_interleaved": interleaved}
    for batch, rows, past, length in ((2, 5, None, 5), (2, 1, 6, 7), (1, 3, 4, 7), (1, 2, 6, 5)):
        arrays = inputs(batch, rows, past, (length,) * batch, length, packed=packed)
        arrays |= angles(half=half)
        if has_positions:
            # Of the first prompt, only the first is looked at.
            positions = np.random.default_rng(3).integers(0, 7, (batch, rows))
            arrays["position_ids"] = positions
        check(arrays, **choices)


def test_a_rotation_of_fewer_columns() -> None:
    arrays = inputs(1, 4, None, (4,), 4)
    wide = {
        "query": numbers(0, 1, 4, HEADS * 32),
        "key": numbers(1, 1, 4, KV_HEADS * 32),
        "value": numbers(2, 1, 4, KV_HEADS * 32),
    }
    for interleaved in (0, 1):
        choices = {"do_rotary": 1, "rotary_interleaved": interleaved}
        check({**arrays, **wide, **angles(half=8)}, **choices)


@pytest.mark.parametrize("lengths", [(5, 5), (5, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_without_causality(lengths: tuple[int, int], known: bool) -> None:
    region, _ = check(inputs(2, 5, None, lengths, 5), known=known, causal=0)
    assert not region.problem.is_causal
    check(inputs(2, 1, 6, (lengths[0] + 2, lengths[1] + 2), 7), known=known, causal=0)


def test_float16() -> None:
    arrays = {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array
        for name, array in inputs(2, 5, None, (5, 4), 5).items()
    }
    check(arrays, tolerance=4e-3)


def test_what_is_refused() -> None:
    def reason(arrays: Arrays, **choices: Any) -> str:
        return refusal_of("GroupQueryAttention", arrays, **{**COUNTS, **choices})

    prompt = inputs(2, 5, None, (5, 5), 5)
    assert "a term that no key makes" in reason(prompt, smooth_softmax=1)
    assert "a term that no key makes" in reason({**prompt, "head_sink": numbers(0, HEADS)})
    assert "is moved as it grows" in reason(prompt, sliding_window_cache=1)
    assert "padded on the right" in reason({**prompt, "query_seqlens": int32(5, 5)})
    assert "is quantized" in reason({**prompt, "k_scale": numbers(0, 1)})
    assert "on a CPU either" in reason({**prompt, "q_norm_weight": numbers(0, DIM)})
    assert "local_window_size is 0" in reason(prompt, local_window_size=0)
    assert "is not causal" in reason(prompt, local_window_size=2, causal=0)
    outputs = (*OUTPUTS, "output_qk")
    assert "output_qk is read" in reason(prompt, outputs=outputs, qk_output=1)
    unknown = inputs(2, 1, 6, (7, 7), 7)
    assert "total_sequence_length is not known" in reason(unknown, outputs=OUTPUTS)
    constant = {"constants": ("total_sequence_length",), "outputs": OUTPUTS}
    assert "does not fit" in reason(inputs(2, 1, 6, (7, 7), 8), **constant)
    assert "do not divide" in reason(prompt, kv_num_heads=3)
    rotary = {**prompt, **angles(rows=3)}
    assert "is no table of its positions" in reason(rotary, do_rotary=1)
    wide = {**prompt, **angles(half=9)}
    assert "wider than its heads" in reason(wide, do_rotary=1)
    apart = {**prompt, "cos_cache": numbers(0, 9, 4), "sin_cache": numbers(0, 9, 8)}
    assert "of different shapes" in reason(apart, do_rotary=1)
    no_value = {name: array for name, array in prompt.items() if name != "value"}
    assert "without one of key and value" in reason(no_value)
    mixed = {**prompt, "value": prompt["value"].astype(np.float16)}
    assert "different element types" in reason(mixed)
    no_past = {**inputs(2, 1, 6, (7, 7), 7)}
    del no_past["past_value"]
    assert "not both" in reason(no_past, **constant)
    assert "its seqlens_k 'seqlens_k' is not" in reason({**prompt, "seqlens_k": int32(4)})
    known = {**constant, "constants": ("total_sequence_length", "seqlens_k")}
    assert "its seqlens_k 9 does not fit" in reason(inputs(2, 1, 6, (10, 10), 7), **known)
