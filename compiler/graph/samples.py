"""Open dimensions, the sizes a model is looked at with, and formulas for sizes that follow.

Shape inference cannot follow every way in which exporters compute sizes. What a model does with its
dimensions is seen instead by binding them several times, to sizes that no formula confuses.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from hocket.compiler.errors import DimensionError
from hocket.hwmodels.sizes import SizeExpression

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hocket.hwmodels.sizes import Size

Span = tuple[int, int]
"""Least and largest size of an open dimension."""

NUM_SAMPLES = 4
_USUAL_LENGTH = 128
_MAX_SPAN = 1 << 24


def choose_samples(
    spans: Mapping[str, Span], singles: frozenset[str] = frozenset()
) -> list[dict[str, int]]:
    """Return what to bind open dimensions to: first usual sizes, then different ones.

    Example:
        >>> choose_samples({"length": (1, 512)})
        [{'length': 128}, {'length': 7}, {'length': 11}, {'length': 13}]

    Args:
        spans: Least and largest size of each dimension.
        singles: Those that are usually 1, as batches are.

    Raises:
        DimensionError: A dimension has fewer sizes than it must be looked at with.
    """
    samples: list[dict[str, int]] = [{} for _ in range(NUM_SAMPLES)]
    taken: set[int] = set()
    for name, (low, high) in spans.items():
        if not 1 <= low <= high <= _MAX_SPAN:
            raise DimensionError(
                f"the size of dimension {name!r} must be at least 1 and at most {_MAX_SPAN}, got "
                f"{low} to {high}"
            )
        samples[0][name] = min(max(low, 1 if name in singles else _USUAL_LENGTH), high)
        sizes = itertools.islice(_sizes_from(max(low, 2), high, {*taken, samples[0][name]}), 3)
        found = list(sizes)
        if len(found) < NUM_SAMPLES - 1:
            raise DimensionError(
                f"dimension {name!r} is open from {low} to {high}, which is too narrow to see how "
                "sizes depend on it; give it one size, or a wider range"
            )
        taken.update(found)
        for sample, size in zip(samples[1:], found, strict=True):
            sample[name] = size
    return samples


def _sizes_from(low: int, high: int, taken: set[int]) -> Iterator[int]:
    """Yield sizes in a range that are no products of one another, then the others."""
    near = range(low, min(high, low + 4096) + 1)
    primes = [n for n in near if n > 6 and all(n % k for k in range(2, math.isqrt(n) + 1))]
    for size in dict.fromkeys([*primes, *near]):
        if size not in taken:
            yield size


def fit_size(sizes: Sequence[int], samples: Sequence[Mapping[str, int]]) -> Size | None:
    """Return the formula of a size, from what it was with each sample; None if none is known.

    The simplest that fits them all: a number, a multiple of one dimension, of two, a sum of two, or
    a difference, each with a number added.

    Example:
        >>> samples = [{"past": 128, "new": 3}, {"past": 7, "new": 5}, {"past": 11, "new": 2}]
        >>> str(fit_size([131, 12, 13], samples))
        'past + new'
    """
    if len(set(sizes)) == 1:
        return sizes[0]
    names = list(samples[0])
    products: list[tuple[str, ...]] = [(name,) for name in names]
    products += list(itertools.combinations_with_replacement(names, 2))
    for product in products:
        found = _fit_line(sizes, [math.prod(sample[n] for n in product) for sample in samples])
        if found is not None:
            factor, added = found
            terms = [(factor, product)] + ([(added, ())] if added else [])
            return SizeExpression(tuple(terms))
    sums = [(1, one, other) for one, other in itertools.combinations(names, 2)]
    differences = [(-1, one, other) for one, other in itertools.permutations(names, 2)]
    for sign, one, other in (*sums, *differences):
        rest = {
            size - sample[one] - sign * sample[other]
            for size, sample in zip(sizes, samples, strict=True)
        }
        if len(rest) == 1:
            added = rest.pop()
            both = [(1, (one,)), (sign, (other,))]
            return SizeExpression(tuple([*both, (added, ())] if added else both))
    return None


def _fit_line(sizes: Sequence[int], products: Sequence[int]) -> tuple[int, int] | None:
    """Return whole ``factor`` and ``added`` with ``size = factor * product + added`` throughout."""
    other = next((i for i, product in enumerate(products) if product != products[0]), None)
    if other is None:
        return None
    factor, left = divmod(sizes[other] - sizes[0], products[other] - products[0])
    added = sizes[0] - factor * products[0]
    if left or factor == 0:
        return None
    fits = all(
        size == factor * product + added for size, product in zip(sizes, products, strict=True)
    )
    return (factor, added) if fits else None
