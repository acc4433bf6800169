"""Host regions as ONNX models, with their larger numbers taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.graph.regions import HostRegion

WEIGHTS_LOCATION = "weights"
"""What the ONNX names as the file of its weights; there is none, whoever loads it gives them."""

TURNS_OF_ONE_THREAD = 4
"""Host regions in one model where sessions have a single thread."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"})
"""Operators whose weights onnxruntime lays out anew, but only in a graph that is no branch."""

_QUANTIZED_OPS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_SEPARABLE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})


@dataclass(frozen=True)
class HostModel:
    """Some host regions as one ONNX model.

    Attributes:
        content: Serialised ONNX. Its inputs are those of its regions, by the names of the values,
            and an int64 scalar that says which region's turn it is.
        turn: Name of that input; empty with a single region, which has no turns.
        weights: Initializers that it names but does not hold.
        outputs: For each region in turn, by its name, the model's names of its outputs, in the
            region's order.
    """

    content: bytes
    turn: str
    weights: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, tuple[str, ...]]


def build_host_models(regions: Sequence[HostRegion], num_threads: int) -> list[HostModel]:
    """Put host regions into ONNX models, for an onnxruntime session each.

    A session has threads of its own, which are in each other's way, so several threads get a single
    one. But in a session the regions whose turn it is not are passed over one by one, two
    microseconds each, so with one thread there are only a few in each; that few, because a session
    takes half a megabyte. Convolutions are not as fast in turns, and have a session of their own.
    ``docs/architecture.md`` has the figures.

    Args:
        regions: Host regions, which are not changed.
        num_threads: Threads that sessions will have; 0 if not known.
    """
    alone = [region for region in regions if _has_convolutions(region)]
    others = [region for region in regions if not _has_convolutions(region)]
    size = TURNS_OF_ONE_THREAD if num_threads == 1 else max(len(others), 1)
    groups = [[region] for region in alone]
    groups += [others[start : start + size] for start in range(0, len(others), size)]
    return [build_host_model(group) for group in groups]


def _has_convolutions(region: HostRegion) -> bool:
    return any(node.op_type in _CONVOLUTIONS for node in region.model.graph)


def build_host_model(regions: Sequence[HostRegion]) -> HostModel:
    """Merge host regions into one model in which a run computes the one whose turn it is.

    Before and after, with two regions::

        host.0: (x) -> a          made = If(turn == 0) { a of host.0 } else { nothing }
        host.1: (y) -> z          made = If(turn == 1) { z of host.1 } else { nothing }

    Floating-point initializers of more than one element are weights: kept apart, they are stored
    once however many regions use them, and can be changed without touching the model. Scalars and
    integers (shapes, axes, epsilons) stay, so that onnxruntime can fold them.

    The regions' models are not changed.

    Args:
        regions: One or more.
    """
    turn = ""
    if len(regions) == 1:
        model = regions[0].model.clone()
        outputs = {regions[0].name: tuple(regions[0].outputs)}
    else:
        prefix = _unused_prefix(regions)
        turn = f"{prefix}turn"
        model, outputs = _merge(regions, prefix, turn)
    weights = _take_weights(model.graph)
    return HostModel(ir.to_proto(model).SerializeToString(), turn, weights, outputs)


def _unused_prefix(regions: Sequence[HostRegion]) -> str:
    """Return a prefix that no name in the regions has, for the names that are made here."""
    names: set[str] = set()
    for region in regions:
        graph = region.model.graph
        names.update(graph.initializers, region.inputs, region.outputs)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            names.update(value.name or "" for value in node.outputs)
    prefix = "hocket."
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix


