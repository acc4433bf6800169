"""``com.microsoft::MultiHeadAttention`` against onnxruntime, in each of its forms."""

from __future__ import annotations

import numpy as np
import pytest
from support.contrib_models import (
    Arrays,
    contrib_model,
    cut_and_check,
    int32,
    numbers,
    refusal_of,
)
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.partition_executor import run_model, run_partitioned

from hocket.compiler.problem import MaskKind

BATCH, HEADS, ROWS, LENGTH, DIM, VALUE_DIM = 2, 3, 4, 5, 6, 7
LOWEST = float(np.finfo(np.float32).min)


def inputs(rows: int = ROWS, length: int = LENGTH, **more: np.ndarray) -> Arrays:
    return {
        "query": numbers(0, BATCH, rows, HEADS * DIM),
        "key": numbers(1, BATCH, length, HEADS * DIM),
        "value": numbers(2, BATCH, length, HEADS * VALUE_DIM),
        **more,
    }


def flags(*shape: int) -> np.ndarray:
    """Return flags of which the first of each row is set."""
    found = np.random.default_rng(9).integers(0, 2, shape).astype(np.int32)
    found[..., 0] = 1
    return found


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 23])
def test_plain(opset: int) -> None:
    region, partitioned = cut_and_check(
        "MultiHeadAttention", inputs(), opset=opset, num_heads=HEADS
    )
    assert host_ops(partitioned) == []
    assert (region.query, region.key, region.value) == ("query", "key", "value")
    assert (region.output, region.output_layout) == ("output", "bnhd")
    assert region.problem.scale == pytest.approx(DIM**-0.5)


@pytest.mark.parametrize("scale", [0.5, -0.25])
def test_a_scale(scale: float) -> None:
    region, _ = cut_and_check("MultiHeadAttention", inputs(), num_heads=HEADS, scale=scale)
    assert region.problem.scale == pytest.approx(scale)


