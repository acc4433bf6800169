"""Attention written out: what is taken, as which problem, and why the rest is not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import (
    Choices,
    GraphBuilder,
    decomposed_attention_model,
    random_feeds,
)

from hocket.compiler.problem import MaskedRows, MaskKind
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    import onnx

    from hocket.compiler.graph.regions import AttentionRegion, NotTaken

FLOAT32_MIN = float(np.finfo(np.float32).min)


def taken(choices: Choices, *, tolerance: float = 2e-5, **dims: int) -> AttentionRegion:
    """Return the one region of a written-out attention, after a check of its meaning."""
    model = decomposed_attention_model(choices)
    partitioned = cut(model, dims)
    assert partitioned.not_taken == ()
    assert_same_meaning(model, partitioned, tolerance=tolerance)
    (region,) = attention_regions(partitioned)
    return region


def refused(model: onnx.ModelProto) -> NotTaken:
    """Return why a model's one Softmax stays with the host, after a check of its meaning."""
    partitioned = cut(model)
    assert attention_regions(partitioned) == []
    assert_same_meaning(model, partitioned)
    (item,) = partitioned.not_taken
    return item


def attention(**choices: Any) -> onnx.ModelProto:
    return decomposed_attention_model(Choices(**choices))


@pytest.mark.parametrize("place", ["product", "query", "key", "both", "input"])
@pytest.mark.parametrize("op_type", ["Mul", "Div"])
@pytest.mark.parametrize("projected", [False, True])
def test_the_scale_is_found_wherever_it_is(place: Any, op_type: Any, projected: bool) -> None:
    if place == "input" and not projected:
        place = "query"  # there is no Reshape before which it could be scaled
    region = taken(Choices(scale_place=place, scale_op=op_type, projected=projected))
    assert region.problem.scale == pytest.approx(0.375, rel=1e-6)
    assert region.query == "q"


def test_without_scale_it_is_one() -> None:
    region = taken(Choices(scale_place="none"))
    assert region.problem.scale == 1.0
    assert region.form == "decomposed: no scale, no mask"


def test_the_problem_has_every_size() -> None:
    problem = taken(Choices(mask="add", mask_shape=(2, 1, 1, 5))).problem
    assert (problem.batch, problem.query_heads, problem.kv_heads) == (2, 3, 3)
    assert (problem.query_length, problem.kv_length) == (4, 5)
    assert (problem.head_dim, problem.value_dim) == (6, 7)
    assert (problem.mask, problem.mask_shape) == (MaskKind.ADDITIVE, (2, 1, 1, 5))
    assert (problem.dtype, problem.masked_rows) == (DType.FLOAT32, MaskedRows.NAN)


@pytest.mark.parametrize("transposes", [1, 2])
def test_projections_are_read_and_written_directly(transposes: Any) -> None:
    choices = Choices(projected=True, key_transposes=transposes)
    region = taken(choices)
    assert region.inputs == ("q", "k", "v")
    layouts = (region.query_layout, region.key_layout, region.value_layout, region.output_layout)
    assert layouts == ("bnhd",) * 4
    assert host_ops(cut(decomposed_attention_model(choices))) == []


def test_shapes_computed_from_shapes_change_nothing() -> None:
    choices = Choices(projected=True, dynamic=True, mask="add", mask_shape=(1, 1, 4, 5))
    region = taken(choices, batch=2, query_length=4, key_length=5)
    assert region.inputs == ("q", "k", "v", "mask")


def test_heads_in_front_are_read_as_they_are() -> None:
    region = taken(Choices(key_transposes=1))
    assert region.inputs == ("q", "k", "v")
    assert region.key_layout == "bhnd"


@pytest.mark.parametrize("rank", [3, 4])
def test_a_key_that_comes_turned_is_turned_back_by_the_host(rank: Any) -> None:
    choices = Choices(key_transposes=0, rank=rank)
    region = taken(choices)
    assert region.key != "k"
    assert host_ops(cut(decomposed_attention_model(choices))) == ["Transpose"]


