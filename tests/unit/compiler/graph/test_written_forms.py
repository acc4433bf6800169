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


def test_a_mask_that_follows_neither_batch_nor_heads_is_repeated() -> None:
    build = GraphBuilder()
    apart = build.shaped(scores_of(build), BATCH, 2, HEADS // 2, ROWS, COLUMNS)
    masked = build.op("Add", apart, build.input("mask", (BATCH, 2, 1, ROWS, COLUMNS)))
    model = weigh(build, build.shaped(masked, BATCH, HEADS, ROWS, COLUMNS))
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.mask_shape == (BATCH, HEADS, ROWS, COLUMNS)
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("is_constant", [True, False])
def test_windows_of_several_images_have_their_masks_repeated(is_constant: bool) -> None:
    """As in Swin v2 with a batch."""
    images, windows = 3, 2
    build = GraphBuilder()
    query = build.input("q", (images * windows, HEADS, COLUMNS, DIM))
    scores = build.op("MatMul", query, build.input("k", (images * windows, HEADS, DIM, COLUMNS)))
    apart = build.shaped(scores, images, windows, HEADS, COLUMNS, COLUMNS)
    if is_constant:
        triangle = np.where(np.tri(COLUMNS, dtype=bool), 0.0, -math.inf).astype(np.float32)
        both = np.broadcast_to(triangle, (1, windows, 1, COLUMNS, COLUMNS)).copy()
        both[0, 1, 0, 3, 0] = -math.inf
        mask = build.constant(both.tolist())
    else:
        mask = build.input("mask", (1, windows, 1, COLUMNS, COLUMNS))
    masked = build.op("Add", apart, mask)
    together = build.shaped(masked, images * windows, HEADS, COLUMNS, COLUMNS)
    value = build.input("v", (images * windows, HEADS, COLUMNS, DIM))
    build.op("MatMul", build.op("Softmax", together, axis=-1), value, name="y")
    build.output("y", (images * windows, HEADS, COLUMNS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.mask_shape == (images * windows, 1, COLUMNS, COLUMNS)
    assert region.problem.is_causal == is_constant
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("turned", [True, False])
def test_one_head_of_keys_for_all_queries(turned: bool) -> None:
    """As in Falcon: the products broadcast it."""
    build = GraphBuilder()
    if turned:
        key = build.input("k", (BATCH, 1, DIM, COLUMNS))
    else:
        key = build.op("Transpose", build.input("k", (BATCH, 1, COLUMNS, DIM)), perm=[0, 1, 3, 2])
    scores = build.op("MatMul", build.input("q", (BATCH, HEADS, ROWS, DIM)), key)
    weights = build.op("Softmax", scores, axis=-1)
    build.op("MatMul", weights, build.input("v", (BATCH, 1, COLUMNS, 7)), name="y")
    build.output("y", (BATCH, HEADS, ROWS, 7))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.query_heads, region.problem.kv_heads) == (HEADS, 1)
    assert host_ops(partitioned) == (["Transpose"] if turned else [])
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("shape", [(1, COLUMNS, DIM), (BATCH, 2, COLUMNS, DIM)])
def test_other_broadcasts_of_keys_are_left(shape: tuple[int, ...]) -> None:
    build = GraphBuilder()
    keys, values = build.input("k", (BATCH, 1, DIM, COLUMNS)), build.input("v", shape)
    scores = build.op("MatMul", build.input("q", (BATCH, 2, ROWS, DIM)), keys)
    build.op("MatMul", build.op("Softmax", scores, axis=-1), values, name="y")
    build.output("y", (BATCH, 2, ROWS, DIM))
    model = build.build()
    partitioned = cut(model)
    assert "are broadcast against each other" in partitioned.not_taken[0].reason
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("op_type", ["Mul", "Div"])
def test_a_scale_behind_an_additive_mask(op_type: str) -> None:
    """As in CodeGen: what is added is scaled, too."""
    build = GraphBuilder()
    scores = build.op("Mul", scores_of(build), build.constant(0.5))
    masked = build.op("Add", scores, build.input("mask", (BATCH, 1, ROWS, COLUMNS)))
    model = weigh(build, build.op(op_type, masked, build.constant(4.0)))
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    factor = 4.0 if op_type == "Mul" else 0.25
    assert region.problem.scale == pytest.approx(0.5 * factor)
    assert host_ops(partitioned) == ["Mul", "Transpose"]
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("masked_value", [-3.0, -1e4, float(np.finfo(np.float32).min), -math.inf])
def test_a_scale_behind_a_where(masked_value: float) -> None:
    build = GraphBuilder()
    keep = build.input("keep", (BATCH, 1, ROWS, COLUMNS), "bool")
    masked = build.op("Where", keep, scores_of(build), build.constant(masked_value))
    model = weigh(build, build.op("Mul", masked, build.constant(2.0)))
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    # Twice the lowest number is infinity.
    assert region.problem.masked_value == (2 * masked_value if masked_value > -1e5 else -math.inf)
    feeds = {
        value.name: np.random.default_rng(0)
        .standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim])
        .astype(np.float32)
        for value in model.graph.input
    }
    feeds["keep"] = np.tri(ROWS, COLUMNS, dtype=bool) & np.ones((BATCH, 1, 1, 1), bool)
    assert_same_meaning(model, partitioned, feeds=feeds)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_causal_mask_is_found_before_a_scale(factor: float) -> None:
    build = GraphBuilder()
    triangle = np.where(np.tri(COLUMNS, dtype=bool), 0.0, -math.inf).astype(np.float32)
    scores = build.op(
        "MatMul",
        build.input("q", (BATCH, HEADS, COLUMNS, DIM)),
        build.input("k", (BATCH, HEADS, DIM, COLUMNS)),
    )
    masked = build.op("Add", scores, build.constant(triangle.tolist()))
    weights = build.op("Softmax", build.op("Mul", masked, build.constant(factor)), axis=-1)
    build.op("MatMul", weights, build.input("v", (BATCH, HEADS, COLUMNS, DIM)), name="y")
    build.output("y", (BATCH, HEADS, COLUMNS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.is_causal
    assert region.problem.scale == factor
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("op_type", ["Mul", "Div"])
@pytest.mark.parametrize("shape", [(HEADS, 1, 1), (ROWS, 1), (BATCH, HEADS, ROWS, 1)])
def test_a_factor_of_rows_acts_on_the_query(op_type: str, shape: tuple[int, ...]) -> None:
    """As in Swin v2, where each head has learnt its own."""
    build = GraphBuilder()
    numbers = np.random.default_rng(1).uniform(0.5, 2.0, shape).astype(np.float32)
    scores = build.op(op_type, scores_of(build), build.weight("factor", numbers))
    scores = build.op("Add", scores, build.input("bias", (HEADS, ROWS, COLUMNS)))
    model = weigh(build, scores)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert host_ops(partitioned) == sorted([op_type, "Transpose"])
    assert f"{op_type} of rows" in region.form
    assert_same_meaning(model, partitioned)


def test_a_factor_of_rows_leaves_no_trace_where_no_kernel_takes_it() -> None:
    build = GraphBuilder()
    factor = build.weight("factor", np.full((HEADS, 1, 1), 2.0, np.float32))
    model = weigh(build, build.op("Mul", scores_of(build), factor))
    partitioned = cut(model, accept=lambda problem: f"no kernel for {problem.dtype}")
    assert host_ops(partitioned) == ["MatMul", "MatMul", "Mul", "Softmax"]
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("factor", [None, 0.5])
def test_a_mask_that_is_subtracted(factor: float | None) -> None:
    """As in XLNet."""
    build = GraphBuilder()
    scores = build.op("Sub", scores_of(build), build.input("mask", (BATCH, 1, 1, COLUMNS)))
    if factor is not None:
        scores = build.op("Mul", scores, build.constant(factor))
    model = weigh(build, scores)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.scale == (factor or 1.0)
    assert host_ops(partitioned) == ["Mul", "Transpose"]
    assert_same_meaning(model, partitioned)


def test_scores_that_are_subtracted_are_left() -> None:
    build = GraphBuilder()
    model = weigh(build, build.op("Sub", build.input("mask", (ROWS, COLUMNS)), scores_of(build)))
    partitioned = cut(model)
    assert "broadcast by Sub" in partitioned.not_taken[0].reason
    assert_same_meaning(model, partitioned)
    build = GraphBuilder()
    full = (BATCH, HEADS, ROWS, COLUMNS)
    model = weigh(build, build.op("Sub", build.input("mask", full), scores_of(build)))
    assert "finds no product" in cut(model).not_taken[0].reason


@pytest.mark.parametrize("visible", [1.0, 0.0])
def test_a_causal_mask_that_is_subtracted(visible: float) -> None:
    build = GraphBuilder()
    ahead = np.where(np.tri(COLUMNS, dtype=bool), 0.0, 1e30).astype(np.float32)
    scores = build.op(
        "MatMul",
        build.input("q", (BATCH, HEADS, COLUMNS, DIM)),
        build.input("k", (BATCH, HEADS, DIM, COLUMNS)),
    )
    mask = ahead if visible else -ahead
    weights = build.op("Softmax", build.op("Sub", scores, build.constant(mask.tolist())), axis=-1)
    build.op("MatMul", weights, build.input("v", (BATCH, HEADS, COLUMNS, DIM)), name="y")
    build.output("y", (BATCH, HEADS, COLUMNS, DIM))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.is_causal == bool(visible)
    assert_same_meaning(model, partitioned)


def test_heads_merged_for_the_first_product_only() -> None:
    """As in BLOOM: scores are taken apart for their mask, and stay so."""
    build = GraphBuilder()
    apart = build.shaped(scores_of(build, rank=3), BATCH, HEADS, ROWS, COLUMNS)
    masked = build.op("Add", apart, build.input("mask", (BATCH, 1, 1, COLUMNS)))
    model = weigh(build, masked)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.batch, region.problem.query_heads) == (BATCH, HEADS)
    assert_same_meaning(model, partitioned)


def test_values_of_another_batch_than_probabilities_are_left() -> None:
    """The product makes every pair of them."""
    build = GraphBuilder()
    weights = build.op("Softmax", scores_of(build, rank=3), axis=-1)
    merged = BATCH * HEADS
    build.op("MatMul", weights, build.input("v", (merged, 1, COLUMNS, 7)), name="y")
    build.output("y", (merged, merged, ROWS, 7))
    model = build.build()
    partitioned = cut(model)
    assert "are broadcast against each other" in partitioned.not_taken[0].reason
    assert_same_meaning(model, partitioned)
