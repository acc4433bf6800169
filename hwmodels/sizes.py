"""Sizes that are known when a module runs: polynomials of the model's open dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TERMS = 16
MAX_DEGREE = 4
MAX_FACTOR = 1 << 40


@dataclass(frozen=True)
class SizeExpression:
    """A sum of products of dimensions, ``2 * batch * length + 1``.

    Attributes:
        terms: Each a whole factor and the names of the dimensions it is multiplied by.

    Example:
        >>> str(SizeExpression(((1, ("past",)), (1, ()))))
        'past + 1'
        >>> SizeExpression(((1, ("past",)), (1, ()))).evaluate({"past": 7})
        8
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.terms) <= MAX_TERMS:
            raise ValueError(f"a size has 1 to {MAX_TERMS} terms, got {len(self.terms)}")
        for factor, names in self.terms:
            if type(factor) is not int or abs(factor) > MAX_FACTOR or len(names) > MAX_DEGREE:
                raise ValueError(f"a size has an unusable term {factor!r} of {names!r}")
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"a size names its dimensions by text, got {names!r}")

    def evaluate(self, dims: Mapping[str, int]) -> int:
        """Return the size with these dimensions.

        Raises:
            KeyError: A dimension has no size.
        """
        return sum(factor * math.prod(dims[name] for name in names) for factor, names in self.terms)

    @property
    def names(self) -> frozenset[str]:
        """The dimensions it depends on."""
        return frozenset(name for _, names in self.terms for name in names)

    def __str__(self) -> str:
        words = []
        for factor, names in self.terms:
            shown = [*names] if names and factor == 1 else [str(factor), *names]
            words.append(" * ".join(shown))
        return " + ".join(words)


Size = int | SizeExpression


def evaluate_size(size: Size, dims: Mapping[str, int]) -> int:
    """Return a size as a number."""
    return size if isinstance(size, int) else size.evaluate(dims)


def size_to_json(size: Size) -> Any:
    """Return a number, or a list of terms."""
    if isinstance(size, int):
        return size
    return [[factor, list(names)] for factor, names in size.terms]


def size_from_json(fields: object) -> Size:
    """Build a size from JSON that nobody has checked.

    Raises:
        ValueError: It is no size.
    """
    if type(fields) is int:
        return fields
    if not isinstance(fields, list) or not all(
        isinstance(term, list) and len(term) == 2 and isinstance(term[1], list) for term in fields
    ):
        raise ValueError(f"{fields!r} is no size")
    return SizeExpression(tuple((factor, tuple(names)) for factor, names in fields))