@pytest.mark.parametrize("is_weight", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
def test_a_bias(is_weight: bool, opset: int) -> None:
    bias = numbers(3, HEADS * (2 * DIM + VALUE_DIM))
    constants = ("bias",) if is_weight else ()
    _, partitioned = cut_and_check(
        "MultiHeadAttention", inputs(bias=bias), constants=constants, opset=opset, num_heads=HEADS
    )
    assert host_ops(partitioned) == ["Add", "Add", "Add", "Split"]


PADDINGS = {
    "lengths": int32(3, 5),
    "lengths and what GPUs read": int32(3, 5, 0, 4, 8, 0, 3, 8),
    "flags of keys": flags(BATCH, LENGTH),
    "flags above one": np.where(flags(BATCH, LENGTH) > 0, 3, -2).astype(np.int32),
    "flags of rows": flags(BATCH, ROWS, LENGTH),
}


@pytest.mark.parametrize("form", PADDINGS)
@pytest.mark.parametrize("filler", [-10000.0, -3.0, LOWEST, -np.inf])
def test_padding(form: str, filler: float) -> None:
    region, _ = cut_and_check(
        "MultiHeadAttention",
        inputs(key_padding_mask=PADDINGS[form]),
        num_heads=HEADS,
        mask_filter_value=filler,
    )
    rows = ROWS if form == "flags of rows" else 1
    if form.startswith("lengths") and filler == -np.inf:
        assert region.problem.mask is MaskKind.NONE
        assert region.kv_lengths is not None
        return
    assert region.problem.mask is MaskKind.ADDITIVE
    assert region.problem.mask_shape == (BATCH, 1, rows, LENGTH)


def test_padding_throughout_sees_all_keys_alike() -> None:
    masks = inputs(key_padding_mask=int32(0, 5))
    # At -10000 a score of float32 has three digits behind the point.
    cut_and_check("MultiHeadAttention", masks, tolerance=1e-3, num_heads=HEADS)
    cut_and_check("MultiHeadAttention", masks, num_heads=HEADS, mask_filter_value=LOWEST)
    masks = inputs(key_padding_mask=flags(BATCH, LENGTH) * 0)
    cut_and_check("MultiHeadAttention", masks, num_heads=HEADS, mask_filter_value=-np.inf)


def test_causality_is_a_rule() -> None:
    region, partitioned = cut_and_check(
        "MultiHeadAttention", inputs(5, 5), num_heads=HEADS, unidirectional=1
    )
    assert region.problem.is_causal
    assert region.mask is None
    assert host_ops(partitioned) == []


@pytest.mark.parametrize(("rows", "length"), [(1, 5), (4, 5), (5, 3), (4, 1)])
def test_causality_over_other_lengths(rows: int, length: int) -> None:
    # With more keys than rows, onnxruntime hides nothing from the last row.
    region, _ = cut_and_check(
        "MultiHeadAttention", inputs(rows, length), num_heads=HEADS, unidirectional=1
    )
    assert region.problem.is_causal == (rows >= length > 1)


@pytest.mark.parametrize("form", ["lengths", "flags of keys", "flags of rows"])
@pytest.mark.parametrize("filler", [-10000.0, LOWEST])
def test_causality_and_padding(form: str, filler: float) -> None:
    padding = {
        "lengths": int32(3, 5),
        "flags of keys": flags(BATCH, 5),
        "flags of rows": flags(BATCH, 5, 5),
    }
    region, _ = cut_and_check(
        "MultiHeadAttention",
        inputs(5, 5, key_padding_mask=padding[form]),
        num_heads=HEADS,
        unidirectional=1,
        mask_filter_value=filler,
    )
    # What lies ahead is hidden by a finite number, too: a row with nothing else sees it.
    assert region.problem.is_causal
    assert region.problem.rules.mask_hides_rest == (filler <= -1e20)


def test_a_row_of_padding_sees_what_lies_ahead_if_both_are_as_low() -> None:
    padding = flags(BATCH, 4)
    padding[0, :3] = 0
    arrays = inputs(4, 4, key_padding_mask=padding)
    choices = {"num_heads": HEADS, "unidirectional": 1}
    cut_and_check("MultiHeadAttention", arrays, mask_filter_value=LOWEST, **choices)
    cut_and_check("MultiHeadAttention", arrays, mask_filter_value=-60.0, **choices)


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("is_padded", [True, False])
def test_an_attention_bias(is_causal: int, batch: int, heads: int, is_padded: bool) -> None:
    more = {"attention_bias": numbers(5, batch, heads, ROWS, ROWS)}
    if is_padded:
        more["key_padding_mask"] = int32(2, 4)
    region, _ = cut_and_check(
        "MultiHeadAttention", inputs(ROWS, ROWS, **more), num_heads=HEADS, unidirectional=is_causal
    )
    assert region.problem.mask is MaskKind.ADDITIVE


@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_bias_of_minus_infinity(is_causal: int) -> None:
    bias = numbers(5, 1, 1, ROWS, ROWS)
    bias[..., 1, :2] = -np.inf  # all that this row sees
    bias[..., 2, :] = -np.inf
    region, _ = cut_and_check(
        "MultiHeadAttention",
        inputs(ROWS, ROWS, attention_bias=bias),
        num_heads=HEADS,
        unidirectional=is_causal,
    )
    assert not region.problem.is_causal


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_past(is_causal: int, is_padded: bool) -> None:
    past = {
        "past_key": numbers(6, BATCH, HEADS, 3, DIM),
        "past_value": numbers(7, BATCH, HEADS, 3, VALUE_DIM - 1),
    }
    arrays = inputs(4, 4, **past)
    arrays["value"] = arrays["value"][..., : HEADS * (VALUE_DIM - 1)]
    if is_padded:
        arrays["key_padding_mask"] = flags(BATCH, 7)
    region, _ = cut_and_check(
        "MultiHeadAttention",
        arrays,
        outputs=("output", "present_key", "present_value"),
        num_heads=HEADS,
        unidirectional=is_causal,
    )
    assert region.problem.kv_length == 7
    assert region.problem.rules.query_offset == (3 if is_causal else 0)


def test_a_present_without_a_past() -> None:
    cut_and_check(
        "MultiHeadAttention",
        inputs(),
        outputs=("output", "present_key", "present_value"),
        num_heads=HEADS,
    )


def test_keys_that_are_split_already() -> None:
    arrays = inputs()
    arrays["key"] = numbers(1, BATCH, HEADS, LENGTH, DIM)
    arrays["value"] = numbers(2, BATCH, HEADS, LENGTH, DIM)  # onnxruntime wants them alike
    region, partitioned = cut_and_check("MultiHeadAttention", arrays, num_heads=HEADS)
    assert (region.query_layout, region.key_layout) == ("bnhd", "bhnd")
    assert host_ops(partitioned) == []


@pytest.mark.parametrize("is_biased", [True, False])
def test_packed_query_key_and_value(is_biased: bool) -> None:
    # No CPU kernel of onnxruntime takes them; they must do what they do apart.
    parts = inputs(ROWS, ROWS)
    parts["value"] = parts["value"][..., : HEADS * DIM]
    packed = np.stack([part.reshape(BATCH, ROWS, HEADS, DIM) for part in parts.values()], axis=3)
    more = {"bias": numbers(3, 3 * HEADS * DIM)} if is_biased else {}
    apart = contrib_model("MultiHeadAttention", {**parts, **more}, num_heads=HEADS)
    partitioned = cut(
        contrib_model("MultiHeadAttention", {"query": packed, **more}, num_heads=HEADS)
    )
    assert len(attention_regions(partitioned)) == 1
    (expected,) = run_model(apart, {**parts, **more})
    (found,) = run_partitioned(partitioned, {"query": packed, **more})
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_packed_key_and_value() -> None:
    parts = inputs()
    parts["value"] = parts["value"][..., : HEADS * DIM]
    query = parts["query"]
    packed = np.stack(
        [parts[name].reshape(BATCH, LENGTH, HEADS, DIM) for name in ("key", "value")], axis=3
    )
    partitioned = cut(
        contrib_model("MultiHeadAttention", {"query": query, "key": packed}, num_heads=HEADS)
    )
    assert len(attention_regions(partitioned)) == 1
    (expected,) = run_model(contrib_model("MultiHeadAttention", parts, num_heads=HEADS), parts)
    (found,) = run_partitioned(partitioned, {"query": query, "key": packed})
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def halves(arrays: Arrays) -> Arrays:
    return {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("is_padded", [True, False])
def test_float16(is_causal: int, is_padded: bool) -> None:
    more = {"key_padding_mask": flags(BATCH, 5)} if is_padded else {}
    region, _ = cut_and_check(
        "MultiHeadAttention",
        halves(inputs(5, 5, **more)),
        tolerance=4e-3,
        num_heads=HEADS,
        unidirectional=is_causal,
    )
    assert region.problem.is_causal == bool(is_causal)


def test_numbers_that_float16_lacks_are_refused() -> None:
    op, heads = "MultiHeadAttention", {"num_heads": HEADS}
    padded = halves(inputs(key_padding_mask=int32(3, 5)))
    assert "out of the range of float16" in refusal_of(
        op, padded, mask_filter_value=LOWEST, **heads
    )
    biased = halves(inputs(attention_bias=numbers(5, 1, 1, ROWS, LENGTH)))
    assert "float16 does not hold" in refusal_of(op, biased, unidirectional=1, **heads)
    cut_and_check(op, biased, tolerance=4e-3, **heads)


def test_what_is_not_taken_still_means_the_same() -> None:
    arrays = inputs(5, 5, key_padding_mask=int32(3, 5))
    model = contrib_model("MultiHeadAttention", arrays, num_heads=HEADS, unidirectional=1)
    partitioned = cut(model, accept=lambda _: "no kernel today")
    (item,) = partitioned.not_taken
    assert (item.node, item.op, item.reason) == ("layer.0/attention", "Softmax", "no kernel today")
    assert_same_meaning(model, partitioned, feeds=arrays)


def test_what_is_refused() -> None:
    heads = {"num_heads": HEADS}
    op = "MultiHeadAttention"
    mask = inputs(key_padding_mask=flags(BATCH, 1, LENGTH))
    assert "is in no form that is understood" in refusal_of(op, mask, **heads)
    starts = inputs(key_padding_mask=int32(4, 5, 0, 1))
    assert "is in no form that is understood" in refusal_of(op, starts, **heads)
    assert "4 heads do not divide the 18 columns" in refusal_of(op, inputs(), num_heads=4)
    short = {**inputs(), "query": numbers(0, BATCH, ROWS, 15)}
    assert "do not fit together" in refusal_of(op, short, **heads)
    past = inputs(past_key=numbers(0, BATCH, HEADS, 2, DIM))
    assert "not both" in refusal_of(op, past, **heads)
    reason = refusal_of(op, inputs(), outputs=("output", "qk"), **heads)
    assert "its output qk is read" in reason
    shared = inputs(past_sequence_length=int32(2))
    assert "shares a buffer" in refusal_of(op, shared, **heads)
    bias = inputs(attention_bias=numbers(0, 1, 1, 1, LENGTH))
    assert "its attention_bias of shape [1, 1, 1, 5] does not fit" in refusal_of(op, bias, **heads)
    assert "in op set 10" in refusal_of(op, inputs(), opset=10, **heads)
    only_key = {name: array for name, array in inputs().items() if name != "value"}
    assert "in no form that is understood" in refusal_of(op, only_key, **heads)
    flags64 = inputs(key_padding_mask=np.ones((BATCH, LENGTH), np.int64))
    assert "is not of int32" in refusal_of(op, flags64, **heads)
    bias = inputs(attention_bias=numbers(0, BATCH + 1, 1, ROWS, LENGTH))
    assert "its attention_bias of shape [3, 1, 4, 5] does not fit" in refusal_of(op, bias, **heads)
    half = inputs(attention_bias=numbers(0, 1, 1, ROWS, LENGTH).astype(np.float16))
    assert "its attention_bias 'attention_bias' is of another" in refusal_of(op, half, **heads)
    mixed = {**inputs(), "value": inputs()["value"].astype(np.float16)}
    assert "different element types" in refusal_of(op, mixed, **heads)
    past = inputs(past_key=numbers(0, 2, 3, 2, DIM), past_value=numbers(0, 2, 3, 2, 6))
    past["past_key"] = past["past_key"].astype(np.float16)
    assert "its past_key is of another element type" in refusal_of(op, past, **heads)
    doubles = {name: array.astype(np.float64) for name, array in inputs().items()}
    assert "neither of float32 nor of float16" in refusal_of(op, doubles, **heads)
    assert "its attribute num_heads is 0" in refusal_of(op, inputs(), num_heads=0)
    none = {name: array for name, array in inputs().items() if name != "query"}
    assert "it lacks its input query" in refusal_of(op, none, **heads)
    other = {**inputs(), "value": numbers(2, BATCH, LENGTH + 1, HEADS * DIM)}
    assert "do not fit together" in refusal_of(op, other, **heads)
