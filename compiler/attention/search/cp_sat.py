"""How good is an order of work? A solver looks for a better one, and proves how good any can be.

A dataflow fixes in which order a machine works through a tiling's tasks. Here the order is
forgotten: kept are the tasks, on which core each runs, and what data they hand each other. A
constraint solver (CP-SAT of OR-Tools, the extra ``exact``) chooses all starts anew, such that every
unit and every DMA port does one thing at a time and what is alive fits into on-chip memory, and
minimises the time of the last finish. For small programs it finds the optimum and proves it; for
others it ends with a schedule and a lower bound.

What is kept, exactly: a task comes after the earlier ones that touch the same part of a buffer or
of outer memory, unless all of them read; so sums are added up in the program's order. Tasks of one
unit that touch disjoint parts of a buffer change places freely; on different units the order stays,
as the machine's language asks for one. Buffers keep nothing but their size: whose memory they take
over, and when, is open.

Cycles may be fractions, a solver counts in integers. Where all cycles are whole numbers of one
common step, its schedules and bounds are exact, but for the rounding of floats. Otherwise a step is
a tiny fraction of a cycle, and durations are rounded up for a schedule, so that it is feasible, and
down for a bound, so that it is one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.compiler.attention.memory.exact import (
    Effort,
    PlacementLimits,
    load_solver,
    make_solver,
    place_exactly,
)
from hocket.compiler.attention.memory.liveness import live_ranges_in_time
from hocket.compiler.attention.memory.placement import buffer_bytes, place_best
from hocket.compiler.attention.memory.planner import by_start, in_order, with_places
from hocket.compiler.attention.memory.waits import overlapping_transfers, wait_pairs
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.simulate import simulate
from hocket.hwmodels.verify import buffer_accesses, verify_program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program, Schedule

    Floats = NDArray[np.float64]
    Longs = NDArray[np.int64]

MAX_STEPS_PER_CYCLE = 1 << 16
"""A step finer than this counts as none, and durations are rounded."""

ROUNDED_STEPS = 100_000_000
"""Into about so many steps a program's work is divided where durations are rounded."""


@dataclass(frozen=True)
class Limits:
    """What exact scheduling takes on.

    Attributes:
        max_tasks: Tasks of the program. Beyond some hundreds a solver is busy for long and proves
            little.
        effort: How long the solver may work.
    """

    max_tasks: int = 300
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, eq=False)
class ExactSchedule:
    """Starts for all tasks of a program, and how much sooner another order could be done at most.

    Attributes:
        program: The program whose tasks these are.
        starts_cycles, ends_cycles: When each task starts and leaves its unit or port.
        places: Where each buffer lies meanwhile, as in ``Program.places``.
        makespan_cycles: When the last task has finished, with every duration rounded up.
        bound_cycles: No order of these tasks finishes sooner, proved.
        is_optimal: Whether the solver has proved that no order does, as far as steps can tell; then
            the two differ by rounding at most.
    """

    program: Program
    starts_cycles: Floats
    ends_cycles: Floats
    places: Longs
    makespan_cycles: float
    bound_cycles: float
    is_optimal: bool

    def __str__(self) -> str:
        what = "optimal" if self.is_optimal else f"bound {self.bound_cycles:.0f}"
        return f"{len(self.starts_cycles)} tasks in {self.makespan_cycles:.0f} cycles, {what}"


@dataclass(frozen=True)
class OrderBound:
    """How far a program's order of work can be from the best one for its tiles.

    Attributes:
        program_cycles: What the program takes, simulated.
        bound_cycles: What any order of its tasks takes at least, proved.
        is_tight: Whether some order is as good as the bound, as far as steps can tell.
    """

    program_cycles: float
    bound_cycles: float
    is_tight: bool

    @property
    def excess(self) -> float:
        """Share of the bound that the program takes beyond it, at most to be gained."""
        return self.program_cycles / self.bound_cycles - 1 if self.bound_cycles else 0.0

    def __str__(self) -> str:
        return (
            f"{self.program_cycles:.0f} cycles, {self.excess:.1%} above "
            f"{'the optimum' if self.is_tight else 'the bound'} of its tiles"
        )


