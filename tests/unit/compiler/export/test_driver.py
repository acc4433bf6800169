"""Exports as folders: whole or not at all, what stands there, and what they say of themselves."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.modules import tiny_artifact

from hocket.compiler.errors import CompileError, ExportError
from hocket.compiler.export import driver, library
from hocket.compiler.export.cpus import native_cpu
from hocket.compiler.export.driver import export_artifact
from hocket.compiler.export.manifest import load_manifest

X86 = "x86_64-linux-gnu"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_artifact(tiny_artifact(), folder, triple=X86, cpu=native_cpu(), kind="library")
    return folder


def test_an_export_is_what_its_manifest_says(exported: Path) -> None:
    manifest = load_manifest(exported)
    artifact = tiny_artifact()
    assert manifest["module_digest"] == artifact.digest
    assert (manifest["cpu"], manifest["machine"]) == (native_cpu(), "x86_64")
    assert manifest["features"]
    assert len(manifest["attention"]) == len(artifact.attention_steps)
    assert manifest["estimate"] == artifact.estimate.to_json()
    prefix = manifest["prefix"]
    names = {f"lib{prefix}.so", f"lib{prefix}.a", f"{prefix}.h", "example.c", "README.md"}
    assert set(manifest["files"]) == names
    assert {path.name for path in exported.iterdir()} == {*names, "manifest.json"}


def test_nothing_of_python_is_in_an_export(exported: Path) -> None:
    for path in exported.glob("lib*"):
        content = path.read_bytes()
        for word in (b"Python", b"pickle", b"builtins", b"numba"):
            assert word not in content, (path.name, word)


def test_the_example_builds_with_the_command_that_it_shows(exported: Path, tmp_path: Path) -> None:
    (line,) = (
        each.strip(" *")
        for each in (exported / "example.c").read_text().splitlines()
        if each.startswith(" *     cc ")
    )
    assert f"    {line}\n" in (exported / "README.md").read_text()
    for flags in ("", "-fsanitize=address,undefined -fno-sanitize-recover"):
        command = line.replace("-o example", f"-Wall -Werror {flags} -o {tmp_path}/example")
        command = command.replace("$ORIGIN", str(exported))
        subprocess.run(command, shell=True, cwd=exported, check=True)
        done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True)
        assert done.stdout == "attention 0: done\n"


def test_the_header_is_plain_c(exported: Path) -> None:
    (header,) = exported.glob("*.h")
    for language in ("c", "c++"):
        standard = {"c": "c99", "c++": "c++11"}[language]
        subprocess.run(
            [
                "gcc",
                "-x",
                language,
                f"-std={standard}",
                "-pedantic-errors",
                "-Wall",
                "-Werror",
                "-fsyntax-only",
                str(header),
            ],
            check=True,
        )


def test_scratch_is_as_large_as_the_header_and_the_manifest_say(exported: Path) -> None:
    manifest = load_manifest(exported)
    prefix = manifest["prefix"]
    loaded = ctypes.CDLL(str(exported / f"lib{prefix}.so"))
    scratch_bytes = getattr(loaded, f"{prefix}_scratch_bytes")
    scratch_bytes.restype = ctypes.c_size_t
    said = manifest["attention"][0]
    assert scratch_bytes(0, 1) == said["scratch_bytes"]
    assert (
        scratch_bytes(0, 3) == said["scratch_bytes"] + 2 * said["scratch_bytes_of_another_worker"]
    )
    text = (exported / f"{prefix}.h").read_text()
    assert f"#define {prefix.upper()}_SCRATCH_BYTES {said['scratch_bytes']}u" in text
    assert [scratch_bytes(*wrong) for wrong in ((1, 1), (-1, 1), (0, 0), (0, 1025))] == [0] * 4


def test_an_export_takes_the_place_of_another_and_of_nothing_else(
    exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    export_artifact(tiny_artifact(), folder, triple=X86, cpu="x86-64-v2")
    assert load_manifest(folder)["cpu"] == "x86-64-v2"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        export_artifact(tiny_artifact(), folder, triple=X86)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="is no export"):
        export_artifact(tiny_artifact(), other, triple=X86)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "other"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> None:
        raise CompileError("no luck")

    monkeypatch.setattr(library, "compile_kernel", fail)
    with pytest.raises(CompileError, match="no luck"):
        export_artifact(tiny_artifact(), tmp_path / "export", triple=X86)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_told_of_the_folder_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*arguments: Any) -> None:
        raise OSError(28, "no room", str(arguments[-1] / "README.md"))

    monkeypatch.setattr(driver, "_write", write)
    with pytest.raises(OSError, match="no room") as caught:
        export_artifact(tiny_artifact(), tmp_path / "export", triple=X86)
    assert caught.value.filename == str(tmp_path / "export")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"triple": "sparc-sun-solaris"}, "want one of aarch64-linux-gnu"),
        ({"triple": "x86_64-pc-windows-msvc"}, "cannot export for"),
        ({"cpu": "cortex-a76"}, "no CPU 'cortex-a76' of x86_64"),
        ({"kind": "wheel"}, "kind must be one of library, onnxruntime"),
        ({"dims": {"seq": 4}}, "no open dimension 'seq'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_artifact(tiny_artifact(), tmp_path / "export", **{"triple": X86, **wrong})
    assert not (tmp_path / "export").exists()


def test_without_a_c_compiler_there_is_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ExportError, match=r"pip install 'hocket\[export\]'"):
        export_artifact(tiny_artifact(), tmp_path / "export", triple=X86)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is of something else"),
        ({"version": 0}, "export the module again"),
        ({"more": 1}, "unknown keys: .'more'"),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    change: dict[str, Any], message: str, exported: Path, tmp_path: Path
) -> None:
    manifest = json.loads((exported / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match=message):
        load_manifest(tmp_path)


def test_a_file_that_has_changed_is_found(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    library_path = next(folder.glob("*.so"))
    content = bytearray(library_path.read_bytes())
    content[-1] ^= 1
    library_path.write_bytes(content)
    with pytest.raises(ExportError, match="is not what was exported"):
        load_manifest(folder)
    library_path.unlink()
    with pytest.raises(ExportError, match="is not what was exported"):
        load_manifest(folder)


def test_names_in_c_come_from_any_models_name() -> None:
    names = {"BERT (base).onnx": "hocket_bert_base", "模型": "hocket_model", "8b": "hocket_8b"}
    assert {name: driver._prefix(name) for name in names} == names
