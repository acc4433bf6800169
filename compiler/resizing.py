"""How a module runs at other sizes than it was planned for: formulas, and tiles by length."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hocket.compiler.graph.regions import AttentionRegion
from hocket.hwmodels.sizes import evaluate_size
from hocket.runtime.resizing import Resizing, StepSizes, Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.compiler.graph.resizable import ProblemSizes, ResizableModel
    from hocket.compiler.problem import AttentionProblem

BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Lengths that tiles are searched for; what is longer takes those of the longest."""


def make_resizing(
    model: ResizableModel, tile: Callable[[AttentionProblem], tuple[int, int]]
) -> Resizing:
    """Return the sizes of a model's tensors and steps, with tiles for each bucket of lengths.

    Args:
        model: The cut with its formulas.
        tile: Returns query rows and key columns of a tile for a problem.
    """
    searched: dict[AttentionProblem, tuple[int, int]] = {}
    steps = {}
    for region in model.model.regions:
        if not isinstance(region, AttentionRegion):
            continue
        sizes = model.problems[region.name]
        tiles = []
        for dims in _buckets(model):
            problem = _sized(region.problem.planned, sizes, dims)
            if problem not in searched:
                searched[problem] = tile(problem)
            tiles.append(Tiles(problem.kv_length, *searched[problem]))
        ordered = {each.max_kv_length: each for each in tiles}
        steps[region.name] = StepSizes(
            sizes.fields,
            sizes.mask_shape,
            tuple(ordered[length] for length in sorted(ordered)),
        )
    return Resizing(model.dims, model.values, steps)


def _buckets(model: ResizableModel) -> list[dict[str, int]]:
    """Return sizes of all dimensions for each bucket; what is usually 1 stays so."""
    buckets = []
    for length in BUCKETS:
        dims = dict(model.model.dims)
        for name, (low, high) in model.dims.items():
            if dims[name] > 1:
                dims[name] = min(max(low, length), high)
        if dims not in buckets:
            buckets.append(dims)
    return buckets


def _sized(
    problem: AttentionProblem, sizes: ProblemSizes, dims: Mapping[str, int]
) -> AttentionProblem:
    fields = {
        name: evaluate_size(size, dims)
        for name, size in sizes.fields.items()
        if name != "query_offset"
    }
    shape = sizes.mask_shape
    mask_shape = None if shape is None else tuple(evaluate_size(size, dims) for size in shape)
    return dataclasses.replace(problem, **fields, mask_shape=mask_shape)  # type: ignore[arg-type]
