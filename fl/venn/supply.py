"""How many devices of each type check in: counts over a sliding window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.venn.eligibility import Eligibility

DAY_SECONDS = 86400.0
"""Over a whole day the hours' differences cancel out."""

DEFAULT_CHECKINS = 10_000


class SupplyWindow:
    """Counts the check-ins of each atom over the last day, or the last so many of them.

    Args:
        max_checkins: Kept at most; 1,000 is what Venn's published code has.
        max_seconds: Older ones are dropped.
    """

    def __init__(
        self, max_checkins: int = DEFAULT_CHECKINS, max_seconds: float = DAY_SECONDS
    ) -> None:
        self._max_checkins = max_checkins
        self._max_seconds = max_seconds
        self._checkins: deque[tuple[float, Mapping[str, float], int]] = deque()
        self._counts: list[int] = []

    def __len__(self) -> int:
        return len(self._checkins)

    def add(self, now: float, attributes: Mapping[str, float], atom: int) -> None:
        """Count a check-in, and drop those that are too old or too many."""
        self._checkins.append((now, attributes, atom))
        self._count(atom)
        while (
            len(self._checkins) > self._max_checkins
            or self._checkins[0][0] < now - self._max_seconds
        ):
            _, _, oldest = self._checkins.popleft()
            self._counts[oldest] -= 1

    def counts(self, num_atoms: int) -> NDArray[np.float64]:
        """Return the check-ins in the window, ``[atoms]``."""
        counts = np.zeros(num_atoms)
        counts[: len(self._counts)] = self._counts
        return counts

    @property
    def seconds(self) -> float:
        """From the first check-in in the window to the last."""
        return self._checkins[-1][0] - self._checkins[0][0] if self._checkins else 0.0

    def recount(self, eligibility: Eligibility) -> None:
        """Count anew, as requirements that came or went make other atoms."""
        self._counts = []
        self._checkins = deque(
            (then, attributes, eligibility.atom_of(attributes))
            for then, attributes, _ in self._checkins
        )
        for _, _, atom in self._checkins:
            self._count(atom)

    def _count(self, atom: int) -> None:
        while len(self._counts) <= atom:
            self._counts.append(0)
        self._counts[atom] += 1
