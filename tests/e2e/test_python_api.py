"""The names of ``hocket``, from an ONNX file to numbers, as a program would use them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support.tiny_encoder import make_tiny_encoder, write_tiny_encoder

import hocket
from hocket.compiler.errors import DimensionError, ModelError
from hocket.compiler.options import CompileOptions
from hocket.hwmodels.errors import TargetError
from hocket.runtime.errors import ArtifactError, FeedError

DIMS = {"batch": 2, "seq": 8}
FEEDS = {
    "ids": np.arange(16).reshape(2, 8),
    "mask": np.array([[1] * 8, [1] * 5 + [0] * 3]),
}


@pytest.fixture(scope="module")
def module() -> hocket.CompiledModule:
    return hocket.compile(make_tiny_encoder(), dims=DIMS, num_threads=1)


@pytest.fixture(scope="module")
def expected() -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(make_tiny_encoder().SerializeToString())
    (classes,) = session.run(None, FEEDS)
    return np.asarray(classes)


def assert_same(session: hocket.InferenceSession, expected: np.ndarray[Any, Any]) -> None:
    (classes,) = session.run(None, FEEDS)
    # One layer in float32, summed in another order.
    np.testing.assert_allclose(classes, expected, rtol=1e-4, atol=1e-6)


def test_a_module_says_what_it_is(module: hocket.CompiledModule) -> None:
    assert [spec.name for spec in module.inputs] == ["ids", "mask"]
    assert [spec.name for spec in module.outputs] == ["classes"]
    assert module.signature.inputs == module.inputs
    assert module.target.name == "host"
    assert len(module.artifact.attention_steps) == 1


def test_a_session_from_memory_gives_onnxruntimes_numbers(
    module: hocket.CompiledModule, expected: np.ndarray[Any, Any]
) -> None:
    assert_same(hocket.InferenceSession(module), expected)
    assert_same(hocket.InferenceSession(module.artifact), expected)
    assert_same(module.session(intra_op_num_threads=2), expected)


def test_a_saved_module_is_the_same_module(
    module: hocket.CompiledModule, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    path = module.save(tmp_path / "tiny.hkt")
    loaded = hocket.load(path, expected_digest=module.digest)
    assert loaded == module
    assert loaded.digest == module.digest
    assert_same(hocket.InferenceSession(path), expected)
    assert_same(hocket.InferenceSession(str(path), expected_digest=module.digest), expected)


def test_a_module_that_is_not_the_expected_one_is_refused(
    module: hocket.CompiledModule, tmp_path: Path
) -> None:
    path = module.save(tmp_path / "tiny.hkt")
    other = "0" * 64
    for refused in (path, module):
        with pytest.raises(ArtifactError, match=other):
            hocket.InferenceSession(refused, expected_digest=other)
    with pytest.raises(ArtifactError, match=other):
        hocket.load(path, expected_digest=other)


def test_a_model_may_be_a_path_or_bytes_or_in_memory(
    module: hocket.CompiledModule, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    path = write_tiny_encoder(tmp_path)
    for model in (path, str(path), path.read_bytes(), onnx.load(str(path))):
        assert_same(hocket.compile(model, dims=DIMS).session(), expected)


def test_the_target_may_be_a_name_a_file_or_a_machine(tmp_path: Path) -> None:
    machine = hocket.load_target("mas-edge")
    file = tmp_path / "mine.toml"
    built_in = Path(hocket.load_target.__code__.co_filename).parent / "targets" / "mas-edge.toml"
    file.write_text(built_in.read_text(encoding="utf-8").replace('"mas-edge"', '"mine"'))
    names = [
        hocket.compile(make_tiny_encoder(), target, DIMS).target.name
        for target in ("mas-edge", file, machine)
    ]
    assert names == ["mas-edge", "mine", "mas-edge"]


def test_threads_and_options_go_together() -> None:
    options = CompileOptions(seed=3, verify=True)
    module = hocket.compile(make_tiny_encoder(), dims=DIMS, num_threads=2, options=options)
    assert module.artifact.num_threads == 2


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int]] = []
    hocket.compile(make_tiny_encoder(), dims=DIMS, progress=lambda *args: seen.append(args))
    assert seen
    assert all(0 <= done <= total for _, done, total in seen)


def test_compiling_twice_gives_the_same_bytes(module: hocket.CompiledModule) -> None:
    again = hocket.compile(make_tiny_encoder(), dims=DIMS, num_threads=1)
    assert again.digest == module.digest


def test_outputs_can_be_chosen_and_wrong_ones_are_named(module: hocket.CompiledModule) -> None:
    session = module.session()
    assert len(session.run(["classes"], FEEDS)) == 1
    with pytest.raises(FeedError, match="'logits'"):
        session.run(["logits"], FEEDS)


def test_library_code_writes_nothing(
    module: hocket.CompiledModule, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    logging.getLogger("hocket").setLevel(logging.NOTSET)
    hocket.compile(make_tiny_encoder(), dims=DIMS).save(tmp_path / "tiny.hkt")
    hocket.InferenceSession(tmp_path / "tiny.hkt").run(None, FEEDS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dims": {}}, DimensionError, "batch"),
        ({"dims": DIMS | {"extra": 1}}, DimensionError, "extra"),
        ({"target": "nowhere"}, TargetError, "nowhere"),
        ({"model": b"not a model"}, ModelError, "ONNX"),
        ({"model": "gone.onnx"}, ModelError, "gone.onnx"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[ValueError], message: str) -> None:
    arguments: dict[str, Any] = {"model": make_tiny_encoder(), "dims": DIMS, "target": "host"}
    with pytest.raises(error, match=message):
        hocket.compile(**arguments | change)
