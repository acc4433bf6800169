"""What a compilation leaves behind and all that travels: data, never code.

An artifact is a sequence of steps over named tensors. Host steps are ONNX, run by onnxruntime;
attention steps are kernel parameters, from which the runtime makes its own kernels, with the
program planned for the target machine beside them. As a file it is a container of JSON, ONNX and
safetensors; ``docs/artifact-format.md`` describes the entries.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save as save_tensors

from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.errors import ProgramError, TargetError
from hocket.hwmodels.estimate import Estimate, add_estimates
from hocket.hwmodels.loader import target_from_dict, target_to_dict
from hocket.hwmodels.program_json import program_from_json
from hocket.hwmodels.verify import verify_program
from hocket.runtime.container import container_digest, parse_container, save_container
from hocket.runtime.errors import ArtifactError, UnsupportedError
from hocket.runtime.resizing import Resizing, check_resizing
from hocket.runtime.signature import Signature, TensorSpec
from hocket.runtime.steps import (
    AttentionStep,
    HostModel,
    HostStep,
    LeftToHost,
    Step,
    list_field,
    step_from_json,
    step_to_json,
    text_field,
    whole_field,
)
from hocket.runtime.tensors import view_tensors

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

FORMAT_NAME = "hocket-artifact"
FORMAT_VERSION = 4
MAX_THREADS = 1024
_MANIFEST = "manifest.json"
_WEIGHTS = "weights.safetensors"
_MANIFEST_KEYS = {
    "format",
    "version",
    "producer",
    "model_name",
    "dims",
    "num_threads",
    "target",
    "inputs",
    "outputs",
    "tensors",
    "steps",
    "num_programs",
    "host_models",
    "left_to_host",
    "resizing",
}


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model. Two artifacts are equal if their digests are.

    Attributes:
        model_name: Name of the file or graph it was made from.
        producer: Which Hocket made it.
        target: The machine it was compiled for.
        signature: What it takes and gives.
        tensors: Every tensor that crosses the border of a step, by name.
        steps: In the order in which they run.
        programs: Serialised programs, each used by one or more attention steps.
        host_models: The host steps as ONNX, some steps a model.
        weights: Their larger initializers, by name; they name but do not hold them.
        left_to_host: What looked like attention and was not taken.
        dims: Sizes given to the model's symbolic dimensions.
        num_threads: Threads a session uses unless told otherwise; 0 for one a core.
        resizing: How all sizes follow from the dimensions that are still open; None if none is.
            Everything else is for the sizes in ``dims``.

    Raises:
        ArtifactError: The parts do not fit together.
    """

    model_name: str
    producer: str
    target: HardwareModel
    signature: Signature
    tensors: Mapping[str, TensorSpec]
    steps: tuple[Step, ...]
    programs: tuple[bytes, ...]
    host_models: tuple[HostModel, ...]
    weights: Mapping[str, NDArray[Any]]
    left_to_host: tuple[LeftToHost, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)
    num_threads: int = 0
    resizing: Resizing | None = None

    def __post_init__(self) -> None:
        check_artifact(self)

    @property
    def attention_steps(self) -> tuple[AttentionStep, ...]:
        """The steps that kernels compute."""
        return tuple(step for step in self.steps if isinstance(step, AttentionStep))

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        """The steps that onnxruntime runs."""
        return tuple(step for step in self.steps if isinstance(step, HostStep))

    @cached_property
    def estimate(self) -> Estimate:
        """What all attention steps together are predicted to take on the target."""
        return add_estimates(step.estimate for step in self.attention_steps)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every byte of the file it is saved as, in hexadecimal."""
        return container_digest(_encode(self))

    def program(self, step: AttentionStep) -> Program:
        """Return the program of an attention step, checked against the target.

        Raises:
            ArtifactError: The stored program is malformed or not well formed for the target.
        """
        try:
            program = program_from_json(json.loads(self.programs[step.program]))
            verify_program(program, self.target)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"step {step.name!r}: unusable program: {error}") from error
        return program

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return (
            f"{self.model_name} for {self.target.name}: {len(self.attention_steps)} attention and "
            f"{len(self.host_steps)} host steps"
        )


def check_artifact(artifact: Artifact) -> None:
    """Check that every step finds its tensors, in their types and sizes.

    Raises:
        ArtifactError: Names the step and tensor and what is wrong.
    """
    available: set[str] = set()
    for spec in artifact.signature.inputs:
        _check_listed(spec.name, artifact, "input")
        available.add(spec.name)
    if len({step.name for step in artifact.steps}) != len(artifact.steps):
        raise ArtifactError("two steps have one name")
    for step in artifact.steps:
        _check_step(step, artifact, available)
        available.update(step.outputs)
    for spec in artifact.signature.outputs:
        if spec.name not in available:
            raise ArtifactError(f"output {spec.name!r}: no step makes it")
        _check_listed(spec.name, artifact, "output")
    if artifact.resizing is not None:
        check_resizing(artifact.resizing, artifact.dims, artifact.tensors, artifact.steps)
    for number, model in enumerate(artifact.host_models):
        lacking = sorted(set(model.weights) - set(artifact.weights))
        if lacking:
            raise ArtifactError(f"host model {number}: there are no weights {lacking}")
    if not 0 <= artifact.num_threads <= MAX_THREADS:
        raise ArtifactError(f"num_threads must be 0 to {MAX_THREADS}, got {artifact.num_threads}")


def _check_step(step: Step, artifact: Artifact, available: set[str]) -> None:
    where = f"step {step.name!r}"
    for name in step.inputs:
        if name not in available:
            raise ArtifactError(f"{where}: reads tensor {name!r}, which nothing has made")
    for name in step.outputs:
        if name in available:
            raise ArtifactError(f"{where}: makes tensor {name!r} a second time")
        _check_listed(name, artifact, where)
    if isinstance(step, AttentionStep):
        _check_attention(step, artifact)
    elif not 0 <= step.model < len(artifact.host_models):
        raise ArtifactError(f"{where}: there is no host model {step.model}")


def _check_listed(name: str, artifact: Artifact, where: str) -> None:
    if name not in artifact.tensors:
        raise ArtifactError(f"{where}: tensor {name!r} is not described")


def _check_attention(step: AttentionStep, artifact: Artifact) -> None:
    parameters = step.parameters
    for name in ("has_slopes", "saves_log_sum_exp"):
        if getattr(parameters, name):
            raise ArtifactError(f"step {step.name!r}: {name} needs an operand that no step has")
    wanted: dict[str, tuple[tuple[int, ...], DType]] = {
        step.query: (parameters.query_shape, parameters.dtype),
        step.key: (parameters.key_shape, parameters.dtype),
        step.value: (parameters.value_shape, parameters.dtype),
        step.output: (parameters.output_shape, parameters.dtype),
    }
    if (step.mask is None) != (parameters.mask_shape is None):
        raise ArtifactError(f"step {step.name!r}: the mask and its parameters do not agree")
    if step.mask is not None and parameters.mask_shape is not None:
        wanted[step.mask] = (parameters.mask_shape, parameters.mask_element)
    if (step.kv_lengths is None) == parameters.has_kv_lengths:
        raise ArtifactError(f"step {step.name!r}: the key lengths and its parameters do not agree")
    if step.kv_lengths is not None:
        wanted[step.kv_lengths] = ((parameters.batch,), DType.INT64)
    for name, (shape, dtype) in wanted.items():
        spec = artifact.tensors[name]
        if spec.dtype is not dtype or math.prod(spec.shape) != math.prod(shape):
            raise ArtifactError(
                f"step {step.name!r}: tensor {spec} is not {dtype} of {list(shape)}"
            )
    if not 0 <= step.program < len(artifact.programs):
        raise ArtifactError(f"step {step.name!r}: there is no program {step.program}")


def save_artifact(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Write an artifact to a file, which appears whole or not at all.

    Raises:
        OSError: The folder does not exist or cannot be written to.
    """
    save_container(_encode(artifact), path)


