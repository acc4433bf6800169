"""Ranges of integer inputs, read off what the model does with them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from support.graph_wing import cut
from support.onnx_models import GraphBuilder, bert_like_model


def range_of(build: GraphBuilder, name: str = "x") -> tuple[int, int] | None:
    ranges = {info.name: info.value_range for info in cut(build.build()).inputs}
    return ranges[name]


def gather(build: GraphBuilder, indices: str, rows: int, label: str, **attributes: int) -> str:
    table = build.weight(label, np.zeros((rows, 4), np.float32))
    return build.op("Gather", table, indices, **attributes)


def test_ids_and_mask_of_an_encoder() -> None:
    partitioned = cut(bert_like_model(vocabulary=20), {"batch": 1, "length": 3})
    assert [info.value_range for info in partitioned.inputs] == [(0, 20), (0, 2)]


def test_a_mask_that_is_only_cast_is_zero_or_one() -> None:
    build = GraphBuilder()
    mask = build.op("Unsqueeze", build.input("x", (2, 3), "int64"), build.constant([1], "int64"))
    build.op("Cast", mask, to=TensorProto.FLOAT, name="y")
    build.output("y", (2, 1, 3))
    assert range_of(build) == (0, 2)


def test_the_smallest_table_counts_through_reshapes_and_casts() -> None:
    build = GraphBuilder()
    ids = build.input("x", (6,), "int32")
    wide = build.shaped(build.op("Cast", ids, to=TensorProto.INT64), 2, 3)
    build.op("Add", gather(build, wide, 9, "a"), gather(build, wide, 7, "b"), name="y")
    build.output("y", (2, 3, 4))
    assert range_of(build) == (0, 7)


def test_the_axis_of_the_gather_counts() -> None:
    build = GraphBuilder()
    build.op("Identity", gather(build, build.input("x", (3,), "int64"), 9, "a", axis=1), name="y")
    build.output("y", (9, 3))
    assert range_of(build) == (0, 4)


def test_ids_that_are_also_compared_are_ids() -> None:
    build = GraphBuilder()
    ids = build.input("x", (3,), "int64")
    build.op("Equal", ids, build.constant(1, "int64"), name="is_padding")
    build.output("is_padding", (3,), "bool")
    build.op("Identity", gather(build, ids, 9, "a"), name="y")
    build.output("y", (3, 4))
    assert range_of(build) == (0, 9)


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_of_arithmetic_nothing_is_known(op_type: str) -> None:
    build = GraphBuilder()
    shifted = build.op(op_type, build.input("x", (3,), "int64"), build.constant(2, "int64"))
    build.op("Identity", gather(build, shifted, 9, "a"), name="y")
    build.output("y", (3, 4))
    assert range_of(build) is None


def test_floats_have_no_range() -> None:
    build = GraphBuilder()
    build.op("Cast", build.input("x", (3,)), to=TensorProto.BOOL, name="y")
    build.output("y", (3,), "bool")
    assert range_of(build) is None
