"""Onnxruntime's attention operators mean the same written out, whatever they ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contrib_models import Arrays, cut_and_check

SIZES = st.integers(1, 4)
PRESENTS = st.sampled_from([1, 3])
OPSETS = st.sampled_from([11, 12, 13, 17, 18, 21, 23])
LOWEST = float(np.finfo(np.float32).min)
KV_DIM = 16

# Scores of float32 near a filler of -60 have five digits behind the point.
TOLERANCE = 1e-4


def flags(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 2, shape).astype(np.int32)


@st.composite
def multi_head(draw: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    """Draw the inputs and attributes of a MultiHeadAttention."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    batch, heads, rows, columns = (draw(SIZES) for _ in range(4))
    is_split = draw(st.booleans())
    past = 0 if is_split else draw(st.integers(0, 3))
    length = draw(SIZES)
    value_columns = columns if is_split or past else draw(SIZES)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {"query": numbers(batch, rows, heads * columns)}
    if is_split:
        arrays["key"] = numbers(batch, heads, length, columns)
        arrays["value"] = numbers(batch, heads, length, columns)
    else:
        arrays["key"] = numbers(batch, length, heads * columns)
        arrays["value"] = numbers(batch, length, heads * value_columns)
        if draw(st.booleans()):
            arrays["bias"] = numbers(heads * (2 * columns + value_columns))
    if past:
        arrays["past_key"] = numbers(batch, heads, past, columns)
        arrays["past_value"] = numbers(batch, heads, past, value_columns)
    total = past + length
    padding = draw(st.sampled_from(["none", "lengths", "keys", "rows"]))
    if padding == "lengths":
        arrays["key_padding_mask"] = rng.integers(0, total + 1, batch).astype(np.int32)
    elif padding != "none":
        shape = (batch, total) if padding == "keys" else (batch, rows, total)
        arrays["key_padding_mask"] = flags(rng, *shape)
    if draw(st.booleans()):
        shape = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), rows, total)
        arrays["attention_bias"] = numbers(*shape)
    attributes = {
        "num_heads": heads,
        "unidirectional": draw(st.integers(0, 1)),
        "mask_filter_value": draw(st.sampled_from([-60.0, -2.0, LOWEST, -np.inf])),
        "scale": draw(st.sampled_from([0.0, 0.3, -0.7])),
        # Without its present, onnxruntime 1.32 reads past the end of the new keys, not the past.
        "outputs": ("output", "present_key", "present_value")[: 3 if past else draw(PRESENTS)],
    }
    return arrays, attributes


@settings(max_examples=60)
@given(multi_head(), OPSETS)
def test_multi_head(drawn: tuple[Arrays, dict[str, Any]], opset: int) -> None:
    arrays, choices = drawn
    cut_and_check("MultiHeadAttention", arrays, opset=opset, tolerance=TOLERANCE, **choices)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    """Draw the inputs and attributes of a GroupQueryAttention."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kv_heads, copies = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * copies
    is_prompt = draw(st.booleans())
    rows = draw(SIZES)
    # Behind a past, onnxruntime takes several rows of one batch, or one row of several.
    batch = draw(SIZES) if is_prompt or rows == 1 else 1
    past = draw(st.sampled_from([0, rows, rows + 2])) if is_prompt else draw(SIZES)
    total = rows if is_prompt else past + rows
    if not is_prompt and past > rows and draw(st.booleans()):
        total = draw(st.integers(rows + 1, past))  # a buffer that is not full
    lengths = rng.integers(1 if is_prompt else rows, total + 1, batch)
    if draw(st.booleans()):
        lengths[:] = total

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    parts = [numbers(batch, rows, count * KV_DIM) for count in (heads, kv_heads, kv_heads)]
    arrays = dict(zip(("query", "key", "value"), parts, strict=True))
    if draw(st.booleans()):
        arrays = {"query": np.concatenate(parts, axis=2)}
    if past:
        arrays["past_key"] = numbers(batch, kv_heads, past, KV_DIM)
        arrays["past_value"] = numbers(batch, kv_heads, past, KV_DIM)
    arrays["seqlens_k"] = (lengths - 1).astype(np.int32)
    arrays["total_sequence_length"] = np.array(total, np.int32)
    attributes: dict[str, Any] = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "softcap": draw(st.sampled_from([0.0, 2.0])),
        "scale": draw(st.sampled_from([0.0, 0.3])),
        "local_window_size": draw(st.sampled_from([-1, 1, 2, 5])),
    }
    if draw(st.booleans()):
        arrays["cos_cache"], arrays["sin_cache"] = numbers(9, 8), numbers(9, 8)
        attributes |= {"do_rotary": 1, "rotary_interleaved": draw(st.integers(0, 1))}
        if draw(st.booleans()):
            arrays["position_ids"] = rng.integers(0, 6, (batch, rows))
    if draw(st.booleans()):
        shape = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), rows, total)
        arrays["attention_bias"] = numbers(*shape)
    if is_prompt and attributes["softcap"] and attributes["local_window_size"] > 0:
        # Onnxruntime has two kernels, which differ in rows of padding behind a window.
        arrays["seqlens_k"][:] = total - 1
    known = draw(st.booleans())
    attributes["constants"] = ["total_sequence_length", *["seqlens_k"] * known]
    attributes["outputs"] = ("output", "present_key", "present_value")
    return arrays, attributes


@settings(max_examples=60)
@given(grouped(), OPSETS)
def test_grouped(drawn: tuple[Arrays, dict[str, Any]], opset: int) -> None:
    arrays, choices = drawn
    cut_and_check("GroupQueryAttention", arrays, opset=opset, tolerance=TOLERANCE, **choices)
