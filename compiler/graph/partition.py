"""Cutting a recognised model into attention regions and as few host regions as can be."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.attention_node import DOMAIN, is_attention_node, region_from_node
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.regions import (
    HostRegion,
    NotTaken,
    PartitionedModel,
    Region,
    ValueInfo,
)
from hocket.compiler.graph.value_ranges import find_value_ranges
from hocket.compiler.graph.values import (
    element_type,
    is_op,
    name_of,
    static_shape,
    values_read,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_RANDOM_OPS = (
    "RandomUniform",
    "RandomNormal",
    "RandomUniformLike",
    "RandomNormalLike",
    "Multinomial",
    "Bernoulli",
)


@dataclass
class _Stages:
    """When each part of a model runs: host region, attentions, host region, attentions, and so on.

    Attributes:
        of_value: The stage from which on a value is there; constants have none.
        of_node: The stage a node runs in; nodes that depend on constants alone have none, and are
            copied into every region that needs them.
    """

    of_value: dict[ir.Value, int] = field(default_factory=dict)
    of_node: dict[ir.Node, int] = field(default_factory=dict)


def partition(
    model: ir.Model,
    not_taken: Sequence[NotTaken] = (),
    dims: Mapping[str, int] | None = None,
) -> PartitionedModel:
    """Cut a model at its hocket::Attention nodes.

    A node runs in the first stage in which all it reads is there, and all host nodes of one stage
    make one region, connected or not::

        x -> LayerNorm -> Attention -> MatMul -> Attention -> MatMul -> y      m -> Cast -> (both)
        (stages)      0            |        1           |        2                   0
        host.0: LayerNorm, Cast; attention; host.1: MatMul; attention; host.2: MatMul

    Args:
        model: Recognised; left as it is.
        not_taken: From recognition, handed on.
        dims: The bound dimensions, handed on.

    Returns:
        Regions whose host models are valid ONNX models of their own. Their initializers are those
        of ``model``, by the same names.

    Raises:
        ModelError: A value that crosses a border has an unknown size, or is no tensor of a known
            element type.
    """
    work = model.clone()
    graph = work.graph
    _name_initializers_read_by_attention(graph)
    stages = _assign_stages(graph)
    wanted = _find_host_outputs(graph, stages)
    regions: list[Region] = []
    for stage in range(1 + max([0, *wanted, *stages.of_node.values()])):
        if wanted.get(stage):
            regions.append(_cut_host_region(work, stages, wanted[stage], f"host.{stage}"))
        regions += [
            region_from_node(node)
            for node, found in stages.of_node.items()
            if found == stage and is_attention_node(node)
        ]
    regions = _with_consecutive_names(regions)
    return _describe(graph, regions, not_taken, dims or {})


def _name_initializers_read_by_attention(graph: ir.Graph) -> None:
    """Give attention a value of its own for each weight that it reads, which the host can hand out.

    A weight keeps its name in the host region, so the value at the border needs another one.
    """
    copies: dict[ir.Value, ir.Value] = {}
    names = FreshNames(graph)
    for node in tuple(graph):
        if not is_attention_node(node):
            continue
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer():
                continue
            if value not in copies:
                copy = ir.Value(
                    name=names.make(f"{value.name}/value"), shape=value.shape, type=value.type
                )
                identity = ir.node("Identity", [value], outputs=[copy], name=copy.name)
                graph.insert_before(node, identity)
                copies[value] = copy
            node.replace_input_with(index, copies[value])


def _assign_stages(graph: ir.Graph) -> _Stages:
    stages = _Stages()
    for value in graph.inputs:
        stages.of_value[value] = 0
    for node in graph:
        read = [stages.of_value[value] for value in values_read(node) if value in stages.of_value]
        if not read and not _has_effect(node):
            continue
        stage = max(read, default=0)
        stages.of_node[node] = stage
        for output in node.outputs:
            stages.of_value[output] = stage + 1 if is_attention_node(node) else stage
    return stages


def _has_effect(node: ir.Node) -> bool:
    """Whether copies of a node would not all give the same."""
    return is_attention_node(node) or is_op(node, *_RANDOM_OPS) or node.domain != ""


def _find_host_outputs(graph: ir.Graph, stages: _Stages) -> dict[int, list[ir.Value]]:
    """Return, by stage, what the host region of that stage must hand out, in a fixed order."""
    wanted: dict[int, dict[ir.Value, None]] = defaultdict(dict)
    for value, stage in _constants_read_by_attention(stages).items():
        wanted[stage][value] = None
    for node, stage in stages.of_node.items():
        for value in values_read(node):
            producer = value.producer()
            if value not in stages.of_value or producer is None or is_attention_node(producer):
                continue
            made = stages.of_node[producer]
            if is_attention_node(node) or made != stage:
                wanted[made][value] = None
    last = max(wanted, default=0)
    for value in graph.outputs:
        producer = value.producer()
        if value.is_graph_input() or is_attention_node(producer):
            continue
        found = last if producer is None else stages.of_node.get(producer, last)
        wanted[found][value] = None
    return {stage: list(values) for stage, values in wanted.items()}


def _constants_read_by_attention(stages: _Stages) -> dict[ir.Value, int]:
    """Return the constants that attention reads, each with the first stage that needs it.

    Host regions get copies of constants, but attention has nowhere to put one.
    """
    first: dict[ir.Value, int] = {}
    for node, stage in stages.of_node.items():
        if is_attention_node(node):
            for value in values_read(node):
                if value not in stages.of_value:
                    first[value] = min(stage, first.get(value, stage))
    return first


def _cut_host_region(
    model: ir.Model, stages: _Stages, outputs: list[ir.Value], name: str
) -> HostRegion:
    """Copy the nodes that make some values into a model of its own."""
    graph = model.graph
    stage = int(name.rpartition(".")[2])
    needed: set[ir.Node] = set()
    inputs: dict[ir.Value, None] = {}
    initializers: dict[ir.Value, None] = {}
    pending = list(reversed(outputs))
    while pending:
        value = pending.pop()
        producer = value.producer()
        is_inside = producer is not None and stages.of_node.get(producer, stage) == stage
        if value.is_initializer():
            initializers[value] = None
        elif producer is None or not is_inside or is_attention_node(producer):
            inputs[value] = None
        elif producer not in needed:
            needed.add(producer)
            pending += reversed(values_read(producer))
    nodes = [node for node in graph if node in needed]
    view = ir.GraphView(
        _in_order(inputs, graph.inputs),
        outputs,
        nodes=nodes,
        initializers=tuple(initializers),
        opset_imports={
            domain: version for domain, version in model.opset_imports.items() if domain != DOMAIN
        },
        name=name,
    )
    for value in (*view.inputs, *view.outputs):
        _require_known(value)
    host = ir.Model(view.clone(), ir_version=model.ir_version, producer_name="hocket")
    return HostRegion(
        name=name,
        model=host,
        inputs=tuple(name_of(value) for value in view.inputs),
        outputs=tuple(name_of(value) for value in outputs),
        num_nodes=len(nodes),
    )


def _in_order(values: Iterable[ir.Value], first: Iterable[ir.Value]) -> tuple[ir.Value, ...]:
    """Put the inputs of the model first, in their order; the others stay as they were found."""
    found = tuple(values)
    leading = tuple(value for value in first if value in found)
    return leading + tuple(value for value in found if value not in leading)


def _with_consecutive_names(regions: list[Region]) -> list[Region]:
    """Number the host regions that there are: a stage without host nodes has none."""
    result: list[Region] = []
    count = 0
    base = "host"
    taken = {region.name for region in regions if not isinstance(region, HostRegion)}
    while any(name.startswith(f"{base}.") for name in taken):
        base = f"_{base}"
    for region in regions:
        if isinstance(region, HostRegion):
            name = f"{base}.{count}"
            region.model.graph.name = name
            count += 1
            result.append(
                HostRegion(name, region.model, region.inputs, region.outputs, region.num_nodes)
            )
        else:
            result.append(region)
    return result


def _describe(
    graph: ir.Graph,
    regions: list[Region],
    not_taken: Sequence[NotTaken],
    dims: Mapping[str, int],
) -> PartitionedModel:
    ranges = find_value_ranges(graph)
    by_name = {name_of(value): value for value in graph.inputs}
    by_name |= {name_of(value): value for value in graph.initializers.values()}
    by_name |= {name_of(value): value for node in graph for value in node.outputs}
    crossing = [name_of(value) for value in (*graph.inputs, *graph.outputs)]
    for region in regions:
        crossing += [*region.inputs, *region.outputs]
    values = {
        name: _value_info(by_name[name], ranges.get(name)) for name in dict.fromkeys(crossing)
    }
    return PartitionedModel(
        regions=tuple(regions),
        inputs=tuple(values[name_of(value)] for value in graph.inputs),
        outputs=tuple(values[name_of(value)] for value in graph.outputs),
        values=values,
        not_taken=tuple(not_taken),
        dims=dict(dims),
    )


def _require_known(value: ir.Value) -> tuple[str, tuple[int, ...]]:
    dtype, shape = element_type(value), static_shape(value)
    if dtype is None:
        raise ModelError(
            f"value {value.name!r} crosses between regions, or in or out of the model, and has "
            f"type {value.type}, which is not supported there; only tensors of numbers are"
        )
    if shape is None:
        sizes = "no rank" if value.shape is None else f"the shape {value.shape}"
        raise ModelError(
            f"value {value.name!r} crosses between regions, or out of the model, with {sizes}: its "
            "size depends on the data, or on an operator without shape inference; make it fixed "
            "in the model, or declare it at the output"
        )
    return dtype.value, shape


def _value_info(value: ir.Value, value_range: tuple[int, int] | None) -> ValueInfo:
    dtype, shape = _require_known(value)
    return ValueInfo(name_of(value), dtype, shape, value_range)
