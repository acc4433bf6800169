"""Which task surely comes before which, by streams and waits, and which are left to luck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col
from hocket.hwmodels.errors import ProgramError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.program import Schedule

    Integers = NDArray[np.int32]

MAX_MARKS = 1 << 27
"""Numbers, one a task or buffer and stream, that may be kept to see what comes before what."""


class HappensBefore:
    """Which task is certain to have finished before another starts, by streams and waits.

    Attributes:
        streams: Stream of each task, ``[tasks]``.
        clocks: Vector clock of each task, ``[tasks, streams]``: how far along each stream
            everything reaches that comes before it, counted from 1.

    Raises:
        ProgramError: Tasks, or buffers, times streams are more than ``MAX_MARKS``.
    """

    def __init__(self, schedule: Schedule) -> None:
        table = schedule.table
        self.streams = table.stream_numbers()
        num_streams = int(self.streams.max()) + 1 if len(self.streams) else 0
        if max(schedule.num_tasks, len(schedule.buffers)) * num_streams > MAX_MARKS:
            raise ProgramError(
                f"{schedule.num_tasks} tasks on {len(schedule.buffers)} buffers are too many tasks "
                f"for so many cores, {num_streams} streams in all, to tell what comes before what; "
                "larger tiles make fewer"
            )
        self.clocks: Integers = _clocks(self.streams, num_streams, table.wait_ends, table.waits)

    def is_ordered(self, first: int, second: int) -> bool:
        """Return whether task ``first`` has surely finished before task ``second`` starts."""
        return bool(_is_ordered(first, second, self.streams, self.clocks))


@njit(cache=True, error_model="numpy")
def first_race(
    rows: Integers, num_buffers: int, streams: Integers, clocks: Integers
) -> tuple[int, int, int]:
    """Return two unordered tasks and the buffer they race for, or -1 three times.

    Each write must come after every access since the write before it; of accesses on one stream,
    which are ordered among themselves, only the last counts.
    """
    num_streams = clocks.shape[1]
    last_write = np.full(num_buffers, -1, np.int32)
    last_read = np.full((num_buffers, num_streams), -1, np.int32)
    for i in range(len(rows)):
        for at in (col.READ, col.SECOND_READ):
            buffer = rows[i, at]
            if buffer >= 0:
                write = last_write[buffer]
                if write >= 0 and write != i and not _is_ordered(write, i, streams, clocks):
                    return write, i, buffer
                last_read[buffer, streams[i]] = i
        for at in (col.WRITE, col.SECOND_WRITE):
            buffer = rows[i, at]
            if buffer < 0:
                continue
            write = last_write[buffer]
            if write >= 0 and write != i and not _is_ordered(write, i, streams, clocks):
                return write, i, buffer
            for stream in range(num_streams):
                read = last_read[buffer, stream]
                if read >= 0 and read != i and not _is_ordered(read, i, streams, clocks):
                    return read, i, buffer
                last_read[buffer, stream] = -1
            last_write[buffer] = i
    return -1, -1, -1


@njit(cache=True, error_model="numpy")
def first_bad_takeover(
    rows: Integers, places: NDArray[np.int64], streams: Integers, clocks: Integers
) -> tuple[int, int, int, int]:
    """Return a task, a later one that may take its memory too soon, and both buffers; or -1s.

    A buffer may take over bytes only from buffers that are done with: each of its first tasks, one
    a stream, must come after each of their last ones.
    """
    num_buffers, num_streams = len(places), clocks.shape[1]
    first = np.full((num_buffers, num_streams), -1, np.int32)
    last = np.full((num_buffers, num_streams), -1, np.int32)
    begin = np.full(num_buffers, len(rows), np.int64)
    for i in range(len(rows)):
        for at in (col.READ, col.SECOND_READ, col.WRITE, col.SECOND_WRITE):
            buffer = rows[i, at]
            if buffer >= 0:
                if first[buffer, streams[i]] < 0:
                    first[buffer, streams[i]] = i
                last[buffer, streams[i]] = i
                begin[buffer] = min(begin[buffer], i)
    pairs = takeovers(begin, len(rows), places)
    for k in range(0, len(pairs), 2):
        old, new = pairs[k], pairs[k + 1]
        for s in range(num_streams):
            for t in range(num_streams):
                earlier, later = last[old, s], first[new, t]
                if earlier < 0 or later < 0:
                    continue
                if not _is_ordered(earlier, later, streams, clocks):
                    return int(earlier), int(later), int(old), int(new)
    return -1, -1, -1, -1


@njit(cache=True, error_model="numpy")
def takeovers(
    begin: NDArray[np.int64], num_tasks: int, places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return which buffer takes over bytes from which, flat: old, new, old, new, ...

    Whoever had bytes last is their owner; an owner that is taken over in part keeps the rest.

    Args:
        begin: First task of each buffer, ``num_tasks`` for one that no task touches.
        num_tasks: Tasks of the schedule.
        places: ``[buffers, 2]``, first byte and size.
    """
    pairs = [np.int64(0) for _ in range(0)]
    lows = [np.int64(0) for _ in range(0)]
    highs = [np.int64(0) for _ in range(0)]
    owners = [np.int64(0) for _ in range(0)]
    for new in np.argsort(begin, kind="mergesort"):
        if begin[new] == num_tasks:
            break
        start, end = places[new, 0], places[new, 0] + places[new, 1]
        kept = 0
        num_owned = len(owners)
        for k in range(num_owned):
            low, high, old = lows[k], highs[k], owners[k]
            if low < end and start < high:
                pairs.append(old)
                pairs.append(np.int64(new))
                if high > end:
                    lows.append(end)
                    highs.append(high)
                    owners.append(old)
                high = start
                if low >= high:
                    continue
            lows[kept], highs[kept], owners[kept] = low, high, old
            kept += 1
        # What was split off stands behind the old entries: close the gap.
        for k in range(num_owned, len(owners)):
            lows[kept], highs[kept], owners[kept] = lows[k], highs[k], owners[k]
            kept += 1
        while len(owners) > kept:
            lows.pop()
            highs.pop()
            owners.pop()
        lows.append(start)
        highs.append(end)
        owners.append(np.int64(new))
    return np.array(pairs, np.int64)


@njit(cache=True, error_model="numpy")
def _clocks(
    streams: Integers, num_streams: int, wait_ends: NDArray[np.int64], waits: Integers
) -> Integers:
    num_tasks = len(streams)
    clocks = np.zeros((num_tasks, num_streams), np.int32)
    last = np.full(num_streams, -1, np.int64)
    for i in range(num_tasks):
        stream = streams[i]
        before = last[stream]
        position = 1
        if before >= 0:
            position = clocks[before, stream] + 1
            for s in range(num_streams):
                clocks[i, s] = clocks[before, s]
        for at in range(wait_ends[i], wait_ends[i + 1]):
            wait = waits[at]
            for s in range(num_streams):
                clocks[i, s] = max(clocks[i, s], clocks[wait, s])
        clocks[i, stream] = position
        last[stream] = i
    return clocks


@njit(cache=True, error_model="numpy")
def _is_ordered(first: int, second: int, streams: Integers, clocks: Integers) -> bool:
    if first == second:
        return False
    stream = streams[first]
    return bool(clocks[second, stream] >= clocks[first, stream])
