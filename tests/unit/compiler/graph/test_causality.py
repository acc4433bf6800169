"""Masks that are proved causal become causality; whatever cannot be proved stays a mask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder

from hocket.compiler.problem import MaskKind, ScoreRules

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from hocket.compiler.graph.regions import AttentionRegion

    Masking = Callable[[GraphBuilder, str], str]

BATCH, HEADS, DIM = 2, 3, 4
FLOAT32_MIN = float(np.finfo(np.float32).min)
INF = math.inf


def model_with(masking: Masking, rows: int = 5, columns: int = 5) -> onnx.ModelProto:
    build = GraphBuilder()
    query = build.input("q", (BATCH, HEADS, rows, DIM))
    key = build.op("Transpose", build.input("k", (BATCH, HEADS, columns, DIM)), perm=[0, 1, 3, 2])
    masked = masking(build, build.op("MatMul", query, key))
    weights = build.op("Softmax", masked, axis=-1)
    build.op("MatMul", weights, build.input("v", (BATCH, HEADS, columns, DIM)), name="y")
    build.output("y", (BATCH, HEADS, rows, DIM))
    return build.build()


def region_of(model: onnx.ModelProto) -> AttentionRegion:
    (region,) = attention_regions(cut(model))
    return region


def triangle(rows: int, columns: int, offset: int = 0) -> np.ndarray:
    return np.tri(rows, columns, offset, dtype=bool)


def added(hidden: float, rows: int = 5, columns: int = 5, offset: int = 0) -> Masking:
    def mask(build: GraphBuilder, scores: str) -> str:
        numbers = np.where(triangle(rows, columns, offset), 0.0, hidden)
        return build.op("Add", scores, build.constant(numbers))

    return mask


def chosen(hidden: float) -> Masking:
    def mask(build: GraphBuilder, scores: str) -> str:
        keep = build.constant(triangle(5, 5), "bool")
        return build.op("Where", keep, scores, build.constant(hidden))

    return mask


def computed(build: GraphBuilder, scores: str) -> str:
    """From positions, as newer exporters write it."""
    column = build.constant(np.arange(5), "int64")
    row = build.constant(np.arange(5)[:, None], "int64")
    keep = build.op("LessOrEqual", column, row)
    return build.op("Where", keep, scores, build.constant(-INF))


def lower_triangle(build: GraphBuilder, scores: str) -> str:
    ones = build.op("ConstantOfShape", build.constant([5, 5], "int64"))
    keep = build.op("Equal", build.op("Trilu", ones, upper=0), build.constant(0.0))
    ahead = build.op("Trilu", build.constant(np.full((5, 5), -INF)), build.constant(1, "int64"))
    return build.op("Add", scores, build.op("Where", keep, ahead, ahead))


@pytest.mark.parametrize(
    "masking",
    [added(-INF), added(FLOAT32_MIN), chosen(-INF), chosen(-1e35), computed, lower_triangle],
)
def test_a_triangle_becomes_causality_and_no_mask(masking: Masking) -> None:
    model = model_with(masking)
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE
    assert region.problem.rules == ScoreRules()
    assert host_ops(cut(model)) == []
    assert "its mask is causal" in region.form
    assert_same_meaning(model, cut(model))


def test_queries_behind_a_past() -> None:
    model = model_with(added(-INF, 3, 7, offset=4), rows=3, columns=7)
    region = region_of(model)
    assert not region.problem.is_causal
    assert region.problem.rules == ScoreRules(query_offset=4, right_window=0)
    assert_same_meaning(model, cut(model))


def test_a_window() -> None:
    band = np.tri(6, 6, dtype=bool) & ~np.tri(6, 6, -3, dtype=bool)

    def mask(build: GraphBuilder, scores: str) -> str:
        return build.op("Where", build.constant(band, "bool"), scores, build.constant(-INF))

    model = model_with(mask, 6, 6)
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE
    assert region.problem.rules == ScoreRules(left_window=2)
    assert_same_meaning(model, cut(model))


def with_padding(hidden: float) -> Masking:
    def mask(build: GraphBuilder, scores: str) -> str:
        padding = build.input("padding", (BATCH, 1, 1, 5), "bool")
        keep = build.op("And", padding, build.constant(triangle(5, 5), "bool"))
        numbers = build.op("Where", keep, build.constant(0.0), build.constant(hidden))
        return build.op("Add", scores, numbers)

    return mask


def test_with_padding_the_mask_stays_beside_causality() -> None:
    model = model_with(with_padding(-INF))
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.ADDITIVE
    assert_same_meaning(model, cut(model))


def test_rows_that_padding_may_hide_throughout_keep_their_mask() -> None:
    """Hidden by a finite number, such a row sees all keys alike, those ahead, too."""
    model = model_with(with_padding(FLOAT32_MIN))
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.rules.mask_hides_rest
    assert region.problem.mask is MaskKind.ADDITIVE
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((BATCH, HEADS, 5, DIM), np.float32) for name in "qkv"}
    feeds["padding"] = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool).reshape(BATCH, 1, 1, 5)
    assert_same_meaning(model, cut(model), feeds=feeds)


def nearly(build: GraphBuilder, scores: str) -> str:
    numbers = np.where(triangle(5, 5), 0.0, -INF)
    numbers[1, 3] = 0.0
    return build.op("Add", scores, build.constant(numbers))


def biased(build: GraphBuilder, scores: str) -> str:
    numbers = np.where(triangle(5, 5), 0.5, -INF)
    return build.op("Add", scores, build.constant(numbers))


def given(build: GraphBuilder, scores: str) -> str:
    return build.op("Add", scores, build.input("mask", (5, 5)))


def outshone(build: GraphBuilder, scores: str) -> str:
    """Hidden by a finite number, to which an input may add as much again."""
    scores = build.op("Add", scores, build.op("Abs", build.input("bias", (5, 5))))
    return added(FLOAT32_MIN)(build, scores)


def never_below_zero(build: GraphBuilder, scores: str) -> str:
    bias = build.op("Max", build.input("bias", (5, 5)), build.constant(0.0))
    return added(FLOAT32_MIN)(build, build.op("Add", scores, bias))


@pytest.mark.parametrize(
    "masking", [nearly, given, added(-1e4), chosen(-1e9), outshone, never_below_zero]
)
def test_what_is_no_causality_stays_a_mask(masking: Masking) -> None:
    model = model_with(masking)
    region = region_of(model)
    assert not region.problem.is_causal
    assert region.problem.mask is not MaskKind.NONE
    assert_same_meaning(model, cut(model))


def test_a_bias_below_the_diagonal_stays() -> None:
    model = model_with(biased)
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.ADDITIVE
    assert_same_meaning(model, cut(model))


def test_a_mask_that_hides_nothing_is_none() -> None:
    def mask(build: GraphBuilder, scores: str) -> str:
        keep = build.constant(np.ones((5, 5)), "bool")
        return build.op("Where", keep, scores, build.constant(-INF))

    model = model_with(mask)
    assert region_of(model).problem.mask is MaskKind.NONE
    assert_same_meaning(model, cut(model))


def test_a_causal_mask_of_the_standard_operator() -> None:
    """As sdpa is exported at op set 23: a mask, and is_causal=0."""
    build = GraphBuilder(23)
    operands = [build.input(name, (BATCH, HEADS, 5, DIM)) for name in "qkv"]
    build.op("Attention", *operands, build.constant(triangle(5, 5), "bool"), name="y")
    build.output("y", (BATCH, HEADS, 5, DIM))
    model = build.build()
    region = region_of(model)
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE
    assert_same_meaning(model, cut(model))
