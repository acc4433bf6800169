"""The standard Attention operator: its plain forms are taken, the others named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder, attention_op_model, random_feeds
from support.partition_executor import run_reference

from hocket.compiler.problem import MaskedRows, MaskKind

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
        ({"softcap": 2.0}, 23, "softcap"),
        ({"left_window_size": 1}, 25, "left_window_size"),
        ({"right_window_size": 0}, 25, "right_window_size"),
        ({"softmax_precision": 11}, 23, "softmax_precision"),
        ({"scale": -1.0}, 23, "scale"),
    ],
)
def test_attributes_beyond_the_plain_form_are_named(
    attributes: dict[str, Any], opset: int, word: str
) -> None:
    assert word in refusal(attention_op_model(Q4, K4, V4, Y4, opset=opset, **attributes))


def test_a_softmax_in_float32_is_what_kernels_do() -> None:
    taken(attention_op_model(Q4, K4, V4, Y4, softmax_precision=1))


def test_a_mask_shorter_than_the_keys_is_left() -> None:
    """ONNX pads it with minus infinity; of one column, too, which elsewhere would broadcast."""
    for columns in (3, 1):
        assert "shorter than the 5 keys" in refusal(
            attention_op_model(Q4, K4, V4, Y4, mask=(4, columns))
        )


def with_more(inputs: int = 0, outputs: int = 0) -> onnx.ModelProto:
    model = attention_op_model(Q4, K4, V4, Y4, opset=24)
    node = model.graph.node[0]
    if inputs:
        node.input.extend(["", "past_k", "past_v"] if inputs == 6 else ["", "", "", "lengths"])
    names = ["", "", "scores"] if outputs else []
    node.output.extend(names)
    helper = onnx.helper.make_tensor_value_info
    if inputs == 6:
        for name, size in (("past_k", 8), ("past_v", 7)):
            model.graph.input.append(helper(name, onnx.TensorProto.FLOAT, [2, 3, 1, size]))
        node.output.extend(["present_k", "present_v"])
    if inputs == 7:
        model.graph.input.append(helper("lengths", onnx.TensorProto.INT64, [2]))
    if outputs:
        model.graph.output.append(helper("scores", onnx.TensorProto.FLOAT, [2, 6, 4, 5]))
    return model


def test_inputs_and_outputs_beyond_the_plain_form_are_named() -> None:
    assert "past_key" in refusal(with_more(inputs=6))
    assert "nonpad_kv_seqlen" in refusal(with_more(inputs=7))
    assert "qk_matmul_output" in refusal(with_more(outputs=4))


def test_heads_that_do_not_divide_are_left() -> None:
    heads = {"q_num_heads": 4, "kv_num_heads": 3}
    model = attention_op_model((2, 4, 12), (2, 5, 9), (2, 5, 9), (2, 4, 12), **heads)
    assert "kv_heads must divide query_heads" in refusal(model)


def test_onnxruntime_operators_are_reported() -> None:
    build = GraphBuilder(17)
    q, k, v = (build.input(name, (2, 4, 12)) for name in "qkv")
    build.op("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=3, name="y")
    build.output("y", (2, 4, 12))
    model = build.build(com_microsoft=1)
    partitioned = cut(model)
    (item,) = partitioned.not_taken
    assert item.op == "com.microsoft::MultiHeadAttention"
    assert_same_meaning(model, partitioned)
