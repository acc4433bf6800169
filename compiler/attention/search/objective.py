"""What the search minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hocket.hwmodels.estimate import Estimate


@dataclass(frozen=True)
class LatencyThenEnergy:
    """Fewest cycles; among programs about as fast, fewest joules.

    Latency alone is indifferent between programs that differ severalfold in energy, so those within
    one step of ``tolerance`` on a logarithmic scale count as equally fast.

    Attributes:
        tolerance: Ratio between two steps, minus one.
    """

    tolerance: float = 0.005

    def __call__(self, estimate: Estimate) -> tuple[float, ...]:
        """Return a key that is smaller for a better program."""
        step = 0
        if estimate.cycles > 0:
            step = math.floor(math.log(estimate.cycles) / math.log1p(self.tolerance))
        return (step, estimate.joules, estimate.cycles, estimate.peak_on_chip_bytes)
