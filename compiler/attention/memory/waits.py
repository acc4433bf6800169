"""Which tasks must wait for which: for data, and for memory that others had before.

Waits are found as pairs of task indices, ``[pairs, 2]``: who waits, and for whom. Found one by one,
many are implied by others and by the order of each stream; ``with_waits`` keeps the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col
from hocket.hwmodels.happens_before import takeovers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.program import Program, Schedule

    Integers = NDArray[np.int32]
    Longs = NDArray[np.int64]

_BUFFERS = (col.READ, col.SECOND_READ, col.WRITE, col.SECOND_WRITE)
_READ_SIZE = [col.READ + 3, col.READ + 4]
_WRITTEN_SIZE = [col.WRITE + 3, col.WRITE + 4]


def wait_pairs(schedule: Schedule) -> Longs:
    """Return the waits that a schedule has."""
    table = schedule.table
    owners = np.repeat(np.arange(schedule.num_tasks), np.diff(table.wait_ends))
    return np.stack([owners, table.waits.astype(np.int64)], axis=1)


def data_waits(schedule: Schedule) -> Longs:
    """Return the waits that data ask for, in the order the schedule has.

    A task that reads a buffer waits for who wrote it last; one that writes it, for who touched it
    since. A transfer waits for earlier ones of the same place in outer memory, if either stores.
    """
    table = schedule.table
    streams = table.stream_numbers()
    num_streams = int(streams.max()) + 1 if len(streams) else 1
    pairs = _buffer_waits(table.rows, len(schedule.buffers), streams, num_streams)
    return np.concatenate([pairs.reshape(-1, 2), overlapping_transfers(table.rows)])


def takeover_waits(schedule: Schedule, places: Longs) -> Longs:
    """Return the waits that shared addresses ask for.

    The first task of a buffer waits for the last one, on every stream, of each buffer that had any
    of its bytes; all other tasks of the buffer come after the first one.
    """
    rows = schedule.table.rows
    streams = schedule.table.stream_numbers()
    num_streams = int(streams.max()) + 1 if len(streams) else 1
    pairs: Longs = _takeovers(rows, np.ascontiguousarray(places), streams, num_streams)
    return pairs.reshape(-1, 2)


def pace_waits(program: Program) -> Longs:
    """Return the waits of a program that neither data nor shared addresses explain.

    Such are those of a dataflow whose units work in lock-step.
    """
    rows, places = program.schedule.table.rows, program.places
    pairs = wait_pairs(program.schedule)
    is_pace = np.ones(len(pairs), bool)
    streams = program.schedule.table.stream_numbers()
    # Transfers may have outer memory in common; that is data, and found anew.
    is_pace &= (streams[pairs] >= 2).any(axis=1)
    for at in _BUFFERS:
        for other in _BUFFERS:
            mine, theirs = rows[pairs[:, 0], at], rows[pairs[:, 1], other]
            both = (mine != col.NOTHING) & (theirs != col.NOTHING)
            low, high = places[mine, 0], places[mine].sum(axis=1)
            touch = (places[theirs, 0] < high) & (low < places[theirs].sum(axis=1))
            is_pace &= ~(both & (touch | (mine == theirs)))
    return pairs[is_pace]


def with_waits(schedule: Schedule, pairs: Longs) -> Schedule:
    """Return a schedule with these waits instead of its own, as far as they are not implied."""
    table = schedule.table
    pairs = np.unique(pairs.astype(np.int64), axis=0)
    streams = table.stream_numbers()
    num_streams = int(streams.max()) + 1 if len(streams) else 1
    ends = np.searchsorted(pairs[:, 0], np.arange(schedule.num_tasks + 1))
    awaited = np.ascontiguousarray(pairs[:, 1])
    kept = pairs[_is_needed(streams, num_streams, ends, awaited)]
    waits = kept[:, 1].astype(np.int32)
    wait_ends = np.searchsorted(kept[:, 0], np.arange(schedule.num_tasks + 1)).astype(np.int64)
    return replace(schedule, table=replace(table, wait_ends=wait_ends, waits=waits))


def overlapping_transfers(rows: Integers) -> Longs:
    """Return pairs of transfers, the later one first, of one place in outer memory; one stores."""
    is_transfer = rows[:, col.TENSOR] != col.NOTHING
    is_store = is_transfer & (rows[:, col.OPERATION] == col.STORE)
    # Only a tensor that is stored can be in the way of anyone.
    chosen = np.flatnonzero(is_transfer & np.isin(rows[:, col.TENSOR], rows[is_store, col.TENSOR]))
    groups: dict[tuple[int, int], list[int]] = {}
    places = rows[chosen][:, [col.TENSOR, col.MATRIX]].tolist()
    for task, (tensor, matrix) in zip(chosen.tolist(), places, strict=True):
        groups.setdefault((tensor, matrix), []).append(task)
    found = [np.zeros((0, 2), np.int64)]
    for tasks in groups.values():
        members = np.array(tasks)
        read, written = rows[members][:, _READ_SIZE], rows[members][:, _WRITTEN_SIZE]
        block = np.where(is_store[members, None], read, written)
        top, left = rows[members, col.ROW], rows[members, col.COLUMN]
        bottom, right = top + block[:, 0], left + block[:, 1]
        for number in range(1, len(members)):
            meets = (top[:number] < bottom[number]) & (top[number] < bottom[:number])
            meets &= (left[:number] < right[number]) & (left[number] < right[:number])
            meets &= is_store[members[:number]] | is_store[members[number]]
            earlier = members[:number][meets]
            found.append(np.stack([np.full_like(earlier, members[number]), earlier], axis=1))
    return np.concatenate(found)


@njit(cache=True)
def _buffer_waits(rows: Integers, num_buffers: int, streams: Integers, num_streams: int) -> Longs:
    """Return the waits for buffers, flat; none within a stream, whose order is enough."""
    pairs = [0 for _ in range(0)]
    last_write = np.full(num_buffers, -1, np.int64)
    last_read = np.full((num_buffers, num_streams), -1, np.int64)
    for i in range(len(rows)):
        for at in (col.READ, col.SECOND_READ):
            buffer = rows[i, at]
            if buffer < 0:
                continue
            write = last_write[buffer]
            if write >= 0 and streams[write] != streams[i]:
                pairs.append(i)
                pairs.append(write)
            last_read[buffer, streams[i]] = i
        for at in (col.WRITE, col.SECOND_WRITE):
            buffer = rows[i, at]
            if buffer < 0:
                continue
            write = last_write[buffer]
            if write >= 0 and streams[write] != streams[i]:
                pairs.append(i)
                pairs.append(write)
            for stream in range(num_streams):
                read = last_read[buffer, stream]
                if read >= 0 and stream != streams[i]:
                    pairs.append(i)
                    pairs.append(read)
                last_read[buffer, stream] = -1
            last_write[buffer] = i
    return np.array(pairs, np.int64)


@njit(cache=True)
def _first_and_last(
    rows: Integers, num_buffers: int, streams: Integers, num_streams: int
) -> tuple[Longs, Longs]:
    """Return the first task of each buffer, and its last one on each stream; -1 for none."""
    first = np.full(num_buffers, len(rows), np.int64)
    last = np.full((num_buffers, num_streams), -1, np.int64)
    for i in range(len(rows)):
        for at in (col.READ, col.SECOND_READ, col.WRITE, col.SECOND_WRITE):
            buffer = rows[i, at]
            if buffer >= 0:
                first[buffer] = min(first[buffer], i)
                last[buffer, streams[i]] = i
    return first, last


@njit(cache=True)
def _takeovers(rows: Integers, places: Longs, streams: Integers, num_streams: int) -> Longs:
    """Return the waits for shared addresses, flat."""
    pairs = [0 for _ in range(0)]
    first, last = _first_and_last(rows, len(places), streams, num_streams)
    taken = takeovers(first, len(rows), places)
    for k in range(0, len(taken), 2):
        old, new = taken[k], taken[k + 1]
        for stream in range(num_streams):
            if last[old, stream] >= 0 and stream != streams[first[new]]:
                pairs.append(first[new])
                pairs.append(last[old, stream])
    return np.array(pairs, np.int64)


@njit(cache=True)
def _is_needed(
    streams: Integers, num_streams: int, wait_ends: Longs, awaited: Longs
) -> NDArray[np.bool_]:
    """Return for each wait whether it is not implied by the streams and the other waits."""
    num_tasks = len(streams)
    needed = np.zeros(len(awaited), np.bool_)
    clocks = np.zeros((num_tasks, num_streams), np.int32)
    last = np.full(num_streams, -1, np.int64)
    for i in range(num_tasks):
        stream = streams[i]
        position = 1
        if last[stream] >= 0:
            position = clocks[last[stream], stream] + 1
            for s in range(num_streams):
                clocks[i, s] = clocks[last[stream], s]
        # The latest first: it is the likeliest to imply the others.
        for at in range(wait_ends[i + 1] - 1, wait_ends[i] - 1, -1):
            wait = awaited[at]
            if clocks[i, streams[wait]] >= clocks[wait, streams[wait]]:
                continue
            needed[at] = True
            for s in range(num_streams):
                clocks[i, s] = max(clocks[i, s], clocks[wait, s])
        clocks[i, stream] = position
        last[stream] = i
    return needed