def test_rank_three_is_one_head_per_batch() -> None:
    region = taken(Choices(rank=3, mask="add", mask_shape=(6, 1, 5)))
    problem = region.problem
    assert (problem.batch, problem.query_heads, problem.mask_shape) == (6, 1, (6, 1, 1, 5))
    assert region.query_layout == "bnhd"


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((5,), (1, 1, 1, 5)),
        ((4, 5), (1, 1, 4, 5)),
        ((3, 1, 5), (1, 3, 1, 5)),
        ((2, 1, 4, 1), (2, 1, 4, 1)),
        ((1, 1, 1, 1), (1, 1, 1, 1)),
    ],
)
def test_additive_masks_of_any_broadcast_shape(
    shape: tuple[int, ...], stored: tuple[int, ...], left: bool
) -> None:
    region = taken(Choices(mask="add", mask_shape=shape, mask_left=left))
    assert region.problem.mask_shape == stored
    assert region.mask == "mask"


@pytest.mark.parametrize("masked_value", [-math.inf, FLOAT32_MIN, -1e4])
def test_a_where_keeps_its_masked_value(masked_value: float) -> None:
    region = taken(Choices(mask="keep", masked_value=masked_value))
    assert region.problem.mask is MaskKind.BOOLEAN
    assert region.problem.masked_value == np.float32(masked_value)
    assert region.mask == "mask"


def test_an_inverted_where_is_negated_by_the_host() -> None:
    choices = Choices(mask="drop")
    region = taken(choices)
    assert region.problem.mask is MaskKind.BOOLEAN
    assert host_ops(cut(decomposed_attention_model(choices))) == ["Not"]


def test_rows_masked_throughout_are_nan_unless_guarded() -> None:
    for guard, rows in ((False, MaskedRows.NAN), (True, MaskedRows.ZERO)):
        choices = Choices(mask="keep", guard=guard, mask_shape=(4, 5))
        model = decomposed_attention_model(choices)
        partitioned = cut(model)
        (region,) = attention_regions(partitioned)
        assert region.problem.masked_rows is rows
        rng = np.random.default_rng(0)
        feeds: dict[str, np.ndarray] = {
            name: rng.normal(size=partitioned.values[name].shape).astype(np.float32)
            for name in "qkv"
        }
        feeds["mask"] = np.array([[1] * 5, [0] * 5, [1, 0, 0, 0, 0], [0] * 5], bool)
        assert_same_meaning(model, partitioned, feeds=feeds)


def test_two_additive_masks_are_added_by_the_host() -> None:
    choices = Choices(mask="two adds", mask_shape=(2, 1, 1, 5))
    region = taken(choices)
    assert region.problem.mask_shape == (2, 3, 4, 5)
    assert host_ops(cut(decomposed_attention_model(choices))) == ["Add"]


@pytest.mark.parametrize("form", ["keep then add", "add then keep"])
@pytest.mark.parametrize("masked_value", [-math.inf, FLOAT32_MIN])
def test_a_causal_where_and_a_padding_mask_become_one(form: Any, masked_value: float) -> None:
    region = taken(Choices(mask=form, masked_value=masked_value))
    assert region.problem.mask is MaskKind.ADDITIVE


@pytest.mark.parametrize("form", ["keep then add", "add then keep"])
def test_masks_act_in_their_order(form: Any) -> None:
    """In a row no key is kept in, the last mask decides: uniform over all keys, or over some."""
    model = attention(mask=form, masked_value=FLOAT32_MIN, mask_shape=(4, 5))
    feeds = random_feeds(model)
    feeds["causal"] = np.tri(4, 5, -1, dtype=bool)
    feeds["mask"] = np.where(np.arange(5) < 2, 0.0, FLOAT32_MIN).astype(np.float32) + np.zeros(
        (4, 1), np.float32
    )
    assert_same_meaning(model, cut(model), feeds=feeds)


