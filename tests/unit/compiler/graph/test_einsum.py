"""Einsum as MatMul: the same numbers, and attention found behind it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6}


def einsum(equation: str) -> onnx.ModelProto:
    build = GraphBuilder()
    operands, _, output = equation.replace(" ", "").partition("->")
    names = []
    for index, labels in enumerate(operands.split(",")):
        names.append(build.input(f"x{index}", tuple(SIZES[label] for label in labels)))
    build.op("Einsum", *names, name="y", equation=equation)
    build.output("y", tuple(SIZES[label] for label in output))
    return build.build()


@pytest.mark.parametrize(
    ("equation", "ops"),
    [
        ("abcd,abde->abce", ["MatMul"]),
        ("abcd, abed -> abce", ["MatMul", "Transpose"]),
        ("cabd,eabd->abce", ["MatMul", "Transpose", "Transpose"]),
        ("aecd,abcd->acbe", ["MatMul", "Transpose", "Transpose"]),  # Keras
        ("acbe,aecd->abcd", ["MatMul", "Transpose", "Transpose"]),
        ("abc,acd->dba", ["MatMul", "Transpose", "Transpose", "Transpose"]),
    ],
)
def test_products_are_written_as_matmul(equation: str, ops: list[str]) -> None:
    model = einsum(equation)
    partitioned = cut(model)
    assert host_ops(partitioned) == ops
    assert_same_meaning(model, partitioned)


@pytest.mark.parametrize(
    "equation",
    [
        "ab,bc->ac",  # no batch
        "abc,abc->ab",  # no rows
        "abcd,bcde->abe",  # two inner axes
        "abcd,ae->abcde",  # none
        "abc,acd->bd",  # summed over the batch
    ],
)
def test_what_is_no_batch_of_products_is_left(equation: str) -> None:
    model = einsum(equation)
    partitioned = cut(model)
    assert host_ops(partitioned) == ["Einsum"]
    assert_same_meaning(model, partitioned)


def test_an_ellipsis_and_one_operand_are_left() -> None:
    for equation, inputs in (("...ab,...bc->...ac", 2), ("abc->acb", 1)):
        build = GraphBuilder()
        shapes = [(4, 2, 3), (4, 3, 5)][:inputs]
        names = [build.input(f"x{index}", shape) for index, shape in enumerate(shapes)]
        build.op("Einsum", *names, name="y", equation=equation)
        build.output("y", (4, 2, 5) if inputs == 2 else (4, 3, 2))
        assert host_ops(cut(build.build())) == ["Einsum"]


def test_a_tensor_times_itself_is_left() -> None:
    build = GraphBuilder()
    x = build.input("x", (2, 3, 3))
    build.op("Einsum", x, x, name="y", equation="abc,acd->abd")
    build.output("y", (2, 3, 3))
    model = build.build()
    partitioned = cut(model)
    assert host_ops(partitioned) == ["Einsum"]
    assert_same_meaning(model, partitioned)


def test_attention_written_with_einsum_is_found() -> None:
    """As in XLNet, sequence first; the factor acts behind both terms of the scores."""
    build = GraphBuilder()
    rows, batch, heads, dim = 5, 2, 3, 4
    query, key, value = (build.input(name, (rows, batch, heads, dim)) for name in "qkv")
    content = build.op("Einsum", query, key, equation="ibnd,jbnd->bnij")
    scores = build.op("Add", content, build.input("position", (batch, heads, rows, rows)))
    scaled = build.op("Mul", scores, build.constant(0.5))
    probabilities = build.op("Softmax", scaled, axis=3)
    build.op("Einsum", probabilities, value, name="y", equation="bnij,jbnd->ibnd")
    build.output("y", (rows, batch, heads, dim))
    model = build.build()
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert (region.problem.batch, region.problem.query_heads) == (batch, heads)
    assert region.problem.scale == np.float32(0.5)
    assert_same_meaning(model, partitioned)
