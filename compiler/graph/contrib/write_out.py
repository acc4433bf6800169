"""The pass that writes onnxruntime's attention operators out, one after the other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.contrib import grouped, multi_head, packed_weights
from hocket.compiler.graph.contrib.node_writer import OLDEST_OPSET, NodeWriter
from hocket.compiler.graph.contrib.sizes import find_sizes
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.notes import note_made_of, note_why_left
from hocket.compiler.graph.recognize.match import Refusal
from hocket.compiler.graph.values import describe_op, is_op

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Write out what can be, in the order of the nodes of the main graph."""
        graph = model.graph
        if not any(node.domain == DOMAIN for node in graph):
            return ir.passes.PassResult(model, modified=False)
        opset = model.opset_imports.get("", 0)
        names = FreshNames(graph)
        modified = False
        for node in tuple(graph):
            if node.domain == DOMAIN and node.op_type in _WRITERS:
                modified = _try_to_write_out(node, graph, opset, names) or modified
            if node.graph is graph:
                find_sizes(node, model.opset_imports)
        return ir.passes.PassResult(model, modified)


def num_contrib_nodes(model: ir.Model) -> int:
    """Return how many nodes of the main graph this pass may still write out."""
    return sum(node.domain == DOMAIN and node.op_type in _WRITERS for node in model.graph)


def _try_to_write_out(node: ir.Node, graph: ir.Graph, opset: int, names: FreshNames) -> bool:
    """Write a node out, or note why not; return whether it was."""
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
        return False
    pairs = []
    for name, output in zip(output_names, node.outputs, strict=False):
        if output.uses() or output.is_graph_output():
            pairs.append((output, write.identity(made[name])))
    _insert(node, graph, write, names)
    for old, new in pairs:
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = old.name
    graph.remove(node, safe=True)
    for inner in write.nodes:
        if is_op(inner, "Softmax"):
            # It is what reports name, and stands for the whole.
            note_made_of(inner, describe_op(node))
            inner.name = node.name
    return True


def _insert(node: ir.Node, graph: ir.Graph, write: NodeWriter, names: FreshNames) -> None:
    for inner in write.nodes:
        inner.name = names.make(inner.name or inner.op_type)
        for output in inner.outputs:
            output.name = names.make(output.name or "value")
    graph.insert_before(node, write.nodes)
