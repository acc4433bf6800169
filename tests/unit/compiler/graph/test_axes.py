"""Following named axes through Transpose and Reshape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.onnx_models import GraphBuilder

from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize.axes import (
    Axes,
    find_layout,
    find_source,
    find_target,
    scale_factor,
)

if TYPE_CHECKING:
    import onnx_ir as ir

AXES = Axes(b=2, h=3, n=4, d=5)


def producer_of_output(build: GraphBuilder) -> ir.Node:
    model = prepare_model(load_model(build.build()))
    node = model.graph.outputs[0].producer()
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("dimensions", "shape", "layout"),
    [
        (("b", "h", "n", "d"), (2, 3, 4, 5), "bhnd"),
        (("b", "n", "h", "d"), (2, 4, 3, 5), "bnhd"),
        (("b", "n", "hd"), (2, 4, 15), "bnhd"),
        (("b", "h", "d", "n"), (2, 3, 5, 4), None),
        (("bn", "hd"), (8, 15), None),
        (("bh", "n", "d"), (6, 4, 5), "bhnd"),
        (("n", "b", "hd"), (4, 2, 15), None),
    ],
)
def test_layouts_that_kernels_read(
    dimensions: tuple[str, ...], shape: tuple[int, ...], layout: str | None
) -> None:
    assert find_layout(AXES.groups(*dimensions), AXES, shape) == layout


def test_with_one_head_the_rank_three_form_is_found() -> None:
    axes = Axes(b=6, h=1, n=4, d=5)
    assert find_layout(axes.groups("b", "n", "hd"), axes, (6, 4, 5)) == "bnhd"


def source_of(build: GraphBuilder, *, scaled: bool = True) -> tuple[str | None, str, float]:
    """Return name, layout and scale of what is read instead of the output, seen as bhnd."""
    node = producer_of_output(build)
    found = find_source(node.outputs[0], AXES.groups("b", "h", "n", "d"), AXES, scaled=scaled)
    assert found is not None
    return found.value.name, found.layout, found.scale


def test_projection_is_read_behind_transpose_and_reshape() -> None:
    build = GraphBuilder()
    split = build.shaped(build.input("x", (2, 4, 15)), 2, 4, 3, 5)
    build.op("Transpose", split, perm=[0, 2, 1, 3], name="y")
    build.output("y", (2, 3, 4, 5))
    assert source_of(build) == ("x", "bnhd", 1.0)


def test_a_reshape_that_is_no_split_of_heads_is_not_passed() -> None:
    """[2, 3, 20] has the bytes of [2, 3, 4, 5], but not as rows of heads."""
    build = GraphBuilder()
    build.op("Identity", build.shaped(build.input("x", (2, 3, 20)), 2, 3, 4, 5), name="y")
    build.output("y", (2, 3, 4, 5))
    name, layout, _ = source_of(build)
    assert (name != "x", layout) == (True, "bhnd")


def test_flat_projections_are_read_where_they_get_their_batch() -> None:
    build = GraphBuilder()
    flat = build.input("x", (8, 15))
    split = build.shaped(build.shaped(flat, 2, 4, 15), 2, 4, 3, 5)
    build.op("Transpose", split, perm=[0, 2, 1, 3], name="y")
    build.output("y", (2, 3, 4, 5))
    name, layout, _ = source_of(build)
    assert layout == "bnhd"
    assert name != "x"


def test_rows_first_batches_are_read_where_they_are_turned() -> None:
    """[n, b, h * d], as nn.MultiheadAttention has it, is in no order that kernels read."""
    build = GraphBuilder()
    split = build.shaped(build.input("x", (4, 2, 15)), 4, 2, 3, 5)
    build.op("Transpose", split, perm=[1, 2, 0, 3], name="y")
    build.output("y", (2, 3, 4, 5))
    assert source_of(build)[:2] == ("y", "bhnd")


def test_factors_are_taken_out_on_the_way() -> None:
    build = GraphBuilder()
    halved = build.op("Div", build.input("x", (2, 4, 15)), build.constant(2.0))
    turned = build.op("Transpose", build.shaped(halved, 2, 4, 3, 5), perm=[0, 2, 1, 3])
    build.op("Mul", build.constant(3.0), turned, name="y")
    build.output("y", (2, 3, 4, 5))
    assert source_of(build) == ("x", "bnhd", 1.5)


def test_factors_of_the_value_stay() -> None:
    build = GraphBuilder()
    build.op("Mul", build.input("x", (2, 3, 4, 5)), build.constant(3.0), name="y")
    build.output("y", (2, 3, 4, 5))
    assert source_of(build, scaled=False) == ("y", "bhnd", 1.0)


def test_the_output_is_written_behind_transpose_and_reshape() -> None:
    build = GraphBuilder()
    x = build.input("x", (2, 3, 4, 5))
    product = build.op("Relu", x)
    turned = build.op("Transpose", product, perm=[0, 2, 1, 3])
    build.op("Relu", build.shaped(turned, 2, 4, 15), name="y")
    build.output("y", (2, 4, 15))
    graph = prepare_model(load_model(build.build())).graph
    start = next(node for node in graph if node.op_type == "Relu").outputs[0]
    target = find_target(start, AXES.groups("b", "h", "n", "d"), AXES)
    assert target is not None
    assert (target.layout, target.value.shape) == ("bnhd", [2, 4, 15])


def test_an_output_that_others_read_is_written_as_it_is() -> None:
    build = GraphBuilder()
    product = build.op("Relu", build.input("x", (2, 3, 4, 5)), name="product")
    build.output("product", (2, 3, 4, 5))
    build.op("Transpose", product, perm=[0, 2, 1, 3], name="y")
    build.output("y", (2, 4, 3, 5))
    start = prepare_model(load_model(build.build())).graph.outputs[0]
    target = find_target(start, AXES.groups("b", "h", "n", "d"), AXES)
    assert target is not None
    assert target.value is start


@pytest.mark.parametrize(
    ("op_type", "number", "is_left", "expected"),
    [
        ("Mul", 0.5, False, 0.5),
        ("Mul", 0.5, True, 0.5),
        ("Mul", [[0.5]], False, 0.5),
        ("Div", 4.0, False, 0.25),
        ("Div", 4.0, True, None),
        ("Mul", 0.0, False, None),
        ("Mul", math.inf, False, None),
        ("Mul", [0.5, 0.5, 0.5, 0.5, 0.5], False, None),
        ("Add", 0.5, False, None),
    ],
)
def test_which_nodes_are_factors(
    op_type: str, number: object, is_left: bool, expected: float | None
) -> None:
    build = GraphBuilder()
    x, factor = build.input("x", (2, 5)), build.constant(np.array(number))
    build.op(op_type, *((factor, x) if is_left else (x, factor)), name="y")
    build.output("y", (2, 5))
    found = scale_factor(producer_of_output(build))
    assert (found and found[1]) == expected