def load_artifact(path: str | os.PathLike[str], expected_digest: str | None = None) -> Artifact:
    """Read an artifact from a file.

    Args:
        path: The file.
        expected_digest: Digest it must have; without one, only that the file is intact is checked.

    Raises:
        ArtifactError: The file is missing, truncated, tampered with, of another version, malformed,
            or not the expected one.
    """
    path = Path(path)
    try:
        return parse_artifact(path.read_bytes(), expected_digest)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def parse_artifact(content: bytes, expected_digest: str | None = None) -> Artifact:
    """Build an artifact from the bytes of its file. See ``load_artifact``."""
    entries, digest = parse_container(content)
    if expected_digest is not None and digest != expected_digest:
        raise ArtifactError(
            f"has digest {digest}, want {expected_digest}; this is another module, or was compiled "
            "anew: fetch the one that is wanted, or want this one's digest if it is what you trust"
        )
    artifact = _decode(entries)
    # The file's own digest, so that nobody has to encode it again to know.
    artifact.__dict__["digest"] = digest
    return artifact


def _encode(artifact: Artifact) -> dict[str, bytes]:
    """Return the entries of the zip, in their order in it."""
    manifest = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "producer": artifact.producer,
        "model_name": artifact.model_name,
        "dims": dict(artifact.dims),
        "num_threads": artifact.num_threads,
        "target": target_to_dict(artifact.target),
        "inputs": [spec.name for spec in artifact.signature.inputs],
        "outputs": [spec.name for spec in artifact.signature.outputs],
        "tensors": [spec.to_json() for spec in artifact.tensors.values()],
        "steps": [step_to_json(step) for step in artifact.steps],
        "num_programs": len(artifact.programs),
        "host_models": [
            {"turn": model.turn, "weights": list(model.weights)} for model in artifact.host_models
        ],
        "resizing": None if artifact.resizing is None else artifact.resizing.to_json(),
        "left_to_host": [vars(left) for left in artifact.left_to_host],
    }
    entries = {_MANIFEST: json.dumps(manifest, indent=1).encode()}
    entries |= {f"programs/{i}.json": content for i, content in enumerate(artifact.programs)}
    entries |= {f"host/{i}.onnx": model.content for i, model in enumerate(artifact.host_models)}
    entries[_WEIGHTS] = save_tensors(dict(sorted(artifact.weights.items())))
    return entries