@pytest.mark.parametrize("form", ["keep then add", "add then keep"])
def test_masks_whose_values_show_stay_with_the_host(form: Any) -> None:
    """Score + -1e4 is not -1e4, so a row masked throughout would differ."""
    item = refused(attention(mask=form, masked_value=-1e4))
    assert "puts -10000 for masked scores" in item.reason


def test_a_mask_of_zeros_is_none() -> None:
    assert taken(Choices(mask="zero")).problem.mask is MaskKind.NONE


def test_half_precision_with_a_softmax_in_float32() -> None:
    choices = Choices(dtype="float16", softmax_float32=True, mask="add", mask_shape=(5,))
    region = taken(choices, tolerance=3e-3)
    assert region.problem.dtype is DType.FLOAT16
    assert region.form == "decomposed: Mul, Cast, Add mask"


def test_a_softmax_narrower_or_wider_than_its_query_is_left() -> None:
    assert (
        "float64, but its scores are cast"
        in refused(attention(dtype="float64", softmax_float32=True)).reason
    )


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("opset", [11, 12, 13, 15, 18, 21])
def test_op_sets_and_identities_make_no_difference(opset: int, identities: bool) -> None:
    taken(
        Choices(
            opset=opset,
            identities=identities,
            projected=True,
            mask="add",
            mask_shape=(1, 1, 4, 5),
            guard=True,
        )
    )


def test_the_default_axis_is_the_last_only_since_op_set_13() -> None:
    taken(Choices(softmax_axis=None, opset=13))
    item = refused(attention(softmax_axis=None, opset=12))
    assert "over the last 3 axes together" in item.reason


def test_before_op_set_13_an_axis_counts_with_what_is_behind_it() -> None:
    """One query row: the last two axes together are the last one."""
    taken(Choices(softmax_axis=2, opset=11, query_length=1))
    assert "over the last 2 axes" in refused(attention(softmax_axis=2, opset=11)).reason
    assert "along axis 2 of 4" in refused(attention(softmax_axis=2, opset=13)).reason


def test_the_last_axis_may_be_given_by_number() -> None:
    taken(Choices(softmax_axis=3))


def test_the_form_is_told_in_words() -> None:
    assert taken(Choices(scale_op="Div", mask="add")).form == "decomposed: Div, Add mask"
    form = taken(Choices(scale_place="both", mask="keep", guard=True)).form
    assert form == "decomposed: Mul on query, Mul on key, Where mask, NaN guard"


# What must not be taken.


def softmax_of(build: GraphBuilder, left: str, right: str, **attributes: int) -> str:
    return build.op("Softmax", build.op("MatMul", left, right), **(attributes or {"axis": -1}))


def test_a_classifier_is_left_alone() -> None:
    build = GraphBuilder()
    weight = build.weight("w", np.ones((6, 9), np.float32))
    logits = build.op("MatMul", build.input("x", (2, 4, 6)), weight)
    logits = build.op("Add", logits, build.weight("b", np.ones(9, np.float32)))
    build.op("Softmax", logits, axis=-1, name="y")
    build.output("y", (2, 4, 9))
    item = refused(build.build())
    assert (item.op, item.reason) == ("Softmax", "its probabilities 'y' are an output of the model")


def test_attention_pooling_is_left_alone() -> None:
    build = GraphBuilder()
    x = build.input("x", (2, 4, 6))
    weights = build.op(
        "Softmax", build.op("MatMul", x, build.weight("w", np.ones((6, 1), np.float32))), axis=1
    )
    build.op(
        "ReduceSum", build.op("Mul", weights, x), build.constant([1], "int64"), keepdims=0, name="y"
    )
    build.output("y", (2, 6))
    assert "along axis 1 of 3" in refused(build.build()).reason


