"""The standard Attention operator: what kernels compute is taken, the rest named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder, attention_op_model, random_feeds
from support.partition_executor import run_reference

from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_for_host, prepare_model
from hocket.compiler.graph.recognize import recognize_attention
from hocket.compiler.problem import MaskedRows, MaskKind, ScoreRules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.compiler.graph.regions import AttentionRegion

Q4, K4, V4, Y4 = (2, 6, 4, 8), (2, 3, 5, 8), (2, 3, 5, 7), (2, 6, 4, 7)
Q3, K3, V3, Y3 = (2, 4, 48), (2, 5, 24), (2, 5, 21), (2, 4, 42)
HEADS = {"q_num_heads": 6, "kv_num_heads": 3}


def taken(model: onnx.ModelProto) -> AttentionRegion:
    """Return the region, after a check against the reference implementation of ONNX."""
    partitioned = cut(model)
    assert partitioned.not_taken == ()
    assert_same_meaning(model, partitioned, run=run_reference)
    (region,) = attention_regions(partitioned)
    return region


def refusal(model: onnx.ModelProto) -> str:
    partitioned = cut(model)
    assert attention_regions(partitioned) == []
    (item,) = partitioned.not_taken
    assert item.op == "Attention"
    return item.reason


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_both_ranks_with_grouped_heads(opset: int) -> None:
    rank4 = taken(attention_op_model(Q4, K4, V4, Y4, opset=opset))
    rank3 = taken(attention_op_model(Q3, K3, V3, Y3, opset=opset, **HEADS))
    assert rank3.problem == rank4.problem
    assert (rank4.problem.query_heads, rank4.problem.kv_heads) == (6, 3)
    assert (rank4.problem.head_dim, rank4.problem.value_dim) == (8, 7)
    assert (rank4.query_layout, rank3.query_layout) == ("bhnd", "bnhd")
    assert (rank4.output_layout, rank3.output_layout) == ("bhnd", "bnhd")


def test_the_scale_is_the_root_unless_given() -> None:
    assert taken(attention_op_model(Q4, K4, V4, Y4)).problem.scale == 1.0 / math.sqrt(8)
    given = taken(attention_op_model(Q4, K4, V4, Y4, scale=0.25))
    assert given.problem.scale == 0.25


@pytest.mark.parametrize("shape", [(5,), (4, 5), (6, 4, 5), (2, 1, 1, 5), (2, 6, 4, 5)])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_masks_of_any_rank(shape: tuple[int, ...], dtype: str, is_causal: int) -> None:
    def model_with(mask: tuple[int, ...]) -> onnx.ModelProto:
        return attention_op_model(Q4, K4, V4, Y4, mask=mask, mask_dtype=dtype, is_causal=is_causal)

    def run_with_whole_mask(
        _: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        # The reference takes the rows of the causal part from the mask, which may have only one.
        whole = {**feeds, "mask": np.broadcast_to(feeds["mask"], (2, 6, 4, 5)).copy()}
        return run_reference(model_with((2, 6, 4, 5)), whole)

    partitioned = cut(model_with(shape))
    assert_same_meaning(model_with(shape), partitioned, run=run_with_whole_mask)
    (region,) = attention_regions(partitioned)
    kind = MaskKind.BOOLEAN if dtype == "bool" else MaskKind.ADDITIVE
    assert (region.problem.mask, region.problem.is_causal) == (kind, bool(is_causal))
    assert region.problem.mask_shape == (1,) * (4 - len(shape)) + shape
    assert region.problem.masked_value == -math.inf


def test_rows_masked_throughout_are_zero() -> None:
    model = attention_op_model(Q4, K4, V4, Y4, mask=(4, 5), mask_dtype="bool")
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.masked_rows is MaskedRows.ZERO
    feeds = random_feeds(model)
    feeds["mask"][1] = False
    assert_same_meaning(model, partitioned, feeds=feeds, run=run_reference)


def test_transposes_around_it_are_absorbed() -> None:
    build = GraphBuilder(23)
    operands = []
    for name, shape, heads in (("q", Q3, 6), ("k", K3, 3), ("v", V3, 3)):
        split = build.shaped(build.input(name, shape), *shape[:2], heads, shape[2] // heads)
        operands.append(build.op("Transpose", split, perm=[0, 2, 1, 3]))
    turned = build.op("Transpose", build.op("Attention", *operands), perm=[0, 2, 1, 3])
    build.op("Identity", build.shaped(turned, *Y3), name="y")
    build.output("y", Y3)
    model = build.build()
    region = taken(model)
    assert region.inputs == ("q", "k", "v")
    assert (region.key_layout, region.output_layout) == ("bnhd", "bnhd")
    assert host_ops(cut(model)) == []


@pytest.mark.parametrize(
    ("attributes", "opset", "word"),
    [
        ({"softcap": -2.0}, 23, "softcap"),
        ({"softmax_precision": 11}, 23, "softmax_precision"),
        ({"scale": -1.0}, 23, "scale"),
    ],
)
def test_attributes_that_no_kernel_follows_are_named(
    attributes: dict[str, Any], opset: int, word: str
) -> None:
    assert word in refusal(attention_op_model(Q4, K4, V4, Y4, opset=opset, **attributes))


def test_a_softmax_in_float32_is_what_kernels_do() -> None:
    taken(attention_op_model(Q4, K4, V4, Y4, softmax_precision=1))


@pytest.mark.parametrize(
    ("attributes", "rules"),
    [
        ({"softcap": 2.0}, ScoreRules(softcap=2.0)),
        ({"left_window_size": 1}, ScoreRules(left_window=1)),
        ({"right_window_size": 0}, ScoreRules(right_window=0)),
        ({"right_window_size": 1, "is_causal": 1}, ScoreRules()),
        ({"left_window_size": 0, "is_causal": 1}, ScoreRules(left_window=0)),
    ],
)
def test_rules_of_scores(attributes: dict[str, Any], rules: ScoreRules) -> None:
    problem = taken(attention_op_model(Q4, K4, V4, Y4, opset=25, **attributes)).problem
    assert problem.rules == rules
    assert problem.is_causal == bool(attributes.get("is_causal"))


@pytest.mark.parametrize("columns", [3, 1])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_a_mask_shorter_than_the_keys_hides_the_rest(columns: int, dtype: str) -> None:
    """Of one column, too, which elsewhere would broadcast."""
    region = taken(attention_op_model(Q4, K4, V4, Y4, mask=(4, columns), mask_dtype=dtype))
    assert region.problem.mask_shape == (1, 1, 4, 5)


def test_a_mask_longer_than_the_keys_is_left() -> None:
    assert "longer than its keys" in refusal(attention_op_model(Q4, K4, V4, Y4, mask=(4, 6)))


def with_past(rank: int, length: int = 2, **attributes: Any) -> onnx.ModelProto:
    shapes = (Q4, K4, V4, Y4) if rank == 4 else (Q3, K3, V3, Y3)
    model = attention_op_model(*shapes, opset=24, **attributes, **({} if rank == 4 else HEADS))
    node = model.graph.node[0]
    helper = onnx.helper.make_tensor_value_info
    node.input.extend(["", "past_k", "past_v"])
    node.output.extend(["present_k", "present_v"])
    for name, size in (("k", 8), ("v", 7)):
        sizes = {"past": length, "present": length + 5}
        past, present = (
            helper(f"{part}_{name}", onnx.TensorProto.FLOAT, [2, 3, rows, size])
            for part, rows in sizes.items()
        )
        model.graph.input.append(past)
        model.graph.output.append(present)
    return model


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_the_past_stands_before_the_new_keys(rank: int, is_causal: int) -> None:
    problem = taken(with_past(rank, is_causal=is_causal)).problem
    assert problem.kv_length == 7
    # Causality is a rule there: queries do not begin at the first key.
    assert not problem.is_causal
    wanted = ScoreRules(query_offset=2, right_window=0) if is_causal else ScoreRules()
    assert problem.rules == wanted


@pytest.mark.parametrize("rank", [3, 4])
def test_present_keys_without_a_past(rank: int) -> None:
    model = with_past(rank, length=0)
    node = model.graph.node[0]
    del node.input[3:]
    del model.graph.input[3:]
    assert taken(model).problem.kv_length == 5


def with_lengths(**attributes: Any) -> onnx.ModelProto:
    model = attention_op_model(Q4, K4, V4, Y4, opset=25, **attributes)
    model.graph.node[0].input.extend(["", "", "", "lengths"])
    lengths = onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, [2])
    model.graph.input.append(lengths)
    return model


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"left_window_size": 1}])
@pytest.mark.parametrize("lengths", [(5, 5), (4, 2), (1, 3)])
def test_lengths_of_keys(attributes: dict[str, int], lengths: tuple[int, int]) -> None:
    model = with_lengths(**attributes)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.kv_lengths == "lengths"
    assert region.problem.rules.counts_from_end == bool(attributes)
    feeds = random_feeds(model) | {"lengths": np.array(lengths)}
    assert_same_meaning(model, partitioned, feeds=feeds, run=run_reference)


def with_scores() -> onnx.ModelProto:
    model = attention_op_model(Q4, K4, V4, Y4, opset=24)
    model.graph.node[0].output.extend(["", "", "scores"])
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [2, 6, 4, 5])
    model.graph.output.append(scores)
    return model


def test_scores_as_an_output_are_left() -> None:
    assert "its scores are an output" in refusal(with_scores())


def test_what_is_left_is_written_out_for_the_host() -> None:
    model = with_scores()
    prepared = prepare_model(load_model(model))
    recognize_attention(prepared)
    left = prepare_for_host(prepared, "model")
    ops = [node.op_type for node in left.graph]
    assert "Attention" not in ops
    assert ops.count("Softmax") == 1
    # What depended on sizes alone is folded.
    assert not {"Shape", "Gather", "ConstantOfShape"} & set(ops)
    partitioned = partition(left)
    assert_same_meaning(model, partitioned, run=run_reference)


def test_heads_that_do_not_divide_are_left() -> None:
    heads = {"q_num_heads": 4, "kv_num_heads": 3}
    model = attention_op_model((2, 4, 12), (2, 5, 9), (2, 5, 9), (2, 4, 12), **heads)
    assert "kv_heads must divide query_heads" in refusal(model)


def test_onnxruntime_operators_are_reported() -> None:
    build = GraphBuilder(17)
    operands = [build.input(name, (2, 4, 12)) for name in "qkv"]
    build.op("LongformerAttention", *operands, domain="com.microsoft", num_heads=3, name="y")
    build.output("y", (2, 4, 12))
    partitioned = cut(build.build(com_microsoft=1))
    (item,) = partitioned.not_taken
    assert item.op == "com.microsoft::LongformerAttention"
    assert "not compiled yet" in item.reason
