"""Putting a hocket::Attention node in place of what a matcher understood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.attention_node import Layouts, make_node
from hocket.compiler.graph.recognize.many_axes import reshape_nodes
from hocket.compiler.graph.recognize.masks import build_mask
from hocket.compiler.graph.values import static_shape, values_read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.compiler.graph.names import FreshNames
    from hocket.compiler.graph.recognize.match import AttentionMatch


def rewrite(match: AttentionMatch, graph: ir.Graph, names: FreshNames) -> ir.Node:
    """Replace the nodes of a match by one node, with what the host must do for it in front.

    Before and after::

        kt = Transpose(k); s = MatMul(q, kt); p = Softmax(Div(s, 8)); y = MatMul(p, v)
        (scale 0.125, read from the Div)
        y = hocket::Attention(q, k, v)

    Args:
        match: Found in this graph, which has not changed since.
        graph: Changed in place; nodes that nothing reads any longer are gone.
        names: Of this graph.

    Returns:
        The new node.
    """
    old = match.output.value
    last = old.producer()
    shape = static_shape(old)
    if last is None or shape is None:
        raise ValueError(
            f"the output {old.name!r} of {match.anchor.name!r} has no node or no shape"
        )
    _name([*match.before, *match.reshaping], names)
    graph.insert_before(match.anchor, match.before)
    mask, nodes = build_mask(match.mask, match.problem.scores_shape, match.mask_dtype, names.make)
    key = match.key.value
    if match.key_permutation is not None:
        transpose = _transpose(key, match.key_permutation, names)
        nodes.append(transpose)
        key = transpose.outputs[0]
    inputs = [match.query.value, key, match.value.value]
    attention = make_node(
        match.problem,
        Layouts(match.query.layout, match.key.layout, match.value.layout, match.output.layout),
        inputs,
        mask=mask,
        kv_lengths=match.kv_lengths,
        output_shape=match.output_shape or shape,
        form=match.form,
        name=match.anchor.name or names.make("attention"),
    )
    new = attention.outputs[0]
    behind: list[ir.Node] = []
    if match.output_shape is not None:
        new.name = names.make(f"{old.name}/written")
        behind = list(reshape_nodes(new, shape))
        _name(behind, names)
        new = behind[-1].outputs[0]
    graph.insert_after(last, [*match.reshaping, *nodes, attention, *behind])
    pairs = [(old, new), *match.replaced]
    for one, other in pairs:
        one.replace_all_uses_with(other, replace_graph_outputs=True)
    _remove_unread(last, graph)
    for one, other in pairs:
        other.name = one.name
    return attention


def _name(nodes: Iterable[ir.Node], names: FreshNames) -> None:
    for node in nodes:
        node.name = names.make(f"hocket/{node.op_type}")
        for value in node.outputs:
            value.name = names.make(value.name or "hocket/value")


def _transpose(value: ir.Value, permutation: tuple[int, ...], names: FreshNames) -> ir.Node:
    sizes = static_shape(value) or ()
    output = ir.Value(
        name=names.make(f"{value.name}/transposed"),
        shape=ir.Shape([sizes[axis] for axis in permutation]),
        type=value.type,
    )
    return ir.node(
        "Transpose",
        [value],
        {"perm": list(permutation)},
        outputs=[output],
        name=names.make("hocket/Transpose"),
    )


def _remove_unread(node: ir.Node, graph: ir.Graph) -> None:
    """Remove a node of which nothing is read, and then those before it."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current.graph is not graph or any(
            output.uses() or output.is_graph_output() for output in current.outputs
        ):
            continue
        before = [value.producer() for value in values_read(current)]
        graph.remove(current, safe=True)
        pending += [producer for producer in before if producer is not None]