def test_pooling_along_the_last_axis_is_left_alone_too() -> None:
    build = GraphBuilder()
    x = build.input("x", (2, 3, 4, 6))
    weights = softmax_of(build, x, build.op("Transpose", x, perm=[0, 1, 3, 2]))
    build.op("ReduceSum", weights, build.constant([3], "int64"), keepdims=0, name="y")
    build.output("y", (2, 3, 4))
    item = refused(build.build())
    assert "go to ReduceSum" in item.reason


def with_second_reader(of: str) -> onnx.ModelProto:
    """Write an attention out whose scores or probabilities are also an output or read twice."""
    build = GraphBuilder()
    q, k, v = build.input("q", (2, 4, 6)), build.input("k", (2, 6, 5)), build.input("v", (2, 5, 7))
    scores = build.op("MatMul", q, k)
    probabilities = build.op("Softmax", scores, axis=-1)
    build.op("MatMul", probabilities, v, name="y")
    build.output("y", (2, 4, 7))
    if of == "output":
        build.op("Identity", probabilities, name="p")
    else:
        build.op("Relu", {"probabilities": probabilities, "scores": scores}[of], name="p")
    build.output("p", (2, 4, 5))
    return build.build()


def test_probabilities_and_scores_that_others_need_stay() -> None:
    assert "are read by several nodes" in refused(with_second_reader("probabilities")).reason
    assert "are read by others, too" in refused(with_second_reader("scores")).reason
    assert "are an output of the model" in refused(with_second_reader("output")).reason


def test_probabilities_on_the_right_are_left() -> None:
    build = GraphBuilder()
    q, k, v = build.input("q", (2, 4, 6)), build.input("k", (2, 6, 5)), build.input("v", (2, 7, 4))
    build.op("MatMul", v, softmax_of(build, q, k), name="y")
    build.output("y", (2, 7, 5))
    assert "are the right side of MatMul" in refused(build.build()).reason


def test_operands_that_are_broadcast_are_left() -> None:
    build = GraphBuilder()
    q, k = build.input("q", (2, 3, 4, 6)), build.input("k", (1, 3, 6, 5))
    build.op("MatMul", softmax_of(build, q, k), build.input("v", (2, 3, 5, 7)), name="y")
    build.output("y", (2, 3, 4, 7))
    assert "are broadcast against each other" in refused(build.build()).reason


def test_rank_two_is_left() -> None:
    build = GraphBuilder()
    q, k = build.input("q", (4, 6)), build.input("k", (6, 5))
    build.op("MatMul", softmax_of(build, q, k), build.input("v", (5, 7)), name="y")
    build.output("y", (4, 7))
    assert "has rank 2; from 3 on they are understood" in refused(build.build()).reason


def between(*steps: str) -> onnx.ModelProto:
    """Write an attention out with odd steps between product and Softmax."""
    build = GraphBuilder()
    q, k = build.input("q", (2, 3, 4, 6)), build.input("k", (2, 3, 6, 5))
    scores = build.op("MatMul", q, k)
    for step in steps:
        if step in ("Tanh", "Erf"):
            scores = build.op(step, scores)
        elif step == "heads":
            scores = build.op("Mul", scores, build.weight("w", np.ones((3, 1, 1), np.float32)))
        elif step == "columns":
            scores = build.op("Mul", scores, build.input("columns", (1, 5)))
        elif step == "scale":
            scores = build.op("Mul", scores, build.constant(0.5))
        elif step == "minus":
            scores = build.op("Mul", scores, build.constant(-0.5))
        elif step == "mask":
            scores = build.op("Add", scores, build.input("mask", (4, 5)))
        elif step == "wide mask":
            scores = build.op("Add", scores, build.input("mask", (7, 2, 3, 4, 5)))
        elif step == "where":
            other = build.input("other", (4, 5))
            scores = build.op("Where", build.input("keep", (4, 5), "bool"), scores, other)
    leading = (7,) if "wide mask" in steps else ()
    v = build.input("v", (*leading, 2, 3, 5, 7))
    build.op("MatMul", build.op("Softmax", scores, axis=-1), v, name="y")
    build.output("y", (*leading, 2, 3, 4, 7))
    return build.build()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (("Tanh", "Tanh"), "a second Tanh"),
        (("mask", "Tanh"), "its softcap acts after the mask"),
        (("Erf",), "its scores come from Erf"),
        (("Erf", "mask"), "but Erf"),
        (("columns",), "differs along a row"),
        (("Tanh", "heads"), "a factor of rows acts behind Tanh"),
        (("mask", "heads"), "a factor of rows acts after the mask"),
        (("mask", "minus"), "change their sign behind the mask"),
        (("wide mask",), "finds no product"),
        (("where",), "puts no constant for masked ones"),
    ],
)
def test_what_is_not_understood_is_left_with_the_reason(
    steps: tuple[str, ...], reason: str
) -> None:
    assert reason in refused(between(*steps)).reason


