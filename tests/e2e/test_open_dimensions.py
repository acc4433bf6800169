"""One module for any length: the numbers of onnxruntime at every size, by API and command line."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.onnx_models import (
    Choices,
    GraphBuilder,
    bert_like_model,
    decomposed_attention_model,
    random_feeds,
)
from support.partition_executor import run_model

import hocket
from hocket.cli import app
from hocket.compiler.errors import ModelError
from hocket.runtime.artifact import Artifact
from hocket.runtime.errors import ArtifactError, FeedError
from hocket.runtime.resizing import Resizing
from hocket.runtime.sized import MAX_SHAPES

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.module import CompiledModule

# The small encoder has sixteen positions.
SPANS = {"batch": (1, 8), "length": (1, 16)}


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    return bert_like_model()


@pytest.fixture(scope="module")
def module(encoder: onnx.ModelProto) -> CompiledModule:
    return hocket.compile(encoder, dims=SPANS, num_threads=1)


def assert_same(module: CompiledModule, model: onnx.ModelProto, **sizes: int) -> None:
    feeds = random_feeds(model, **sizes)
    found = module.session(intra_op_num_threads=1).run(None, feeds)
    for mine, theirs in zip(found, run_model(model, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@settings(max_examples=12)
@given(st.integers(1, 8), st.integers(1, 16))
def test_any_size_gives_the_same_numbers(
    encoder: onnx.ModelProto, module: CompiledModule, batch: int, length: int
) -> None:
    assert_same(module, encoder, batch=batch, length=length)


def test_every_attention_is_taken(module: CompiledModule) -> None:
    assert len(module.artifact.attention_steps) == 2
    assert module.artifact.left_to_host == ()


def test_it_comes_back_from_its_file(
    encoder: onnx.ModelProto, module: CompiledModule, tmp_path: Path
) -> None:
    again = hocket.load(module.save(tmp_path / "open.hkt"))
    assert again.artifact == module.artifact
    assert again.artifact.resizing == module.artifact.resizing
    assert_same(again, encoder, batch=3, length=5)


def test_its_inputs_name_their_dimensions(module: CompiledModule) -> None:
    session = module.session()
    assert session.get_inputs()[0].shape == ("batch", "length")
    assert session.get_outputs()[0].shape == ("batch", "length", 12)
    (ids, mask) = session.sized_inputs({"length": 9})
    assert ids.shape == mask.shape == (1, 9)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 17), (2, 17)), "dimension 'length' must be 1 to 16, got 17"),
        (((2, 5), (2, 6)), "dimension 'length' is 6 there, but 5 at axis 1 of input 'input_ids'"),
        (((2,), (2, 6)), r"want \[batch, length\], got shape \[2\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    module: CompiledModule, shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    names = ("input_ids", "attention_mask")
    feeds = {name: np.zeros(shape, np.int64) for name, shape in zip(names, shapes, strict=True)}
    with pytest.raises(FeedError, match=message):
        module.session().run(None, feeds)


def test_a_dimension_that_is_not_open_has_no_sizes(module: CompiledModule) -> None:
    with pytest.raises(FeedError, match="no open dimension 'seq'; open are 'batch', 'length'"):
        module.session().sized_inputs({"seq": 3})
    with pytest.raises(FeedError, match="'length' must be 1 to 16, got 99"):
        module.session().sized_inputs({"length": 99})


def test_an_open_dimension_that_no_input_has_is_named(encoder: onnx.ModelProto) -> None:
    with pytest.raises(
        ModelError, match="no input has a dimension 'lenght'; did you mean 'length'"
    ):
        hocket.compile(encoder, dims={"batch": 1, "lenght": (1, 16)})


def test_plans_of_few_sizes_are_kept(module: CompiledModule) -> None:
    session = module.session(intra_op_num_threads=1)
    for length in range(1, 17):
        for batch in (1, 2):
            feeds = {
                spec.name: np.ones(spec.shape, np.int64)
                for spec in session.sized_inputs({"length": length, "batch": batch})
            }
            session.run(None, feeds)
    assert len(session._executors._made) == MAX_SHAPES


def test_one_open_dimension_beside_a_fixed_one(encoder: onnx.ModelProto) -> None:
    module = hocket.compile(encoder, dims={"batch": 2, "length": (2, 16)}, num_threads=1)
    assert module.session().get_inputs()[0].shape == (2, "length")
    assert_same(module, encoder, batch=2, length=11)


@settings(max_examples=15)
@given(
    st.sampled_from(["none", "product", "query", "both", "input"]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
)
def test_attention_written_out(scale: str, rows: int, columns: int, guard: bool) -> None:
    made = Choices(projected=True, dynamic=True, scale_place=scale, guard=guard)  # type: ignore[arg-type]
    model = decomposed_attention_model(made)
    spans = dict.fromkeys(("batch", "query_length", "key_length"), (1, 64))
    module = hocket.compile(model, dims=spans, num_threads=1)
    assert len(module.artifact.attention_steps) == 1
    sizes = {"batch": 2, "query_length": rows, "key_length": columns}
    assert_same(module, model, **sizes)


def growing_cache() -> onnx.ModelProto:
    """Write a decoding step: keys of the past in front of the new one."""
    build = GraphBuilder(17)
    query = build.input("q", ("batch", 3, "new", 8))
    past, new = (
        build.input("past", ("batch", 3, "past", 8)),
        build.input("k", ("batch", 3, "new", 8)),
    )
    present = build.op("Concat", past, new, name="present", axis=2)
    build.output("present", ("batch", 3, "total", 8))
    scores = build.op("MatMul", query, build.op("Transpose", present, perm=[0, 1, 3, 2]))
    build.op("MatMul", build.op("Softmax", scores, axis=-1), present, name="y")
    build.output("y", ("batch", 3, "new", 8))
    return build.build()


def test_a_cache_that_grows() -> None:
    model = growing_cache()
    spans = {"batch": (1, 4), "new": (1, 64), "past": (1, 512)}
    module = hocket.compile(model, dims=spans, num_threads=1)
    assert module.session().get_outputs()[0].shape == ("batch", 3, "new + past", 8)
    for past in (1, 5, 40):
        assert_same(module, model, batch=1, new=1, past=past)


@pytest.mark.parametrize("rank", [3, 4])
def test_the_past_of_the_standard_operator(rank: int) -> None:
    build = GraphBuilder(23)
    shape = ("batch", "new", 24) if rank == 3 else ("batch", 3, "new", 8)
    operands = [build.input(name, shape) for name in "qkv"]
    past = [build.input(f"past_{name}", ("batch", 3, "past", 8)) for name in "kv"]
    heads = {"q_num_heads": 3, "kv_num_heads": 3} if rank == 3 else {}
    build.op("Attention", *operands, "", *past, name="y", is_causal=1, **heads)
    build.output("y", shape)
    model = build.build()
    for name in "kv":
        model.graph.node[0].output.append(f"present_{name}")
        present = onnx.helper.make_tensor_value_info(
            f"present_{name}", onnx.TensorProto.FLOAT, ["batch", 3, "total", 8]
        )
        model.graph.output.append(present)
    spans = {"batch": (1, 4), "new": (1, 64), "past": (1, 512)}
    module = hocket.compile(model, dims=spans, num_threads=1)
    (step,) = module.artifact.attention_steps
    assert step.parameters.right_window == 0
    for new, past_length in ((1, 9), (4, 30)):
        assert_same(module, model, batch=2, new=new, past=past_length)


def test_scores_as_an_output_stay_with_the_host() -> None:
    build = GraphBuilder(23)
    operands = [build.input(name, (1, 3, "rows", 8)) for name in "qkv"]
    build.op("Attention", *operands, name="y", qk_matmul_output_mode=1)
    build.output("y", (1, 3, "rows", 8))
    model = build.build()
    model.graph.node[0].output.extend(["", "", "scores"])
    scores = onnx.helper.make_tensor_value_info(
        "scores", onnx.TensorProto.FLOAT, [1, 3, "rows", "rows"]
    )
    model.graph.output.append(scores)
    module = hocket.compile(model, dims={"rows": (1, 64)}, num_threads=1)
    assert module.artifact.attention_steps == ()
    assert_same(module, model, rows=7)


def test_what_follows_no_formula_asks_for_sizes() -> None:
    build = GraphBuilder(17)
    pooled = build.op("MaxPool", build.input("x", (1, 4, "length")), kernel_shape=[3], strides=[3])
    weights = build.op(
        "Softmax",
        build.op("MatMul", pooled, build.op("Transpose", pooled, perm=[0, 2, 1])),
        axis=-1,
    )
    build.op("MatMul", weights, pooled, name="y")
    build.output("y", (1, 4, None))
    with pytest.raises(ModelError, match="give each dimension one size"):
        hocket.compile(build.build(), dims={"length": (6, 100)})


def test_a_file_with_other_sizes_is_refused(module: CompiledModule) -> None:
    artifact = module.artifact
    assert artifact.resizing is not None
    fields = json.loads(json.dumps(artifact.resizing.to_json()))
    assert Resizing.from_json(fields) == artifact.resizing
    fields["tensors"]["input_ids"][1] = 7
    with pytest.raises(ArtifactError, match="sizes do not fit its own dimensions"):
        replaced(artifact, Resizing.from_json(fields))
    del fields["tensors"]["input_ids"]
    with pytest.raises(ArtifactError, match="not those of its tensors and steps"):
        replaced(artifact, Resizing.from_json(fields))


def replaced(artifact: Artifact, resizing: Resizing) -> Artifact:
    return dataclasses.replace(artifact, resizing=resizing)


def test_by_the_command_line(encoder: onnx.ModelProto, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    runner, model, output = CliRunner(), tmp_path / "m.onnx", tmp_path / "m.hkt"
    onnx.save(encoder, model)

    def call(*arguments: str) -> str:
        result = runner.invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    call("compile", str(model), "-d", "batch=1..4", "-d", "length=1..16", "-o", str(output))
    verified = call(
        "verify", str(output), "--against", str(model), "-d", "length=13", "-d", "batch=3", "--json"
    )
    assert json.loads(verified)["ok"]
    several = json.loads(call("verify", str(output), "--against", str(model), "--json"))
    assert several["ok"]
    assert "random.1 (batch=1, length=1)" in several["samples"]
    ran = json.loads(call("run", str(output), "--random", "--dim", "length=4", "--json"))
    assert ran["outputs"]["hidden"]["shape"] == [1, 4, 12]
    bad = runner.invoke(app, ["compile", str(model), "-d", "batch=4..1", "-d", "length=3"])
    assert bad.exit_code == 2
    assert "as in 1..512" in bad.output
