"""A program as a scheduling problem in integers: tasks, what orders them, what they share.

What is kept of the program, exactly: a task comes after the earlier ones that touch the same part
of a buffer or of outer memory, unless all of them read; so sums are added up in the program's
order. Tasks of one unit that touch disjoint parts of a buffer change places freely; on different
units the order stays, as the machine's language asks for one. Buffers keep nothing but their size:
whose memory they take over, and when, is open.

Cycles may be fractions, a solver counts in integers. Where all cycles are whole numbers of one
common step, schedules and bounds are exact, but for the rounding of floats. Otherwise a step is a
tiny fraction of a cycle, and durations are rounded up for a schedule, so that it is feasible, and
down for a bound, so that it is one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from hocket.compiler.attention.memory.placement import buffer_bytes
from hocket.compiler.attention.memory.waits import overlapping_transfers, wait_pairs
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.verify import buffer_accesses

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program, Schedule

    Lags = dict[tuple[int, int], int]

MAX_STEPS_PER_CYCLE = 1 << 16
"""A step finer than this counts as none, and durations are rounded."""

ROUNDED_STEPS = 100_000_000
"""Into about so many steps a program's work is divided where durations are rounded."""


@dataclass(frozen=True)
class Grid:
    """The integers that stand for cycles.

    Attributes:
        step_cycles: Length of one step.
        num_rounded: How many durations are not whole steps.
    """

    step_cycles: float
    num_rounded: int


@dataclass(frozen=True)
class LiveBuffer:
    """A buffer that some task touches; sizes and offsets are in units of alignment.

    Attributes:
        index: Which it is.
        units: Its size.
        offset: Where it lies in the program.
        first, last: The tasks one of which is the first, or the last, to touch it.
    """

    index: int
    units: int
    offset: int
    first: list[int]
    last: list[int]


@dataclass(frozen=True)
class SchedulingProblem:
    """The tasks of a program, to be ordered such that the last one ends soonest.

    Attributes:
        grid: What a step is.
        durations: Steps each task is on its unit or port.
        tails: Steps from there until others may use what it made.
        memory_tails: The same until its memory is free; differs for loads nobody uses.
        lags: By two tasks, steps from the start of the first to that of the second at least.
        resources: The tasks that share a unit or a port, in the program's order.
        buffers: Those that some task touches; none if nothing is to be chosen about them.
        memory_units: On-chip memory, in units of alignment, the last one perhaps cut short.
        whole_units: Those that are whole.
        program_starts: Earliest starts in the program's own order.
    """

    grid: Grid
    durations: list[int]
    tails: list[int]
    memory_tails: list[int]
    lags: Lags
    resources: list[list[int]]
    buffers: list[LiveBuffer]
    memory_units: int
    whole_units: int
    program_starts: list[int]

    def makespan(self, starts: list[int]) -> int:
        """Return when the last task has finished."""
        return max(
            (sum(each) for each in zip(starts, self.durations, self.tails, strict=True)), default=0
        )

    @property
    def program_makespan(self) -> int:
        """When the last task has finished in the program's own order."""
        return self.makespan(self.program_starts)

    def heads(self) -> list[int]:
        """Return the earliest start of each task, by lags alone."""
        return _earliest_starts(self.lags, len(self.durations))

    def longest_tails(self) -> list[int]:
        """Return how long after each task's end the schedule ends at least, by lags alone."""
        tails = list(self.tails)
        for (first, second), lag in sorted(self.lags.items(), reverse=True):
            after = lag - self.durations[first] + self.durations[second] + tails[second]
            tails[first] = max(tails[first], after)
        return tails

    def least_makespan(self, heads: list[int], tails: list[int]) -> int:
        """Return a lower bound: work of one resource, what comes before and after it."""
        best = 0
        for tasks in self.resources:
            for head in {heads[task] for task in tasks}:
                late = [task for task in tasks if heads[task] >= head]
                for tail in {tails[task] for task in late}:
                    work = sum(self.durations[task] for task in late if tails[task] >= tail)
                    best = max(best, head + work + tail)
        return best


