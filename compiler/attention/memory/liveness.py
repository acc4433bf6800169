"""From when to when each buffer of a schedule is needed, in the order of its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.verify import buffer_accesses

if TYPE_CHECKING:
    from hocket.hwmodels.program import Schedule


@dataclass(frozen=True, slots=True)
class LiveRange:
    """Indices of the first and the last task that touch a buffer."""

    first: int
    last: int

    def overlaps(self, other: LiveRange) -> bool:
        """Return whether both are alive during some task."""
        return self.first <= other.last and other.first <= self.last


def live_ranges(schedule: Schedule) -> list[LiveRange | None]:
    """Return the live range of each buffer, None for one that no task touches."""
    return [
        LiveRange(indices[0], indices[-1]) if indices else None
        for indices in buffer_accesses(schedule)
    ]
