"""From when to when each buffer of a schedule is needed: by the order of tasks, or by a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.verify import buffer_accesses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.hwmodels.program import Schedule

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LiveRange:
    """The first and the last moment at which a buffer is needed, both included.

    Moments are numbers in an order: indices of tasks (``live_ranges``), or starts and finishes of
    tasks sorted by time (``live_ranges_in_time``).
    """

    first: int
    last: int

    def overlaps(self, other: LiveRange) -> bool:
        """Return whether both are needed at some moment."""
        return self.first <= other.last and other.first <= self.last


def live_ranges(schedule: Schedule) -> list[LiveRange | None]:
    """Return the live range of each buffer in indices of tasks; None if no task touches it."""
    return [
        LiveRange(indices[0], indices[-1]) if indices else None
        for indices in buffer_accesses(schedule)
    ]


def live_ranges_in_time(
    schedule: Schedule, starts: Floats, finishes: Floats
) -> list[LiveRange | None]:
    """Return the live range of each buffer in moments of a timeline; None if no task touches it.

    A moment is the start or the finish of a task. Memory given back at the very time at which
    another task starts is free for that task, if the schedule has it later.

    Args:
        schedule: Its tasks sorted by start.
        starts, finishes: When each task starts, and when what it touches is free again.
    """
    num_tasks = schedule.num_tasks
    tasks = np.arange(num_tasks)
    takes_time = finishes > starts
    # At one time: first what is over, then, task by task, what begins, or begins and is over.
    time = np.concatenate([starts, finishes])
    is_later = np.concatenate([np.ones(num_tasks, bool), ~takes_time])
    is_finish = np.repeat([False, True], num_tasks)
    moments = np.empty(2 * num_tasks, np.int64)
    order = np.lexsort((is_finish, np.concatenate([tasks, tasks]), is_later, time))
    moments[order] = np.arange(2 * num_tasks)
    begins, ends = moments[:num_tasks], moments[num_tasks:]
    return [
        LiveRange(int(begins[touched].min()), int(ends[touched].max())) if touched else None
        for touched in buffer_accesses(schedule)
    ]


def max_live_bytes(sizes: Sequence[int], ranges: Sequence[LiveRange | None]) -> int:
    """Return the most bytes that are needed at one moment: less memory no placement can do with.

    Args:
        sizes: Bytes of each buffer.
        ranges: When each is needed.
    """
    begins = [(live.first, size) for live, size in zip(ranges, sizes, strict=True) if live]
    ends = [(live.last + 1, -size) for live, size in zip(ranges, sizes, strict=True) if live]
    most = alive = 0
    # At one moment, what ends (less than nothing) comes first.
    for _, change in sorted(begins + ends):
        alive += change
        most = max(most, alive)
    return most
