"""Law of untrusted models: a damaged file gets an error or the right numbers, never a crash."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.onnx_models import Choices, bert_like_model, decomposed_attention_model, random_feeds
from support.partition_executor import run_model

import hocket
from hocket.compiler.errors import CompileError, InfeasibleError, ModelError
from hocket.hwmodels.errors import TargetError
from hocket.runtime.errors import ArtifactError, FeedError, HostStepError

SIZES = {"batch": 2, "length": 5}
ENCODER = bert_like_model(layers=1)
ATTENTION = decomposed_attention_model(Choices(projected=True, mask="keep"))
# Errors with a name; a CompileError is for what onnx's own checks let through.
REFUSALS = (ModelError, CompileError, InfeasibleError, ArtifactError, TargetError)


def check(content: bytes, dims: dict[str, int]) -> None:
    """Compile bytes; where that works and onnxruntime takes them, too, compare the numbers."""
    try:
        module = hocket.compile(content, dims=dims, num_threads=1)
    except REFUSALS:
        return
    model = onnx.load_from_string(content)
    feeds = {
        spec.name: array
        for spec, array in zip(module.inputs, random_feeds(model, **dims).values(), strict=False)
    }
    try:
        found = module.session(intra_op_num_threads=1).run(None, feeds)
    except (FeedError, HostStepError, ArtifactError):
        return
    try:
        wanted = run_model(model, feeds)
    except Exception:  # noqa: BLE001 - onnxruntime refuses what we folded away: no numbers to compare
        return
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4, equal_nan=True)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["encoder", "attention"]))
def test_flipped_bytes(data: st.DataObject, which: str) -> None:
    model, dims = (ENCODER, SIZES) if which == "encoder" else (ATTENTION, {})
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    check(bytes(content), dims)


@settings(max_examples=25)
@given(st.integers(0, len(ENCODER.SerializeToString())))
def test_a_file_cut_short(length: int) -> None:
    check(ENCODER.SerializeToString()[:length], SIZES)


@settings(max_examples=40)
@given(st.data())
def test_graphs_that_are_put_together_wrongly(data: st.DataObject) -> None:
    """Nodes in another order, with other inputs, of another type, left out."""
    model = onnx.ModelProto()
    model.CopyFrom(data.draw(st.sampled_from([ENCODER, ATTENTION])))
    nodes = model.graph.node
    names = [name for node in nodes for name in node.output]
    for _ in range(data.draw(st.integers(1, 3))):
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        change = data.draw(st.sampled_from(["input", "type", "drop", "swap", "attribute"]))
        if change == "input" and node.input:
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(
                st.sampled_from(names)
            )
        elif change == "type":
            node.op_type = data.draw(
                st.sampled_from(["Softmax", "MatMul", "Add", "Where", "Transpose", "Nonsense"])
            )
        elif change == "drop" and len(nodes) > 1:
            nodes.remove(node)
        elif change == "swap":
            other = nodes[data.draw(st.integers(0, len(nodes) - 1))]
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            node.CopyFrom(other)
            other.CopyFrom(kept)
        elif change == "attribute" and node.attribute:
            node.attribute[0].i = data.draw(st.integers(-3, 9))
    dims = SIZES if any(value.name == "input_ids" for value in model.graph.input) else {}
    check(model.SerializeToString(), dims)


@pytest.mark.parametrize("content", [b"", b"\x08", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04abc"])
def test_what_is_no_model(content: bytes) -> None:
    with pytest.raises(ModelError):
        hocket.compile(content)
