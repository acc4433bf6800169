"""An artifact as a graph that can be differentiated: the nodes of its host steps, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from hocket.fl.backends.onnx_ops.node import Node
from hocket.fl.core.errors import CapabilityError
from hocket.runtime.steps import HostStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.backends.batching import Sized
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.steps import Step

_TURN_OPS = {"Equal", "If"}
_STATISTICS = slice(3, 5)  # of BatchNormalization's inputs: mean and variance


@dataclass(frozen=True, eq=False)
class StepGraph:
    """A step and, if it is the host's, its nodes.

    Names of tensors at the border of steps and of weights are the artifact's; those of all else
    are of this step alone.

    Attributes:
        step: Of the artifact.
        nodes: In the order in which they run; empty for an attention.
        constants: Tensors that the host model holds itself, by name.
    """

    step: Step
    nodes: tuple[Node, ...]
    constants: Mapping[str, torch.Tensor]


def read_steps(artifact: Artifact) -> tuple[StepGraph, ...]:
    """Return the steps of an artifact with the nodes of its host models.

    Raises:
        CapabilityError: A host model is not written as Hocket writes them.
    """
    graphs: dict[str, tuple[onnx.GraphProto, onnx.GraphProto, dict[str, int]]] = {}
    for number, host in enumerate(artifact.host_models):
        model = onnx.load_from_string(host.content)
        steps = [step for step in artifact.host_steps if step.model == number]
        opsets = {each.domain: each.version for each in model.opset_import}
        bodies = _bodies(model.graph, number, len(steps), has_turns=bool(host.turn))
        for step, body in zip(steps, bodies, strict=True):
            graphs[step.name] = (model.graph, body, opsets)
    found = []
    for number, each in enumerate(artifact.steps):
        if isinstance(each, HostStep):
            found.append(_read_host_step(each, f"step{number}/", *graphs[each.name]))
        else:
            found.append(StepGraph(each, (), {}))
    return tuple(found)


def _bodies(
    graph: onnx.GraphProto, number: int, count: int, *, has_turns: bool
) -> list[onnx.GraphProto]:
    """Return the graph of each step of a host model, in the order of their turns."""
    if not has_turns:
        bodies = [graph]
    else:
        odd = sorted({node.op_type for node in graph.node} - _TURN_OPS)
        bodies = [
            attribute.g
            for node in graph.node
            if node.op_type == "If"
            for attribute in node.attribute
            if attribute.name == "then_branch"
        ]
        if odd:
            raise CapabilityError(f"host model {number}: has operators {odd} beside its turns")
    if len(bodies) != count:
        raise CapabilityError(f"host model {number}: has {len(bodies)} bodies for {count} steps")
    return bodies


def _read_host_step(
    step: HostStep,
    prefix: str,
    model: onnx.GraphProto,
    body: onnx.GraphProto,
    opsets: Mapping[str, int],
) -> StepGraph:
    names = {name: name for name in step.inputs}
    constants: dict[str, torch.Tensor] = {}
    for tensor in (*model.initializer, *(body.initializer if body is not model else ())):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            names[tensor.name] = tensor.name
        else:
            names[tensor.name] = f"{prefix}{tensor.name}"
            constants[names[tensor.name]] = to_tensor(numpy_helper.to_array(tensor))
    made = {name for node in body.node for name in node.output if name}
    inner = [value.name for value in body.output] if body is not model else step.model_outputs
    copies = []
    for name, tensor_name in zip(inner, step.outputs, strict=True):
        if name in made and name not in names:
            names[name] = tensor_name
        else:  # something from around it, or a second name for one value
            copies.append((name, tensor_name))
    nodes = [_read_node(node, names, prefix, opsets) for node in body.node]
    nodes += [
        Node("Identity", "", f"{prefix}copy", (names[name],), (wanted,)) for name, wanted in copies
    ]
    used = {name for node in nodes for name in node.inputs} | set(step.outputs)
    nodes = [
        replace(node, outputs=tuple(name if name in used else "" for name in node.outputs))
        for node in nodes
    ]
    kept = {name: tensor for name, tensor in constants.items() if name in used}
    return StepGraph(step, tuple(_without_identities(nodes, set(step.outputs))), kept)


def _read_node(
    node: onnx.NodeProto, names: dict[str, str], prefix: str, opsets: Mapping[str, int]
) -> Node:
    for name in (*node.input, *node.output):
        if name and name not in names:
            names[name] = f"{prefix}{name}"
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Node(
        op_type=node.op_type,
        domain=domain,
        name=node.name,
        inputs=tuple(names.get(name, "") for name in node.input),
        outputs=tuple(names.get(name, "") for name in node.output),
        attributes={each.name: _attribute(each) for each in node.attribute},
        opset=opsets.get(domain, 1),
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return to_tensor(numpy_helper.to_array(value))
    return value


def to_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a copy of an array as a tensor."""
    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":  # numpy has it of ml_dtypes, which torch does not know
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_input(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor, with the same memory where torch can."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name == "bfloat16" or not array.flags.writeable:
        return to_tensor(array)
    return torch.from_numpy(array)


def empty_inputs(sized: Sized) -> dict[str, torch.Tensor]:
    """Return tensors without numbers in the shapes of the inputs."""
    return {
        spec.name: torch.empty(spec.shape, dtype=to_tensor(np.empty(0, spec.numpy_dtype)).dtype)
        for spec in sized.signature.inputs
    }


def with_steps(graphs: Sequence[StepGraph], sized: Sized) -> tuple[StepGraph, ...]:
    """Return graphs with their steps in other sizes."""
    return tuple(
        StepGraph(step, graph.nodes, graph.constants)
        for step, graph in zip(sized.steps, graphs, strict=True)
    )


def _without_identities(nodes: Iterable[Node], kept: set[str]) -> list[Node]:
    """Return nodes that read what Identity nodes read, without these where nobody needs them."""
    aliases: dict[str, str] = {}
    found = []
    for node in nodes:
        inputs = tuple(aliases.get(name, name) for name in node.inputs)
        if node.op_type == "Identity" and not node.domain and node.outputs[0] not in kept:
            aliases[node.outputs[0]] = inputs[0]
        else:
            found.append(replace(node, inputs=inputs))
    return found


def find_statistics(steps: Sequence[StepGraph]) -> frozenset[str]:
    """Return the weights that batch normalisations keep their running means and variances in.

    Raises:
        CapabilityError: One of them is also something else: the exporter has merged arrays that
            happened to be equal.
    """
    readers: dict[str, list[Node]] = {}
    found: dict[str, Node] = {}
    for graph in steps:
        for node in graph.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
            if node.op_type == "BatchNormalization":
                found |= dict.fromkeys(node.inputs[_STATISTICS], node)
    for name, node in found.items():
        if len(readers[name]) > 1:
            others = sorted({str(each) for each in readers[name]} | {str(node)})
            raise CapabilityError(
                f"array {name!r} is a statistic of a batch normalisation and read in another place "
                f"too ({'; '.join(others)}): the exporter has made one of arrays that were equal; "
                "export the model as it is in training, with training=TrainingMode.PRESERVE"
            )
    return frozenset(found)
