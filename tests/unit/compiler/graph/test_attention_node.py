"""The node ``hocket::Attention`` holds a problem without loss."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from hocket.compiler.graph.attention_node import (
    Layouts,
    is_attention_node,
    layouts_from_node,
    make_node,
    problem_from_node,
    region_from_node,
)
from hocket.compiler.problem import AttentionProblem, MaskedRows, MaskKind, ScoreRules
from hocket.hwmodels.dtypes import DType

LAYOUTS = Layouts("bnhd", "bhnd", "bnhd", "bnhd")
PROBLEM = AttentionProblem(
    batch=2,
    query_heads=6,
    kv_heads=3,
    query_length=4,
    kv_length=5,
    head_dim=8,
    value_dim=7,
    dtype=DType.FLOAT32,
    scale=1.0 / math.sqrt(3.0),
    mask=MaskKind.BOOLEAN,
    mask_shape=(2, 1, 1, 5),
    masked_value=-1e4,
    masked_rows=MaskedRows.ZERO,
    is_causal=True,
    rules=ScoreRules(
        query_offset=-3, left_window=2, softcap=0.1, has_kv_lengths=True, counts_from_end=True
    ),
)


def values(count: int) -> list[ir.Value]:
    return [ir.val(f"x{index}") for index in range(count)]


def node(count: int = 5, output_shape: tuple[int, ...] = (2, 4, 42)) -> ir.Node:
    inputs = values(count)
    return make_node(
        PROBLEM,
        LAYOUTS,
        inputs[:3],
        mask=inputs[3] if count > 3 else None,
        kv_lengths=inputs[4] if count > 4 else None,
        output_shape=output_shape,
        form="by hand",
        name="attn",
    )


def test_problem_and_layouts_come_back_equal() -> None:
    made = node()
    assert is_attention_node(made)
    assert problem_from_node(made) == PROBLEM
    assert layouts_from_node(made) == LAYOUTS


def test_the_output_has_type_and_shape() -> None:
    output = node().outputs[0]
    assert output.dtype == ir.DataType.FLOAT
    assert output.shape == [2, 4, 42]


def test_it_survives_being_written_to_bytes() -> None:
    made = node()
    made.outputs[0].name = "y"
    graph = ir.Graph(made.inputs, made.outputs, nodes=[made], opset_imports={"hocket": 1}, name="g")
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    (back,) = ir.from_proto(proto).graph
    assert problem_from_node(back) == PROBLEM


def test_a_region_names_its_values() -> None:
    made = node()
    made.outputs[0].name = "y"
    region = region_from_node(made)
    assert region.inputs == ("x0", "x1", "x2", "x3", "x4")
    assert (region.mask, region.kv_lengths) == ("x3", "x4")
    assert region.outputs == ("y",)
    assert (region.name, region.form, region.problem) == ("attn", "by hand", PROBLEM)


def test_inputs_and_output_must_go_with_the_problem() -> None:
    for count in (3, 4):
        with pytest.raises(ValueError, match="inputs of attention 'attn' do not go with"):
            node(count=count)
    with pytest.raises(ValueError, match="makes 336 elements"):
        node(output_shape=(2, 4, 41))
