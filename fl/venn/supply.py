"""How many devices of each type check in: over a sliding window, or by the hours of the week."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hocket.fl.venn.eligibility import ABSENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.venn.eligibility import Eligibility, Requirement

HOUR_SECONDS = 3600.0
DAY_SECONDS = 86400.0
"""Over a whole day the hours' differences cancel out."""
HOURS_A_DAY, HOURS_A_WEEK = 24, 168

DEFAULT_CHECKINS = 10_000
PUBLISHED_CHECKINS = 1_000
"""That Venn's published code keeps, whenever they were."""
LEAST_CHECKINS = 1_000
"""Before anything is expected of the future."""

SAMPLE = 100
"""Check-ins of an hour that are kept as a sample of its types."""

LEAST_PART = 0.25
"""Of an hour, for it to count."""


class Supply(Protocol):
    """What check-ins of the past say of those to come."""

    def __len__(self) -> int:
        """Check-ins that are counted."""
        ...

    @property
    def seconds(self) -> float:
        """Time that ``counts`` are for."""
        ...

    def add(self, now: float, attributes: Mapping[str, float], atom: int) -> None:
        """Count a check-in; times never descend."""
        ...

    def counts(self, num_atoms: int) -> NDArray[np.float64]:
        """Return check-ins, in ``seconds``, of each type, ``[atoms]``."""
        ...

    def recount(self, eligibility: Eligibility) -> None:
        """Count anew, as requirements that came or went make other atoms."""
        ...

    def expected(self, requirement: Requirement, now: float, seconds: float) -> float | None:
        """Return how many devices that meet a requirement check in; None if too little is known.

        Args:
            requirement: As ``requirement_of`` returns it.
            now: Begin of the time that is asked for.
            seconds: Its length.
        """
        ...


class SupplyWindow:
    """Counts the check-ins of each atom over the last day, or the last so many of them.

    Args:
        max_checkins: Kept at most.
        max_seconds: Older ones are dropped.
    """

    def __init__(
        self, max_checkins: int = DEFAULT_CHECKINS, max_seconds: float = DAY_SECONDS
    ) -> None:
        self._max_checkins = max_checkins
        self._max_seconds = max_seconds
        self._checkins: deque[tuple[float, Mapping[str, float], int]] = deque()
        self._counts: list[int] = []

    @classmethod
    def as_published(cls) -> SupplyWindow:
        """Return the window of Venn's published code."""
        return cls(PUBLISHED_CHECKINS, math.inf)

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

    def expected(self, requirement: Requirement, now: float, seconds: float) -> float | None:
        """Return devices to be expected if all goes on as in the window."""
        del now
        if len(self) < LEAST_CHECKINS or self.seconds <= 0:
            return None
        num_met = sum(_meets(attributes, requirement) for _, attributes, _ in self._checkins)
        return num_met / self.seconds * seconds

    def _count(self, atom: int) -> None:
        while len(self._counts) <= atom:
            self._counts.append(0)
        self._counts[atom] += 1


