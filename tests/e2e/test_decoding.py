"""Making one token after the other: caches of fixed size, and steps that allocate no tensor."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from support.onnx_models import GraphBuilder

import hocket
from hocket.runtime.errors import FeedError

HEADS, KV_HEADS, CAPACITY, DIM = 8, 2, 64, 16


def decoder_step(capacity: int = CAPACITY) -> onnx.ModelProto:
    """Write a step: scatter the new rows into the cache, then attend to those that are valid."""
    cache, new = [1, KV_HEADS, capacity, DIM], [1, KV_HEADS, 1, DIM]
    query = [1, HEADS, 1, DIM]
    shapes = {"query": query, "new_key": new, "new_value": new, "keys": cache, "values": cache}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("place", "length")
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("y", query), ("all_keys", cache), ("all_values", cache))
    ]
    attention = ["query", "all_keys", "all_values", "", "", "", "length"]
    nodes = [
        helper.make_node("TensorScatter", ["keys", "new_key", "place"], ["all_keys"]),
        helper.make_node("TensorScatter", ["values", "new_value", "place"], ["all_values"]),
        helper.make_node("Attention", attention, ["y"], is_causal=1, name="attention"),
    ]
    graph = helper.make_graph(nodes, "step", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def test_steps_over_a_cache_of_fixed_size() -> None:
    """Keys and values are bound once, as inputs and outputs at the same time."""
    model = decoder_step()
    module = hocket.compile(model, num_threads=1)
    (step,) = module.artifact.attention_steps
    assert step.kv_lengths == "length"
    assert (step.parameters.query_heads, step.parameters.kv_heads) == (HEADS, KV_HEADS)
    session, reference = module.session(intra_op_num_threads=1), ReferenceEvaluator(model)
    rng = np.random.default_rng(0)
    keys, values = (np.zeros((1, KV_HEADS, CAPACITY, DIM), np.float32) for _ in range(2))
    query, y = (np.zeros((1, HEADS, 1, DIM), np.float32) for _ in range(2))
    new_key, new_value = (np.zeros((1, KV_HEADS, 1, DIM), np.float32) for _ in range(2))
    place, length = np.zeros(1, np.int64), np.zeros(1, np.int64)
    binding = session.io_binding()
    feeds = {"query": query, "new_key": new_key, "new_value": new_value, "keys": keys}
    feeds |= {"values": values, "place": place, "length": length}
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    written = {"y": y, "all_keys": keys, "all_values": values}
    for name, array in written.items():
        binding.bind_output(name, array)
    for token in range(20):
        for array in (query, new_key, new_value):
            array[...] = rng.standard_normal(array.shape, np.float32)
        place[0], length[0] = token, token + 1
        wanted = reference.run(None, {name: array.copy() for name, array in feeds.items()})
        session.run_with_iobinding(binding)
        for found, right in zip(binding.get_outputs(), wanted, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-5)
        assert binding.get_outputs()[0] is y


def test_a_step_allocates_no_tensor() -> None:
    module = hocket.compile(decoder_step(4096), num_threads=1)
    session = module.session(intra_op_num_threads=1)
    binding = session.io_binding()
    for spec in session.sized_inputs():
        binding.bind_cpu_input(spec.name, np.ones(spec.shape, spec.dtype.to_numpy()))
    for spec in module.outputs:
        binding.bind_output(spec.name, np.empty(spec.shape, spec.dtype.to_numpy()))
    session.run_with_iobinding(binding)
    tracemalloc.start()
    try:
        for _ in range(10):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            session.run_with_iobinding(binding)
            _, peak = tracemalloc.get_traced_memory()
            # The arrays bound have half a megabyte each; what is left are Python's own objects.
            assert peak - before < 16_000
    finally:
        tracemalloc.stop()


def test_arrays_that_cannot_be_written_to_are_named() -> None:
    session = hocket.compile(decoder_step(), num_threads=1).session()
    binding = session.io_binding()
    for spec in session.sized_inputs():
        binding.bind_cpu_input(spec.name, np.ones(spec.shape, spec.dtype.to_numpy()))
    shape = (1, HEADS, 1, DIM)
    for array, message in (
        (np.empty(shape), "'y': want float32 of shape"),
        (np.empty((2, *shape[1:]), np.float32), "'y': want float32 of shape"),
        (np.broadcast_to(np.float32(0), shape), "'y': want a writable, C-contiguous array"),
    ):
        binding.bind_output("y", array)
        with pytest.raises(FeedError, match=message):
            session.run_with_iobinding(binding)
    binding.clear_binding_outputs()
    binding.bind_output("z", np.empty(shape, np.float32))
    with pytest.raises(FeedError, match="no output 'z'"):
        session.run_with_iobinding(binding)
    with pytest.raises(FeedError, match="want a numpy array, got list"):
        binding.bind_output("y", [1.0])  # type: ignore[arg-type]


def scattering_step(operator: str) -> onnx.ModelProto:
    """Write a step as older op sets do: rows are scattered, a mask hides what is not filled yet."""
    build = GraphBuilder(18)
    cache, new = (1, HEADS, CAPACITY, DIM), (1, HEADS, 1, DIM)
    query, *rows = (build.input(name, new) for name in ("query", "new_key", "new_value"))
    place = build.op(
        "Reshape", build.input("place", (1,), "int64"), build.constant([1, 1, 1, 1], "int64")
    )
    caches = []
    for name, row in zip(("keys", "values"), rows, strict=True):
        past = build.input(name, cache)
        if operator == "ScatterElements":
            index = build.op("Expand", place, build.constant(new, "int64"))
            build.op(operator, past, index, row, axis=2, name=f"all_{name}")
        else:
            heads = np.zeros((1, HEADS, 1, 3), np.int64)
            heads[0, :, 0, 1] = np.arange(HEADS)
            along = build.op("Mul", place, build.constant([0, 0, 1], "int64"))
            index = build.op("Add", along, build.constant(heads, "int64"))
            build.op(operator, past, index, row, name=f"all_{name}")
        caches.append(build.output(f"all_{name}", cache))
    keep = build.op("LessOrEqual", build.constant(np.arange(CAPACITY), "int64"), place)
    scores = build.op("MatMul", query, build.op("Transpose", caches[0], perm=[0, 1, 3, 2]))
    scores = build.op("Where", keep, scores, build.constant(-np.inf))
    build.op("MatMul", build.op("Softmax", scores, axis=-1), caches[1], name="y")
    build.output("y", new)
    return build.build()


@pytest.mark.parametrize("operator", ["ScatterElements", "ScatterND"])
def test_rows_scattered_into_bound_caches(operator: str) -> None:
    """Only new rows are written, and keys are counted by what the mask is made of."""
    model = scattering_step(operator)
    module = hocket.compile(model, num_threads=1)
    (step,) = module.artifact.attention_steps
    assert step.kv_lengths is not None
    assert step.mask is None
    session, rng = module.session(intra_op_num_threads=1), np.random.default_rng(0)
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype.to_numpy()) for spec in module.inputs}
    # What was never written is no number: it would show in any key that is read before its time.
    for name in ("keys", "values"):
        feeds[name][...] = np.nan
    y = np.zeros((1, HEADS, 1, DIM), np.float32)
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in (("y", y), ("all_keys", feeds["keys"]), ("all_values", feeds["values"])):
        binding.bind_output(name, array)
    filled = {name: np.zeros((CAPACITY, HEADS, DIM), np.float32) for name in ("key", "value")}
    for token in range(12):
        for name in ("query", "new_key", "new_value"):
            feeds[name][...] = rng.standard_normal(feeds[name].shape, np.float32)
        feeds["place"][0] = token
        for name, rows in filled.items():
            rows[token] = feeds[f"new_{name}"][0, :, 0]
        session.run_with_iobinding(binding)
        keys, values = (rows[: token + 1] for rows in filled.values())
        powers = np.exp(np.einsum("hd,khd->hk", feeds["query"][0, :, 0], keys))
        weights = powers / powers.sum(axis=-1, keepdims=True)
        right = np.einsum("hk,khd->hd", weights, values)
        np.testing.assert_allclose(y[0, :, 0], right, atol=1e-5)
        np.testing.assert_array_equal(feeds["keys"][0, :, : token + 1], keys.transpose(1, 0, 2))
        assert np.isnan(feeds["keys"][0, :, token + 1 :]).all()
