"""Recognition: every attention that is understood and accepted becomes a hocket::Attention node."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hocket.compiler.graph.attention_node import DOMAIN, VERSION, is_attention_node
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.notes import why_left
from hocket.compiler.graph.recognize.causality import find_positions
from hocket.compiler.graph.recognize.decomposed import match_decomposed
from hocket.compiler.graph.recognize.match import AttentionMatch, Refusal
from hocket.compiler.graph.recognize.rewrite import rewrite
from hocket.compiler.graph.recognize.standard import match_standard
from hocket.compiler.graph.regions import NotTaken
from hocket.compiler.graph.values import describe_node, describe_op, subgraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hocket.compiler.graph.recognize.causality import PositionFinder
    from hocket.compiler.problem import AttentionProblem

logger = logging.getLogger(__name__)

MATCHERS: dict[tuple[str, str], Callable[..., AttentionMatch]] = {
    ("", "Softmax"): match_decomposed,
    ("", "Attention"): match_standard,
}
"""By domain and operator, who understands an attention found at such a node."""

CONTRIB_OPS = frozenset(
    {
        "Attention",
        "DecoderAttention",
        "DecoderMaskedMultiHeadAttention",
        "DecoderMaskedSelfAttention",
        "GroupQueryAttention",
        "LongformerAttention",
        "MultiHeadAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "PagedAttention",
        "QAttention",
        "QLinearSoftmax",
        "QOrderedAttention",
        "SparseAttention",
    }
)
"""Operators of ``com.microsoft`` that hold an attention.

Some are written out before recognition. What is met here is one that was not, with a note why, or
one that never is.
"""

_NOT_WRITTEN_OUT = (
    "this onnxruntime operator is not compiled yet; Attention, GroupQueryAttention, "
    "MultiHeadAttention and QAttention are"
)


@dataclass(frozen=True)
class RecognitionResult:
    """A model after recognition.

    Attributes:
        model: With hocket::Attention nodes for what was taken.
        taken: Names of those nodes, in the order of the graph.
        not_taken: Every other Softmax and attention op, with the reason.
    """

    model: ir.Model
    taken: tuple[str, ...]
    not_taken: tuple[NotTaken, ...]


def accept_all(problem: AttentionProblem) -> str | None:
    """Take every problem: for reports, and for tests of the graph wing alone."""
    del problem
    return None


def recognize_attention(
    model: ir.Model,
    accept: Callable[[AttentionProblem], str | None] = accept_all,
    *,
    keeps_quantization: bool = False,
    find: PositionFinder = find_positions,
) -> RecognitionResult:
    """Replace every attention that is understood and accepted by one node.

    Before and after::

        s = MatMul(q, kt); d = Div(s, 8); m = Add(d, mask); p = Softmax(m); y = MatMul(p, v)
        (all sizes known)
        y = hocket::Attention(q, k, v, mask)

    Running it once more changes nothing.

    Args:
        model: Prepared by ``prepare_model``; changed in place.
        accept: Asked for each problem; returns None to take it, or why it cannot be lowered.
        keeps_quantization: Whether an attention whose scores or probabilities the model rounds to
            few bits stays with the host, which rounds them, too.
        find: Finds what masks say of positions. What the default finds with the sizes that are
            bound is no proof for others.

    Returns:
        The same model, and what was taken and what was not.
    """
    graph = model.graph
    names = FreshNames(graph)
    not_taken = []
    for node in tuple(graph):
        matcher = MATCHERS.get((node.domain, node.op_type))
        if node.graph is not graph or matcher is None:
            continue
        match = _understand(node, matcher, find)
        if isinstance(match, AttentionMatch) and match.leaves_out_rounding and keeps_quantization:
            match = "its scores or probabilities are quantised, which is to be kept"
        reason = match if isinstance(match, str) else accept(match.problem)
        if isinstance(match, AttentionMatch) and reason is None:
            rewrite(match, graph, names)
            logger.debug("%s %r taken: %s", describe_op(node), node.name, match.problem)
        if reason is not None:
            not_taken.append(_not_taken(node, reason))
    not_taken += list(_contrib_nodes(graph))
    not_taken += [
        _not_taken(
            inner,
            f"it is inside a graph of {describe_node(outer)}, which onnxruntime runs as a whole; "
            "only attention of the main graph is compiled",
        )
        for outer, inner in _nodes_in_subgraphs(graph)
    ]
    RemoveUnusedNodesPass()(model)
    taken = tuple(node.name or "" for node in graph if is_attention_node(node))
    if taken:
        model.opset_imports[DOMAIN] = VERSION
    return RecognitionResult(model, taken, tuple(not_taken))


def _understand(
    node: ir.Node, matcher: Callable[..., AttentionMatch], find: PositionFinder
) -> AttentionMatch | str:
    """Return the attention at a node, or why it is none that is understood."""
    try:
        return matcher(node, find)
    except Refusal as refusal:
        logger.debug("%s %r not taken: %s", describe_op(node), node.name, refusal)
        return str(refusal)


def _not_taken(node: ir.Node, reason: str) -> NotTaken:
    return NotTaken(node.name or "", describe_op(node), reason)


def _contrib_nodes(graph: ir.Graph) -> Iterator[NotTaken]:
    for node in graph:
        if _is_contrib(node):
            yield _not_taken(node, why_left(node) or _NOT_WRITTEN_OUT)


def _is_contrib(node: ir.Node) -> bool:
    return node.domain == "com.microsoft" and node.op_type in CONTRIB_OPS


def _nodes_in_subgraphs(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Yield each attention-like node inside a subgraph, behind the node of the main graph."""
    for outer in graph:
        for subgraph in subgraphs(outer):
            for inner in ir.traversal.RecursiveGraphIterator(subgraph):
                if (inner.domain, inner.op_type) in MATCHERS or _is_contrib(inner):
                    yield outer, inner
