"""Schedule in, program out: addresses, and the waits that sharing them asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hocket.compiler.attention.memory.liveness import live_ranges
from hocket.compiler.attention.memory.placement import place_buffers
from hocket.hwmodels.program import Program, Schedule, Unit
from hocket.hwmodels.verify import buffer_accesses

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Placement, Task


def plan_memory(schedule: Schedule, machine: HardwareModel) -> Program:
    """Place every buffer, and make each task that takes memory over wait for who had it.

    Before, two buffers in a schedule::

        3 load key[0] -> b4      7 scores b2 b4 -> b5      12 load key[1] -> b9

    After, with both at the same address::

        3 load key[0] -> @0      7 scores @64 @0 -> @128   12 load key[1] -> @0, waits for 7

    Raises:
        InfeasibleError: On-chip memory cannot hold what is alive at some moment.
    """
    placements = place_buffers(schedule.buffers, live_ranges(schedule), machine)
    extra = _takeover_waits(schedule, placements)
    tasks = tuple(
        replace(task, waits=_prune(task, index, {*task.waits, *extra[index]}, schedule.tasks))
        if extra[index]
        else task
        for index, task in enumerate(schedule.tasks)
    )
    return Program(Schedule(tasks, schedule.buffers), placements)


def _takeover_waits(schedule: Schedule, placements: tuple[Placement, ...]) -> list[set[int]]:
    """Return for each task the earlier ones whose memory it takes over.

    The first task of a buffer waits for the last task, on every stream, of each buffer that had any
    of its bytes; all other tasks of the buffer come after the first one.
    """
    accesses = buffer_accesses(schedule)
    extra: list[set[int]] = [set() for _ in schedule.tasks]
    owners: list[tuple[int, int, int]] = []  # (first byte, one past the last, buffer)
    touched = [buffer for buffer, indices in enumerate(accesses) if indices]
    for buffer in sorted(touched, key=lambda each: accesses[each][0]):
        start, end = placements[buffer].offset_bytes, placements[buffer].end_bytes
        kept = []
        for low, high, owner in owners:
            if high <= start or low >= end:
                kept.append((low, high, owner))
                continue
            extra[accesses[buffer][0]].update(_last_on_each_stream(schedule, accesses[owner]))
            if low < start:
                kept.append((low, start, owner))
            if high > end:
                kept.append((end, high, owner))
        owners = [*kept, (start, end, buffer)]
    return extra


def _last_on_each_stream(schedule: Schedule, indices: list[int]) -> list[int]:
    last: dict[tuple[int, Unit], int] = {}
    for index in indices:
        task = schedule.tasks[index]
        last[task.core, task.unit] = index
    return list(last.values())


def _prune(task: Task, index: int, waits: set[int], tasks: tuple[Task, ...]) -> tuple[int, ...]:
    """Drop waits that a stream's own order already grants; keep the last of each other stream.

    The task itself may be among them where it reads and writes memory it takes over from itself.
    """
    last: dict[tuple[int, Unit], int] = {}
    for wait in waits:
        before = tasks[wait]
        if wait == index or (before.core, before.unit) == (task.core, task.unit):
            continue
        stream = (before.core, before.unit)
        last[stream] = max(wait, last.get(stream, -1))
    return tuple(sorted(last.values()))
