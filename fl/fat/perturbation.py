"""Adaptive Perturbation Adjustment: how strong features are attacked in each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Adjustment:
    """When the strength of attacks changes, and by how much.

    A stage's radius is its base radius, how far the attack on the module before it moves that one's
    features in the mean, times alpha. Where adversarial accuracy is too far below clean accuracy,
    compared with the modules before, alpha grows; where it is too near, alpha shrinks.

    Attributes:
        least: What alpha starts at in each stage but the first, and never falls below.
        most: What it never grows beyond; the authors' code has no such bound.
        change: By how much it changes at a time.
        tolerance: How far the ratio of accuracies may be from the one before without a change.
        window: Rounds whose ratios are averaged.

    Raises:
        ConfigError: A number is out of range.
    """

    least: float = 0.3
    most: float = 3.0
    change: float = 0.1
    tolerance: float = 0.05
    window: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ConfigError(f"want 0 < least <= most, got {self.least} and {self.most}")
        if self.change < 0 or not 0 <= self.tolerance < 1 or self.window < 1:
            raise ConfigError(
                f"want a change of 0 or more, 0 <= tolerance < 1, a window; got {self}"
            )

    def adjust(self, alpha: float, ratios: Sequence[float], wanted: float) -> float:
        """Return alpha for the rounds to come.

        Args:
            alpha: What it was.
            ratios: Clean over adversarial accuracy, round for round.
            wanted: That ratio at the best model of the stage before.
        """
        recent = list(ratios)[-self.window :]
        if not recent:
            return alpha
        mean = sum(recent) / len(recent)
        if mean > (1 + self.tolerance) * wanted:
            alpha += self.change
        elif mean < (1 - self.tolerance) * wanted:
            alpha -= self.change
        return min(max(alpha, self.least), self.most)
