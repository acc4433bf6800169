"""Whole numbers that are sums of unknown ones, and how large they can be.

Positions in a mask are such numbers: a key's is its column, a query's is its row behind a past
whose length is an open dimension. What is known of the unknowns are inequalities, such as that a
row is at least 0 and less than the number of rows.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.sizes import SizeExpression

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hocket.hwmodels.sizes import Size

Symbols = tuple[str, ...]
"""Names of unknowns that are multiplied, sorted; a product is an unknown of its own."""

# Inequalities that an elimination may come to; where there are more, nothing is known.
_MAX_INEQUALITIES = 400

_SOUGHT: Symbols = ("",)


@dataclass(frozen=True)
class Affine:
    """A number plus whole multiples of unknowns, ``past + row - column + 1``.

    Attributes:
        terms: Unknowns with their factors, none of them 0, sorted.
        constant: What is added.

    Example:
        >>> str(symbol("row") - symbol("column") + number(1))
        '-1 * column + row + 1'
    """

    terms: tuple[tuple[Symbols, int], ...]
    constant: int = 0

    def __add__(self, other: Affine) -> Affine:
        return _collect([*self.terms, *other.terms], self.constant + other.constant)

    def __neg__(self) -> Affine:
        return Affine(tuple((names, -factor) for names, factor in self.terms), -self.constant)

    def __sub__(self, other: Affine) -> Affine:
        return self + -other

    def __mul__(self, other: Affine) -> Affine:
        mine, theirs = (((*each.terms, ((), each.constant))) for each in (self, other))
        terms = [
            (tuple(sorted((*names, *more))), factor * times)
            for (names, factor), (more, times) in itertools.product(mine, theirs)
        ]
        return _collect(terms, 0)

    @property
    def is_number(self) -> bool:
        """Whether it has no unknowns."""
        return not self.terms

    def __str__(self) -> str:
        words = [
            " * ".join(names if factor == 1 else (str(factor), *names))
            for names, factor in self.terms
        ]
        return " + ".join([*words, str(self.constant)] if self.constant or not words else words)


def number(constant: int) -> Affine:
    """Return a number."""
    return Affine((), constant)


def symbol(name: str) -> Affine:
    """Return an unknown."""
    return Affine((((name,), 1),))


def affine_size(size: Size) -> Affine:
    """Return a size as a sum of its dimensions, by their names."""
    if isinstance(size, SizeExpression):
        return _collect([(tuple(sorted(names)), factor) for factor, names in size.terms], 0)
    return number(size)


def _collect(terms: Iterable[tuple[Symbols, int]], constant: int) -> Affine:
    total: Counter[Symbols] = Counter()
    for names, factor in terms:
        total[names] += factor
    constant += total.pop((), 0)
    return Affine(tuple(sorted((n, f) for n, f in total.items() if f)), constant)


class Facts:
    """What is known of unknowns: sums of them that are at least 0.

    Args:
        known: These sums.
    """

    def __init__(self, known: Sequence[Affine] = ()) -> None:
        self._known = tuple(known)
        self._found: dict[Affine, tuple[float, float]] = {}

    def having(self, *more: Affine) -> Facts:
        """Return these facts and more."""
        return Facts((*self._known, *more))

    def span(self, wanted: Affine) -> tuple[float, float]:
        """Return bounds of a sum, infinite where none is known.

        The upper is below the lower if the facts contradict each other.

        Example:
            >>> row, column = symbol("row"), symbol("column")
            >>> facts = Facts([row, number(7) - row, column - row - number(1)])
            >>> facts.span(column - row), facts.span(row)
            ((1, inf), (0, 7))
        """
        if wanted.is_number:
            return wanted.constant, wanted.constant
        # All sums that differ by a number alone are looked for at once.
        bare = Affine(wanted.terms)
        if bare not in self._found:
            self._found[bare] = self._eliminate(bare)
        low, high = self._found[bare]
        return low + wanted.constant, high + wanted.constant

    @property
    def is_possible(self) -> bool:
        """Whether no contradiction is found among them."""
        names = sorted({names for each in self._known for names, _ in each.terms})
        for each in names:
            low, high = self.span(Affine(((each, 1),)))
            if low > high:
                return False
        return all(each.constant >= 0 for each in self._known if each.is_number)

    def _eliminate(self, wanted: Affine) -> tuple[float, float]:
        """Return bounds by Fourier and Motzkin's elimination of all but the sum looked for."""
        sought = Affine(((_SOUGHT, 1),))
        rest = {_tightened(each) for each in (*self._known, wanted - sought, sought - wanted)}
        while True:
            counts = Counter(names for each in rest for names, _ in each.terms if names != _SOUGHT)
            if not counts:
                break
            rest = _without(min(counts, key=lambda names: (counts[names], names)), rest)
            if len(rest) > _MAX_INEQUALITIES:
                return -math.inf, math.inf
        low, high = -math.inf, math.inf
        for each in rest:
            if each.is_number:
                if each.constant < 0:
                    return math.inf, -math.inf
                continue
            ((_, factor),) = each.terms
            if factor > 0:
                low = max(low, -(each.constant // factor))
            else:
                high = min(high, each.constant // -factor)
        return low, high


def _without(names: Symbols, rest: set[Affine]) -> set[Affine]:
    """Return what inequalities say of all but one unknown."""
    above, below, others = [], [], set()
    for each in rest:
        factor = dict(each.terms).get(names, 0)
        if factor > 0:
            above.append((factor, each))
        elif factor < 0:
            below.append((-factor, each))
        else:
            others.add(each)
    for (up, one), (down, other) in itertools.product(above, below):
        found = one * number(down) + other * number(up)
        if not found.is_number or found.constant < 0:
            others.add(_tightened(found))
    return others


def _tightened(inequality: Affine) -> Affine:
    """Return the same for whole unknowns, by the smallest factors."""
    divisor = math.gcd(*(factor for _, factor in inequality.terms))
    if divisor <= 1:
        return inequality
    terms = tuple((names, factor // divisor) for names, factor in inequality.terms)
    return Affine(terms, inequality.constant // divisor)
