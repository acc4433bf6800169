"""Reading constants and readers off the graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut
from support.onnx_models import GraphBuilder

from hocket.compiler.graph.values import (
    constant_array,
    only_reader,
    static_shape,
    uniform_constant,
    values_read,
)


def constant(array: Any) -> ir.Value:
    node = ir.node("Constant", [], {"value": ir.tensor(np.asarray(array))})
    return node.outputs[0]


@pytest.mark.parametrize(
    ("array", "number"),
    [
        (np.float32(2.5), 2.5),
        (np.full((3, 4), -np.inf, np.float32), -math.inf),
        (np.array([[7]], np.int64), 7.0),
        (np.array([True, True]), 1.0),
        (np.array([1.0, 2.0]), None),
        (np.array([np.nan]), None),
        (np.zeros((0, 3)), None),
    ],
)
def test_the_one_number_of_a_constant(array: Any, number: float | None) -> None:
    assert uniform_constant(constant(array)) == number


def test_a_number_is_found_behind_expand_and_constant_of_shape() -> None:
    shape = constant(np.array([2, 3]))
    filled = ir.node("ConstantOfShape", [shape], {"value": ir.tensor(np.float32([-9.0]))})
    assert uniform_constant(filled.outputs[0]) == -9.0
    assert uniform_constant(ir.node("ConstantOfShape", [shape]).outputs[0]) == 0.0
    expanded = ir.node("Expand", [constant(np.float32(4.0)), shape])
    assert uniform_constant(expanded.outputs[0]) == 4.0


def test_inputs_and_results_are_no_constants() -> None:
    value = ir.val("x", ir.DataType.FLOAT, [2])
    for candidate in (None, value, ir.node("Relu", [value]).outputs[0]):
        assert constant_array(candidate) is None
        assert uniform_constant(candidate) is None


def test_a_symbolic_size_is_no_size() -> None:
    assert static_shape(ir.val("x", shape=[2, 3])) == (2, 3)
    assert static_shape(ir.val("x", shape=[2, "n"])) is None
    assert static_shape(ir.val("x")) is None
    assert static_shape(None) is None


def test_captured_values_are_read() -> None:
    inner_of = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2] x, float[2] z) => (float[2] y) {
            t = Relu (x)
            y = If (c) <then_branch = a () => (float[2] u) { u = Neg (t) },
                        else_branch = b () => (float[2] w) { w = Add (t, z) }>
        }"""
    )
    graph = ir.from_proto(inner_of).graph
    _, branching = graph
    assert [value.name for value in values_read(branching)] == ["c", "t", "z"]
    assert only_reader(graph.node(0).outputs[0]) is None


def test_a_mask_value_filled_by_the_graph_is_seen() -> None:
    """masked_fill as exporters write it, with a tensor of the fill value as large as the scores."""
    build = GraphBuilder()
    q, k = build.input("q", (2, 40, 50, 6)), build.input("k", (2, 40, 6, 50))
    scores = build.op("MatMul", q, k)
    fill = build.op("Expand", build.constant(-1e9), build.op("Shape", scores))
    masked = build.op("Where", build.input("mask", (50, 50), "bool"), scores, fill)
    v = build.input("v", (2, 40, 50, 7))
    build.op("MatMul", build.op("Softmax", masked, axis=-1), v, name="y")
    build.output("y", (2, 40, 50, 7))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert region.problem.masked_value == np.float32(-1e9)
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize("opset", [11, 13])
def test_dropout_for_inference_is_nothing(opset: int) -> None:
    build = GraphBuilder(opset)
    scores = build.op("MatMul", build.input("q", (2, 4, 6)), build.input("k", (2, 6, 5)))
    kept = build.op("Dropout", build.op("Softmax", scores, axis=-1))
    build.op("MatMul", kept, build.input("v", (2, 5, 7)), name="y")
    build.output("y", (2, 4, 7))
    model = build.build()
    partitioned = cut(model)
    assert len(attention_regions(partitioned)) == 1
    assert_same_meaning(model, partitioned)
