"""What a search minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hocket.hwmodels.estimate import Estimate

    Key = tuple[float, ...]


class Objective(Protocol):
    """Tells better programs from worse ones."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    def amount(self, estimate: Estimate) -> float:
        """Return what counts first: cycles, or joules."""
        ...

    def key(self, estimate: Estimate) -> Key:
        """Return a key that is smaller for a better program."""
        ...

    def least_key(self, cycles: float, joules: float) -> Key:
        """Return a key no larger than that of any program with at least so many of each."""
        ...


@dataclass(frozen=True)
class Latency:
    """Fewest cycles; among programs about as fast, fewest joules.

    Latency alone is indifferent between programs that differ severalfold in energy, so those within
    one step of ``tolerance`` on a logarithmic scale count as equally fast.

    Attributes:
        tolerance: Ratio between two steps, minus one; 0 for cycles alone.
    """

    tolerance: float = 0.002

    @property
    def name(self) -> str:
        """What users call it."""
        return "latency"

    def amount(self, estimate: Estimate) -> float:
        """Return the cycles, which count first."""
        return estimate.cycles

    def key(self, estimate: Estimate) -> Key:
        """Return a key that is smaller for a better program."""
        step = _step(estimate.cycles, self.tolerance)
        return (step, estimate.joules, estimate.cycles, estimate.peak_on_chip_bytes)

    def least_key(self, cycles: float, joules: float) -> Key:
        """Return a key no larger than that of any program with at least so many of each."""
        return (_step(cycles, self.tolerance), joules, cycles, 0.0)


@dataclass(frozen=True)
class Energy:
    """Fewest joules; among programs about as frugal, fewest cycles.

    Attributes:
        tolerance: Ratio between two steps of energy, minus one; 0 for joules alone.
    """

    tolerance: float = 0.002

    @property
    def name(self) -> str:
        """What users call it."""
        return "energy"

    def amount(self, estimate: Estimate) -> float:
        """Return the joules, which count first."""
        return estimate.joules

    def key(self, estimate: Estimate) -> Key:
        """Return a key that is smaller for a better program."""
        step = _step(estimate.joules, self.tolerance)
        return (step, estimate.cycles, estimate.joules, estimate.peak_on_chip_bytes)

    def least_key(self, cycles: float, joules: float) -> Key:
        """Return a key no larger than that of any program with at least so many of each."""
        return (_step(joules, self.tolerance), cycles, joules, 0.0)


def _step(amount: float, tolerance: float) -> float:
    """Return on which step of a logarithmic scale an amount is; itself without tolerance."""
    if not tolerance or amount <= 0:
        return amount
    return math.floor(math.log(amount) / math.log1p(tolerance))


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (Latency(), Energy())
}
"""By the name a user gives."""