def schedule_exactly(
    program: Program,
    machine: HardwareModel,
    limits: Limits | None = None,
    seed: int = 0,
    *,
    keeps_order: bool = False,
) -> ExactSchedule:
    """Return the best schedule of a program's tasks that a solver finds, and its bound.

    It is at least as good as the program itself, and can be placed in on-chip memory.

    Args:
        program: A program of any dataflow.
        machine: The machine it is for.
        limits: What to take on.
        seed: Of the solver.
        keeps_order: Whether units and ports keep the program's order, and tasks all its waits. Then
            nothing is left to choose, and the optimum is the program's own time: a proof of the
            simulator.

    Raises:
        ValueError: The program has more tasks than the limits allow.
        ProgramError: It is not well formed.
        ImportError: OR-Tools is not installed.
    """
    limits = limits or Limits()
    _check(program, machine, limits)
    puzzle = _puzzle(program, machine, rounds_up=True, keeps_order=keeps_order)
    answer = _solve(puzzle, limits.effort, seed, is_blind=keeps_order)
    starts, bound = answer.starts, answer.bound
    places: Longs | None = program.places
    if puzzle.makespan(starts) == puzzle.makespan(puzzle.hint) and not keeps_order:
        # No better than the program; that has its places already.
        starts = puzzle.hint
    elif not keeps_order:
        places = _place(program, machine, puzzle, starts, seed)
        if places is None:
            # What is alive fits, but not in one piece each: addresses are chosen along with starts.
            answer = _solve(puzzle, limits.effort, seed, has_addresses=True)
            starts, places = answer.starts, answer.places
            if machine.on_chip_memory.capacity_bytes % machine.alignment_bytes == 0:
                bound = max(bound, answer.bound)
    makespan = puzzle.makespan(starts)
    ends = [start + length for start, length in zip(starts, puzzle.durations, strict=True)]
    step = puzzle.grid.step_cycles
    return ExactSchedule(
        program,
        np.array(starts) * step,
        np.array(ends) * step,
        program.places if places is None else places,
        makespan * step,
        # On the longest path no task was made longer by a whole step.
        max(bound - puzzle.grid.num_rounded, 0) * step,
        bound == makespan,
    )


def as_program(schedule: ExactSchedule) -> Program:
    """Return the program that starts its tasks in the order of an exact schedule.

    Simulated it is no slower than the schedule says: durations are no longer rounded up, and each
    task starts as soon as it can.
    """
    order = by_start(schedule.starts_cycles, schedule.ends_cycles)
    return with_places(in_order(schedule.program.schedule, order), schedule.places)


def prove_bound(
    program: Program, machine: HardwareModel, limits: Limits | None = None, seed: int = 0
) -> OrderBound:
    """Return what no order of a program's tasks can beat, beside what the program takes.

    Arguments and errors are those of ``schedule_exactly``.
    """
    limits = limits or Limits()
    _check(program, machine, limits)
    puzzle = _puzzle(program, machine, rounds_up=False, keeps_order=False)
    answer = _solve(puzzle, limits.effort, seed)
    cycles, bound = simulate(program, machine).cycles, answer.bound * puzzle.grid.step_cycles
    # Sums of floats in another order, and no more than that, is what tells these apart.
    if math.isclose(cycles, bound, rel_tol=1e-12):
        bound = cycles
    return OrderBound(cycles, bound, answer.bound == puzzle.makespan(answer.starts))


def _check(program: Program, machine: HardwareModel, limits: Limits) -> None:
    num_tasks = program.schedule.num_tasks
    if num_tasks > limits.max_tasks:
        raise ValueError(
            f"exact scheduling takes up to {limits.max_tasks} tasks, the program has {num_tasks}; "
            "choose larger tiles or a smaller problem, or raise Limits.max_tasks and wait longer"
        )
    verify_program(program, machine)