def test_a_guard_of_another_tensor_is_left() -> None:
    build = GraphBuilder()
    q, k = build.input("q", (2, 3, 4, 6)), build.input("k", (2, 3, 6, 5))
    probabilities = softmax_of(build, q, k)
    test = build.op("IsNaN", build.input("other", (2, 3, 4, 5)))
    guarded = build.op("Where", test, build.constant(0.0), probabilities)
    build.op("MatMul", guarded, build.input("v", (2, 3, 5, 7)), name="y")
    build.output("y", (2, 3, 4, 7))
    assert "whose test is not understood" in refused(build.build()).reason


def test_what_the_kernels_refuse_stays_with_that_reason() -> None:
    model = attention()
    partitioned = cut(model, accept=lambda problem: f"no kernel for {problem.dtype}")
    assert [item.reason for item in partitioned.not_taken] == ["no kernel for float32"]
    assert attention_regions(partitioned) == []
    assert_same_meaning(model, partitioned)


def test_a_scaled_query_that_others_read_stays_for_them() -> None:
    build = GraphBuilder()
    scaled = build.op("Mul", build.input("q", (2, 3, 4, 6)), build.constant(0.5), name="scaled")
    build.output("scaled", (2, 3, 4, 6))
    weights = softmax_of(build, scaled, build.input("k", (2, 3, 6, 5)))
    build.op("MatMul", weights, build.input("v", (2, 3, 5, 7)), name="y")
    build.output("y", (2, 3, 4, 7))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.query, region.problem.scale) == ("q", 0.5)
    assert_same_meaning(model, partitioned)


def test_sizes_that_stay_unknown_are_a_reason() -> None:
    build = GraphBuilder()
    some = build.op("Compress", build.input("x", (6, 4)), build.input("keep", (6,), "bool"), axis=0)
    q = build.op("Unsqueeze", some, build.constant([0], "int64"))
    weights = softmax_of(build, q, build.input("k", (1, 4, 5)))
    summed = build.op(
        "ReduceSum", build.op("MatMul", weights, build.input("v", (1, 5, 7))), keepdims=0
    )
    build.op("Identity", summed, name="y")
    build.output("y", ())
    (item,) = cut(build.build()).not_taken
    assert "are not all known" in item.reason


def test_both_products_of_a_sum_may_be_the_scores() -> None:
    """Scores plus a bias that is itself a product: either reading is right."""
    build = GraphBuilder()
    scores = build.op("MatMul", build.input("q", (2, 4, 6)), build.input("k", (2, 6, 5)))
    bias = build.op("MatMul", build.input("p", (2, 4, 3)), build.input("r", (2, 3, 5)))
    weights = build.op("Softmax", build.op("Add", bias, scores), axis=-1)
    build.op("MatMul", weights, build.input("v", (2, 5, 7)), name="y")
    build.output("y", (2, 4, 7))
    model = build.build()
    partitioned = cut(model)
    assert len(attention_regions(partitioned)) == 1
    assert_same_meaning(model, partitioned)
