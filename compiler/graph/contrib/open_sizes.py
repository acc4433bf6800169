"""Onnxruntime's attention operators written out in a model whose sizes stay open."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hocket.compiler.graph.contrib.recipes import Recipe, follow
from hocket.compiler.graph.contrib.write_out import may_write_out, put_in_place
from hocket.compiler.graph.load import bind_copy
from hocket.compiler.graph.names import FreshNames
from hocket.compiler.graph.notes import note_left_for_good, why_left
from hocket.compiler.graph.pipeline import prepare_model, prepare_unbound
from hocket.compiler.graph.recognize.match import Refusal
from hocket.compiler.graph.size_nodes import SizeEmitter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from hocket.compiler.graph.load import LoadedModel


def write_out_open(
    loaded: LoadedModel,
    samples: Sequence[Mapping[str, int]],
    dims: Mapping[str, int],
    places: Mapping[str, tuple[str, int]],
) -> LoadedModel:
    """Write onnxruntime's attention operators out so that they can be at any size.

    What each comes to is seen with sizes bound (``recipes.py``). Before and after::

        y = com.microsoft::MultiHeadAttention <num_heads=12> (q, k, v)    q: [batch, length, 384]
        n = Gather(Shape(ids), 1); s = Concat(..., n, 12, 32); a = Reshape(q, s); ...

    One that comes to different things stays, with a note why.

    Args:
        loaded: With open dimensions; left as it is.
        samples: Sizes of those that are to stay open.
        dims: Sizes of all others.
        places: An input and an axis of it for each dimension that stays open.

    Returns:
        A model of its own, or the same one if there is nothing to write out.
    """
    copy = bind_copy(loaded, {}, leaves_open=True)
    graph = prepare_unbound(copy).graph
    nodes = [node for node in graph if may_write_out(node)]
    if not nodes:
        return loaded
    seen = [_recipes(loaded, {**dims, **sample}) for sample in samples]
    names = FreshNames(graph)
    sizes = SizeEmitter(graph, names, places)
    for node in nodes:
        found = [each.get(node.name or "", "it is not reached") for each in seen]
        try:
            _write_out(node, found, samples, sizes, names)
        except Refusal as reason:
            note_left_for_good(node, str(reason))
    return dataclasses.replace(bind_copy(copy, {}, leaves_open=True), source=loaded.source)


def _recipes(loaded: LoadedModel, dims: Mapping[str, int]) -> dict[str, Recipe | str]:
    """Return what each operator is written out as with some sizes, or why it is not."""
    found: dict[str, Recipe] = {}
    model = prepare_model(bind_copy(loaded, dims), recipes=found)
    reasons = {node.name or "": why_left(node) for node in model.graph}
    return {name: reason for name, reason in reasons.items() if reason is not None} | found


def _write_out(
    node: ir.Node,
    found: Sequence[Recipe | str],
    samples: Sequence[Mapping[str, int]],
    sizes: SizeEmitter,
    names: FreshNames,
) -> None:
    recipes = [each for each in found if isinstance(each, Recipe)]
    if len(recipes) < len(found):
        raise Refusal(next(each for each in found if isinstance(each, str)))
    made, outputs = follow(recipes, samples, node.inputs, sizes)
    put_in_place(node, made, [(node.outputs[i], value) for i, value in outputs.items()], names)
