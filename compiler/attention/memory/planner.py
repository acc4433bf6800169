"""Schedule in, program out: addresses, and the waits that sharing them asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.memory import waits as wt
from hocket.compiler.attention.memory.liveness import live_ranges, live_ranges_in_time
from hocket.compiler.attention.memory.placement import peak_bytes, place_best, place_buffers
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.liveness import LiveRange
    from hocket.hwmodels.machine import HardwareModel

    Floats = NDArray[np.float64]
    Longs = NDArray[np.int64]
    Placer = Callable[[Longs, Sequence[LiveRange | None], HardwareModel], Longs]


def plan_memory(schedule: Schedule, machine: HardwareModel) -> Program:
    """Place every buffer, and make each task that takes memory over wait for who had it.

    Before, two buffers in a schedule::

        3 load key[0] -> b4      7 scores b2 b4 -> b5      12 load key[1] -> b9

    After, with both at the same address::

        3 load key[0] -> @0      7 scores @64 @0 -> @128   12 load key[1] -> @0, waits for 7

    Args:
        schedule: With the waits that its data ask for.
        machine: On-chip capacity, alignment and element size count.

    Raises:
        InfeasibleError: On-chip memory cannot hold what is alive at some moment.
    """
    places = place_buffers(schedule.buffers, live_ranges(schedule), machine)
    pairs = np.concatenate([wt.wait_pairs(schedule), wt.takeover_waits(schedule, places)])
    return Program(wt.with_waits(schedule, pairs), places)


def compact(program: Program, machine: HardwareModel, place: Placer = place_best) -> Program:
    """Return a program that does the same in the same time, in as little memory as can be seen.

    A dataflow gives buffers equal slots in turn; here each buffer gets its own size, and memory
    from its first task to its last in the simulated timeline. So the waits that shared addresses
    ask for are over when they are asked for: on this machine the program is not slower.

    Args:
        program: A verified program. Its tasks keep their order on every unit and queue, and the
            waits that data or the dataflow's pace ask for; waits for memory are found anew.
        machine: The machine it is for.
        place: How to find addresses; takes the arguments of ``place_best``.

    Returns:
        The program, re-placed; the same one if that takes no less memory.
    """
    timeline = simulate(program, machine)
    order = by_start(timeline.starts, timeline.ends)
    schedule = in_order(program.schedule, order)
    try:
        ranges = live_ranges_in_time(schedule, timeline.starts[order], timeline.finishes[order])
        places = place(schedule.buffers, ranges, machine)
    except InfeasibleError:
        return program
    if peak_bytes(places) >= program.peak_on_chip_bytes:
        return program
    index = np.empty_like(order)
    index[order] = np.arange(len(order))
    return with_places(schedule, places, index[wt.pace_waits(program)])


def by_start(starts: Floats | Longs, ends: Floats | Longs) -> Longs:
    """Return the tasks of a timeline in the order in which they start.

    Of those that start at one time, those that end at once come first; then the order of indices
    holds. So each task stands behind all that it waits for.
    """
    order: Longs = np.lexsort((np.arange(len(starts)), ends, starts)).astype(np.int64)
    return order


def in_order(schedule: Schedule, order: Longs) -> Schedule:
    """Return a schedule with its tasks in another order, and no waits."""
    table = schedule.table
    rows = np.ascontiguousarray(table.rows[order])
    no_waits = np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int32)
    return replace(
        schedule, table=replace(table, rows=rows, wait_ends=no_waits[0], waits=no_waits[1])
    )


def with_places(schedule: Schedule, places: Longs, more_waits: Longs | None = None) -> Program:
    """Return the program of a schedule whose buffers lie at given places.

    Its waits are those that data in the order of tasks and shared addresses ask for, and
    ``more_waits``.
    """
    pairs = [wt.data_waits(schedule), wt.takeover_waits(schedule, places)]
    if more_waits is not None:
        pairs.append(more_waits)
    return Program(wt.with_waits(schedule, np.concatenate(pairs)), places)
