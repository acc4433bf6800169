"""Onnxruntime's attention operators in modules for any size: its own numbers, at all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.contrib_models import Arrays, contrib_model
from support.onnx_models import random_feeds
from support.partition_executor import run_model

import hocket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.module import CompiledModule

# What the arrays that a model is made with have for sizes; each names a dimension.
SIZES = {"batch": 2, "rows": 3, "length": 5, "past": 7}
HEADS, COLUMNS = 4, 16
LOWEST = float(np.finfo(np.float32).min)

# Scores of float32 near a filler of -60 have five digits behind the point.
TOLERANCE = 1e-4

# Compiling takes a second, too long to look for a smaller example in.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

Shape = tuple[str | int, ...]


def size(axis: str | int) -> int:
    """Return the size of an axis, which may be a sum of dimensions."""
    if isinstance(axis, int):
        return axis
    return sum(SIZES[name] for name in axis.split(" + "))


def make(
    op_type: str, shapes: Mapping[str, Shape], dtypes: Mapping[str, Any], **choices: Any
) -> onnx.ModelProto:
    """Return a model of one operator, the axes of whose inputs have names for sizes."""
    arrays: Arrays = {
        name: np.zeros([size(axis) for axis in shape], dtypes.get(name, np.float32))
        for name, shape in shapes.items()
    }
    rng = np.random.default_rng(0)
    for name in choices.get("constants", ()):
        drawn = rng.normal(size=arrays[name].shape)
        # Weights that keep the size of what they multiply: larger ones make scores of hundreds,
        # whose probabilities float32 gives to three digits only.
        drawn /= np.sqrt(drawn.shape[0] if drawn.ndim > 1 else 1)
        arrays[name] = drawn.astype(np.float32)
    model = contrib_model(op_type, arrays, **choices)
    for value in model.graph.input:
        for dim, axis in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if isinstance(axis, str):
                dim.dim_param = axis
    return model


def compile_open(model: onnx.ModelProto) -> CompiledModule:
    """Compile a model for any size, and see that its attention is a kernel's."""
    labels = {
        dim.dim_param for each in model.graph.input for dim in each.type.tensor_type.shape.dim
    }
    spans = {name: (1, 64) for name in SIZES if any(name in label for label in labels)}
    module = hocket.compile(model, dims=spans, num_threads=1)
    assert module.artifact.left_to_host == ()
    assert len(module.artifact.attention_steps) == 1
    return module


def feeds_of(model: onnx.ModelProto, seed: int, sizes: Mapping[str, int]) -> Arrays:
    sums = {
        "past + rows": sizes["past"] + sizes["rows"],
        "past + length": sizes["past"] + sizes["length"],
    }
    return random_feeds(model, seed, **sizes, **sums)


