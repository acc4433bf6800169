"""The pass that writes onnxruntime's attention operators out, one after the other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.contrib import grouped, multi_head, packed_weights
from hocket.compiler.graph.contrib.node_writer import OLDEST_OPSET, NodeWriter
from hocket.compiler.graph.contrib.recipes import Recipe, record
from hocket.compiler.graph.contrib.sizes import find_sizes
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.notes import is_left_for_good, note_made_of, note_why_left
from hocket.compiler.graph.recognize.match import Refusal
from hocket.compiler.graph.values import describe_op, is_op

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

DOMAIN = "com.microsoft"

_WRITERS: dict[
    str, tuple[Callable[[ir.Node, NodeWriter], dict[str, ir.Value]], tuple[str, ...]]
] = {
    "Attention": (packed_weights.write_attention, packed_weights.OUTPUTS),
    "GroupQueryAttention": (grouped.write_grouped, grouped.OUTPUTS),
    "MultiHeadAttention": (multi_head.write_multi_head, multi_head.OUTPUTS),
    "QAttention": (packed_weights.write_quantized, packed_weights.OUTPUTS),
}
"""By operator, what writes it out, and the names of its outputs."""


class WriteOutContribPass(ir.passes.InPlacePass):
    """Replace the attention operators of onnxruntime by operators of ONNX.

    They are made of what their inputs' sizes are; those of what is made are known at once, so that
    the next operator can follow. Before and after::

        y = com.microsoft::MultiHeadAttention <num_heads=12> (q, k, v)
        s = Mul(MatMul(...), 0.18); p = Softmax(s); y = Reshape(Transpose(MatMul(p, ...)))

    What cannot be said so stays as it is, with a note why.
    """

    def __init__(self, recipes: dict[str, Recipe] | None = None) -> None:
        """Write out; where ``recipes`` are given, note there what each was written out as."""
        super().__init__()
        self._recipes = recipes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Write out what can be, in the order of the nodes of the main graph."""
        graph = model.graph
        if not any(node.domain == DOMAIN for node in graph):
            return ir.passes.PassResult(model, modified=False)
        opset = model.opset_imports.get("", 0)
        names = FreshNames(graph)
        modified = False
        for node in tuple(graph):
            if may_write_out(node):
                recipe = _try_to_write_out(node, opset, names)
                modified = recipe is not None or modified
                if recipe is not None and self._recipes is not None:
                    self._recipes[node.name or ""] = recipe
            if node.graph is graph:
                find_sizes(node, model.opset_imports)
        return ir.passes.PassResult(model, modified)


def num_contrib_nodes(model: ir.Model) -> int:
    """Return how many nodes of the main graph this pass may still write out."""
    return sum(may_write_out(node) for node in model.graph)


def may_write_out(node: ir.Node) -> bool:
    """Whether a node is an operator that this pass tries to write out."""
    return node.domain == DOMAIN and node.op_type in _WRITERS and not is_left_for_good(node)


def _try_to_write_out(node: ir.Node, opset: int, names: FreshNames) -> Recipe | None:
    """Write a node out and return what as, or note why not."""
    write = NodeWriter(node.name or node.op_type, opset)
    writer, output_names = _WRITERS[node.op_type]
    try:
        if opset < OLDEST_OPSET:
            raise Refusal(
                f"in op set {opset} it cannot be written out, from {OLDEST_OPSET} on it can"
            )
        made = writer(node, write)
    except Refusal as reason:
        write.discard()
        logger.debug("%s %r not written out: %s", describe_op(node), node.name, reason)
        note_why_left(node, str(reason))
        return None
    pairs = []
    for name, output in zip(output_names, node.outputs, strict=False):
        if output.uses() or output.is_graph_output():
            pairs.append((output, write.identity(made[name])))
    recipe = record(node, write, pairs)
    put_in_place(node, write.nodes, pairs, names)
    return recipe


def put_in_place(
    node: ir.Node,
    made: Sequence[ir.Node],
    pairs: Sequence[tuple[ir.Value, ir.Value]],
    names: FreshNames,
) -> None:
    """Put nodes in place of an operator.

    Args:
        node: The operator, which is part of a graph.
        made: The nodes, with names that may be taken.
        pairs: Outputs of the operator, and what takes their places.
        names: Of the graph.
    """
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name!r} is part of no graph")
    for inner in made:
        inner.name = names.make(inner.name or f"{node.name}/{inner.op_type}")
        for output in inner.outputs:
            output.name = names.make(output.name or f"{node.name}/{inner.op_type}")
    graph.insert_before(node, made)
    for old, new in pairs:
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = old.name
    graph.remove(node, safe=True)
    for inner in made:
        if is_op(inner, "Softmax"):
            # It is what reports name, and stands for the whole.
            note_made_of(inner, describe_op(node))
            inner.name = node.name
