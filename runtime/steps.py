"""The steps of an artifact: host regions, attention regions, and what was left to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.estimate import Estimate
from hocket.runtime.errors import ArtifactError
from hocket.runtime.kernels.parameters import AttentionParameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class HostStep:
    """A part of the model that onnxruntime runs.

    Attributes:
        name: Unique in the artifact.
        model: Serialised ONNX; its larger initializers are named, their numbers are in
            ``Artifact.weights``.
        inputs, outputs: Names of the tensors it reads and writes, in the order of ``model``.
        weights: Names of its initializers in ``Artifact.weights``.
        num_nodes: ONNX nodes in it.
    """

    name: str
    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    num_nodes: int


@dataclass(frozen=True)
class AttentionStep:
    """An attention that kernels compute.

    Attributes:
        name: Name of the node it was found at.
        form: The written form it had in the model.
        parameters: What the kernel is generated from.
        query, key, value, mask, output: Names of tensors; ``mask`` is None without one.
        program: Index into ``Artifact.programs``.
        tiling: The tiling of that program, in words.
        dataflow: The dataflow of that program.
        estimate: What the program is predicted to take on the target.
    """

    name: str
    form: str
    parameters: AttentionParameters
    query: str
    key: str
    value: str
    mask: str | None
    output: str
    program: int
    tiling: str
    dataflow: str
    estimate: Estimate

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        return (self.query, self.key, self.value) + ((self.mask,) if self.mask else ())

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors it writes."""
        return (self.output,)


Step = HostStep | AttentionStep


@dataclass(frozen=True)
class LeftToHost:
    """Something that looks like attention and stays with onnxruntime, and why."""

    node: str
    op: str
    reason: str


def step_to_json(step: Step) -> dict[str, Any]:
    """Return a JSON object; the ONNX of a host step stands beside it, not in it."""
    if isinstance(step, HostStep):
        return {
            "kind": "host",
            "name": step.name,
            "inputs": list(step.inputs),
            "outputs": list(step.outputs),
            "weights": list(step.weights),
            "num_nodes": step.num_nodes,
        }
    return {
        "kind": "attention",
        "name": step.name,
        "form": step.form,
        "parameters": step.parameters.to_json(),
        "query": step.query,
        "key": step.key,
        "value": step.value,
        "mask": step.mask,
        "output": step.output,
        "program": step.program,
        "tiling": step.tiling,
        "dataflow": step.dataflow,
        "estimate": step.estimate.to_json(),
    }


def step_from_json(fields: Mapping[str, Any], host_models: Iterator[bytes]) -> Step:
    """Build a step from JSON that nobody has checked; a host step takes the next of the models.

    Raises:
        ArtifactError: A field holds what it may not. (KeyError and TypeError where one is missing
            or of the wrong kind, for the caller to name the file.)
    """
    if fields["kind"] == "host":
        return HostStep(
            name=text_field(fields["name"]),
            model=next(host_models),
            inputs=tuple(map(text_field, fields["inputs"])),
            outputs=tuple(map(text_field, fields["outputs"])),
            weights=tuple(map(text_field, fields["weights"])),
            num_nodes=whole_field(fields["num_nodes"]),
        )
    if fields["kind"] != "attention":
        raise ArtifactError(f"has a step of unknown kind {fields['kind']!r}")
    return AttentionStep(
        name=text_field(fields["name"]),
        form=text_field(fields["form"]),
        parameters=AttentionParameters.from_json(fields["parameters"]),
        query=text_field(fields["query"]),
        key=text_field(fields["key"]),
        value=text_field(fields["value"]),
        mask=None if fields["mask"] is None else text_field(fields["mask"]),
        output=text_field(fields["output"]),
        program=whole_field(fields["program"]),
        tiling=text_field(fields["tiling"]),
        dataflow=text_field(fields["dataflow"]),
        estimate=Estimate.from_json(fields["estimate"]),
    )


def text_field(value: object) -> str:
    """Return a value that must be text.

    Raises:
        ArtifactError: It is not.
    """
    if not isinstance(value, str):
        raise ArtifactError(f"is malformed: want text, got {value!r}")
    return value


def whole_field(value: object) -> int:
    """Return a value that must be a whole number of 0 or more.

    Raises:
        ArtifactError: It is not.
    """
    if type(value) is not int or value < 0:
        raise ArtifactError(f"is malformed: want a number of 0 or more, got {value!r}")
    return value
