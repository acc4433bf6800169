"""Masks that are made of lengths become lengths of keys; what is made of anything else stays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder

from hocket.compiler.problem import MaskKind, ScoreRules

BATCH, HEADS, COLUMNS, DIM = 3, 2, 9, 4
LENGTHS = np.array([9, 4, 1])


def length_model(
    rows: int = 1,
    *,
    comparison: str = "Less",
    grows: bool = False,
    added: int = 0,
    window: int | None = None,
    hidden: float | None = None,
    dtype: str = "int64",
    other_base: bool = False,
) -> onnx.ModelProto:
    """Write attention to the first ``lengths + added`` keys, and a key more for each row.

    Args:
        rows: Of the query.
        comparison: By which keys are told.
        grows: Whether each row sees one key more.
        added: To the lengths.
        window: How many keys are seen, the last one included; None for all.
        hidden: What is added to hidden scores; None to put minus infinity in their place.
        dtype: Of the lengths.
        other_base: Whether the window begins at other lengths.
    """
    build = GraphBuilder(17)
    query = build.input("q", (BATCH, HEADS, rows, DIM))
    key = build.op("Transpose", build.input("k", (BATCH, HEADS, COLUMNS, DIM)), perm=[0, 1, 3, 2])
    lengths = build.input("lengths", (BATCH,), dtype)

    def ends(source: str, more: int) -> str:
        shaped = build.op("Reshape", source, build.constant([BATCH, 1, 1, 1], "int64"))
        offsets = more + np.arange(rows).reshape(-1, 1) * grows
        return build.op("Add", shaped, build.constant(offsets, dtype))

    keys = build.constant(np.arange(COLUMNS), dtype)
    place = ends(lengths, added - (comparison in ("LessOrEqual", "GreaterOrEqual")))
    pair = (keys, place) if comparison.startswith("Less") else (place, keys)
    keep = build.op(comparison, *pair)
    if window is not None:
        source = build.input("others", (BATCH,), dtype) if other_base else lengths
        early = build.op("Less", keys, ends(source, added - window))
        keep = build.op("And", keep, build.op("Not", early))
    scores = build.op("MatMul", query, key)
    if hidden is None:
        scores = build.op("Where", keep, scores, build.constant(-math.inf))
    else:
        numbers = build.op("Where", keep, build.constant(0.0), build.constant(hidden))
        scores = build.op("Add", scores, numbers)
    value = build.input("v", (BATCH, HEADS, COLUMNS, DIM))
    build.op("MatMul", build.op("Softmax", scores, axis=-1), value, name="y")
    build.output("y", (BATCH, HEADS, rows, DIM))
    return build.build()


def feeds_of(rows: int, lengths: np.ndarray, dtype: str = "int64") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": rows, "k": COLUMNS, "v": COLUMNS}
    feeds = {
        name: rng.standard_normal((BATCH, HEADS, size, DIM), np.float32)
        for name, size in shapes.items()
    }
    return feeds | {"lengths": lengths.astype(dtype)}


@pytest.mark.parametrize("comparison", ["Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("hidden", [None, -math.inf])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_one_length_for_all_rows(comparison: str, hidden: float | None, dtype: str) -> None:
    model = length_model(2, comparison=comparison, hidden=hidden, dtype=dtype)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.mask is MaskKind.NONE
    assert region.problem.rules == ScoreRules(has_kv_lengths=True)
    assert "Less" not in host_ops(partitioned)
    assert "its mask says how many keys there are" in region.form
    assert_same_meaning(model, partitioned, feeds=feeds_of(2, LENGTHS, dtype))


def test_rows_that_see_one_key_more_each_are_the_last_keys() -> None:
    model = length_model(3, grows=True, window=4)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    rules = ScoreRules(left_window=3, right_window=0, has_kv_lengths=True, counts_from_end=True)
    assert region.problem.rules == rules
    assert_same_meaning(model, partitioned, feeds=feeds_of(3, np.array([7, 4, 1])))


@pytest.mark.parametrize(
    ("rows", "choices"),
    [
        (2, {"hidden": -1e30}),  # rows without a key would see all alike
        (2, {"window": 3}),  # the same keys for all rows
        (1, {"window": 3, "other_base": True}),
        (1, {"window": 0}),
    ],
)
def test_what_stays_a_mask(rows: int, choices: dict[str, Any]) -> None:
    model = length_model(rows, **choices)
    (region,) = attention_regions(cut(model))
    assert region.kv_lengths is None
    assert region.mask is not None


@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([None, 1, 2, 5]),
    st.lists(st.integers(-4, 12), min_size=BATCH, max_size=BATCH),
)
def test_any_lengths_mean_the_same(
    rows: int, grows: bool, added: int, window: int | None, lengths: list[int]
) -> None:
    """Also where there are none, or more than there are keys."""
    model = length_model(rows, grows=grows, added=added, window=window)
    assert_same_meaning(model, cut(model), feeds=feeds_of(rows, np.array(lengths)))
