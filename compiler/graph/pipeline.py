"""The passes between reading a model and recognising attention in it, in their order."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from hocket.compiler.errors import CompileError, ModelError
from hocket.compiler.graph.canonicalize import (
    CheckShapesPass,
    ConstantsToNodesPass,
    FoldConstantsPass,
    InferShapesPass,
    LiftWeightsPass,
    NodeNames,
)
from hocket.compiler.graph.contrib.sizes import find_types
from hocket.compiler.graph.contrib.write_out import WriteOutContribPass, num_contrib_nodes
from hocket.compiler.graph.definitions import has_standard_attention, write_out_attention
from hocket.compiler.graph.einsum import EinsumProductsPass
from hocket.compiler.graph.values import name_of, static_shape
from hocket.compiler.graph.widen import widen_bfloat16

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.compiler.graph.contrib.recipes import Recipe
    from hocket.compiler.graph.load import LoadedModel

logger = logging.getLogger(__name__)

_FOLD_ROUNDS = 4

# Elements of constants that are merged, as the positions that each attention counts keys by.
_MAX_MERGED = 1 << 16


@dataclass(frozen=True)
class NamedPass:
    """A pass and what messages and dumps call it."""

    name: str
    run: ir.passes.PassBase


def prepare_model(
    loaded: LoadedModel,
    dump_dir: Path | None = None,
    *,
    recipes: dict[str, Recipe] | None = None,
    is_sample: bool = False,
) -> ir.Model:
    """Make the graph of a loaded model plain: no functions, no shape arithmetic, sizes known.

    Before and after, with the batch bound to 1 and 128 tokens::

        s = Shape(x); n = Gather(s, 1); t = Concat(1, n, 12, 32); y = Reshape(x, t)
        y: unknown                                               W: a weight, kept by its name
        t = Constant [1, 128, 12, 32]; y = Reshape(x, t)         y: float32[1, 128, 12, 32]

    Weights are never folded: a federated round changes them by name.

    Args:
        loaded: Its model is changed in place.
        dump_dir: A folder for the text of the graph after each pass; None for no such text.
        recipes: Takes what each of onnxruntime's operators was written out as, by its name; None
            if nobody wants to know.
        is_sample: Whether sizes are bound to see what the model does at any. Then only nodes that
            are the same at all of them are merged, before sizes are known.

    Returns:
        The same model.

    Raises:
        ModelError: The sizes of the model do not fit together.
        CompileError: A pass failed; the message names it.
    """
    model = loaded.model
    weights = frozenset(model.graph.initializers)
    merging = (_merge_pass(),)
    first, last = (merging, ()) if is_sample else ((), merging)
    run_passes(model, (*_first_passes(), *first), loaded.source, dump_dir)
    weights = weights | frozenset(model.graph.initializers)
    _fold(model, _folding_passes(weights, recipes), loaded.source, dump_dir)
    _restore_declared_shapes(model.graph, loaded.declared_outputs)
    run_passes(model, _last_passes(weights, loaded, last), loaded.source, dump_dir)
    return model


def _fold(
    model: ir.Model, passes: tuple[NamedPass, ...], source: str, dump_dir: Path | None
) -> None:
    """Fold until nothing changes, or for some rounds after the last time that helped.

    What follows an operator that was written out, or whose sizes were found, has known sizes only
    then.
    """
    round_index, rounds_left = 0, _FOLD_ROUNDS
    unknown = _num_unknown(model)
    while rounds_left:
        modified = run_passes(model, passes, source, dump_dir, round_index)
        before, unknown = unknown, _num_unknown(model)
        has_helped = unknown < before
        if not modified and not has_helped:
            return
        round_index, rounds_left = round_index + 1, _FOLD_ROUNDS if has_helped else rounds_left - 1


def _num_unknown(model: ir.Model) -> int:
    """Return how many operators may yet be written out, and how many values have no known sizes."""
    values = (value for node in model.graph for value in node.outputs)
    return num_contrib_nodes(model) + sum(static_shape(value) is None for value in values)


def prepare_unbound(loaded: LoadedModel) -> ir.Model:
    """Make the graph of a model with open dimensions as plain as it can be without sizes.

    Its nodes keep the names they have in ``prepare_model``, as far as those are still there then.

    Args:
        loaded: Its model is changed in place.

    Returns:
        The same model.

    Raises:
        CompileError: A pass failed; the message names it.
    """
    model = loaded.model
    passes = (
        *_first_passes(),
        _merge_pass(),
        NamedPass("infer types", common.ShapeInferencePass()),
    )
    run_passes(model, passes, loaded.source)
    find_types(model)
    return model


def prepare_for_host(model: ir.Model, source: str, *, folds: bool = True) -> ir.Model:
    """Make what recognition left something that the host computes, and computes right.

    Args:
        model: Recognised; changed in place.
        source: What messages call it.
        folds: Whether what depends on sizes is to be folded, as is right where they are bound.

    Returns:
        The same model.

    Raises:
        CompileError: A pass failed; the message names it.
    """
    if has_standard_attention(model):
        weights = frozenset(model.graph.initializers)
        write_out_attention(model)
        for round_index in range(_FOLD_ROUNDS if folds else 0):
            if not run_passes(model, _folding_passes(weights), source, None, round_index):
                break
        run_passes(
            model,
            (
                NamedPass("constants to nodes", ConstantsToNodesPass(weights)),
                NamedPass("remove unused nodes", common.RemoveUnusedNodesPass()),
                NamedPass("name nodes and values", common.NameFixPass(NodeNames())),
            ),
            source,
        )
    return widen_bfloat16(model)


def run_passes(
    model: ir.Model,
    passes: tuple[NamedPass, ...],
    source: str,
    dump_dir: Path | None = None,
    round_index: int = 0,
) -> bool:
    """Run in-place passes in order; return whether one of them changed the model.

    Raises:
        ModelError: As a pass raised it: the model is at fault.
        CompileError: Any other failure of a pass, chained, with the pass and the dump named.
    """
    modified = False
    for named in passes:
        try:
            result = named.run(model)
        except ModelError:
            raise
        except Exception as error:
            dump = _dump(model, f"failed-{named.name}", dump_dir)
            hint = f"; the graph as it was then is in {dump}" if dump else ""
            raise CompileError(f"{source}: pass {named.name!r} failed: {error}{hint}") from error
        logger.debug("%s: %s %s", source, named.name, "changed" if result.modified else "same")
        modified = modified or result.modified
        _dump(model, f"{round_index}-{named.name}", dump_dir)
    return modified


def _dump(model: ir.Model, label: str, dump_dir: Path | None) -> Path | None:
    if dump_dir is None:
        return None
    dump_dir.mkdir(parents=True, exist_ok=True)
    count = len(list(dump_dir.iterdir()))
    path = dump_dir / f"{count:02}-{label.replace(' ', '-')}.txt"
    path.write_text(str(model), encoding="utf-8")
    return path


def _first_passes() -> tuple[NamedPass, ...]:
    return (
        NamedPass("inline functions", common.InlinePass()),
        NamedPass("drop comments", common.ClearMetadataAndDocStringPass()),
        NamedPass("name nodes and values", common.NameFixPass(NodeNames())),
        NamedPass("lift weights", LiftWeightsPass()),
        NamedPass("remove unused nodes", common.RemoveUnusedNodesPass()),
    )


def _folding_passes(
    weights: frozenset[str], recipes: dict[str, Recipe] | None = None
) -> tuple[NamedPass, ...]:
    return (
        NamedPass("fold constants", FoldConstantsPass(weights)),
        NamedPass("write out onnxruntime's attention", WriteOutContribPass(recipes)),
        NamedPass("infer shapes", InferShapesPass()),
        NamedPass("remove unused nodes", common.RemoveUnusedNodesPass()),
    )


def _merge_pass() -> NamedPass:
    merge = common.CommonSubexpressionEliminationPass(size_limit=_MAX_MERGED)
    return NamedPass("merge equal nodes", merge)


def _last_passes(
    weights: frozenset[str], loaded: LoadedModel, merging: tuple[NamedPass, ...]
) -> tuple[NamedPass, ...]:
    return (
        NamedPass("einsum products", EinsumProductsPass()),
        NamedPass("constants to nodes", ConstantsToNodesPass(weights)),
        *merging,
        NamedPass("remove unused nodes", common.RemoveUnusedNodesPass()),
        NamedPass("remove unused opsets", common.RemoveUnusedOpsetsPass()),
        NamedPass("name nodes and values", common.NameFixPass(NodeNames())),
        NamedPass("check shapes", CheckShapesPass(loaded.source, loaded.dims)),
    )


def _restore_declared_shapes(graph: ir.Graph, declared: dict[str, ir.Shape]) -> None:
    """Believe the file about an output only where inference found nothing better."""
    for value in graph.outputs:
        shape = declared.get(name_of(value))
        if shape is None or not shape.is_static():
            continue
        known = None if value.shape is None else value.shape.dims
        if known is None or (len(known) == len(shape) and not all(map(_is_size, known))):
            fits = known is None or all(
                not _is_size(mine) or mine == given
                for mine, given in zip(known, shape.dims, strict=True)
            )
            if fits:
                value.shape = ir.Shape(shape.dims)


def _is_size(size: object) -> bool:
    return isinstance(size, int)