@dataclass(frozen=True)
class _Grid:
    """The integers that stand for cycles.

    Attributes:
        step_cycles: Length of one step.
        num_rounded: How many durations are not whole steps.
    """

    step_cycles: float
    num_rounded: int


@dataclass(frozen=True)
class _LiveBuffer:
    """A buffer as the solver sees it.

    Attributes:
        index: Which it is.
        units: Its size in units of alignment.
        first, last: The tasks one of which is the first, or the last, to touch it.
    """

    index: int
    units: int
    first: list[int]
    last: list[int]


@dataclass(frozen=True)
class _Puzzle:
    """A program as integers: what the solver has to order.

    Attributes:
        grid: What a step is.
        durations: Steps each task is on its unit or port.
        tails: Steps from there until others may use what it made.
        frees: The same until its memory is free; differs for loads nobody uses.
        edges: By the two tasks, steps from the start of the first to that of the second at least.
        resources: The tasks that share a unit or a port.
        buffers: Those that some task touches.
        memory_units: On-chip memory, in units of alignment, the last one perhaps cut short.
        whole_units: Those that are whole.
        alignment_bytes: That unit.
        sizes: Bytes of each buffer, in whole units.
        hint: Earliest starts in the program's own order.
        hint_units: Where each buffer lies in the program.
    """

    grid: _Grid
    durations: list[int]
    tails: list[int]
    frees: list[int]
    edges: dict[tuple[int, int], int]
    resources: list[list[int]]
    buffers: list[_LiveBuffer]
    memory_units: int
    whole_units: int
    alignment_bytes: int
    sizes: list[int]
    hint: list[int]
    hint_units: list[int]

    def makespan(self, starts: list[int]) -> int:
        """Return when the last task has finished."""
        return max(
            (sum(each) for each in zip(starts, self.durations, self.tails, strict=True)), default=0
        )


@dataclass(frozen=True)
class _Answer:
    """What the solver says: starts, a lower bound of the makespan, and perhaps places."""

    starts: list[int]
    bound: int
    places: Longs | None = None


