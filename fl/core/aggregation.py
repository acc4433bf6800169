"""Means over what clients sent, the same to the last bit whoever was first."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import UpdateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate


def in_order(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """Return updates by the names of their devices, since sums of floats depend on the order.

    Raises:
        UpdateError: There are none, or two of one device.
    """
    if not updates:
        raise UpdateError("there are no updates to aggregate")
    ordered = sorted(updates, key=lambda update: update.device_id)
    for one, other in itertools.pairwise(ordered):
        if one.device_id == other.device_id:
            raise UpdateError(f"device {one.device_id!r} sent two updates for one round")
    return ordered


def mean_parameters(updates: Sequence[ClientUpdate]) -> dict[str, NDArray[Any]]:
    """Return the mean of parameters, weighted by examples (McMahan et al. 2017, algorithm 1).

    Sums are float64. Arrays of integers, such as counts of batches, are averaged and rounded.

    Raises:
        UpdateError: There are no updates, or two of one device.
    """
    ordered = in_order(updates)
    total = sum(update.num_examples for update in ordered)
    mean = {}
    for name, like in ordered[0].parameters.items():
        first, *others = (
            (update.num_examples / total) * update.parameters[name].astype(np.float64)
            for update in ordered
        )
        summed = np.asarray(sum(others, start=first))
        mean[name] = (summed.round() if like.dtype.kind in "iu" else summed).astype(like.dtype)
    return mean


def mean_metrics(updates: Sequence[ClientUpdate]) -> dict[str, float]:
    """Return the mean of each metric over the examples of the updates that have it."""
    ordered = in_order(updates)
    means = {}
    for name in sorted({name for update in ordered for name in update.metrics}):
        having = [update for update in ordered if name in update.metrics]
        total = sum(update.num_examples for update in having)
        means[name] = sum(update.metrics[name] * update.num_examples for update in having) / total
    return means


def difference(one: Parameters, other: Parameters) -> dict[str, NDArray[Any]]:
    """Return one minus the other, in float64."""
    return {name: one[name].astype(np.float64) - other[name] for name in one}
