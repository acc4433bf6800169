"""Cutting: few host regions, each a valid model, that together mean what the whole meant."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.graph_wing import (
    assert_same_meaning,
    attention_regions,
    cut,
    host_ops,
    host_regions,
)
from support.onnx_models import Choices, GraphBuilder, bert_like_model, decomposed_attention_model

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize import recognize_attention
from hocket.compiler.graph.regions import HostRegion

SIZES = {"batch": 2, "length": 5}
SHAPE = (2, 3, 4, 6)


def attend(build: GraphBuilder, query: str, key: str, value: str, mask: str | None = None) -> str:
    """Add an attention of ``[batch, heads, rows, columns]`` operands."""
    scores = build.op("MatMul", query, build.op("Transpose", key, perm=[0, 1, 3, 2]))
    if mask is not None:
        scores = build.op("Add", scores, mask)
    return build.op("MatMul", build.op("Softmax", scores, axis=-1), value)


def test_one_host_region_before_between_and_behind() -> None:
    model = bert_like_model(layers=3)
    partitioned = cut(model, SIZES)
    kinds = [
        "host" if isinstance(item, HostRegion) else "attention" for item in partitioned.regions
    ]
    assert kinds == ["host", "attention"] * 3 + ["host"]
    assert [region.name for region in host_regions(partitioned)] == [f"host.{i}" for i in range(4)]
    assert "Transpose" not in host_ops(partitioned)
    assert_same_meaning(model, partitioned)


def test_host_regions_are_models_of_their_own() -> None:
    for region in host_regions(cut(bert_like_model(), SIZES)):
        proto = ir.to_proto(region.model)
        onnx.checker.check_model(proto, full_check=True)
        assert tuple(item.name for item in proto.graph.input) == region.inputs
        assert tuple(item.name for item in proto.graph.output) == region.outputs
        assert len(proto.graph.node) == region.num_nodes
        assert [(item.domain, item.version) for item in proto.opset_import] == [("", 17)]


def test_every_value_at_a_border_is_known() -> None:
    partitioned = cut(bert_like_model(), SIZES)
    crossing = {name for region in partitioned.regions for name in region.inputs + region.outputs}
    assert crossing <= set(partitioned.values)
    assert partitioned.values["hidden"].shape == (2, 5, 12)
    assert [info.name for info in partitioned.inputs] == ["input_ids", "attention_mask"]
    assert [info.dtype for info in partitioned.outputs] == ["float32", "int64"]
    assert partitioned.dims == SIZES


def test_partition_leaves_the_model_and_repeats_itself() -> None:
    recognized = recognize_attention(prepare_model(load_model(bert_like_model(), SIZES)))
    before = ir.to_proto(recognized.model).SerializeToString(deterministic=True)

    def as_bytes() -> list[bytes]:
        regions = host_regions(partition(recognized.model))
        return [
            ir.to_proto(region.model).SerializeToString(deterministic=True) for region in regions
        ]

    assert as_bytes() == as_bytes()
    assert ir.to_proto(recognized.model).SerializeToString(deterministic=True) == before


def test_without_attention_there_is_one_host_region() -> None:
    build = GraphBuilder()
    build.op("Relu", build.input("x", (2, 3)), name="y")
    build.output("y", (2, 3))
    model = build.build()
    partitioned = cut(model)
    assert [region.name for region in partitioned.regions] == ["host.0"]
    assert_same_meaning(model, partitioned)


def test_attention_between_inputs_and_outputs_needs_no_host() -> None:
    model = decomposed_attention_model(Choices())
    partitioned = cut(model)
    assert host_regions(partitioned) == []
    assert [region.outputs for region in partitioned.regions] == [("y",)]


def test_attention_behind_attention_needs_no_host_between() -> None:
    build = GraphBuilder()
    key, value = build.input("k", (2, 3, 5, 6)), build.input("v", (2, 3, 5, 6))
    build.op(
        "Identity",
        attend(build, attend(build, build.input("q", SHAPE), key, value), key, value),
        name="y",
    )
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    assert len(attention_regions(partitioned)) == 2
    assert host_regions(partitioned) == []
    assert_same_meaning(model, partitioned)


def test_parts_that_do_not_touch_are_one_region() -> None:
    build = GraphBuilder()
    query = build.op("Relu", build.input("q", SHAPE))
    key = build.op("Neg", build.input("k", (2, 3, 5, 6)))
    build.op("Relu", attend(build, query, key, build.input("v", (2, 3, 5, 6))), name="y")
    build.output("y", SHAPE)
    build.op("Abs", build.input("z", (3,)), name="w")
    build.output("w", (3,))
    model = build.build()
    partitioned = cut(model)
    assert [region.num_nodes for region in host_regions(partitioned)] == [3, 1]
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("written", ["weight", "constant", "computed"])
def test_a_mask_that_is_constant_comes_from_a_host_region(written: str) -> None:
    build = GraphBuilder()
    array = np.arange(20, dtype=np.float32).reshape(4, 5) / 10
    mask = build.constant(array) if written == "constant" else build.weight("mask", array)
    if written == "computed":
        mask = build.op("Neg", mask)
    query, key = build.input("q", SHAPE), build.input("k", (2, 3, 5, 6))
    first = attend(build, query, key, build.input("v", (2, 3, 5, 6)), mask)
    build.op("Identity", attend(build, first, key, "v", mask), name="y")
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    masks = {region.mask for region in attention_regions(partitioned)}
    (host,) = host_regions(partitioned)
    assert masks == set(host.outputs)
    assert host.inputs == ()
    assert len(host.model.graph.initializers) == 1
    assert_same_meaning(model, partitioned)


def test_a_learned_query_keeps_its_name_as_a_weight() -> None:
    build = GraphBuilder()
    query = build.weight("latents", np.ones(SHAPE, np.float32))
    build.op(
        "Identity",
        attend(build, query, build.input("k", (2, 3, 5, 6)), build.input("v", (2, 3, 5, 6))),
        name="y",
    )
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    (host,) = host_regions(partitioned)
    (region,) = attention_regions(partitioned)
    assert list(host.model.graph.initializers) == ["latents"]
    assert region.query != "latents"
    assert_same_meaning(model, partitioned)


def test_what_constants_alone_make_is_copied_not_handed_over() -> None:
    """A transposed weight of the last layer must not be made in the first region and kept."""
    build = GraphBuilder()
    weight = build.weight("w", np.ones((6, 6), np.float32))
    turned = build.op("Transpose", weight, perm=[1, 0])
    query = build.op("MatMul", build.input("q", SHAPE), turned)
    context = attend(build, query, build.input("k", (2, 3, 5, 6)), build.input("v", (2, 3, 5, 6)))
    build.op("MatMul", context, turned, name="y")
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    for region in host_regions(partitioned):
        assert [node.op_type for node in region.model.graph] == ["Transpose", "MatMul"]
        assert turned not in region.inputs
    assert_same_meaning(model, partitioned)


def test_inputs_and_weights_may_be_outputs_and_outputs_may_repeat() -> None:
    build = GraphBuilder()
    x = build.input("x", (2, 3))
    weight = build.weight("w", np.ones((2, 3), np.float32))
    build.op("Add", x, weight, name="y")
    for name in ("y", "x", "w", "y"):
        build.output(name, (2, 3))
    model = build.build()
    partitioned = cut(model)
    assert [info.name for info in partitioned.outputs] == ["y", "x", "w", "y"]
    assert_same_meaning(model, partitioned)


def test_one_value_may_be_query_key_and_value_and_two_outputs() -> None:
    build = GraphBuilder()
    x = build.input("x", SHAPE)
    context = attend(build, x, x, x)
    for name in ("first", "second"):
        build.op("Identity", context, name=name)
        build.output(name, SHAPE)
    model = build.build()
    partitioned = cut(model)
    assert attention_regions(partitioned)[0].inputs == ("x", "x", "x")
    assert_same_meaning(model, partitioned)


def test_an_input_that_nothing_reads_stays_an_input() -> None:
    build = GraphBuilder()
    build.input("unread", (7,))
    build.op("Relu", build.input("x", (2, 3)), name="y")
    build.output("y", (2, 3))
    assert [info.name for info in cut(build.build()).inputs] == ["unread", "x"]


def branch(name: str, op_type: str, captured: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, list(SHAPE))
    node = helper.make_node(op_type, [captured], [f"{name}_out"], name=f"{name}_{op_type}")
    return helper.make_graph([node], name, [], [output])


def test_what_branches_capture_crosses_the_border() -> None:
    build = GraphBuilder()
    context = attend(
        build,
        build.input("q", SHAPE),
        build.input("k", (2, 3, 5, 6)),
        build.input("v", (2, 3, 5, 6)),
    )
    build.op(
        "If",
        build.input("flag", (), "bool"),
        name="y",
        then_branch=branch("then", "Relu", context),
        else_branch=branch("else", "Neg", context),
    )
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    (host,) = host_regions(partitioned)
    (region,) = attention_regions(partitioned)
    assert host.inputs == ("flag", region.output)
    assert_same_meaning(model, partitioned)


def test_attention_inside_a_branch_is_left_with_the_reason() -> None:
    build = GraphBuilder()
    names = [
        build.input("q", SHAPE),
        build.input("k", (2, 3, 5, 6)),
        build.input("v", (2, 3, 5, 6)),
    ]
    nodes = [
        helper.make_node("Transpose", [names[1]], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", [names[0], "kt"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], name="inner", axis=-1),
        helper.make_node("MatMul", ["p", names[2]], ["then_out"]),
    ]
    output = helper.make_tensor_value_info("then_out", TensorProto.FLOAT, list(SHAPE))
    attending = helper.make_graph(nodes, "then", [], [output])
    flag = build.input("flag", (), "bool")
    build.op("If", flag, name="y", then_branch=attending, else_branch=branch("else", "Neg", "q"))
    build.output("y", SHAPE)
    model = build.build()
    partitioned = cut(model)
    (item,) = partitioned.not_taken
    assert (item.node, "inside a graph of If" in item.reason) == ("inner", True)
    assert_same_meaning(model, partitioned)


def test_a_size_that_depends_on_data_cannot_cross() -> None:
    build = GraphBuilder()
    build.op("NonZero", build.input("x", (2, 3)), name="y")
    build.output("y", (2, "found"), "int64")
    with pytest.raises(ModelError, match=r"value 'y' crosses .* with the shape"):
        cut(build.build())


def test_random_numbers_are_drawn_once() -> None:
    build = GraphBuilder()
    noise = build.op("RandomNormal", shape=list(SHAPE), dtype=TensorProto.FLOAT)
    context = attend(build, noise, build.input("k", (2, 3, 5, 6)), build.input("v", (2, 3, 5, 6)))
    build.op("Add", context, noise, name="y")
    build.output("y", SHAPE)
    partitioned = cut(build.build())
    assert host_ops(partitioned) == ["Add", "RandomNormal"]
