"""The steps of an artifact: host regions, attention regions, and what was left to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.estimate import Estimate
from hocket.runtime.errors import ArtifactError
from hocket.runtime.kernels.parameters import AttentionParameters

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class HostModel:
    """Some host steps as one ONNX model, for one onnxruntime session.

    Attributes:
        content: Serialised ONNX.
        turn: Name of its int64 scalar input that says which of its steps to compute, counted from
            0 in the order of the artifact; empty with a single one, which has no turns.
        weights: Names of its larger initializers, which it does not hold: the artifact does.
    """

    content: bytes
    turn: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class HostStep:
    """A part of the model that onnxruntime runs: one turn of one of ``Artifact.host_models``.

    Attributes:
        name: Unique in the artifact.
        inputs: Names of the tensors it reads; the host model has inputs of these names.
        outputs: Names of the tensors it writes.
        model: Index into ``Artifact.host_models``.
        model_outputs: The host model's names of the outputs, in the same order.
        num_nodes: ONNX nodes in it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: int
    model_outputs: tuple[str, ...]
    num_nodes: int

    def __post_init__(self) -> None:
        if len(self.model_outputs) != len(self.outputs):
            raise ArtifactError(
                f"step {self.name!r}: {len(self.outputs)} outputs have "
                f"{len(self.model_outputs)} names in the host model"
            )


@dataclass(frozen=True)
class AttentionStep:
    """An attention that kernels compute.

    Attributes:
        name: Name of the node it was found at.
        form: The written form it had in the model.
        parameters: What the kernel is generated from.
        query, key, value, mask, kv_lengths, output: Names of tensors; ``mask`` and ``kv_lengths``
            are None where the parameters have none.
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
    kv_lengths: str | None
    output: str
    program: int
    tiling: str
    dataflow: str
    estimate: Estimate

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        optional = (self.mask, self.kv_lengths)
        return (self.query, self.key, self.value, *(name for name in optional if name))

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
    """Return a JSON object."""
    if isinstance(step, HostStep):
        return {
            "kind": "host",
            "name": step.name,
            "inputs": list(step.inputs),
            "outputs": list(step.outputs),
            "model": step.model,
            "model_outputs": list(step.model_outputs),
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
        "kv_lengths": step.kv_lengths,
        "output": step.output,
        "program": step.program,
        "tiling": step.tiling,
        "dataflow": step.dataflow,
        "estimate": step.estimate.to_json(),
    }


def step_from_json(fields: Mapping[str, Any]) -> Step:
    """Build a step from JSON that nobody has checked.

    Raises:
        ArtifactError: A field holds what it may not. (KeyError and TypeError where one is missing
            or of the wrong kind, for the caller to name the file.)
    """
    if fields["kind"] == "host":
        return HostStep(
            name=text_field(fields["name"]),
            inputs=tuple(map(text_field, list_field(fields["inputs"]))),
            outputs=tuple(map(text_field, list_field(fields["outputs"]))),
            model=whole_field(fields["model"]),
            model_outputs=tuple(map(text_field, list_field(fields["model_outputs"]))),
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
        kv_lengths=None if fields["kv_lengths"] is None else text_field(fields["kv_lengths"]),
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


def list_field(value: object) -> list[Any]:
    """Return a value that must be a list.

    Raises:
        ArtifactError: It is not.
    """
    if not isinstance(value, list):
        raise ArtifactError(f"is malformed: want a list, got {value!r}")
    return value


def whole_field(value: object) -> int:
    """Return a value that must be a whole number of 0 or more.

    Raises:
        ArtifactError: It is not.
    """
    if type(value) is not int or value < 0:
        raise ArtifactError(f"is malformed: want a number of 0 or more, got {value!r}")
    return value
