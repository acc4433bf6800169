"""Artifacts: what is written is read back, what was changed is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from support.modules import tiny_artifact

from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.runtime.artifact import Artifact, load_artifact, parse_artifact, save_artifact
from hocket.runtime.container import container_digest, parse_container, save_container
from hocket.runtime.errors import ArtifactError
from hocket.runtime.session import InferenceSession
from hocket.runtime.signature import Signature, TensorSpec
from hocket.runtime.steps import HostModel, HostStep
from hocket.runtime.tensors import view_tensors


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "tiny.hkt"
    save_artifact(tiny_artifact(), path)
    return path.read_bytes()


def resealed(content: bytes, **manifest: Any) -> bytes:
    """The file with other manifest fields and a digest that fits: what a forger would make."""
    entries = entries_of(content)
    fields = json.loads(entries["manifest.json"])
    fields.update(manifest)
    entries["manifest.json"] = json.dumps(fields).encode()
    return sealed(entries)


def entries_of(content: bytes) -> dict[str, bytes]:
    return {name: bytes(view) for name, view in parse_container(content)[0].items()}


def sealed(entries: dict[str, bytes]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hkt"
        save_container(entries, path)
        return path.read_bytes()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    save_artifact(artifact, tmp_path / "a.hkt")
    loaded = load_artifact(tmp_path / "a.hkt")
    assert loaded == artifact
    assert loaded.digest == artifact.digest
    assert loaded.steps == artifact.steps
    assert loaded.signature == artifact.signature
    assert loaded.target == artifact.target
    assert loaded.programs == artifact.programs
    assert {name: w.tobytes() for name, w in loaded.weights.items()} == {
        name: w.tobytes() for name, w in artifact.weights.items()
    }
    save_artifact(loaded, tmp_path / "b.hkt")
    assert (tmp_path / "b.hkt").read_bytes() == (tmp_path / "a.hkt").read_bytes()


def test_nothing_but_data_is_inside(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        endings = {Path(name).suffix for name in archive.namelist()}
        assert archive.testzip() is None
    assert endings == {".json", ".onnx", ".safetensors"}


@given(st.data())
def test_one_flipped_bit_anywhere_is_found(content: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    with pytest.raises(ArtifactError):
        parse_artifact(bytes(changed))


@given(st.data())
def test_a_truncated_file_is_found(content: bytes, data: st.DataObject) -> None:
    with pytest.raises(ArtifactError, match=r"truncated|not a compiled module"):
        parse_artifact(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_own_error(garbage: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_artifact(garbage)
    with pytest.raises(ArtifactError):
        parse_artifact(b"PK" + garbage)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.hkt"
    with pytest.raises(ArtifactError, match=r"broken\.hkt: no such file"):
        load_artifact(path)
    path.write_bytes(b"hello")
    with pytest.raises(
        ArtifactError, match=r"broken\.hkt: is not a compiled module .*hocket compile"
    ):
        load_artifact(path)


def test_the_expected_digest_decides(content: bytes) -> None:
    digest = tiny_artifact().digest
    assert parse_artifact(content, digest).digest == digest
    with pytest.raises(ArtifactError, match="this is another module"):
        parse_artifact(content, "0" * 64)
    # A forger can seal a changed file again, but not with the digest its user was told.
    forged = resealed(content, model_name="other")
    assert parse_artifact(forged).model_name == "other"
    with pytest.raises(ArtifactError, match="this is another module"):
        parse_artifact(forged, digest)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"version": 99}, "format version 99"),
        ({"format": "zip"}, "is of format 'zip'"),
        ({"steps": []}, "no step makes it"),
        ({"num_programs": 7}, "has 4 entries, not 7 programs"),
        ({"num_programs": 10**12}, "not 1000000000000 programs"),
        ({"num_programs": True}, "want a number of 0 or more"),
        ({"num_programs": 0}, "missing or unknown entries"),
        ({"num_threads": 10**30}, "num_threads must be 0 to"),
        ({"version": True}, "format version True"),
        ({"inputs": "ids"}, "want a list"),
        ({"surprise": 1}, "unknown keys in its manifest"),
        ({"num_threads": -1}, "want a number of 0 or more"),
        ({"model_name": 3}, "want text"),
        ({"inputs": ["nobody"]}, "KeyError"),
        ({"outputs": 5}, "want a list"),
        ({"tensors": [{"name": "x"}]}, "malformed tensor"),
        ({"target": {"name": "x"}}, "missing"),
        ({"dims": [1]}, "AttributeError"),
        ({"left_to_host": [{}]}, "KeyError"),
    ],
)
def test_a_forged_manifest_is_refused(
    content: bytes, manifest: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        parse_artifact(resealed(content, **manifest))


@given(st.data())
def test_forged_kernel_parameters_never_reach_a_kernel(content: bytes, data: st.DataObject) -> None:
    """Whatever a stranger writes in, it is refused or within what the generator was built for."""
    entries = entries_of(content)
    fields = json.loads(entries["manifest.json"])
    step = next(step for step in fields["steps"] if step["kind"] == "attention")
    name = data.draw(st.sampled_from(sorted(step["parameters"])))
    value = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**70), 2**70),
            st.floats(),
            st.text(max_size=20),
            st.lists(st.integers(-3, 300), max_size=5),
            st.just("0]); import os; ("),
        )
    )
    step["parameters"][name] = value
    entries["manifest.json"] = json.dumps(fields).encode()
    try:
        artifact = parse_artifact(sealed(entries))
    except ArtifactError:
        return
    parameters = artifact.attention_steps[0].parameters
    # Sizes cannot have changed, the tensors would no longer fit; the rest is checked by kind.
    assert parameters.scores_shape == tiny_artifact().attention_steps[0].parameters.scores_shape
    assert parameters.mask in ("none", "additive", "boolean")
    assert isinstance(parameters.scale, float)


def test_a_forged_program_is_refused_when_asked_for(content: bytes) -> None:
    entries = entries_of(content)
    for forged in (b"{}", b"[" * 100_000, entries["programs/0.json"].replace(b"[0,", b"[9,", 1)):
        entries["programs/0.json"] = forged
        artifact = parse_artifact(sealed(entries))
        with pytest.raises(ArtifactError, match="unusable program"):
            artifact.program(artifact.attention_steps[0])


def test_an_entry_too_many_is_refused(content: bytes) -> None:
    entries = entries_of(content)
    entries["run_me.py"] = b"print()"
    with pytest.raises(ArtifactError, match=r"run_me\.py"):
        parse_artifact(sealed(entries))


def test_saving_leaves_no_half_written_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.hkt"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(tiny_artifact(), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_does_not_depend_on_where_it_is_saved(tmp_path: Path) -> None:
    entries = {"a": b"1", "b": b"2"}
    assert save_container(entries, tmp_path / "x") == container_digest(entries)
    found, digest = parse_container((tmp_path / "x").read_bytes())
    assert {name: bytes(view) for name, view in found.items()} == entries
    assert digest == container_digest(entries)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        npst.arrays(
            st.sampled_from([np.float16, np.float32, np.float64]),
            npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_weights_are_read_in_place_as_the_library_reads_them(
    tensors: dict[str, np.ndarray[Any, Any]],
) -> None:
    content = save_tensors(tensors)
    views = view_tensors(memoryview(content))
    theirs = load_tensors(content)
    assert views.keys() == theirs.keys()
    for name, view in views.items():
        assert not view.flags.owndata
        assert view.dtype == theirs[name].dtype
        assert view.shape == theirs[name].shape
        assert view.tobytes() == theirs[name].tobytes()


@given(st.binary(max_size=80))
def test_any_bytes_as_weights_are_refused_with_our_own_error(garbage: bytes) -> None:
    for content in (garbage, len(garbage).to_bytes(8, "little") + garbage):
        try:
            view_tensors(memoryview(content))
        except ArtifactError:
            continue


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]},
        {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]},
        {"dtype": "I8", "shape": [16], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0]},
        {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]},
        [],
    ],
)
def test_forged_weight_tables_are_refused(entry: Any) -> None:
    table = json.dumps({"w": entry}).encode()
    with pytest.raises(ArtifactError):
        view_tensors(memoryview(len(table).to_bytes(8, "little") + table + bytes(16)))


def test_weights_lie_aligned_in_the_file(content: bytes) -> None:
    views, _ = parse_container(content)
    start = np.frombuffer(content, np.uint8).ctypes.data
    for view in views.values():
        assert (np.frombuffer(view, np.uint8).ctypes.data - start) % 64 == 0


def host_artifact(model: onnx.ModelProto) -> Artifact:
    """An artifact of one host step, as a stranger may write it."""
    spec = TensorSpec("x", DType.FLOAT32, (2, 4))
    out = TensorSpec("y", DType.FLOAT32, (2, 4))
    step = HostStep("host.0", ("x",), ("y",), 0, ("y",), 1)
    return Artifact(
        "forged",
        "nobody",
        load_target("host"),
        Signature((spec,), (out,)),
        {"x": spec, "y": out},
        (step,),
        (),
        (HostModel(model.SerializeToString(), "", ()),),
        {},
    )


@pytest.mark.parametrize(
    "location",
    [
        "secret.bin",
        "../secret.bin",
        "{folder}/secret.bin",
        # How onnxruntime itself marks a tensor that lies at an address of its process.
        "*/_ORT_MEM_ADDR_/*",
        "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*",
    ],
)
def test_a_host_region_cannot_read_files_or_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """ONNX may name files for its weights; one from an artifact must not get at any."""
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "secret.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "inner")
    weight = TensorProto(name="w", data_type=1, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location.format(folder=tmp_path), "length": "64"}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 4])],
        [helper.make_tensor_value_info("y", 1, [2, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with pytest.raises(ArtifactError, match="onnxruntime refuses host model 0"):
        InferenceSession(host_artifact(model))


def test_parts_that_do_not_fit_are_named() -> None:
    artifact = tiny_artifact()
    first, *others = artifact.steps
    with pytest.raises(ArtifactError, match="which nothing has made"):
        dataclasses.replace(artifact, steps=tuple(others))
    with pytest.raises(ArtifactError, match="two steps have one name"):
        dataclasses.replace(artifact, steps=(first, first))
    with pytest.raises(ArtifactError, match="host model 0: there are no weights"):
        dataclasses.replace(artifact, weights={})
    with pytest.raises(ArtifactError, match="there is no host model 0"):
        dataclasses.replace(artifact, host_models=())
    nameless = dataclasses.replace(artifact.host_models[0], weights=())
    with pytest.raises(ArtifactError, match="onnxruntime refuses host model 0"):
        InferenceSession(dataclasses.replace(artifact, host_models=(nameless,)))
    renamed = dataclasses.replace(artifact.host_steps[0], model_outputs=("a", "b", "c", "d"))
    with pytest.raises(ArtifactError, match="do not fit together"):
        InferenceSession(dataclasses.replace(artifact, steps=(renamed, *artifact.steps[1:])))
    with pytest.raises(ArtifactError, match="names in the host model"):
        dataclasses.replace(artifact.host_steps[0], model_outputs=())
    with pytest.raises(ArtifactError, match="there is no program"):
        dataclasses.replace(artifact, programs=())
    attention = artifact.attention_steps[0]
    wrong = dataclasses.replace(attention, query="ids")
    with pytest.raises(ArtifactError, match="is not float32 of"):
        dataclasses.replace(
            artifact, steps=tuple(wrong if s is attention else s for s in artifact.steps)
        )
