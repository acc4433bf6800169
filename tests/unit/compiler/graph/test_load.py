"""Reading models: what is accepted, and a sentence for everything that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.onnx_models import (
    Choices,
    GraphBuilder,
    bert_like_model,
    decomposed_attention_model,
)

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.pipeline import prepare_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model() -> onnx.ModelProto:
    return decomposed_attention_model(Choices())


def test_every_kind_of_source_gives_the_same_graph(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    sources = [path, str(path), path.read_bytes(), model, ir.from_proto(model)]
    loaded = [ir.to_proto(load_model(source).model) for source in sources]
    assert len({proto.SerializeToString(deterministic=True) for proto in loaded}) == 1


def test_the_callers_model_stays_as_it_is() -> None:
    proto = bert_like_model()
    graph = ir.from_proto(bert_like_model())
    before = proto.SerializeToString(deterministic=True), str(graph)
    for source in (proto, graph):
        prepare_model(load_model(source, {"batch": 2, "length": 4}))
    assert (proto.SerializeToString(deterministic=True), str(graph)) == before
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == ir.to_proto(
        ir.from_proto(bert_like_model())
    ).SerializeToString(deterministic=True)


def test_a_missing_file_is_named_with_a_close_one(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(ModelError, match=r"encodr\.onnx: there is no such file.*encoder\.onnx"):
        load_model(tmp_path / "encodr.onnx")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="this is a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ONNX model"),
        (b"just some text, not a model", "its bytes do not parse"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)), "a JPEG image"),
        (b"PK\x03\x04" + bytes(range(200)), "a zip archive"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(range(200)), "TensorFlow Lite"),
        (np.random.default_rng(3).bytes(500), "not an ONNX model"),
    ],
)
def test_what_is_no_model_is_said_to_be_none(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "given.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_cut_file_is_called_damaged(model: onnx.ModelProto, kept: float, tmp_path: Path) -> None:
    data = model.SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError, match="damaged or cut short"):
        load_model(path)


def test_missing_and_short_weight_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save_model(
        bert_like_model(), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    dims = {"batch": 1, "length": 3}
    assert load_model(path, dims).model.graph.initializers
    weights = tmp_path / "big.data"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is cut short"):
        load_model(path, dims)
    weights.unlink()
    with pytest.raises(ModelError, match=r"weight .* is stored in .*big\.data"):
        load_model(path, dims)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_weights_behind_a_link_are_refused_with_the_mend(kind: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "big.onnx", tmp_path / "elsewhere"
    onnx.save_model(
        bert_like_model(), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    (tmp_path / "big.data").rename(elsewhere)
    if kind == "symbolic":
        (tmp_path / "big.data").symlink_to(elsewhere)
    else:
        (tmp_path / "big.data").hardlink_to(elsewhere)
    with pytest.raises(ModelError, match="put a copy of the file there"):
        load_model(path)


def test_bytes_without_their_weight_file_ask_for_the_path(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save_model(
        bert_like_model(), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    with pytest.raises(ModelError, match="give the path"):
        load_model(path.read_bytes())


@pytest.mark.parametrize("opset", [3, 99])
def test_an_op_set_out_of_range_is_refused(model: onnx.ModelProto, opset: int) -> None:
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset} is not supported"):
        load_model(model)


def test_an_operator_of_a_later_op_set_is_refused(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Attention"
    with pytest.raises(ModelError, match=r"not a valid ONNX model.*Attention"):
        load_model(model)


def test_an_operator_nobody_knows_is_refused_by_name() -> None:
    build = GraphBuilder()
    build.op("Whatever", build.input("x", (2, 3)), domain="my.ops", name="y")
    build.output("y", (2, 3))
    with pytest.raises(ModelError, match=r"my\.ops::Whatever 'n1_Whatever'"):
        load_model(build.build(my_ops=1))


def test_a_graph_that_reads_nothing_known_is_refused(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"not a valid ONNX model.*nowhere"):
        load_model(model)


def test_a_model_without_outputs_is_refused(model: onnx.ModelProto) -> None:
    del model.graph.output[:]
    with pytest.raises(ModelError, match="no outputs"):
        load_model(model)


def test_an_input_of_text_is_refused() -> None:
    build = GraphBuilder()
    build.op("Identity", build.input("x", (2,)), name="y")
    build.output("y", (2,))
    model = build.build()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    with pytest.raises(ModelError, match="input 'x' has element type STRING"):
        load_model(model)


def test_a_weight_that_is_also_an_input_is_a_weight() -> None:
    build = GraphBuilder()
    weight = build.weight("w", np.ones((3, 2), np.float32))
    build.input("w", (3, 2))
    build.op("MatMul", build.input("x", (1, 3)), weight, name="y")
    build.output("y", (1, 2))
    graph = load_model(build.build()).model.graph
    assert [value.name for value in graph.inputs] == ["x"]
    assert list(graph.initializers) == ["w"]


def test_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a model is a path"):
        load_model(3)  # type: ignore[arg-type]


def complex_model(place: str) -> onnx.ModelProto:
    """Write a model with complex numbers that something computes with, or nobody reads."""
    build = GraphBuilder(17)
    build.input("x", (2,))
    weight = build.weight("w", np.array([1 + 2j, 3], np.complex64))
    if place == "unread":
        found = "x"
    elif place == "cast":
        # What TorchScript's exporter writes for ALiBi of Falcon, though no Cast has it.
        found = build.op("Cast", "x", to=int(onnx.TensorProto.COMPLEX128))
    elif place == "constant":
        found = build.op("Shape", build.constant([1j, 2], "complex128"))
    else:
        found = build.op("Shape", build.op("Reshape", weight, build.constant([2], "int64")))
    build.op("Identity", found, name="y")
    build.output("y", (None,), "float32" if place == "unread" else "int64")
    return build.build()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("weight", "Reshape 'n2_Reshape' computes with complex64"),
        ("constant", "Constant 'n1_Constant' computes with complex128"),
        ("cast", "Cast 'n1_Cast' computes with complex128"),
    ],
)
def test_complex_numbers_are_refused(place: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"node {message}, for which onnxruntime has no operators"):
        load_model(complex_model(place))


def test_complex_numbers_that_nobody_reads_are_no_matter() -> None:
    assert [value.name for value in load_model(complex_model("unread")).model.graph.outputs] == [
        "y"
    ]
