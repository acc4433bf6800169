"""Forms that real exporters write: softcap, copied heads, windows, heads merged with batch."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder

BATCH, HEADS, ROWS, COLUMNS, DIM = 2, 4, 3, 5, 6


def scores_of(build: GraphBuilder, rank: int = 4) -> str:
    leading = (BATCH, HEADS) if rank == 4 else (BATCH * HEADS,)
    query = build.input("q", (*leading, ROWS, DIM))
    return build.op("MatMul", query, build.input("k", (*leading, DIM, COLUMNS)))


def weigh(build: GraphBuilder, scores: str, rank: int = 4) -> onnx.ModelProto:
    leading = (BATCH, HEADS) if rank == 4 else (BATCH * HEADS,)
    weights = build.op("Softmax", scores, axis=-1)
    if rank == 3:
        weights = build.shaped(weights, BATCH * HEADS, ROWS, COLUMNS)
    value = build.input("v", (*leading, COLUMNS, 7))
    build.op("MatMul", weights, value, name="y")
    build.output("y", (*leading, ROWS, 7))
    return build.build()


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
def test_a_softcap(divides: bool, is_masked: bool) -> None:
    build = GraphBuilder()
    scores = build.op("Mul", scores_of(build), build.constant(0.5))
    if divides:
        scores = build.op("Div", scores, build.constant(3.0))
    else:
        scores = build.op("Mul", scores, build.constant(1.0 / 3.0))
    scores = build.op("Mul", build.constant(3.0), build.op("Tanh", scores))
    if is_masked:
        scores = build.op("Add", scores, build.input("mask", (BATCH, 1, 1, COLUMNS)))
    model = weigh(build, scores)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.rules.softcap == pytest.approx(3.0)
    assert region.problem.scale == pytest.approx(0.5)
    assert host_ops(partitioned) == ["Transpose"]  # of the key, which comes turned
    assert_same_meaning(model, partitioned)


def test_a_softcap_of_the_other_sign_is_left() -> None:
    build = GraphBuilder()
    scores = build.op("Mul", build.op("Tanh", scores_of(build)), build.constant(-1.0))
    (left,) = cut(weigh(build, scores)).not_taken
    assert "change their sign" in left.reason


def copied(build: GraphBuilder, name: str, copies: int, op_type: str) -> str:
    """Return keys or values of which each head is there several times, as exporters write it."""
    few = build.input(name, (BATCH, HEADS // copies, COLUMNS, DIM))
    one = build.op("Unsqueeze", few, build.constant([2], "int64"))
    sizes = (BATCH, HEADS // copies, copies, COLUMNS, DIM)
    if op_type == "Expand":
        many = build.op("Expand", one, build.constant(sizes, "int64"))
    else:
        many = build.op("Tile", one, build.constant([1, 1, copies, 1, 1], "int64"))
    return build.shaped(many, BATCH, HEADS, COLUMNS, DIM)


@pytest.mark.parametrize("op_type", ["Expand", "Tile"])
@pytest.mark.parametrize("is_scaled", [True, False])
def test_copies_of_heads_are_left_out(op_type: str, is_scaled: bool) -> None:
    build = GraphBuilder()
    key = build.op("Transpose", copied(build, "k", 2, op_type), perm=[0, 1, 3, 2])
    if is_scaled:
        key = build.op("Mul", key, build.constant(0.25))
    scores = build.op("MatMul", build.input("q", (BATCH, HEADS, ROWS, DIM)), key)
    weights = build.op("Softmax", scores, axis=-1)
    build.op("MatMul", weights, copied(build, "v", 2, op_type), name="y")
    build.output("y", (BATCH, HEADS, ROWS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.query_heads, region.problem.kv_heads) == (HEADS, HEADS // 2)
    assert region.inputs == ("q", "k", "v")
    assert host_ops(partitioned) == []
    assert "2 copies of each key-value head left out" in region.form
    assert_same_meaning(model, partitioned)


def test_copies_before_the_standard_operator() -> None:
    """As sdpa is exported at op set 23: grouped heads are copied all the same."""
    build = GraphBuilder(23)
    query = build.input("q", (BATCH, HEADS, ROWS, DIM))
    sides = [copied(build, name, 2, "Expand") for name in ("k", "v")]
    build.op("Attention", query, *sides, name="y")
    build.output("y", (BATCH, HEADS, ROWS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.query_heads, region.problem.kv_heads) == (HEADS, HEADS // 2)
    assert region.inputs == ("q", "k", "v")
    assert_same_meaning(model, partitioned)


def test_copies_that_are_no_copies_of_heads_are_kept() -> None:
    """Along the batch: each sequence has the same keys, which is another thing."""
    build = GraphBuilder()
    sides = []
    for name in ("k", "v"):
        one = build.input(name, (1, HEADS, COLUMNS, DIM))
        sizes = build.constant((BATCH, HEADS, COLUMNS, DIM), "int64")
        sides.append(build.op("Expand", one, sizes))
    key = build.op("Transpose", sides[0], perm=[0, 1, 3, 2])
    scores = build.op("MatMul", build.input("q", (BATCH, HEADS, ROWS, DIM)), key)
    build.op("MatMul", build.op("Softmax", scores, axis=-1), sides[1], name="y")
    build.output("y", (BATCH, HEADS, ROWS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.kv_heads == HEADS
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("windows", [1, BATCH])
def test_windows_with_a_mask_each(windows: int) -> None:
    """As in Swin: windows stand in the batch, and are taken apart for their mask alone."""
    build = GraphBuilder()
    cut_apart = (BATCH // windows, windows, HEADS, ROWS, COLUMNS)
    bias = build.op("Add", scores_of(build), build.input("bias", (HEADS, ROWS, COLUMNS)))
    apart = build.shaped(bias, *cut_apart)
    masked = build.op("Add", apart, build.input("mask", (1, windows, 1, ROWS, COLUMNS)))
    model = weigh(build, build.shaped(masked, BATCH, HEADS, ROWS, COLUMNS))
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.mask_shape == (windows, HEADS, ROWS, COLUMNS)
    assert_same_meaning(model, partitioned)


def test_heads_merged_with_the_batch_for_the_products() -> None:
    """As in DeBERTa: rank 3 for the products, rank 4 for the mask and the Softmax."""
    build = GraphBuilder()
    bias = build.op("Add", scores_of(build, 3), build.input("bias", (BATCH * HEADS, ROWS, COLUMNS)))
    apart = build.shaped(bias, BATCH, HEADS, ROWS, COLUMNS)
    keep = build.input("keep", (BATCH, 1, ROWS, COLUMNS), "bool")
    masked = build.op("Where", keep, apart, build.constant(-math.inf))
    model = weigh(build, masked, rank=3)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.batch, region.problem.query_heads) == (BATCH, HEADS)
    feeds = {
        name: np.random.default_rng(0).standard_normal(shape, np.float32)
        for name, shape in (
            ("q", (BATCH * HEADS, ROWS, DIM)),
            ("k", (BATCH * HEADS, DIM, COLUMNS)),
            ("v", (BATCH * HEADS, COLUMNS, 7)),
            ("bias", (BATCH * HEADS, ROWS, COLUMNS)),
        )
    }
    kept = np.ones((BATCH, 1, ROWS, COLUMNS), bool)
    kept[1, 0, 1, 2:] = False
    assert_same_meaning(model, partitioned, feeds=feeds | {"keep": kept})


def test_a_mask_that_follows_neither_batch_nor_heads_is_left() -> None:
    build = GraphBuilder()
    apart = build.shaped(scores_of(build), BATCH, 2, HEADS // 2, ROWS, COLUMNS)
    masked = build.op("Add", apart, build.input("mask", (BATCH, 2, 1, ROWS, COLUMNS)))
    (left,) = cut(weigh(build, build.shaped(masked, BATCH, HEADS, ROWS, COLUMNS))).not_taken
    assert "follows neither batch nor heads" in left.reason
