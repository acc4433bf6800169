"""Exported models in stock onnxruntime: the numbers of the original, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support.exports import native_cpu
from support.modules import tiny_artifact, tiny_feeds
from support.onnx_models import attention_op_model, random_feeds
from support.tiny_encoder import make_tiny_encoder

import hocket
from hocket.compiler.export.driver import export_artifact

X86 = "x86_64-linux-gnu"

MODELS: dict[str, onnx.ModelProto] = {
    "grouped-causal": attention_op_model(
        (1, 4, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8), (1, 4, 40, 8), is_causal=1
    ),
    "boolean-mask": attention_op_model(
        (2, 2, 20, 8),
        (2, 2, 33, 8),
        (2, 2, 33, 6),
        (2, 2, 20, 6),
        mask=(2, 1, 20, 33),
        mask_dtype="bool",
    ),
    "one-row": attention_op_model((1, 4, 1, 16), (1, 4, 700, 16), (1, 4, 700, 16), (1, 4, 1, 16)),
}


def load(folder: Path, num_threads: int = 1) -> onnxruntime.InferenceSession:
    """Load an export as its README says."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    (library,) = folder.glob("*_onnxruntime.so")
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_artifact(tiny_artifact(), folder, triple=X86, cpu=native_cpu(), kind="onnxruntime")
    return folder


def original(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(None, feeds))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_exported_model_is_the_original(exported: Path, num_threads: int) -> None:
    session = load(exported, num_threads)
    for seed in range(3):
        feeds = tiny_feeds(seed)
        (classes,) = session.run(None, feeds)
        (expected,) = original(make_tiny_encoder(), feeds)
        np.testing.assert_allclose(classes, expected, rtol=1e-5, atol=1e-6)


def test_an_exported_model_has_the_inputs_and_outputs_of_the_original(exported: Path) -> None:
    session = load(exported)
    theirs = onnxruntime.InferenceSession(make_tiny_encoder().SerializeToString())
    for kind in ("get_inputs", "get_outputs"):
        ours = [(each.name, each.type) for each in getattr(session, kind)()]
        assert ours == [(each.name, each.type) for each in getattr(theirs, kind)()]
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model)
    attention = [node for node in model.graph.node if node.domain == "hocket"]
    assert [node.op_type for node in attention] == ["Attention"]


@pytest.mark.parametrize("name", MODELS)
def test_every_operand_reaches_the_kernel(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    module = hocket.compile(model, num_threads=1)
    module.export(tmp_path / "out", X86, cpu=native_cpu())
    feeds = random_feeds(model)
    (output,) = load(tmp_path / "out", 2).run(None, feeds)
    (expected,) = original(model, feeds)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=2e-6)


def test_an_open_dimension_is_exported_in_the_size_asked_for(tmp_path: Path) -> None:
    module = hocket.compile(make_tiny_encoder(), dims={"batch": 1, "seq": (4, 32)}, num_threads=1)
    manifest = module.export(tmp_path / "out", X86, cpu=native_cpu(), dims={"seq": 20})
    assert manifest["estimate"] is None  # it was planned for another size
    feeds = {"ids": np.arange(20)[None] % 50, "mask": np.ones((1, 20), np.int64)}
    (classes,) = load(tmp_path / "out").run(None, feeds)
    (expected,) = original(make_tiny_encoder(), feeds)
    np.testing.assert_allclose(classes, expected, rtol=1e-5, atol=1e-6)


def test_a_library_of_another_export_is_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    (attention,) = (node for node in model.graph.node if node.domain == "hocket")
    attention.attribute[0].i = 7
    onnx.save(model, tmp_path / "model.onnx")
    (library,) = exported.glob("*.so")
    (tmp_path / library.name).write_bytes(library.read_bytes())
    with pytest.raises(Exception, match="not of one export"):
        load(tmp_path)
