"""Which updates are believed, and how long a round waits for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Guard:
    """Refuses changes that are unlike those of earlier rounds.

    It compares with what the server knew before the round, so that it does not matter who answers
    first.

    Attributes:
        max_norm_ratio: How many times the median of earlier norms a change may be long; 0 for any.
        min_cosine: Least cosine with the mean change of the round before; -1 for any. Clients that
            learn point roughly the same way from round to round; one that unlearns points back.
        min_history: Earlier changes that it takes to judge norms.

    Raises:
        ConfigError: A number is out of range.
    """

    max_norm_ratio: float = 4.0
    min_cosine: float = -0.5
    min_history: int = 4

    def __post_init__(self) -> None:
        if self.max_norm_ratio and self.max_norm_ratio <= 1:
            raise ConfigError(f"max_norm_ratio must be 0 or above 1, got {self.max_norm_ratio}")
        if not -1 <= self.min_cosine < 1:
            raise ConfigError(f"min_cosine must be from -1 to below 1, got {self.min_cosine}")
        if self.min_history < 1:
            raise ConfigError(f"min_history must be 1 or more, got {self.min_history}")

    def objection(self, norm: float, cosine: float | None, earlier_norms: Sequence[float]) -> str:
        """Return what speaks against a change; nothing if it is to be believed.

        Args:
            norm: Of the change, by the sum of its learning rates: with these, changes grow.
            cosine: With the mean change of the round before; None if there is none.
            earlier_norms: Of changes that were believed.
        """
        if not math.isfinite(norm):
            return "its numbers are not finite"
        if self.max_norm_ratio and len(earlier_norms) >= self.min_history:
            usual = float(np.median(earlier_norms))
            if norm > self.max_norm_ratio * usual:
                return (
                    f"its norm is {norm:.3g} for each unit of learning rate, and the usual one is "
                    f"{usual:.3g}"
                )
        if cosine is not None and cosine < self.min_cosine:
            return f"it points away from the round before: their cosine is {cosine:.2f}"
        return ""


@dataclass(frozen=True)
class Deadline:
    """How long a round waits, by how long replies took before.

    Attributes:
        factor: Times the slowest of the replies it remembers.
        least_seconds: That it waits in any case.
        first_seconds: That it waits as long as it remembers none; None for as long as it takes.
        min_history: Replies that it takes to go by them.

    Raises:
        ConfigError: A number is out of range.
    """

    factor: float = 3.0
    least_seconds: float = 10.0
    first_seconds: float | None = None
    min_history: int = 4

    def __post_init__(self) -> None:
        if self.factor <= 1:
            raise ConfigError(f"factor must be above 1, got {self.factor}")
        for name in ("least_seconds", "first_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}")

    def seconds(self, earlier: Sequence[float]) -> float | None:
        """Return how long to wait; None for as long as it takes."""
        if len(earlier) < self.min_history:
            return self.first_seconds
        return max(self.least_seconds, self.factor * max(earlier))


def norm_of(change: Mapping[str, NDArray[Any]]) -> float:
    """Return the norm of all arrays together."""
    return math.sqrt(math.fsum(_dot(change[name], change[name]) for name in sorted(change)))


def cosine_of(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    """Return the cosine of two changes; 0 if one is nothing."""
    product = math.fsum(_dot(one[name], other[name]) for name in sorted(one))
    norms = norm_of(one) * norm_of(other)
    return product / norms if norms else 0.0


def _dot(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.dot(one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)))