def assert_same(module: CompiledModule, model: onnx.ModelProto, feeds: Arrays) -> None:
    found = module.session(intra_op_num_threads=1).run(None, feeds)
    for mine, theirs in zip(found, run_model(model, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def draw_sizes(data: st.DataObject) -> dict[str, int]:
    return {name: data.draw(st.integers(1, 9), label=name) for name in SIZES}


@st.composite
def multi_head(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a model of a MultiHeadAttention."""
    form = draw(st.sampled_from(["three", "split", "past"]))
    width = HEADS * COLUMNS
    shapes: dict[str, Shape] = {"query": ("batch", "rows", width)}
    length = "length"
    if form == "split":
        shapes |= dict.fromkeys(("key", "value"), ("batch", HEADS, "length", COLUMNS))
    else:
        shapes |= dict.fromkeys(("key", "value"), ("batch", "length", width))
    constants = []
    if form != "split" and draw(st.booleans()):
        shapes["bias"] = (3 * width,)
        constants.append("bias")
    if form == "past":
        shapes |= dict.fromkeys(("past_key", "past_value"), ("batch", HEADS, "past", COLUMNS))
        length = "past + length"
    padding = draw(st.sampled_from(["none", "lengths", "keys", "rows"]))
    if padding != "none":
        forms: dict[str, Shape] = {
            "lengths": ("batch",),
            "keys": ("batch", length),
            "rows": ("batch", "rows", length),
        }
        shapes["key_padding_mask"] = forms[padding]
    if draw(st.booleans()):
        first = draw(st.sampled_from([1, "batch"]))
        shapes["attention_bias"] = (first, draw(st.sampled_from([1, HEADS])), "rows", length)
    return make(
        "MultiHeadAttention",
        shapes,
        {"key_padding_mask": np.int32},
        constants=constants,
        opset=draw(st.sampled_from([11, 12, 13, 17, 23])),
        outputs=("output", "present_key", "present_value")[: 3 if form == "past" else 1],
        num_heads=HEADS,
        unidirectional=draw(st.integers(0, 1)),
        mask_filter_value=draw(st.sampled_from([-60.0, LOWEST])),
    )


@settings(max_examples=10, phases=PHASES)
@given(multi_head(), st.data())
def test_multi_head(model: onnx.ModelProto, data: st.DataObject) -> None:
    module = compile_open(model)
    for seed in range(3):
        assert_same(module, model, feeds_of(model, seed, draw_sizes(data)))


@st.composite
def packed_weights(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a model of an Attention."""
    width = HEADS * COLUMNS
    shapes: dict[str, Shape] = {
        "input": ("batch", "rows", width),
        "weights": (width, 3 * width),
        "bias": (3 * width,),
    }
    length = "rows"
    if draw(st.booleans()):
        shapes["past"] = (2, "batch", HEADS, "past", COLUMNS)
        length = "past + rows"
    padding = draw(st.sampled_from(["none", "keys", "rows"]))
    if padding == "keys":
        shapes["mask_index"] = ("batch", length)
    elif padding == "rows":
        shapes["mask_index"] = ("batch", "rows", length)
    return make(
        "Attention",
        shapes,
        {"mask_index": np.int32},
        constants=("weights", "bias"),
        opset=draw(st.sampled_from([11, 13, 18])),
        outputs=("output", "present") if "past" in shapes else ("output",),
        num_heads=HEADS,
        unidirectional=draw(st.integers(0, 1)),
        mask_filter_value=-60.0,
    )


@settings(max_examples=6, phases=PHASES)
@given(packed_weights(), st.data())
def test_packed_weights(model: onnx.ModelProto, data: st.DataObject) -> None:
    module = compile_open(model)
    for seed in range(3):
        assert_same(module, model, feeds_of(model, seed, draw_sizes(data)))


@st.composite
def grouped(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a model of a GroupQueryAttention, whose total length is that of a mask."""
    has_past = draw(st.booleans())
    total = "past + rows" if has_past else "rows"
    kv_heads = draw(st.sampled_from([1, 2, HEADS]))
    shapes: dict[str, Shape] = {
        "query": ("batch", "rows", HEADS * COLUMNS),
        "key": ("batch", "rows", kv_heads * COLUMNS),
        "value": ("batch", "rows", kv_heads * COLUMNS),
        "seqlens_k": ("batch",),
        "total_sequence_length": (),
    }
    constants = []
    if has_past:
        names = ("past_key", "past_value")
        shapes |= dict.fromkeys(names, ("batch", kv_heads, "past", COLUMNS))
    do_rotary = draw(st.integers(0, 1))
    if do_rotary:
        shapes |= dict.fromkeys(("cos_cache", "sin_cache"), (64 * 2, COLUMNS // 2))
        constants = ["cos_cache", "sin_cache"]
    if draw(st.booleans()):
        shapes["attention_bias"] = (draw(st.sampled_from([1, "batch"])), 1, "rows", total)
    model = make(
        "GroupQueryAttention",
        shapes,
        {"seqlens_k": np.int32, "total_sequence_length": np.int32},
        constants=constants,
        opset=draw(st.sampled_from([11, 13, 18, 23])),
        outputs=("output", "present_key", "present_value"),
        num_heads=HEADS,
        kv_num_heads=kv_heads,
        do_rotary=do_rotary,
        local_window_size=draw(st.sampled_from([-1, 3])),
    )
    return with_total_of_a_mask(model, total)


def with_total_of_a_mask(model: onnx.ModelProto, total: str) -> onnx.ModelProto:
    """Compute the total length of a GroupQueryAttention from the shape of an input."""
    (value,) = (each for each in model.graph.input if each.name == "total_sequence_length")
    model.graph.input.remove(value)
    mask = helper.make_tensor_value_info("mask", onnx.TensorProto.INT64, ["batch", total])
    model.graph.input.append(mask)
    nodes = [
        helper.make_node("Shape", ["mask"], ["mask_shape"]),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array(1))),
        helper.make_node("Gather", ["mask_shape", "one"], ["wide_total"]),
        helper.make_node(
            "Cast", ["wide_total"], ["total_sequence_length"], to=onnx.TensorProto.INT32
        ),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


@settings(max_examples=10, phases=PHASES)
@given(grouped(), st.data())
def test_grouped(model: onnx.ModelProto, data: st.DataObject) -> None:
    module = compile_open(model)
    has_past = any(value.name == "past_key" for value in model.graph.input)
    for seed in range(3):
        sizes = draw_sizes(data)
        if has_past and sizes["rows"] > 1:
            sizes["batch"] = 1  # onnxruntime takes no more of several rows behind a past
        total = sizes["rows"] + (sizes["past"] if has_past else 0)
        feeds = feeds_of(model, seed, sizes)
        feeds["seqlens_k"] = np.full(sizes["batch"], total - 1, np.int32)
        if has_past and sizes["rows"] == 1:
            rng = np.random.default_rng(seed)
            feeds["seqlens_k"] = rng.integers(0, total, sizes["batch"]).astype(np.int32)
        assert_same(module, model, feeds)


def each_batch_alone(
    model: onnx.ModelProto, feeds: Arrays, run: Callable[[onnx.ModelProto, Arrays], list[Any]]
) -> list[np.ndarray]:
    """Run each batch by itself and put the outputs side by side."""
    (batch,) = feeds["seqlens_k"].shape
    several = [
        run(model, {name: array[number : number + 1] for name, array in feeds.items()})
        for number in range(batch)
    ]
    return [np.concatenate(parts) for parts in zip(*several, strict=True)]


def test_several_rows_behind_several_pasts() -> None:
    shapes: dict[str, Shape] = {
        "query": ("batch", "rows", HEADS * COLUMNS),
        "key": ("batch", "rows", 2 * COLUMNS),
        "value": ("batch", "rows", 2 * COLUMNS),
        "past_key": ("batch", 2, "past", COLUMNS),
        "past_value": ("batch", 2, "past", COLUMNS),
        "seqlens_k": ("batch",),
        "total_sequence_length": (),
    }
    dtypes = {"seqlens_k": np.int32, "total_sequence_length": np.int32}
    outputs = ("output", "present_key", "present_value")
    made = make(
        "GroupQueryAttention", shapes, dtypes, outputs=outputs, num_heads=HEADS, kv_num_heads=2
    )
    model = with_total_of_a_mask(made, "past + rows")
    feeds = feeds_of(model, 0, {"batch": 3, "rows": 4, "past": 6, "length": 1})
    feeds["seqlens_k"] = np.array([3, 6, 9], np.int32)
    found = compile_open(model).session(intra_op_num_threads=1).run(None, feeds)
    for mine, theirs in zip(found, each_batch_alone(model, feeds, run_model), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)
