"""K-means from products alone: what a round's clusters need is known when its updates have come.

The square of the distance of vector ``i`` from the mean of a cluster ``c`` is ``<i, i>`` less twice
the mean of ``<i, j>`` plus the mean of ``<j, l>``, over members ``j`` and ``l`` of ``c`` (kernel
k-means, Dhillon et al. 2004). A handful of updates takes some microseconds so; scikit-learn's
k-means takes milliseconds whatever it is given, nearly all of it for checks and threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_STARTS = 32
MOST_STEPS = 300


def cluster_products(
    products: NDArray[np.float64], num_clusters: int, seed: int
) -> tuple[NDArray[np.int64], float]:
    """Return clusters of vectors by k-means, the best of some starts (k-means++).

    Args:
        products: ``[k, k]``, of the vectors with each other.
        num_clusters: At most; less where fewer vectors differ.
        seed: Of the starts.

    Returns:
        The cluster of each vector, ``[k]``, and the sum of squared distances from their means.
    """
    draws = np.random.default_rng(seed).random((NUM_STARTS, num_clusters))
    even = np.ascontiguousarray((products + products.T) / 2, np.float64)
    best: tuple[NDArray[np.int64], float] = _best(even, draws)
    return best


@numba.njit(cache=True, nogil=True)
def _best(products: Any, draws: Any) -> Any:
    least, found = np.inf, np.zeros(len(products), np.int64)
    for draw in draws:
        labels = _start(products, draw)
        inertia = _settle(products, labels, len(draw))
        if inertia < least:
            least, found = inertia, labels
    return found, least


@numba.njit(cache=True, nogil=True)
def _start(products: Any, draw: Any) -> Any:
    """Draw centres among the vectors, the likelier the further from those there are."""
    count = len(products)
    labels = np.zeros(count, np.int64)
    centre = min(int(draw[0] * count), count - 1)
    apart = np.empty(count)
    for place in range(count):
        apart[place] = _apart(products, place, centre)
    for label in range(1, len(draw)):
        wanted, centre = draw[label] * apart.sum(), -1
        for place in range(count):
            wanted -= apart[place]
            if apart[place] > 0 and (wanted < 0 or centre < 0):
                centre = place
                if wanted < 0:
                    break
        if centre < 0:
            # All vectors are some centre's equal.
            break
        for place in range(count):
            distance = _apart(products, place, centre)
            if distance < apart[place]:
                apart[place], labels[place] = distance, label
    return labels


@numba.njit(cache=True, nogil=True)
def _apart(products: Any, one: int, other: int) -> Any:
    return max(products[one, one] + products[other, other] - 2 * products[one, other], 0.0)


@numba.njit(cache=True, nogil=True)
def _settle(products: Any, labels: Any, num_clusters: int) -> float:
    """Move vectors to the nearest mean until none moves, and return the sum of squares left."""
    count = len(products)
    sums, sizes = np.empty((count, num_clusters)), np.empty(num_clusters, np.int64)
    within = np.empty(num_clusters)
    for _ in range(MOST_STEPS):
        _add_up(products, labels, sums, sizes, within)
        has_moved = False
        for place in range(count):
            mine = labels[place]
            least = within[mine] - 2 * sums[place, mine] / sizes[mine]
            # Rounding alone moves nobody, or vectors would go back and forth.
            least -= 1e-12 * abs(products[place, place])
            for label in range(num_clusters):
                if sizes[label] == 0:
                    continue
                distance = within[label] - 2 * sums[place, label] / sizes[label]
                if distance < least:
                    least, labels[place], has_moved = distance, label, True
        if not has_moved:
            break
    _add_up(products, labels, sums, sizes, within)
    inertia = 0.0
    for place in range(count):
        inertia += products[place, place]
    for label in range(num_clusters):
        inertia -= within[label] * sizes[label]
    return max(inertia, 0.0)


@numba.njit(cache=True, nogil=True)
def _add_up(products: Any, labels: Any, sums: Any, sizes: Any, within: Any) -> None:
    """Put products with the members of each cluster, their number, and their mean into place."""
    sums[:], sizes[:], within[:] = 0.0, 0, 0.0
    for place in range(len(labels)):
        sizes[labels[place]] += 1
        for other in range(len(labels)):
            sums[place, labels[other]] += products[place, other]
    for place in range(len(labels)):
        mine = labels[place]
        within[mine] += sums[place, mine] / (float(sizes[mine]) * sizes[mine])