def _merge(
    regions: Sequence[HostRegion], prefix: str, turn_name: str
) -> tuple[ir.Model, dict[str, tuple[str, ...]]]:
    turn = ir.Value(name=turn_name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(()))
    inputs: dict[str, ir.Value] = {}
    initializers: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    outputs: list[ir.Value] = []
    opsets: dict[str, int] = {}
    for number, region in enumerate(regions):
        own = f"{prefix}{region.name}"
        model = region.model.clone()
        opsets |= model.opset_imports
        branch = _as_branch(model.graph, own, inputs, initializers)
        index = ir.Value(name=f"{own}.turn", const_value=ir.tensor(np.array(number)))
        initializers[f"{own}.turn"] = index
        is_turn = ir.node("Equal", [turn, index], name=f"{own}.is_turn")
        is_turn.outputs[0].name = f"{own}.is_turn"
        made = [
            ir.Value(name=f"{own}:{name}", type=value.type)
            for name, value in zip(region.outputs, branch.outputs, strict=True)
        ]
        branches = {
            "then_branch": branch,
            "else_branch": _nothing(branch.outputs, f"{own}.nothing"),
        }
        nodes += [is_turn, ir.node("If", is_turn.outputs, branches, outputs=made, name=own)]
        outputs += made
    graph = ir.Graph(
        [turn, *inputs.values()],
        outputs,
        nodes=nodes,
        initializers=tuple(initializers.values()),
        opset_imports=opsets,
        name="host",
    )
    names = {
        region.name: tuple(f"{prefix}{region.name}:{name}" for name in region.outputs)
        for region in regions
    }
    return ir.Model(graph, ir_version=regions[0].model.ir_version), names


def _as_branch(
    graph: ir.Graph,
    prefix: str,
    inputs: dict[str, ir.Value],
    initializers: dict[str, ir.Value],
) -> ir.Graph:
    """Return a region's graph as one that takes its inputs and weights from around it.

    What it makes is renamed: the same values are inputs of the model, for the regions that read
    them.
    """
    for value in graph.inputs:
        shared = inputs.setdefault(
            value.name or "", ir.Value(name=value.name, type=value.type, shape=value.shape)
        )
        ir.convenience.replace_all_uses_with(value, shared)
    quantized = []
    for name, value in tuple(graph.initializers.items()):
        if _is_quantized(value):
            # onnxruntime's rewrites of quantised operators look for these in their own graph.
            del graph.initializers[name]
            value.name = f"{prefix}/{name}"
            quantized.append(value)
            continue
        shared = initializers.setdefault(
            name,
            ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value),
        )
        ir.convenience.replace_all_uses_with(value, shared)
    outputs = list(graph.outputs)
    nodes = list(graph)
    graph.outputs.clear()
    graph.remove(nodes)
    branch = ir.Graph((), outputs, nodes=nodes, initializers=quantized, name=prefix)
    for node in ir.traversal.RecursiveGraphIterator(branch):
        node.name = f"{prefix}/{node.name}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
    return branch


def _is_quantized(value: ir.Value) -> bool:
    """Return whether an initializer is a quantised tensor, or a scale or zero point of one."""
    return any(node.op_type in _QUANTIZED_OPS for node, _ in value.uses())


def _nothing(outputs: Sequence[ir.Value], name: str) -> ir.Graph:
    """Return a graph that gives an empty tensor for each output, in its type and rank."""
    nodes = []
    for number, value in enumerate(outputs):
        dtype = value.dtype or ir.DataType.FLOAT
        rank = len(value.shape) if value.shape is not None else 1
        # A scalar cannot be empty; its one element is never looked at.
        shape = ir.Shape([0] * rank)
        empty = ir.Tensor(np.zeros(shape.numpy(), dtype.numpy()), dtype=dtype)
        node = ir.node("Constant", [], {"value": empty}, name=f"{name}.{number}")
        node.outputs[0].name = f"{name}.{number}"
        node.outputs[0].type = ir.TensorType(dtype)
        nodes.append(node)
    return ir.Graph((), [node.outputs[0] for node in nodes], nodes=nodes, name=name)


def _take_weights(graph: ir.Graph) -> dict[str, NDArray[Any]]:
    weights: dict[str, NDArray[Any]] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _SEPARABLE or tensor.size <= 1:
            continue
        if name == "__metadata__":
            continue  # safetensors keeps that name for itself
        array: NDArray[Any] = tensor.numpy()
        weights[name] = array
        value.const_value = ir.ExternalTensor(
            location=WEIGHTS_LOCATION,
            offset=0,
            length=array.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(array.shape),
            name=name,
        )
    return weights