def _puzzle(
    program: Program, machine: HardwareModel, *, rounds_up: bool, keeps_order: bool
) -> _Puzzle:
    schedule = program.schedule
    streams = schedule.table.stream_numbers().tolist()
    grid, durations, latency = _on_grid(
        task_costs(schedule, machine).cycles.tolist(), machine.dma.latency_cycles, rounds_up
    )
    tails = [latency if stream < 2 else 0 for stream in streams]
    resources = _resources(streams, machine)
    needs = _data_order(schedule, streams)
    edges = {
        (first, second): durations[first]
        + (tails[first] if streams[first] != streams[second] else 0)
        for first, second in needs
    }
    as_given = dict(edges)
    for second, first in wait_pairs(schedule).tolist():
        pair, delay = (first, second), durations[first] + tails[first]
        as_given[pair] = max(as_given.get(pair, 0), delay)
    for tasks in resources:
        for first, second in itertools.pairwise(tasks):
            as_given[first, second] = max(as_given.get((first, second), 0), durations[first])
    sizes = buffer_bytes(schedule.buffers, machine)
    unit = machine.alignment_bytes
    buffers = []
    for index, touching in enumerate(buffer_accesses(schedule)):
        if touching:
            first = [task for task in touching if not any((o, task) in needs for o in touching)]
            last = [task for task in touching if not any((task, o) in needs for o in touching)]
            buffers.append(_LiveBuffer(index, sizes[index] // unit, first, last))
    capacity = machine.on_chip_memory.capacity_bytes
    return _Puzzle(
        grid=grid,
        durations=durations,
        tails=tails,
        frees=[tail if stream == 1 else 0 for tail, stream in zip(tails, streams, strict=True)],
        edges=as_given if keeps_order else edges,
        resources=resources,
        buffers=[] if keeps_order else buffers,
        memory_units=-(-capacity // unit),
        whole_units=capacity // unit,
        alignment_bytes=unit,
        sizes=sizes,
        hint=_heads(as_given, len(durations)),
        hint_units=(program.places[:, 0] // unit).tolist(),
    )


def _on_grid(
    cycles: list[float], latency_cycles: int, rounds_up: bool
) -> tuple[_Grid, list[int], int]:
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
        grid = _Grid(common / steps, 0)
        return grid, [each // common for each in whole], latency // common
    steps = max(int(ROUNDED_STEPS / max(sum(cycles), 1.0)), 1)
    fine = [Fraction(each) * steps for each in cycles]
    whole = [math.ceil(each) if rounds_up else math.floor(each) for each in fine]
    num_rounded = sum(each.denominator > 1 for each in fine)
    return _Grid(1 / steps, num_rounded), whole, latency_cycles * steps


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


def _heads(edges: dict[tuple[int, int], int], num_tasks: int) -> list[int]:
    """Return the earliest start of each task by edges, all of which lead to later tasks."""
    starts = [0] * num_tasks
    for (first, second), delay in sorted(edges.items()):
        starts[second] = max(starts[second], starts[first] + delay)
    return starts


def _ends(puzzle: _Puzzle) -> list[int]:
    """Return how long after the end of each task the makespan is at least, by edges alone."""
    tails = list(puzzle.tails)
    for (first, second), delay in sorted(puzzle.edges.items(), reverse=True):
        after = delay - puzzle.durations[first] + puzzle.durations[second] + tails[second]
        tails[first] = max(tails[first], after)
    return tails


def _busiest(puzzle: _Puzzle, heads: list[int], tails: list[int]) -> int:
    """Return a lower bound of the makespan: work of one unit, what comes before and after it."""
    best = 0
    for tasks in puzzle.resources:
        for head in {heads[task] for task in tasks}:
            late = [task for task in tasks if heads[task] >= head]
            for tail in {tails[task] for task in late}:
                work = sum(puzzle.durations[task] for task in late if tails[task] >= tail)
                best = max(best, head + work + tail)
    return best


def _solve(
    puzzle: _Puzzle,
    effort: Effort,
    seed: int,
    *,
    has_addresses: bool = False,
    is_blind: bool = False,
) -> _Answer:
    """Have the solver minimise the makespan.

    Args:
        puzzle: What to order.
        effort: How long it may work.
        seed: Of the solver.
        has_addresses: Whether to choose addresses, too.
        is_blind: Whether to tell it nothing of what is known of the answer: no bounds, and not the
            program's own order to start from.
    """
    heads, tails = [0] * len(puzzle.durations), puzzle.tails
    horizon, least = sum(puzzle.durations) + sum(puzzle.tails), 0
    if not is_blind:
        heads, tails = _heads(puzzle.edges, len(puzzle.durations)), _ends(puzzle)
        horizon, least = puzzle.makespan(puzzle.hint), _busiest(puzzle, heads, tails)
        if least >= horizon and not has_addresses:
            return _Answer(puzzle.hint, horizon)
    cp = load_solver()
    model = cp.CpModel()
    makespan = model.new_int_var(least, horizon, "makespan")
    starts, spans = [], []
    for task, length in enumerate(puzzle.durations):
        latest = horizon - tails[task] - length
        start = model.new_int_var(heads[task], latest, f"start {task}")
        starts.append(start)
        spans.append(model.new_fixed_size_interval_var(start, length, f"task {task}"))
        model.add(makespan >= start + length + tails[task])
    for (first, second), delay in puzzle.edges.items():
        model.add(starts[second] >= starts[first] + delay)
    for tasks in puzzle.resources:
        model.add_no_overlap([spans[task] for task in tasks])
    if not is_blind:
        model.add_hint(makespan, horizon)
        for start, hint in zip(starts, puzzle.hint, strict=True):
            model.add_hint(start, hint)
    is_tight = sum(buffer.units for buffer in puzzle.buffers) > puzzle.whole_units
    offsets = []
    if is_tight or has_addresses:
        lives = [_live_interval(model, puzzle, buffer, starts) for buffer in puzzle.buffers]
        demands = [buffer.units for buffer in puzzle.buffers]
        model.add_cumulative(lives, demands, puzzle.memory_units)
        if has_addresses:
            offsets = _add_addresses(model, puzzle, lives)
    model.minimize(makespan)
    solver = make_solver(effort, seed)
    status = solver.solve(model)
    if status == cp.INFEASIBLE and not has_addresses:
        raise RuntimeError("the solver refuses the program's own order: this is a bug, report it")
    if status not in (cp.OPTIMAL, cp.FEASIBLE):
        return _Answer(puzzle.hint, least)
    places = np.array([[0, size] for size in puzzle.sizes], dtype=np.int64).reshape(-1, 2)
    for buffer, offset in zip(puzzle.buffers, offsets, strict=has_addresses):
        places[buffer.index, 0] = solver.value(offset) * puzzle.alignment_bytes
    return _Answer(
        [solver.value(start) for start in starts],
        round(solver.best_objective_bound),
        places if has_addresses else None,
    )


def _live_interval(model: Any, puzzle: _Puzzle, buffer: _LiveBuffer, starts: list[Any]) -> Any:
    """Return the interval from the first task's start of a buffer to the last one's end."""
    horizon = puzzle.makespan(puzzle.hint)

    def free(task: int) -> Any:
        return starts[task] + puzzle.durations[task] + puzzle.frees[task]

    hint_begin = min(puzzle.hint[task] for task in buffer.first)
    hint_end = max(
        puzzle.hint[task] + puzzle.durations[task] + puzzle.frees[task] for task in buffer.last
    )
    begin, end = starts[buffer.first[0]], free(buffer.last[0])
    if len(buffer.first) > 1:
        begin = model.new_int_var(0, horizon, f"begin {buffer.index}")
        model.add_hint(begin, hint_begin)
        for task in buffer.first:
            model.add(begin <= starts[task])
    if len(buffer.last) > 1:
        end = model.new_int_var(0, horizon, f"end {buffer.index}")
        model.add_hint(end, hint_end)
        for task in buffer.last:
            model.add(end >= free(task))
    length = model.new_int_var(0, horizon, f"length {buffer.index}")
    model.add_hint(length, hint_end - hint_begin)
    return model.new_interval_var(begin, length, end, f"buffer {buffer.index}")


def _add_addresses(model: Any, puzzle: _Puzzle, lives: list[Any]) -> list[Any]:
    """Give each buffer an address, such that no two have bytes in common while both live."""
    offsets, spaces = [], []
    for buffer in puzzle.buffers:
        highest = puzzle.whole_units - buffer.units
        offset = model.new_int_var(0, highest, f"offset {buffer.index}")
        model.add_hint(offset, puzzle.hint_units[buffer.index])
        spaces.append(
            model.new_fixed_size_interval_var(offset, buffer.units, f"space {buffer.index}")
        )
        offsets.append(offset)
    model.add_no_overlap_2d(lives, spaces)
    return offsets


def _place(
    program: Program, machine: HardwareModel, puzzle: _Puzzle, starts: list[int], seed: int
) -> Longs | None:
    """Return places for the buffers of tasks that start then; None if none were found."""
    begins = np.array(starts, dtype=np.int64)
    ends = begins + np.array(puzzle.durations, dtype=np.int64)
    order = by_start(begins, ends)
    finishes = ends + np.array(puzzle.tails, dtype=np.int64)
    schedule = in_order(program.schedule, order)
    ranges = live_ranges_in_time(
        schedule, begins[order].astype(np.float64), finishes[order].astype(np.float64)
    )
    try:
        return place_best(schedule.buffers, ranges, machine)
    except InfeasibleError:
        pass
    limits = PlacementLimits(effort=Effort(2.0))
    if len(puzzle.buffers) > limits.max_buffers:
        return None
    try:
        return place_exactly(schedule.buffers, ranges, machine, limits, seed).places
    except InfeasibleError:
        return None
