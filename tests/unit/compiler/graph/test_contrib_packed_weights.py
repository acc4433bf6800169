"""``com.microsoft::Attention`` and ``QAttention`` against onnxruntime, in each of their forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.contrib_models import Arrays, cut_and_check, int32, numbers, refusal_of
from support.graph_wing import host_ops, host_regions

from hocket.compiler.problem import MaskKind

BATCH, HEADS, ROWS, HIDDEN, DIM = 2, 3, 5, 8, 4
WEIGHTS = ("weights", "bias")
LOWEST = float(np.finfo(np.float32).min)


def inputs(widths: tuple[int, int, int] = (12, 12, 12), **more: np.ndarray) -> Arrays:
    return {
        "input": numbers(0, BATCH, ROWS, HIDDEN),
        "weights": numbers(1, HIDDEN, sum(widths)),
        "bias": numbers(2, sum(widths)),
        **more,
    }


def flags(*shape: int) -> np.ndarray:
    """Return flags of which the first of each row is set."""
    found = np.random.default_rng(9).integers(0, 2, shape).astype(np.int32)
    found[..., 0] = 1
    return found


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 23])
@pytest.mark.parametrize("has_bias", [True, False])
def test_plain(opset: int, has_bias: bool) -> None:
    arrays = inputs()
    if not has_bias:
        del arrays["bias"]
    constants = WEIGHTS if has_bias else WEIGHTS[:1]
    region, partitioned = cut_and_check(
        "Attention", arrays, constants=constants, opset=opset, num_heads=HEADS
    )
    assert host_ops(partitioned) == [*["Add"] * has_bias, "MatMul", "Split"]
    assert region.problem.scale == pytest.approx(DIM**-0.5)
    assert region.output == "output"
    (host,) = host_regions(partitioned)
    assert set(host.model.graph.initializers) == set(constants)


def test_sizes_and_scale() -> None:
    region, _ = cut_and_check(
        "Attention",
        inputs((12, 12, 18)),
        num_heads=HEADS,
        qkv_hidden_sizes=[12, 12, 18],
        scale=0.7,
    )
    assert (region.problem.head_dim, region.problem.value_dim) == (4, 6)
    assert region.problem.scale == pytest.approx(0.7)


MASKS = {
    "lengths": int32(3, 5),
    "ends and starts": int32(4, 5, 1, 2),
    "ends and starts beyond": int32(9, 5, 0, 1),
    "lengths and what GPUs read": int32(3, 5, 0, 5, 10, 0, 3, 8),
    "flags of keys": flags(BATCH, ROWS),
    "flags of rows": flags(BATCH, ROWS, ROWS),
}


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("filler", [-10000.0, LOWEST])
def test_a_mask(form: str, is_causal: int, filler: float) -> None:
    # The row that sees nothing but padding on its left has the precision of numbers near -10000.
    tolerance = 1e-3 if form == "ends and starts" and filler == -10000.0 else 2e-5
    region, _ = cut_and_check(
        "Attention",
        inputs(mask_index=MASKS[form]),
        tolerance=tolerance,
        num_heads=HEADS,
        unidirectional=is_causal,
        mask_filter_value=filler,
    )
    assert region.problem.mask is MaskKind.ADDITIVE
    assert region.problem.is_causal == (is_causal == 1)
    assert region.problem.rules.mask_hides_rest == (is_causal == 1 and filler <= -1e20)


@pytest.mark.parametrize("shape", [(1, 1), (BATCH, 1)])
def test_a_mask_of_one_number_a_row_is_none(shape: tuple[int, int]) -> None:
    region, _ = cut_and_check(
        "Attention", inputs(mask_index=np.zeros(shape, np.int32)), num_heads=HEADS
    )
    assert region.problem.mask is MaskKind.NONE


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_an_attention_bias(batch: int, heads: int, is_causal: int) -> None:
    bias = numbers(3, batch, heads, ROWS, ROWS)
    arrays = inputs(attention_bias=bias, mask_index=int32(3, 5))
    cut_and_check("Attention", arrays, num_heads=HEADS, unidirectional=is_causal)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_past(opset: int, is_causal: int, is_padded: bool) -> None:
    arrays = inputs(past=numbers(4, 2, BATCH, HEADS, 3, DIM))
    if is_padded:
        arrays["mask_index"] = flags(BATCH, 3 + ROWS)
    region, _ = cut_and_check(
        "Attention",
        arrays,
        outputs=("output", "present"),
        opset=opset,
        num_heads=HEADS,
        unidirectional=is_causal,
    )
    assert region.problem.kv_length == 3 + ROWS
    assert region.problem.rules.query_offset == (3 if is_causal else 0)


def test_a_present_without_a_past() -> None:
    cut_and_check("Attention", inputs(), outputs=("output", "present"), num_heads=HEADS)


def test_float16() -> None:
    arrays = {name: (array * 0.5).astype(np.float16) for name, array in inputs().items()}
    cut_and_check("Attention", arrays, tolerance=1e-2, num_heads=HEADS)


def test_what_is_refused() -> None:
    heads = {"num_heads": HEADS}

    def reason(arrays: Arrays, **choices: Any) -> str:
        return refusal_of("Attention", arrays, **{**heads, **choices})

    assert "do_rotary is 1" in reason(inputs(), do_rotary=1)
    assert "of rank 4" in reason(inputs(mask_index=np.ones((BATCH, 1, 8, 8), np.int32)))
    past = inputs(past=numbers(4, 2, BATCH, HEADS, 3, DIM))
    assert "shares a buffer" in reason(past, past_present_share_buffer=1)
    assert "shares a buffer" in reason({**past, "past_sequence_length": int32(3)})
    assert "do not make query, key and value" in reason(inputs(), qkv_hidden_sizes=[12, 6, 18])
    assert "do not divide" in reason(inputs(), num_heads=5)
    sizes = {"qkv_hidden_sizes": [12, 12, 18], "outputs": ("output", "present")}
    assert "its present is read" in reason(inputs((12, 12, 18)), **sizes)
    short = {**inputs(), "weights": numbers(1, 7, 36)}
    assert "do not fit together" in reason(short)


def quantized(
    weight_type: str, *, by_column: bool, has_zeros: bool = True, **more: np.ndarray
) -> Arrays:
    rng = np.random.default_rng(0)
    columns = 3 * HEADS * DIM
    spread = (columns,) if by_column else ()
    low = -100 if weight_type == "int8" else 0
    arrays = {
        "input": rng.integers(0, 256, (BATCH, ROWS, HIDDEN)).astype(np.uint8),
        "weights": rng.integers(low, 120, (HIDDEN, columns)).astype(weight_type),
        "bias": numbers(2, columns),
        "input_scale": np.array(0.02, np.float32),
        "weight_scale": rng.uniform(0.005, 0.02, spread).astype(np.float32),
        **more,
    }
    if has_zeros:
        arrays["input_zero_point"] = np.array(119, np.uint8)
        arrays["weight_zero_point"] = rng.integers(0, 60, spread).astype(weight_type)
    return arrays


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize("by_column", [True, False])
@pytest.mark.parametrize("has_zeros", [True, False])
def test_quantized(opset: int, weight_type: str, by_column: bool, has_zeros: bool) -> None:
    _, partitioned = cut_and_check(
        "QAttention",
        quantized(weight_type, by_column=by_column, has_zeros=has_zeros),
        constants=("weights", "bias", "weight_scale"),
        opset=opset,
        num_heads=HEADS,
    )
    assert "MatMulInteger" in host_ops(partitioned)


@pytest.mark.parametrize("is_causal", [0, 1])
def test_quantized_with_a_mask_and_a_past(is_causal: int) -> None:
    arrays = quantized(
        "int8",
        by_column=True,
        mask_index=flags(BATCH, 3 + ROWS),
        past=numbers(4, 2, BATCH, HEADS, 3, DIM),
    )
    region, _ = cut_and_check(
        "QAttention",
        arrays,
        outputs=("output", "present"),
        num_heads=HEADS,
        unidirectional=is_causal,
        mask_filter_value=-5.0,
        scale=0.3,
    )
    assert region.problem.scale == pytest.approx(0.3)
    assert region.problem.kv_length == 3 + ROWS


def test_only_one_zero_point() -> None:
    for name in ("input_zero_point", "weight_zero_point"):
        arrays = quantized("uint8", by_column=False)
        del arrays[name]
        cut_and_check("QAttention", arrays, num_heads=HEADS)


def test_quantized_sizes_are_checked() -> None:
    arrays = quantized("int8", by_column=True)
    arrays["weight_scale"] = arrays["weight_scale"][:7]
    assert "its weight_scale has the shape [7]" in refusal_of("QAttention", arrays, num_heads=HEADS)


def test_only_bytes_are_quantized() -> None:
    arrays = quantized("int8", by_column=True)
    arrays["weights"] = arrays["weights"].astype(np.int32)
    assert "not of int8 or uint8" in refusal_of("QAttention", arrays, num_heads=HEADS)