class WeeklySupply:
    """Counts check-ins by the hour of the week, and expects the next hours to be as a week ago.

    ``counts`` are for the 24 hours to come, so that a day's ups and downs cancel out. An hour that
    comes again counts as much as all its weeks before. Of hours not seen yet, the mean of the
    others is expected. What types an hour's check-ins are is told from the last 100 of them.
    """

    def __init__(self) -> None:
        self._per_hour = np.full(HOURS_A_WEEK, np.nan)
        self._samples: list[deque[tuple[Mapping[str, float], int]]] = [
            deque(maxlen=SAMPLE) for _ in range(HOURS_A_WEEK)
        ]
        self._hour = -1
        self._now = 0.0
        self._began = 0.0
        self._so_far = 0
        self._total = 0

    def __len__(self) -> int:
        return self._total

    @property
    def seconds(self) -> float:
        """A day."""
        return DAY_SECONDS

    def add(self, now: float, attributes: Mapping[str, float], atom: int) -> None:
        """Count a check-in; with the first of an hour, the hours before it are over."""
        hour = int(now // HOUR_SECONDS)
        if self._hour < 0:
            self._hour, self._began = hour, now
        elif hour > self._hour:
            self._close_hours(hour)
        self._now = now
        self._so_far += 1
        self._total += 1
        self._samples[hour % HOURS_A_WEEK].append((attributes, atom))

    def counts(self, num_atoms: int) -> NDArray[np.float64]:
        """Return the check-ins of a day to come, ``[atoms]``."""
        counts = np.zeros(num_atoms)
        everyone = np.zeros(num_atoms)
        for sample in self._samples:
            for _, atom in sample:
                everyone[atom] += 1
        if not everyone.any():
            return counts
        per_hour = self._expected_per_hour()
        for ahead in range(HOURS_A_DAY):
            hour = (self._hour + ahead) % HOURS_A_WEEK
            shares = everyone
            if self._samples[hour]:
                atoms = [atom for _, atom in self._samples[hour]]
                shares = np.bincount(atoms, minlength=num_atoms).astype(np.float64)
            counts += per_hour[hour] * shares / shares.sum()
        return counts

    def recount(self, eligibility: Eligibility) -> None:
        """Count anew, as requirements that came or went make other atoms."""
        for number, sample in enumerate(self._samples):
            again = [(attributes, eligibility.atom_of(attributes)) for attributes, _ in sample]
            self._samples[number] = deque(again, maxlen=SAMPLE)

    def expected(self, requirement: Requirement, now: float, seconds: float) -> float | None:
        """Return devices to be expected, hour by hour."""
        if self._total < LEAST_CHECKINS:
            return None
        per_hour = self._expected_per_hour()
        met = np.full(HOURS_A_WEEK, np.nan)
        for hour, sample in enumerate(self._samples):
            if sample:
                met[hour] = np.mean([_meets(attributes, requirement) for attributes, _ in sample])
        shares = np.where(np.isnan(met), np.nanmean(met), met)
        found = 0.0
        left, at = seconds, now
        # Whole weeks are alike.
        weeks, left = divmod(left, HOURS_A_WEEK * HOUR_SECONDS)
        found += weeks * float((per_hour * shares).sum())
        while left > 0:
            hour = int(at // HOUR_SECONDS)
            length = min((hour + 1) * HOUR_SECONDS - at, left)
            place = hour % HOURS_A_WEEK
            found += float(per_hour[place] * shares[place]) * length / HOUR_SECONDS
            at += length
            left -= length
        return found

    def _expected_per_hour(self) -> NDArray[np.float64]:
        known = np.isfinite(self._per_hour)
        if known.any():
            return np.where(known, self._per_hour, self._per_hour[known].mean())
        # Within the first hour, what it has brought so far.
        rate = self._so_far / max(self._now - self._began, 1.0)
        return np.full(HOURS_A_WEEK, rate * HOUR_SECONDS)

    def _close_hours(self, hour: int) -> None:
        """Note what the hours up to this one have brought; those without a check-in, nothing."""
        for over in range(self._hour, min(hour, self._hour + HOURS_A_WEEK)):
            begin = max(self._began, over * HOUR_SECONDS)
            length = (over + 1) * HOUR_SECONDS - begin
            if length < LEAST_PART * HOUR_SECONDS:
                continue  # the first hour, met near its end, says little
            brought = (self._so_far if over == self._hour else 0) * HOUR_SECONDS / length
            place = over % HOURS_A_WEEK
            before = self._per_hour[place]
            self._per_hour[place] = brought if np.isnan(before) else (before + brought) / 2
        self._hour, self._so_far = hour, 0


def _meets(attributes: Mapping[str, float], requirement: Requirement) -> bool:
    return all(attributes.get(name, ABSENT) >= value for name, value in requirement)
