"""Modules for any size of models with operators that are written out, or left to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import pytest
from support.contrib_models import contrib_model
from support.onnx_models import GraphBuilder, random_feeds
from support.partition_executor import run_model, run_reference

import hocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.module import CompiledModule

DOUBLE = int(onnx.TensorProto.DOUBLE)


def assert_same(
    module: CompiledModule,
    model: onnx.ModelProto,
    run: Callable[..., list[np.ndarray]] = run_model,
    **sizes: int,
) -> None:
    feeds = random_feeds(model, **sizes)
    if "lengths" in feeds:
        feeds["lengths"] = np.maximum(feeds["lengths"] * sizes["columns"], 1)
    found = module.session(intra_op_num_threads=1).run(None, feeds)
    for mine, theirs in zip(found, run(model, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def standard_model(opset: int, rank: int, *, past: bool, mask: str) -> onnx.ModelProto:
    """Write an Attention whose scores no kernel computes as precisely as it asks for."""
    build = GraphBuilder(opset)

    def operand(name: str, heads: int, rows: str) -> str:
        shape = ("batch", rows, heads * 8) if rank == 3 else ("batch", heads, rows, 8)
        return build.input(name, shape)

    inputs = [operand("q", 4, "rows"), operand("k", 2, "columns"), operand("v", 2, "columns")]
    total = "past + columns" if past else "columns"
    inputs.append(build.input("mask", ("rows", total), mask) if mask else "")
    if past:
        inputs += [build.input(name, ("batch", 2, "past", 8)) for name in ("past_k", "past_v")]
    elif opset > 23:
        inputs += ["", "", build.input("lengths", ("batch",), "int64")]
    heads = {"q_num_heads": 4, "kv_num_heads": 2} if rank == 3 else {}
    windows = {"left_window_size": 3, "right_window_size": 2} if opset > 24 else {}
    build.op("Attention", *inputs, name="y", softmax_precision=DOUBLE, **heads, **windows)
    build.output("y", (None,) * rank)
    return build.build()


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize(
    ("opset", "rank", "mask"), [(23, 3, "bool"), (24, 4, "float32"), (25, 3, "")]
)
def test_a_standard_attention_left_to_the_host(
    opset: int, rank: int, mask: str, past: bool
) -> None:
    model = standard_model(opset, rank, past=past, mask=mask)
    spans = dict.fromkeys(["batch", "rows", "columns", *["past"] * past], (1, 32))
    module = hocket.compile(model, dims=spans, num_threads=1)
    assert module.artifact.attention_steps == ()
    (left,) = module.artifact.left_to_host
    assert "softmax_precision DOUBLE is not compiled yet" in left.reason
    for rows, columns in ((1, 1), (4, 9)):
        sizes = {"batch": 2, "rows": rows, "columns": columns, "past": 3}
        total = {"past + columns": columns + 3}
        assert_same(module, model, run_reference, **sizes, **total)


LAYER = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft": 1, "local": 1]>
stack (float[batch, length, 32] x, int32[batch, length] padding) => (float[batch, length, 32] y)
{
  a = local.layer(x, padding)
  y = local.layer(a, padding)
}
<domain: "local", opset_import: ["" : 17, "com.microsoft": 1]>
layer (x, padding) => (y)
{
  a = com.microsoft.MultiHeadAttention<num_heads=4, unidirectional=1>(x, x, x, , padding)
  one = Constant<value_float = 1.0>()
  width = Constant<value_ints = [32]>()
  scale = Expand(one, width)
  normal = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(a, x, scale)
  s = Shape(normal)
  y = Reshape(normal, s)
}
"""


def test_operators_in_functions_of_the_model() -> None:
    model = onnx.parser.parse_model(LAYER)
    module = hocket.compile(model, dims={"batch": (1, 8), "length": (1, 64)}, num_threads=1)
    assert module.artifact.left_to_host == ()
    forms = [step.form for step in module.artifact.attention_steps]
    assert len(forms) == 2
    assert all(form.startswith("com.microsoft::MultiHeadAttention written out") for form in forms)
    for batch, length in ((1, 1), (3, 20), (8, 64)):
        assert_same(module, model, batch=batch, length=length)


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the first two axes of all inputs of rank 3 names for sizes."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 3:
            dims[0].dim_param, dims[1].dim_param = "batch", "length"
    return model


def test_what_cannot_be_written_out_stays() -> None:
    arrays = {name: np.zeros((2, 5, 32), np.float32) for name in ("query", "key", "value")}
    model = opened(contrib_model("MultiHeadAttention", arrays, opset=10, num_heads=4))
    module = hocket.compile(model, dims={"batch": (1, 8), "length": (1, 64)}, num_threads=1)
    (left,) = module.artifact.left_to_host
    assert "in op set 10 it cannot be written out" in left.reason
    assert_same(module, model, batch=3, length=7)


def test_it_stays_where_what_it_is_written_out_as_depends_on_sizes() -> None:
    arrays = {name: np.zeros((2, 5, 32), np.float32) for name in ("query", "key", "value")}
    model = contrib_model("MultiHeadAttention", arrays, num_heads=1)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = "width"
    module = hocket.compile(model, dims={"width": (4, 400)}, num_threads=1)
    # The scale is a number that depends on the width.
    (left,) = module.artifact.left_to_host
    assert left.node == "layer.0/attention"
    assert "what it is written out as depends on their sizes" in left.reason
    assert_same(module, model, width=32)


GENERATOR = """
<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
decoder (float[batch, new, 32] q, float[batch, new, 16] k, float[batch, new, 16] v,
         int64[batch, total] mask,
         float[batch, 2, past, 8] past_k, float[batch, 2, past, 8] past_v)
    => (float[batch, new, 32] y, float[batch, 2, total, 8] present_k,
        float[batch, 2, total, 8] present_v)
<int64[1] axis = {1}, int64 one = {1}>
{
    counted = ReduceSum <keepdims = 0> (mask, axis)
    less = Sub (counted, one)
    lengths = Cast <to = 6> (less)
    sizes = Shape (mask)
    size = Gather (sizes, one)
    total_length = Cast <to = 6> (size)
    y, present_k, present_v = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>
        (q, k, v, past_k, past_v, lengths, total_length)
}
"""


def test_lengths_and_sizes_as_generators_write_them() -> None:
    """The mask has a name of its own for what is past and new together, and counts the rows."""
    model = onnx.parser.parse_model(GENERATOR)
    spans = {"batch": (1, 4), "new": (1, 16), "past": (1, 32), "total": "past + new"}
    module = hocket.compile(model, dims=spans, num_threads=1)
    assert len(module.artifact.attention_steps) == 1
    for batch, new, past in ((1, 1, 9), (1, 5, 3), (3, 1, 30)):
        feeds = random_feeds(model, batch=batch, new=new, past=past, total=past + new)
        feeds["mask"] = np.ones_like(feeds["mask"])
        found = module.session(intra_op_num_threads=1).run(None, feeds)
        for mine, theirs in zip(found, run_model(model, feeds), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-5)