def _decode(entries: Mapping[str, memoryview]) -> Artifact:
    try:
        manifest = json.loads(bytes(entries[_MANIFEST]))
        _check_version(manifest)
        if set(manifest) != _MANIFEST_KEYS:
            odd = sorted(set(manifest) ^ _MANIFEST_KEYS)
            raise ArtifactError(f"has missing or unknown keys in its manifest: {odd}")
        steps = tuple(step_from_json(fields) for fields in manifest["steps"])
        specs = [TensorSpec.from_json(fields) for fields in manifest["tensors"]]
        tensors = {spec.name: spec for spec in specs}
        if len(tensors) != len(specs):
            raise ArtifactError("describes a tensor twice")
        num_programs = whole_field(manifest["num_programs"])
        if num_programs > len(entries):
            raise ArtifactError(f"has {len(entries)} entries, not {num_programs} programs")
        hosts = list_field(manifest["host_models"])
        wanted = {_MANIFEST, _WEIGHTS}
        wanted |= {f"programs/{index}.json" for index in range(num_programs)}
        wanted |= {f"host/{index}.onnx" for index in range(len(hosts))}
        if set(entries) != wanted:
            raise ArtifactError(f"has missing or unknown entries: {sorted(wanted ^ set(entries))}")
        return Artifact(
            model_name=text_field(manifest["model_name"]),
            producer=text_field(manifest["producer"]),
            target=target_from_dict(manifest["target"], "target"),
            signature=Signature(
                tuple(tensors[name] for name in list_field(manifest["inputs"])),
                tuple(tensors[name] for name in list_field(manifest["outputs"])),
            ),
            tensors=tensors,
            steps=steps,
            programs=tuple(bytes(entries[f"programs/{i}.json"]) for i in range(num_programs)),
            host_models=tuple(
                HostModel(
                    bytes(entries[f"host/{index}.onnx"]),
                    text_field(fields["turn"]),
                    tuple(map(text_field, list_field(fields["weights"]))),
                )
                for index, fields in enumerate(hosts)
            ),
            weights=view_tensors(entries[_WEIGHTS]),
            left_to_host=tuple(
                LeftToHost(
                    text_field(left["node"]), text_field(left["op"]), text_field(left["reason"])
                )
                for left in manifest["left_to_host"]
            ),
            dims={text_field(name): whole_field(size) for name, size in manifest["dims"].items()},
            num_threads=whole_field(manifest["num_threads"]),
            resizing=None
            if manifest["resizing"] is None
            else Resizing.from_json(manifest["resizing"]),
        )
    except (TargetError, ProgramError, UnsupportedError) as error:
        raise ArtifactError(str(error)) from error
    except ArtifactError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"is malformed: {type(error).__name__}: {error}") from error


def _check_version(manifest: Mapping[str, Any]) -> None:
    if manifest["format"] != FORMAT_NAME:
        raise ArtifactError(f"is of format {manifest['format']!r}, want {FORMAT_NAME!r}")
    if type(manifest["version"]) is not int or manifest["version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"has format version {manifest['version']!r}, this Hocket reads {FORMAT_VERSION}; "
            "compile the model again"
        )
