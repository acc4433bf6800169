"""Several nodes of ONNX made one operator of torch, where torch has one and exporters do not.

A product with a weight and the sum with a bias become one, and activations that are written out
become what they are. Torch takes less time and keeps fewer tensors for the backward pass then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from hocket.fl.backends.onnx_ops.node import Node
from hocket.fl.backends.onnx_ops.table import FUSED_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.backends.training_graph import StepGraph

_SCALAR_OPS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "Div": torch.div,
    "Erf": torch.erf,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}
_CURVES: dict[str, tuple[tuple[str, dict[str, str], Callable[..., torch.Tensor]], ...]] = {
    "Erf": (("Gelu", {"approximate": "none"}, functional.gelu),),
    "Tanh": (("Gelu", {"approximate": "tanh"}, lambda x: functional.gelu(x, approximate="tanh")),),
    "Sigmoid": (("Swish", {}, functional.silu),),
}
_MOST_STEPS = 6
_GELU_OPSET = 24
_TOLERANCE = 2e-6  # constants of the files are float32


def fuse(graph: StepGraph, weight_ranks: Mapping[str, int]) -> StepGraph:
    """Return a step with fewer nodes that computes the same.

    Before and after::

        t = Transpose(W); m = MatMul(x, t); y = Add(m, b)
        e = Erf(y / 1.414); z = y * (e + 1) * 0.5
        y = Linear(x, W, b); z = Gelu(y)

    Args:
        graph: The step.
        weight_ranks: Of all weights, by name.
    """
    if not graph.nodes:
        return graph
    work = _Work(list(graph.nodes), set(graph.step.outputs), _scalars(graph))
    _fuse_products(work, weight_ranks)
    _fuse_activations(work)
    return replace(graph, nodes=tuple(_needed(work)))


def _scalars(graph: StepGraph) -> dict[str, float]:
    """Return the constants of one element."""
    found = {name: tensor.item() for name, tensor in graph.constants.items() if tensor.numel() == 1}
    for node in graph.nodes:
        value = node.attributes.get("value")
        is_one = isinstance(value, torch.Tensor) and value.numel() == 1
        if node.op_type == "Constant" and is_one and value is not None:
            found[node.outputs[0]] = value.item()
        elif node.op_type == "Constant" and "value_float" in node.attributes:
            found[node.outputs[0]] = node.attributes["value_float"]
    return found


@dataclass
class _Work:
    """A list of nodes while it changes.

    Attributes:
        nodes: What there is; None where a node was taken out.
        kept: Values that others need.
        scalars: Values of constants of one element.
    """

    nodes: list[Node | None]
    kept: set[str]
    scalars: Mapping[str, float]

    def __post_init__(self) -> None:
        self.makers = {
            name: index for index, node in enumerate(self.nodes) if node for name in node.outputs
        }
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.inputs if node else ():
                self.readers.setdefault(name, []).append(index)

    def maker(self, name: str) -> Node | None:
        """Return the node that makes a value, None if none does."""
        index = self.makers.get(name)
        return None if index is None else self.nodes[index]

    def outputs(self, place: int) -> tuple[str, ...]:
        """Return what the node at a place makes."""
        node = self.nodes[place]
        return () if node is None else node.outputs

    def only_reader(self, name: str) -> int | None:
        """Return the place of the one node that reads a value, once; None if there are others."""
        readers = [index for index in self.readers.get(name, []) if self.nodes[index] is not None]
        return readers[0] if len(readers) == 1 and name not in self.kept else None

    def replace(self, gone: set[int], place: int, node: Node) -> None:
        """Put a node in place of several, the last of which stood there."""
        for index in gone:
            self.nodes[index] = None
        self.nodes[place] = node
        for name in node.outputs:
            self.makers[name] = place
        for name in node.inputs:
            self.readers.setdefault(name, []).append(place)


def _needed(work: _Work) -> list[Node]:
    """Return the nodes whose results somebody needs."""
    wanted, found = set(work.kept), []
    for node in reversed(work.nodes):
        if node is not None and not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _fuse_products(work: _Work, weight_ranks: Mapping[str, int]) -> None:
    for place, node in enumerate(work.nodes):
        if node is None or node.op_type != "MatMul" or node.domain:
            continue
        weight, kind = node.inputs[1], "LinearInOut"
        turned = work.maker(weight)
        if (
            turned is not None
            and turned.op_type == "Transpose"
            and list(turned.attributes.get("perm", [1, 0])) == [1, 0]
        ):
            weight, kind = turned.inputs[0], "Linear"
        if weight_ranks.get(weight) != 2:
            continue
        operands: tuple[str, ...] = (node.inputs[0], weight)
        outputs, gone, last = node.outputs, {place}, place
        bias, reader = _added_bias(work, node.outputs[0], weight_ranks)
        if reader is not None:
            operands += (bias,)
            outputs, gone, last = work.outputs(reader), {place, reader}, reader
        made = replace(
            node, op_type=kind, domain=FUSED_DOMAIN, inputs=operands, outputs=outputs, attributes={}
        )
        work.replace(gone, last, made)


def _added_bias(
    work: _Work, product: str, weight_ranks: Mapping[str, int]
) -> tuple[str, int | None]:
    """Return the weight that is all that a product is added to, and the place of the sum."""
    reader = work.only_reader(product)
    node = None if reader is None else work.nodes[reader]
    if node is not None and node.op_type == "Add" and not node.domain:
        for name in node.inputs:
            if weight_ranks.get(name) == 1:
                return name, reader
    return "", None


def _fuse_activations(work: _Work) -> None:
    for place, node in enumerate(work.nodes):
        if node is None or node.domain or node.op_type not in _CURVES:
            continue
        sources = _values_before(work, node.inputs[0])
        for result in reversed(_values_after(work, place)):
            if any(_fuse_activation(work, node, source, result) for source in sources):
                break


def _values_before(work: _Work, name: str) -> list[str]:
    """Return values that one may come from by scalar operators, the nearest first."""
    found, level = [name], [name]
    for _ in range(_MOST_STEPS):
        makers = [work.maker(each) for each in level]
        level = [
            value
            for maker in makers
            if maker is not None and maker.op_type in _SCALAR_OPS and not maker.domain
            for value in maker.inputs
            if value not in work.scalars and value not in found
        ]
        found += level
    return list(dict.fromkeys(found))


def _values_after(work: _Work, place: int) -> list[str]:
    """Return the results of the operators that follow one by one, the nearest first."""
    found: list[str] = []
    current: int | None = place
    while current is not None and len(found) < _MOST_STEPS:
        node = work.nodes[current]
        if node is None or node.op_type not in _SCALAR_OPS or node.domain:
            break
        found.append(node.outputs[0])
        current = work.only_reader(node.outputs[0])
    return found


def _fuse_activation(work: _Work, curve: Node, source: str, result: str) -> bool:
    """Put an activation in place of all nodes between two values, if they compute it."""
    between = _between(work, source, result)
    if between is None or work.makers[curve.outputs[0]] not in between:
        return False
    points = torch.linspace(-6, 6, 49, dtype=torch.float64)
    computed = _evaluate(work, between, source, points)[result]
    for op_type, attributes, function in _CURVES[curve.op_type]:
        if torch.allclose(computed, function(points), rtol=0, atol=_TOLERANCE):
            last = work.nodes[max(between)]
            name = curve.name if last is None else last.name
            made = Node(op_type, "", name, (source,), (result,), attributes, _GELU_OPSET)
            work.replace(between, max(between), made)
            return True
    return False


def _between(work: _Work, source: str, result: str) -> set[int] | None:
    """Return the places of the scalar nodes that make one value of another and of constants.

    None if there are none, if something else goes in, or if something goes out on the way.
    """
    places: set[int] = set()
    waiting = [result]
    while waiting:
        name = waiting.pop()
        if name == source or name in work.scalars:
            continue
        index = work.makers.get(name)
        node = None if index is None else work.nodes[index]
        if index is None or node is None or node.op_type not in _SCALAR_OPS or node.domain:
            return None
        if len(places) > 2 * _MOST_STEPS:
            return None
        if index not in places:
            places.add(index)
            waiting.extend(node.inputs)
    for index in places:
        node = work.nodes[index]
        for name in node.outputs if node else ():
            leaves = any(
                reader not in places and work.nodes[reader] is not None
                for reader in work.readers.get(name, [])
            )
            if name != result and (leaves or name in work.kept):
                return None
    return places or None


def _evaluate(
    work: _Work, places: Sequence[int] | set[int], source: str, points: torch.Tensor
) -> dict[str, torch.Tensor]:
    values = {source: points}
    for index in sorted(places):
        node = work.nodes[index]
        if node is None:
            continue
        operands = [
            values[name]
            if name in values
            else torch.tensor(work.scalars[name], dtype=torch.float64)
            for name in node.inputs
        ]
        values[node.outputs[0]] = _SCALAR_OPS[node.op_type](*operands)
    return values
