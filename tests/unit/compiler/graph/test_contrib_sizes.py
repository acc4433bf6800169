"""Several of onnxruntime's operators in one model, and what stands between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops
from support.onnx_models import GraphBuilder
from support.partition_executor import make_session

from hocket.compiler.graph.contrib.sizes import find_sizes

BATCH, ROWS, HIDDEN = 2, 5, 12
CONTRIB = "com.microsoft"


def weight(build: GraphBuilder, name: str, *shape: int) -> str:
    rng = np.random.default_rng(len(name))
    return build.weight(name, rng.normal(scale=0.5, size=shape).astype(np.float32))


def encoder(layers: int) -> onnx.ModelProto:
    """Return layers as onnxruntime's optimizer writes them, of which ONNX infers no sizes."""
    build = GraphBuilder(17)
    state = build.input("x", ("batch", "rows", HIDDEN))
    mask = build.input("mask", ("batch", "rows"), "int32")
    for layer in range(layers):
        names = [f"layer.{layer}.{part}" for part in ("qkv", "qkv_bias", "gamma", "up", "bias")]
        qkv, qkv_bias = weight(build, names[0], HIDDEN, 36), weight(build, names[1], 36)
        gamma, up = weight(build, names[2], HIDDEN), weight(build, names[3], HIDDEN, HIDDEN)
        bias = weight(build, names[4], HIDDEN)
        heads = {"domain": CONTRIB, "num_heads": 3}
        context = build.op("Attention", state, qkv, qkv_bias, mask, **heads)
        # As exporters keep the shape of what they reshape.
        context = build.shaped(context, f"{context}:0", f"{context}:1", HIDDEN)
        normed = build.op("SkipLayerNormalization", context, state, gamma, domain=CONTRIB)
        wide = build.op("BiasGelu", build.op("MatMul", normed, up), bias, domain=CONTRIB)
        state = build.op("SkipLayerNormalization", wide, normed, gamma, domain=CONTRIB)
    build.op("Identity", state, name="y")
    build.output("y", ("batch", "rows", HIDDEN))
    return build.build(com_microsoft=1)


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_every_layer_is_found(layers: int) -> None:
    model = encoder(layers)
    partitioned = cut(model, {"batch": BATCH, "rows": ROWS})
    assert len(attention_regions(partitioned)) == layers
    assert partitioned.not_taken == ()
    # The mask is made once.
    assert [op for op in host_ops(partitioned) if op == "Where"] == ["Where"]
    assert_same_meaning(model, partitioned, tolerance=1e-4)


def test_the_next_token_as_exporters_ask_for_it() -> None:
    build = GraphBuilder(17)
    packed = build.input("qkv", ("batch", 1, 8 * 16))
    mask = build.input("attention_mask", ("batch", "total"), "int64")
    past = [build.input(f"past_{side}", ("batch", 2, "past", 16)) for side in ("key", "value")]
    one = build.constant([1], "int64")
    counts = build.op("Sub", build.op("ReduceSum", mask, one, keepdims=0), one)
    lengths = build.op("Cast", counts, to=onnx.TensorProto.INT32)
    size = build.op("Gather", build.op("Shape", mask), build.constant(1, "int64"), axis=0)
    total = build.op("Cast", size, to=onnx.TensorProto.INT32)
    build.op(
        "GroupQueryAttention",
        packed,
        "",
        "",
        *past,
        lengths,
        total,
        domain=CONTRIB,
        num_heads=4,
        kv_num_heads=2,
        name="y",
    )
    build.output("y", ("batch", 1, 64))
    model = build.build(com_microsoft=1)
    # Without these, onnxruntime 1.32 reads past the end of the new keys, not the past.
    model.graph.node[-1].output.extend(["present_key", "present_value"])
    partitioned = cut(model, {"batch": BATCH, "total": 7, "past": 6})
    (region,) = attention_regions(partitioned)
    assert (region.problem.kv_length, region.problem.group_size) == (7, 2)
    rng = np.random.default_rng(0)
    feeds = {
        "qkv": rng.normal(size=(BATCH, 1, 128)).astype(np.float32),
        "attention_mask": np.array([[1] * 7, [1] * 4 + [0] * 3]),
        "past_key": rng.normal(size=(BATCH, 2, 6, 16)).astype(np.float32),
        "past_value": rng.normal(size=(BATCH, 2, 6, 16)).astype(np.float32),
    }
    assert_same_meaning(model, partitioned, feeds=feeds)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


IDS = np.arange(BATCH * ROWS, dtype=np.int32).reshape(BATCH, ROWS)
STATE, SKIP, GAMMA = floats(BATCH, ROWS, HIDDEN), floats(BATCH, ROWS, HIDDEN), floats(HIDDEN)
OPERATORS: dict[str, tuple[list[np.ndarray], int, dict[str, Any]]] = {
    "BiasGelu": ([STATE, GAMMA], 1, {}),
    "DynamicQuantizeMatMul": ([STATE, np.ones((HIDDEN, 7), np.int8), floats(1)], 1, {}),
    "EmbedLayerNormalization": (
        [IDS, IDS * 0, floats(20, 8), floats(9, 8), floats(2, 8), floats(8), floats(8), IDS],
        3,
        {},
    ),
    "FastGelu": ([STATE], 1, {}),
    "Gelu": ([STATE], 1, {}),
    "MatMulIntegerToFloat": (
        [STATE.astype(np.int8).view(np.uint8), np.ones((HIDDEN, 7), np.int8), floats(1), floats(1)],
        1,
        {},
    ),
    "MultiHeadAttention": ([STATE, SKIP, floats(BATCH, ROWS, 6)], 1, {"num_heads": 3}),
    "QuickGelu": ([STATE], 1, {}),
    "SkipLayerNormalization": ([STATE, SKIP, GAMMA], 4, {}),
    "SkipSimplifiedLayerNormalization": ([STATE, SKIP, GAMMA], 4, {}),
}


@pytest.mark.parametrize("op_type", OPERATORS)
def test_sizes_are_those_onnxruntime_gives(op_type: str) -> None:
    arrays, num_outputs, attributes = OPERATORS[op_type]
    inputs = [f"in.{index}" for index in range(len(arrays))]
    outputs = [f"out.{index}" for index in range(num_outputs)]
    if num_outputs == 4:
        outputs[1] = outputs[2] = ""  # mean and deviation, which no CPU gives
    node = helper.make_node(op_type, inputs, outputs, domain=CONTRIB, **attributes)
    types = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, kind, array.shape)
            for name, kind, array in zip(inputs, types, arrays, strict=True)
        ],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
            for name in outputs
            if name
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model = ir.from_proto(proto)
    (made,) = model.graph
    for value in made.outputs:
        value.shape = value.type = None
    find_sizes(made, model.opset_imports)
    for item in proto.graph.output:
        item.ClearField("type")
    expected = make_session(proto.SerializeToString()).run(
        None, dict(zip(inputs, arrays, strict=True))
    )
    found = [value for value in made.outputs if value.name]
    for value, array in zip(found, expected, strict=True):
        assert value.shape is not None
        assert tuple(value.shape.numpy()) == array.shape, value.name
        assert value.dtype is not None
        assert value.dtype.numpy() == array.dtype, value.name