def make_scheduling_problem(
    program: Program, machine: HardwareModel, *, rounds_up: bool, keeps_order: bool = False
) -> SchedulingProblem:
    """Return the scheduling problem of a verified program.

    Args:
        program: A program of any dataflow.
        machine: The machine it is for.
        rounds_up: Whether durations without a common step are rounded up, or down.
        keeps_order: Whether units and ports keep the program's order, and tasks all its waits.
    """
    schedule = program.schedule
    streams = schedule.table.stream_numbers().tolist()
    grid, durations, latency = _on_grid(
        task_costs(schedule, machine).cycles.tolist(), machine.dma.latency_cycles, rounds_up
    )
    tails = [latency if stream < 2 else 0 for stream in streams]
    resources = _resources(streams, machine)
    order = _data_order(schedule, streams)
    lags = {
        (first, second): durations[first]
        + (tails[first] if streams[first] != streams[second] else 0)
        for first, second in order
    }
    program_lags = dict(lags)
    for second, first in wait_pairs(schedule).tolist():
        lag = durations[first] + tails[first]
        program_lags[first, second] = max(program_lags.get((first, second), 0), lag)
    for tasks in resources:
        for pair in itertools.pairwise(tasks):
            program_lags[pair] = max(program_lags.get(pair, 0), durations[pair[0]])
    capacity, unit = machine.on_chip_memory.capacity_bytes, machine.alignment_bytes
    return SchedulingProblem(
        grid=grid,
        durations=durations,
        tails=tails,
        memory_tails=[
            tail if stream == 1 else 0 for tail, stream in zip(tails, streams, strict=True)
        ],
        lags=program_lags if keeps_order else lags,
        resources=resources,
        buffers=[] if keeps_order else _live_buffers(program, machine, order),
        memory_units=-(-capacity // unit),
        whole_units=capacity // unit,
        program_starts=_earliest_starts(program_lags, len(durations)),
    )


def _on_grid(
    cycles: list[float], latency_cycles: int, rounds_up: bool
) -> tuple[Grid, list[int], int]:
    """Return a grid, and on it the durations of tasks and the latency of transfers."""
    exact = [Fraction(each).limit_denominator(MAX_STEPS_PER_CYCLE) for each in cycles]
    close = all(
        math.isclose(each, near, rel_tol=1e-14) for each, near in zip(cycles, exact, strict=True)
    )
    steps = math.lcm(*(each.denominator for each in exact))
    if close and steps <= MAX_STEPS_PER_CYCLE:
        whole = [int(each * steps) for each in exact]
        latency = latency_cycles * steps
        # The coarser the steps, the less the solver has to tell apart.
        common = math.gcd(latency, *whole) or 1
        return Grid(common / steps, 0), [each // common for each in whole], latency // common
    steps = max(int(ROUNDED_STEPS / max(sum(cycles), 1.0)), 1)
    fine = [Fraction(each) * steps for each in cycles]
    whole = [math.ceil(each) if rounds_up else math.floor(each) for each in fine]
    num_rounded = sum(each.denominator > 1 for each in fine)
    return Grid(1 / steps, num_rounded), whole, latency_cycles * steps


def _resources(streams: list[int], machine: HardwareModel) -> list[list[int]]:
    """Return the tasks of each thing that does one at a time, in the program's order."""
    found: dict[int, list[int]] = {}
    for task, stream in enumerate(streams):
        shared = stream
        if stream < 2 and not machine.dma.has_separate_write_port:
            shared = 0
        elif stream >= 2 and not machine.has_concurrent_units:
            shared = stream & ~1
        found.setdefault(shared, []).append(task)
    return list(found.values())


def _data_order(schedule: Schedule, streams: list[int]) -> set[tuple[int, int]]:
    """Return the pairs of tasks whose order data ask for, the earlier one first."""
    rows = schedule.table.rows.tolist()
    pairs = {
        (first, second) for second, first in overlapping_transfers(schedule.table.rows).tolist()
    }
    for buffer, touching in enumerate(buffer_accesses(schedule)):
        reads, writes = (
            {
                task: [rows[task][at + 1 : at + 5] for at in columns if rows[task][at] == buffer]
                for task in touching
            }
            for columns in ((col.READ, col.SECOND_READ), (col.WRITE, col.SECOND_WRITE))
        )
        for place, second in enumerate(touching):
            for first in touching[:place]:
                if not writes[first] and not writes[second]:
                    continue
                if (
                    streams[first] != streams[second]
                    or _meet(writes[first], reads[second] + writes[second])
                    or _meet(reads[first], writes[second])
                ):
                    pairs.add((first, second))
    return pairs


def _meet(blocks: list[list[int]], others: list[list[int]]) -> bool:
    """Return whether any of the blocks (row, column, rows, columns) overlaps any of the others."""
    return any(
        row < other_row + other_rows
        and other_row < row + rows
        and column < other_column + other_columns
        and other_column < column + columns
        for row, column, rows, columns in blocks
        for other_row, other_column, other_rows, other_columns in others
    )


def _live_buffers(
    program: Program, machine: HardwareModel, order: set[tuple[int, int]]
) -> list[LiveBuffer]:
    """Return the buffers that some task touches, by the order that data ask for."""
    schedule, unit = program.schedule, machine.alignment_bytes
    sizes = buffer_bytes(schedule.buffers, machine)
    return [
        LiveBuffer(
            index,
            units=sizes[index] // unit,
            offset=int(program.places[index, 0]) // unit,
            first=[task for task in touching if not any((o, task) in order for o in touching)],
            last=[task for task in touching if not any((task, o) in order for o in touching)],
        )
        for index, touching in enumerate(buffer_accesses(schedule))
        if touching
    ]


def _earliest_starts(lags: Lags, num_tasks: int) -> list[int]:
    """Return the earliest start of each task by lags, all of which lead to later tasks."""
    starts = [0] * num_tasks
    for (first, second), lag in sorted(lags.items()):
        starts[second] = max(starts[second], starts[first] + lag)
    return starts
