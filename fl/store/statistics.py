"""What most work on a round asks of its updates, worked out once, when each comes.

Similarity, clustering and filtering need only the products of a round's updates with each other,
its Gram matrix; work over many rounds needs them only nearly, which linear sketches give. So such
requests read some numbers in place of gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from hocket.fl.core.errors import UpdateError
from hocket.fl.store.catalog import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

SKETCH_WIDTH = 8192

# 256 KiB of float32: the newcomer's block stays in the second cache while the others pass by.
_BLOCK = 1 << 16


def work_out(
    device: str, update: Vector, others: Mapping[str, Vector], base: Vector | None
) -> Statistics:
    """Return the statistics of an update that has come.

    Args:
        device: Whose it is.
        update: ``[numbers]``: the model after training, or what changed in it.
        others: By device, those that came before in its round, alike.
        base: ``[numbers]``: the model that all began with, to take off; None if what came is the
            change. Products of whole models are no use: those of the changes, a millionth of them,
            drown in their rounding.

    Raises:
        UpdateError: Vectors differ in length, or a number is not finite.
    """
    given = {**others, device: update} | ({} if base is None else {"the model before": base})
    for name, vector in given.items():
        if vector.shape != update.shape:
            raise UpdateError(
                f"{name}: want {update.size} numbers as {device!r} has, got {vector.size}"
            )
    products = dict.fromkeys((*others, device), 0.0)
    for start in range(0, update.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        mine = _change(update, base, part)
        with np.errstate(invalid="ignore", over="ignore"):
            squared = float(np.dot(mine, mine))
        if not np.isfinite(squared):
            raise UpdateError(
                f"device {device!r}: its update holds numbers that are not finite, or too large"
            )
        products[device] += squared
        for name, other in others.items():
            products[name] += float(np.dot(mine, _change(other, base, part)))
    nothing = np.zeros(0, np.float32)
    return Statistics(update.size, _sketch(update, nothing if base is None else base), products)


def sketch(update: Vector) -> Vector:
    """Return a sketch of a vector.

    Number ``i`` is added to place ``i mod 8192`` with a sign that hashing ``i`` gives (Charikar et
    al. 2002, count sketch with one row). It is linear, and the product of two sketches is that of
    the vectors on average, with a standard deviation of at most ``|a| |b| sqrt(2 / 8192)``.

    Args:
        update: ``[numbers]``.

    Returns:
        ``[8192]``.
    """
    found: Vector = _sketch(update, np.zeros(0, np.float32))
    return found


def cosines(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how alike each update is to the weighted mean of all.

    Args:
        products: ``[k, k]``, of the updates with each other.
        weights: ``[k]``, of any sum above 0.

    Returns:
        ``[k]`` cosines; 0 for an update of no length, or if the mean has none.
    """
    share = weights / weights.sum()
    with_mean = products @ share
    lengths = np.sqrt(np.diag(products) * max(share @ with_mean, 0.0))
    found: NDArray[np.float64] = np.zeros_like(with_mean)
    np.divide(with_mean, lengths, out=found, where=lengths > 0)
    return found


def distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distances of all updates from each other, ``[k, k]``."""
    squares = np.diag(products)
    found: NDArray[np.float64] = np.maximum(squares[:, None] + squares[None] - 2 * products, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


def _change(vector: Vector, base: Vector | None, part: slice) -> Vector:
    return vector[part] if base is None else vector[part] - base[part]


@numba.njit(cache=True, nogil=True)
def _sketch(update: Any, base: Any) -> Any:
    found = np.zeros(SKETCH_WIDTH, np.float32)
    has_base = base.size > 0
    for start in range(0, update.size, SKETCH_WIDTH):
        for place in range(min(SKETCH_WIDTH, update.size - start)):
            at = start + place
            number = update[at] - base[at] if has_base else update[at]
            # The finalizer of MurmurHash3, whose lowest bit is as good as a coin.
            hashed = np.uint64(at)
            hashed = (hashed ^ (hashed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
            hashed = (hashed ^ (hashed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
            hashed ^= hashed >> np.uint64(33)
            found[place] += number if hashed & np.uint64(1) else -number
    return found
