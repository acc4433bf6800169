"""What each device's update was worth to its round, and what it earns by that."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.store.access import Access
from hocket.fl.store.workloads.workload import (
    Answer,
    Plan,
    Question,
    Workload,
    products_of,
    round_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.store import Key
    from hocket.fl.store.catalog import Catalog

# 2^14 coalitions take some milliseconds.
_MOST_EXACT = 14


def prepare(catalog: Catalog, question: Question) -> Plan:
    """Ask what updates were worth, and how ``tokens`` (100) are shared by that.

    Of more than 14 updates values are estimated from ``samples`` (2000) orders of arrival, drawn
    by ``seed`` (0).
    """
    members = round_of(catalog, question)
    return Plan(
        {
            "round": members.number,
            "devices": list(members.devices),
            "weights": members.weights.tolist(),
            "products": products_of(catalog, question.job, members).tolist(),
            "tokens": question.number("tokens", 100.0),
            "samples": question.count("samples", 2000),
            "seed": question.count("seed", 0, least=0),
        }
    )


def value(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return the Shapley value of each update.

    A coalition is worth the cosine of its weighted mean with that of all (Xu et al. 2021), which
    products give without another pass over weights. Values sum to the worth of all, 1.
    """
    del contents
    devices = list(facts["devices"])
    products = np.asarray(facts["products"], np.float64)
    weights = np.asarray(facts["weights"], np.float64)
    is_exact = len(devices) <= _MOST_EXACT
    if is_exact:
        values = shapley(products, weights)
    else:
        values = estimate_shapley(products, weights, facts["samples"], facts["seed"])
    earned = np.clip(values, 0.0, None)
    total = earned.sum()
    tokens = earned * (facts["tokens"] / total if total > 0 else 0.0)
    return Answer(
        {
            "round": facts["round"],
            "values": dict(zip(devices, values.tolist(), strict=True)),
            "tokens": dict(zip(devices, tokens.tolist(), strict=True)),
            "is_exact": is_exact,
        }
    )


def shapley(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Shapley values of updates, over all coalitions.

    Args:
        products: ``[k, k]``, of the updates with each other.
        weights: ``[k]``, of the mean.
    """
    members, shares = _coalitions(len(weights))
    found: NDArray[np.float64] = _worth(members, products, weights) @ shares
    return found


@functools.lru_cache(4)
def _coalitions(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all coalitions of so many, ones and zeros, and what their worths are to each value.

    Both ``[2^k, k]``: a value is the mean, over orders of arrival, of what its update adds to those
    that came before. A coalition that it is in counts for it, one that it is not in against it.
    """
    members = ((np.arange(1 << count)[:, None] >> np.arange(count)) & 1).astype(np.float64)
    weight_of = np.array([1.0 / (count * math.comb(count - 1, size)) for size in range(count)])
    sizes = members.sum(axis=1, keepdims=True).astype(np.int64)
    with_it = weight_of[np.clip(sizes - 1, 0, None)]
    without_it = weight_of[np.clip(sizes, None, count - 1)]
    return members, np.where(members > 0, with_it, -without_it)


def estimate_shapley(
    products: NDArray[np.float64], weights: NDArray[np.float64], num_orders: int, seed: int
) -> NDArray[np.float64]:
    """Return Shapley values as means over drawn orders of arrival (Castro et al. 2009).

    Args:
        products: ``[k, k]``, of the updates with each other.
        weights: ``[k]``, of the mean.
        num_orders: How many orders.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    count = len(weights)
    values = np.zeros(count)
    for _ in range(num_orders):
        order = rng.permutation(count)
        members = np.zeros((count + 1, count))
        for step, place in enumerate(order, start=1):
            members[step:, place] = 1.0
        values[order] += np.diff(_worth(members, products, weights))
    return values / num_orders


def _worth(
    members: NDArray[np.float64], products: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what coalitions are worth, given as rows of ones and zeros; nobody is worth 0."""
    shares = members * weights
    everyone = products @ weights
    along = shares @ everyone
    squares = ((shares @ products) * shares).sum(axis=1)
    lengths = np.sqrt(np.clip(squares, 0.0, None) * max(float(weights @ everyone), 0.0))
    found: NDArray[np.float64] = np.zeros(len(members))
    np.divide(along, lengths, out=found, where=lengths > 0)
    return found


WORKLOADS = (
    Workload(
        "contribution",
        Access.ROUND,
        "the Shapley value of each update, and its share of tokens",
        prepare,
        value,
    ),
)
