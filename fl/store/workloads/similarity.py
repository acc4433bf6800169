"""Who is like whom: selection, filtering and clusters, from products that are known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.access import Access
from hocket.fl.store.statistics import cosines, distances
from hocket.fl.store.workloads.kmeans import cluster_products
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

RULES = ("krum", "cosine", "length", "majority")

# So many times the median absolute deviation is a standard deviation of normal numbers.
_NORMAL = 1.4826

# How much further from the larger cluster than its own members the other one is, to be suspicious.
_APART = 2.0


def _facts(catalog: Catalog, question: Question) -> dict[str, Any]:
    members = round_of(catalog, question)
    return {
        "round": members.number,
        "devices": list(members.devices),
        "weights": members.weights.tolist(),
        "products": products_of(catalog, question.job, members).tolist(),
    }


def _read(facts: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    return list(facts["devices"]), np.asarray(facts["products"], np.float64)


def prepare_scheduling(catalog: Catalog, question: Question) -> Plan:
    """Ask for ``count`` (5) devices whose updates are most like the mean, or least (``order``)."""
    chosen = {
        "count": question.count("count", 5),
        "order": question.choice("order", ("most", "least")),
    }
    return Plan(_facts(catalog, question) | chosen)


def schedule(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return the cosine of each update with the weighted mean, and the devices chosen by it."""
    del contents
    devices, products = _read(facts)
    found = cosines(products, np.asarray(facts["weights"]))
    order = np.argsort(found if facts["order"] == "least" else -found, kind="stable")
    return Answer(
        {
            "round": facts["round"],
            "cosines": dict(zip(devices, found.tolist(), strict=True)),
            "chosen": [devices[place] for place in order[: facts["count"]]],
        }
    )


def prepare_filtering(catalog: Catalog, question: Question) -> Plan:
    """Ask which updates are suspicious, by a ``rule``; of Krum's, ``malicious`` (a fifth) are."""
    facts = _facts(catalog, question)
    count = len(facts["devices"])
    bearable = max(0, (count - 3) // 2)
    most = question.count("malicious", min(max(1, count // 5), bearable), least=0)
    rule = question.choice("rule", RULES)
    if rule == "krum" and most > bearable:
        raise ConfigError(
            f"option 'malicious': Krum among {count} updates bears at most {bearable}, got {most}"
        )
    return Plan(facts | {"malicious": most, "rule": rule, "width": question.number("width", 3.5)})


def filter_updates(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return a score of each update, the higher the more suspicious, and those that stand out.

    ``krum``: the sum of squared distances to the nearest ``n - f - 2`` others (Blanchard et al.
    2017); the ``malicious`` highest are told. ``cosine``: one less the median cosine with the
    others; ``length``: the logarithm of the length; of both, what lies ``width`` deviations above
    the median (for ``length`` also below). ``majority``: the smaller of two clusters (average
    linkage of cosine distances), if it is twice as far from the larger one as that one's own are.
    """
    del contents
    devices, products = _read(facts)
    if facts["rule"] == "krum":
        scores = krum_scores(products, facts["malicious"])
        flagged = np.argsort(-scores, kind="stable")[: facts["malicious"]]
    elif facts["rule"] == "majority":
        scores, flagged = _outside_majority(products)
    else:
        is_length = facts["rule"] == "length"
        scores = np.log(np.diag(products) + 1e-30) / 2 if is_length else _unlikeness(products)
        away = scores - np.median(scores)
        deviation = _NORMAL * float(np.median(np.abs(away)))
        # Updates that are all but equal do not stand out by their rounding.
        flagged = np.flatnonzero(
            (np.abs(away) if is_length else away) > max(facts["width"] * deviation, 1e-6)
        )
    return Answer(
        {
            "round": facts["round"],
            "rule": facts["rule"],
            "scores": dict(zip(devices, scores.tolist(), strict=True)),
            "suspicious": sorted(devices[place] for place in flagged),
        }
    )


def krum_scores(products: NDArray[np.float64], num_malicious: int) -> NDArray[np.float64]:
    """Return Krum's score of each update, ``[k]``: the least is the one it trusts.

    Args:
        products: ``[k, k]``, of the updates with each other.
        num_malicious: How many may be malicious, at most ``(k - 3) // 2``.
    """
    nearest = len(products) - num_malicious - 2
    # The first column is each one's distance to itself.
    found: NDArray[np.float64] = np.sort(distances(products), axis=1)[:, 1 : nearest + 1].sum(
        axis=1
    )
    return found


def _pairwise_cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt(np.diag(products))
    scale = np.outer(lengths, lengths)
    found: NDArray[np.float64] = np.zeros_like(products)
    np.divide(products, scale, out=found, where=scale > 0)
    return np.clip(found, -1.0, 1.0)


def _unlikeness(products: NDArray[np.float64]) -> NDArray[np.float64]:
    found = _pairwise_cosines(products)
    count = len(found)
    others = found[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return 1.0 - (np.median(others, axis=1) if count > 1 else np.ones(count))


def _outside_majority(
    products: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    from sklearn.cluster import AgglomerativeClustering

    apart = 1.0 - _pairwise_cosines(products)
    count = len(apart)
    if count < 3:
        return np.zeros(count), np.zeros(0, np.intp)
    found = AgglomerativeClustering(2, metric="precomputed", linkage="average").fit(apart).labels_
    is_major = found == np.argmax(np.bincount(found))
    inside = apart[np.ix_(is_major, is_major)]
    scores = apart[:, is_major].mean(axis=1)
    within = inside.sum() / max(inside.size - len(inside), 1)
    is_apart = scores[~is_major].mean() > max(_APART * within, 1e-6)
    return scores, np.flatnonzero(~is_major if is_apart else np.zeros(count, bool))


def prepare_clustering(catalog: Catalog, question: Question) -> Plan:
    """Ask for ``clusters`` (3) groups of devices whose updates are alike."""
    facts = _facts(catalog, question)
    most = len(facts["devices"])
    wanted = question.count("clusters", min(3, most))
    if wanted > most:
        raise ConfigError(f"option 'clusters': round {facts['round']} has {most} updates only")
    return Plan(facts | {"clusters": wanted, "seed": question.count("seed", 0, least=0)})


def cluster(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return groups of devices by k-means, which needs no more than products.

    There are fewer groups than asked for where fewer updates differ.
    """
    del contents
    devices, products = _read(facts)
    labels, inertia = cluster_products(products, facts["clusters"], facts["seed"])
    # Named by the first device of each, so that names do not depend on how the search went.
    groups: dict[int, list[str]] = {}
    for device, label in zip(devices, labels.tolist(), strict=True):
        groups.setdefault(label, []).append(device)
    return Answer({"round": facts["round"], "clusters": list(groups.values()), "inertia": inertia})


WORKLOADS = (
    Workload(
        "cosine-scheduling",
        Access.ROUND,
        "devices whose updates are most like the mean of their round, or least",
        prepare_scheduling,
        schedule,
    ),
    Workload(
        "filtering",
        Access.ROUND,
        "updates that stand out, by Krum, cosine, length or majority",
        prepare_filtering,
        filter_updates,
    ),
    Workload(
        "clustering",
        Access.ROUND,
        "groups of devices whose updates are alike",
        prepare_clustering,
        cluster,
    ),
)
