"""A module as one ONNX model again: its host regions, and ``hocket::Attention`` between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from hocket.compiler.export.c_text import INPUTS
from hocket.runtime.steps import AttentionStep, HostStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import TensorSpec
    from hocket.runtime.steps import Step

DOMAIN = "hocket"
"""Domain of the operator ``Attention``."""


def build_onnx_model(
    artifact: Artifact, steps: Sequence[Step], tensors: Mapping[str, TensorSpec]
) -> ir.Model:
    """Return a model of a module's steps, in which attention is an operator of our library.

    Before and after::

        host.0: (x) -> q, k, v    x -> nodes of host.0 -> q, k, v
        attention: (q, k, v) -> o      hocket::Attention(q, k, v) -> o
        host.1: (o) -> y               nodes of host.1 -> y

    Host steps take turns in their models, as branches; here they all stand in one graph.

    Args:
        artifact: The module, for its host models and weights.
        steps: Its steps, in the sizes that are wanted.
        tensors: Its tensors, in these sizes.
    """
    writer = _Writer(artifact, tensors)
    for step in steps:
        if isinstance(step, AttentionStep):
            writer.add_attention(step)
        else:
            writer.add_host(step)
    return writer.model()


class _Writer:
    """The graph so far: its nodes, and its values by the names of the module's tensors."""

    def __init__(self, artifact: Artifact, tensors: Mapping[str, TensorSpec]) -> None:
        self._artifact = artifact
        self._tensors = tensors
        self._hosts = [
            ir.from_proto(onnx.ModelProto.FromString(model.content))
            for model in artifact.host_models
        ]
        self._values = {spec.name: _value(tensors[spec.name]) for spec in artifact.signature.inputs}
        self._initializers: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._opsets = {"": 17, DOMAIN: 1}
        self._num_attentions = 0

    def add_attention(self, step: AttentionStep) -> None:
        names = [getattr(step, name) for name in INPUTS]
        while names[-1] is None:
            names.pop()
        node = ir.Node(
            DOMAIN,
            "Attention",
            [None if name is None else self._values[name] for name in names],
            [ir.AttrInt64("attention", self._num_attentions)],
            outputs=[_value(self._tensors[step.output])],
            name=step.name,
        )
        self._num_attentions += 1
        self._values[step.output] = node.outputs[0]
        self._nodes.append(node)

    def add_host(self, step: HostStep) -> None:
        host = self._hosts[step.model].graph
        self._opsets |= self._hosts[step.model].opset_imports
        graph = self._branch(step)
        nodes, made = list(graph), list(graph.outputs)
        graph.outputs.clear()
        graph.remove(nodes)
        initializers = {*host.initializers.values(), *graph.initializers.values()}
        inputs = set(host.inputs)

        def outer(value: ir.Value) -> ir.Value:
            """Return what stands for a value of the host model in the whole graph."""
            if value in inputs:
                return self._values[value.name or ""]
            return self._initializer(value) if value in initializers else value

        for node in _all_nodes(nodes):
            for place, value in enumerate(node.inputs):
                if value is not None:
                    node.replace_input_with(place, outer(value))
        _keep_additions(nodes)
        self._nodes += nodes
        for name, value in zip(step.outputs, made, strict=True):
            self._name_output(name, outer(value))

    def model(self) -> ir.Model:
        outputs = [self._values[spec.name] for spec in self._artifact.signature.outputs]
        graph = ir.Graph(
            [self._values[spec.name] for spec in self._artifact.signature.inputs],
            outputs,
            nodes=self._nodes,
            initializers=tuple(self._initializers.values()),
            opset_imports=self._opsets,
            name=self._artifact.model_name,
        )
        version = max((host.ir_version for host in self._hosts), default=10)
        return ir.Model(graph, ir_version=version, producer_name=self._artifact.producer)

    def _branch(self, step: HostStep) -> ir.Graph:
        """Return the graph of a host step: a branch, or the model itself if it has no turns."""
        graph: ir.Graph = self._hosts[step.model].graph
        if not self._artifact.host_models[step.model].turn:
            return graph
        for node in graph:
            if node.op_type == "If" and node.outputs[0].name in step.model_outputs:
                branch: ir.Graph = node.attributes["then_branch"].as_graph()
                return branch
        raise AssertionError(f"host model {step.model} has no turn for {step.name!r}")

    def _initializer(self, value: ir.Value) -> ir.Value:
        """Return the initializer of the whole graph for one of a host model."""
        name = value.name or ""
        found = self._initializers.get(name)
        if found is None:
            content = self._artifact.weights.get(name)
            tensor = value.const_value if content is None else ir.tensor(content, name=name)
            found = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
            self._initializers[name] = found
        return found

    def _name_output(self, name: str, value: ir.Value) -> None:
        """Give a value that a step makes its name in the module."""
        node = value.producer()
        if node is None or value in self._values.values():
            node = ir.node("Identity", [value], name=f"{name}/copy")
            value = node.outputs[0]
            self._nodes.append(node)
        spec = self._tensors[name]
        value.name = name
        value.shape = ir.Shape(spec.shape)
        value.dtype = _dtype(spec)
        self._values[name] = value


def _keep_additions(nodes: Sequence[ir.Node]) -> None:
    """Write additions that are normalised as sums, which onnxruntime leaves as they are.

    Its fused skip-and-normalise kernel takes longer than the two, see
    ``runtime.host.SLOW_FUSIONS``: a fifth of a model's time here. A session of ours turns that
    rewrite off; the session that this model will have is not ours. With two inputs, Sum is Add.
    """
    for node in nodes:
        if node.op_type != "Add" or node.domain:
            continue
        readers = {use.node.op_type for use in node.outputs[0].uses()}
        # Sum takes no integers, which are never normalised, but may well be averaged.
        is_floating = "LayerNormalization" in readers or node.outputs[0].dtype in _FLOATING
        if readers & _NORMALIZERS and is_floating:
            node.op_type = "Sum"


def _all_nodes(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return nodes and those in their branches and bodies."""
    found = []
    for node in nodes:
        found.append(node)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found += _all_nodes(tuple(attribute.as_graph()))
            elif attribute.type == ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    found += _all_nodes(tuple(graph))
    return found


def _value(spec: TensorSpec) -> ir.Value:
    return ir.Value(name=spec.name, type=ir.TensorType(_dtype(spec)), shape=ir.Shape(spec.shape))


def _dtype(spec: TensorSpec) -> ir.DataType:
    return ir.DataType[_ONNX_NAMES.get(spec.dtype.name, spec.dtype.name)]


# LayerNormalization, also as it is written out.
_NORMALIZERS = frozenset({"LayerNormalization", "ReduceMean"})
_FLOATING = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
_ONNX_NAMES = {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE"}
