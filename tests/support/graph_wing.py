"""The graph wing from a model to regions, in one call, and a check that the meaning is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support.onnx_models import random_feeds
from support.partition_executor import run_model, run_partitioned

from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize import accept_all, recognize_attention
from hocket.compiler.graph.regions import AttentionRegion, HostRegion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    from hocket.compiler.graph.regions import PartitionedModel
    from hocket.compiler.problem import AttentionProblem


def cut(
    model: onnx.ModelProto,
    dims: Mapping[str, int] | None = None,
    accept: Callable[[AttentionProblem], str | None] = accept_all,
) -> PartitionedModel:
    """Load, prepare, recognise and partition a model."""
    loaded = load_model(model, dims)
    recognized = recognize_attention(prepare_model(loaded), accept)
    return partition(recognized.model, recognized.not_taken, loaded.dims)


def attention_regions(partitioned: PartitionedModel) -> list[AttentionRegion]:
    """Return the attention regions, in order."""
    return [region for region in partitioned.regions if isinstance(region, AttentionRegion)]


def host_regions(partitioned: PartitionedModel) -> list[HostRegion]:
    """Return the host regions, in order."""
    return [region for region in partitioned.regions if isinstance(region, HostRegion)]


def host_ops(partitioned: PartitionedModel) -> list[str]:
    """Return the operators that the host runs, constants left out, sorted."""
    return sorted(
        node.op_type
        for region in host_regions(partitioned)
        for node in region.model.graph
        if node.op_type != "Constant"
    )


def assert_same_meaning(
    model: onnx.ModelProto,
    partitioned: PartitionedModel,
    *,
    seed: int = 0,
    tolerance: float = 2e-5,
    feeds: Mapping[str, np.ndarray] | None = None,
    run: Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], list[np.ndarray]] = run_model,
) -> None:
    """Run the parts and the whole model on the same numbers and compare every output.

    Args:
        model: The whole.
        partitioned: Its parts.
        seed: Of the numbers, if none are given.
        tolerance: Relative and absolute; attention is computed in float64 in the parts, and in the
            model's own type in the whole.
        feeds: The numbers.
        run: Runs the whole.
    """
    given = random_feeds(model, seed, **partitioned.dims) if feeds is None else feeds
    expected = run(model, given)
    found = run_partitioned(partitioned, given)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
