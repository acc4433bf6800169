"""What an export says of itself: for programs, and checked when it is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.compiler.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from hocket.compiler.export.attentions import ExportedAttention
    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import TensorSpec

MANIFEST = "manifest.json"
FORMAT_NAME = "hocket-export"
FORMAT_VERSION = 1

_KEYS = {
    "format",
    "version",
    "kind",
    "model_name",
    "producer",
    "module_digest",
    "dims",
    "machine",
    "cpu",
    "features",
    "prefix",
    "inputs",
    "outputs",
    "attention",
    "target",
    "estimate",
    "versions",
    "files",
}


def make_manifest(
    artifact: Artifact,
    attentions: Sequence[ExportedAttention],
    tensors: Mapping[str, TensorSpec],
    cpu: ExportCpu,
    *,
    kind: str,
    prefix: str,
    dims: Mapping[str, int],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the manifest of an export, as a JSON object, as yet without its files.

    Args:
        artifact: The module that is exported.
        attentions: Its attention.
        tensors: Its tensors, in the sizes that are exported.
        cpu: The CPU that it is exported for.
        kind: The form of export.
        prefix: What names in C begin with.
        dims: Sizes of the module's open dimensions.
        versions: Of what made it.
    """
    # What was planned is for the module's own sizes.
    is_planned = all(artifact.dims.get(name) == size for name, size in dims.items())
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "kind": kind,
        "model_name": artifact.model_name,
        "producer": artifact.producer,
        "module_digest": artifact.digest,
        "dims": {**artifact.dims, **dims},
        "machine": cpu.machine,
        "cpu": cpu.name,
        "features": list(cpu.features),
        "prefix": prefix,
        "inputs": [tensors[spec.name].to_json() for spec in artifact.signature.inputs],
        "outputs": [tensors[spec.name].to_json() for spec in artifact.signature.outputs],
        "attention": [_attention_to_json(each, is_planned=is_planned) for each in attentions],
        "target": artifact.target.name,
        "estimate": artifact.estimate.to_json() if is_planned else None,
        "versions": dict(versions),
        "files": {},
    }


def digest_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of the files in a folder, by name, but for the manifest."""
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def load_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of an export and check that its files are those that were written.

    Raises:
        ExportError: The folder is no export, of another version, or a file has changed.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{folder}: no export of Hocket, it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder / MANIFEST}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_NAME:
        raise ExportError(f"{folder}: no export of Hocket, its {MANIFEST} is of something else")
    if manifest.get("version") != FORMAT_VERSION:
        raise ExportError(
            f"{folder}: has format version {manifest.get('version')!r}, this Hocket reads "
            f"{FORMAT_VERSION}; export the module again"
        )
    if set(manifest) != _KEYS or not isinstance(manifest["files"], dict):
        odd = sorted(set(manifest) ^ _KEYS)
        raise ExportError(f"{folder / MANIFEST}: has missing or unknown keys: {odd}")
    found = digest_files(folder)
    for name in sorted(found.keys() | manifest["files"].keys()):
        if found.get(name) != manifest["files"].get(name):
            raise ExportError(f"{folder / name}: is not what was exported; export the module again")
    return manifest


def _attention_to_json(attention: ExportedAttention, *, is_planned: bool) -> dict[str, Any]:
    step = attention.step
    return {
        "name": step.name,
        "form": step.form,
        "parameters": step.parameters.to_json(),
        "kernel": attention.kernel,
        "scratch_bytes": attention.scratch_bytes(1),
        "scratch_bytes_of_another_worker": attention.worker_bytes,
        "max_workers": attention.max_workers,
        "tiling": step.tiling if is_planned else None,
        "estimate": step.estimate.to_json() if is_planned else None,
    }
