"""Batches in the sizes that artifacts take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.training_cases import compiled

import hocket
from hocket.fl.backends.batching import (
    BatchSizes,
    at_own_size,
    filled,
    find_batch_sizes,
    size_for,
)
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import CapabilityError, ConfigError


@given(st.integers(1, 6), st.integers(1, 9))
def test_filling_adds_examples_that_do_not_count(count: int, size: int) -> None:
    pixels = np.arange(count * 2.0).reshape(count, 2)
    whole = filled(Examples({"pixels": pixels}, np.arange(count)), size, -100)
    assert len(whole) == max(count, size)
    np.testing.assert_array_equal(whole.inputs["pixels"][:count], pixels)
    np.testing.assert_array_equal(whole.targets[:count], np.arange(count))
    assert (whole.targets[count:] == -100).all()


def test_targets_of_tokens_are_filled_up_in_all_places() -> None:
    whole = filled(Examples({"ids": np.ones((1, 3))}, np.ones((1, 3), np.uint8)), 2, -7)
    np.testing.assert_array_equal(whole.targets, [[1, 1, 1], [-7, -7, -7]])


def test_batch_sizes_are_those_of_the_first_axes() -> None:
    assert find_batch_sizes(compiled("bert")) == BatchSizes(1, 8)
    fixed = find_batch_sizes(compiled("vit", least=8, most=8))
    assert fixed.is_fixed
    fixed.check(8)
    with pytest.raises(ConfigError, match=r"batch_size must be at most 8, got 9.* batches of 8"):
        fixed.check(9)


def test_an_artifact_is_sized_for_a_batch() -> None:
    artifact = compiled("vit")
    batch = Examples({"pixels": np.zeros((3, 3, 16, 16), np.float32)}, np.zeros(3, np.int64))
    sized = size_for(artifact, batch)
    assert sized.dims == (("batch", 3),)
    assert sized.signature.outputs[0].shape == (3, 5)
    assert sized == at_own_size(artifact, 3)
    assert at_own_size(artifact).dims != sized.dims


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (3, 3)), "first axes are .*2, 2.*3, 3.*; all must have the examples there"),
        (((2, 3), ()), "input 'b' is a scalar: it has no axis of examples"),
    ],
    ids=["different", "scalar"],
)
def test_inputs_without_a_batch_in_common_are_refused(
    shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("ab", shapes, strict=True)
    ]
    nodes = [
        helper.make_node("ReduceSum", ["b"], ["s"], keepdims=0),
        helper.make_node("Add", ["a", "s"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[0])
    graph = helper.make_graph(nodes, "two", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(CapabilityError, match=message):
        find_batch_sizes(hocket.compile(model).artifact)
