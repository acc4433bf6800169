"""From a compiled module to a folder that a device can use, which appears whole or not at all."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite
import numba
import onnx_ir

from hocket.compiler.errors import ExportError
from hocket.compiler.export.c_text import c_source
from hocket.compiler.export.cpus import MACHINES, find_cpu, find_machine
from hocket.compiler.export.library import KINDS, build_library
from hocket.compiler.export.manifest import (
    MANIFEST,
    digest_files,
    load_manifest,
    make_manifest,
)
from hocket.compiler.export.onnx_model import build_onnx_model
from hocket.compiler.export.readme import BUILD_LINE, about_lines, readme_text
from hocket.compiler.export.toolchain import check_toolchain, toolchain_version
from hocket.runtime.files import errors_naming
from hocket.runtime.signature import no_open_dim
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import Step

# A protobuf file holds no more than 2 GiB; beyond this, weights lie beside it.
_MOST_WEIGHT_BYTES = 1_500_000_000


def export_artifact(
    artifact: Artifact,
    folder: str | os.PathLike[str],
    *,
    triple: str,
    cpu: str = "",
    kind: str = "library",
    dims: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write a module as what runs on a device without Python, and return its manifest.

    Args:
        artifact: The module.
        folder: Where to: made if it is not there. An export that stands there is replaced.
        triple: The machine and system, ``aarch64-linux-gnu``.
        cpu: One of ``cpus.CPUS``; the target that the module was compiled for if that is one, else
            what any CPU of the machine has.
        kind: One of ``KINDS``.
        dims: Sizes for dimensions that are open; the module's own by default.

    Raises:
        ExportError: The CPU is not known, a dimension is not open, the module has no attention,
            there is no C compiler, or something else stands in the folder's place.
        CompileError: The C compiler failed.
        OSError: The folder cannot be written to.
    """
    if kind not in KINDS:
        raise ExportError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    machine = find_machine(triple)
    found = find_cpu(machine, cpu or _own_cpu(artifact, machine.name))
    steps, tensors = _sized(artifact, dims or {})
    if not artifact.attention_steps:
        raise ExportError(f"{artifact.model_name} has no attention that kernels compute")
    check_toolchain()
    folder = Path(folder)
    _check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = f".{folder.name}."
    with errors_naming(folder, beside=folder.parent / start):
        made = Path(tempfile.mkdtemp(prefix=start, suffix=".tmp", dir=folder.parent))
    try:
        with errors_naming(folder, beside=made):
            made.chmod(0o755)
            manifest = _write(artifact, steps, tensors, found, kind, dims or {}, made)
        _put_in_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _own_cpu(artifact: Artifact, machine: str) -> str:
    """Return the CPU that a module was compiled for, if it is one of that machine."""
    try:
        return find_cpu(MACHINES[machine], artifact.target.name).name
    except ExportError:
        return ""


def _sized(
    artifact: Artifact, dims: Mapping[str, int]
) -> tuple[tuple[Step, ...], Mapping[str, TensorSpec]]:
    """Return the steps and tensors of a module in the sizes that are wanted."""
    resizing = artifact.resizing
    spans = {} if resizing is None else resizing.dims
    for name, size in dims.items():
        if name not in spans:
            raise ExportError(no_open_dim(name, spans))
        low, high = spans[name]
        if not low <= size <= high:
            raise ExportError(f"dimension {name!r} must be {low} to {high}, got {size}")
    if resizing is None:
        return artifact.steps, artifact.tensors
    sized = {**artifact.dims, **dims}
    return (
        resizing.resize_steps(artifact.steps, sized),
        resizing.resize_tensors(artifact.tensors, sized),
    )


def _write(
    artifact: Artifact,
    steps: tuple[Step, ...],
    tensors: Mapping[str, TensorSpec],
    cpu: ExportCpu,
    kind: str,
    dims: Mapping[str, int],
    folder: Path,
) -> dict[str, Any]:
    """Write all files of an export and return its manifest."""
    prefix = _prefix(artifact.model_name)
    attentions = build_library(
        [step for step in steps if isinstance(step, AttentionStep)],
        tensors,
        cpu,
        folder,
        kind=kind,
        prefix=prefix,
        about=about_lines(artifact, cpu),
    )
    manifest = make_manifest(
        artifact,
        attentions,
        tensors,
        cpu,
        kind=kind,
        prefix=prefix,
        dims=dims,
        versions={
            "llvmlite": llvmlite.__version__,
            "numba": numba.__version__,
            "zig": toolchain_version(),
        },
    )
    if kind == "library":
        build = f" *     {BUILD_LINE.format(prefix=prefix)}"
        example = c_source("example.c", prefix, build=build)
        (folder / "example.c").write_text(example, encoding="utf-8")
    else:
        model = build_onnx_model(artifact, steps, tensors)
        weights = sum(array.nbytes for array in artifact.weights.values())
        beside = "model.onnx.data" if weights > _MOST_WEIGHT_BYTES else None
        onnx_ir.save(model, folder / "model.onnx", external_data=beside)
    readme = readme_text(manifest, about_lines(artifact, cpu))
    (folder / "README.md").write_text(readme, encoding="utf-8")
    manifest["files"] = digest_files(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _prefix(model_name: str) -> str:
    """Return what the C names of a model's library begin with."""
    stem = re.sub(r"[^0-9a-z]+", "_", model_name.lower().removesuffix(".onnx")).strip("_")
    return f"hocket_{stem or 'model'}"


def _check_place(folder: Path) -> None:
    """Make sure that nothing is lost: only an export may be replaced.

    Raises:
        ExportError: Something else stands there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_dir() and (folder / MANIFEST).is_file():
        load_manifest(folder)
        return
    raise ExportError(f"{folder}: stands there already and is no export; name another folder")


def _put_in_place(made: Path, folder: Path) -> None:
    """Give a folder its name; what had the name before is gone then."""
    if not folder.exists():
        made.rename(folder)
        return
    # A folder cannot be exchanged at once, but what stands there is whole at any time.
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
