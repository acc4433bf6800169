"""How good is an order of work? A solver looks for a better one, and proves how good any can be.

A dataflow fixes in which order a machine works through a tiling's tasks. Here the order is
forgotten: kept are the tasks, on which core each runs, and what data they hand each other. A
constraint solver chooses all starts anew, such that every unit and every DMA port does one thing at
a time and what is alive fits into on-chip memory, and minimises the time of the last finish. For
small programs it finds the optimum and proves it; for others it ends with a schedule and a lower
bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.memory.exact import Effort, PlacementLimits, place_exactly
from hocket.compiler.attention.memory.liveness import live_ranges_in_time
from hocket.compiler.attention.memory.placement import buffer_bytes, place_best
from hocket.compiler.attention.memory.planner import by_start, in_order, with_places
from hocket.compiler.attention.search.cp_sat import solve
from hocket.compiler.attention.search.scheduling_problem import make_scheduling_problem
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.simulate import simulate
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.search.scheduling_problem import SchedulingProblem
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

    Floats = NDArray[np.float64]
    Longs = NDArray[np.int64]


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
    problem = make_scheduling_problem(program, machine, rounds_up=True, keeps_order=keeps_order)
    answer = solve(problem, limits.effort, seed, is_blind=keeps_order)
    starts, bound, places = answer.starts, answer.bound, program.places
    if not keeps_order:
        if problem.makespan(starts) == problem.program_makespan:
            # No better than the program; that has its places already.
            starts = problem.program_starts
        elif (found := _place(program, machine, problem, starts, seed)) is not None:
            places = found
        else:
            # What is alive fits, but not in one piece each: addresses are chosen along with starts.
            answer = solve(problem, limits.effort, seed, has_addresses=True)
            starts = answer.starts
            if answer.offsets is not None:
                places = _places_at(answer.offsets, program, machine, problem)
            if machine.on_chip_memory.capacity_bytes % machine.alignment_bytes == 0:
                bound = max(bound, answer.bound)
    makespan = problem.makespan(starts)
    ends = [start + length for start, length in zip(starts, problem.durations, strict=True)]
    step = problem.grid.step_cycles
    return ExactSchedule(
        program,
        np.array(starts) * step,
        np.array(ends) * step,
        places,
        makespan * step,
        # On the longest path no task was made longer by a whole step.
        max(bound - problem.grid.num_rounded, 0) * step,
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
    problem = make_scheduling_problem(program, machine, rounds_up=False)
    answer = solve(problem, limits.effort, seed)
    cycles, bound = simulate(program, machine).cycles, answer.bound * problem.grid.step_cycles
    # Sums of floats in another order, and no more than that, is what tells these apart.
    if math.isclose(cycles, bound, rel_tol=1e-12):
        bound = cycles
    return OrderBound(cycles, bound, answer.bound == problem.makespan(answer.starts))


def _check(program: Program, machine: HardwareModel, limits: Limits) -> None:
    num_tasks = program.schedule.num_tasks
    if num_tasks > limits.max_tasks:
        raise ValueError(
            f"exact scheduling takes up to {limits.max_tasks} tasks, the program has {num_tasks}; "
            "choose larger tiles or a smaller problem, or raise Limits.max_tasks and wait longer"
        )
    verify_program(program, machine)


def _place(
    program: Program,
    machine: HardwareModel,
    problem: SchedulingProblem,
    starts: list[int],
    seed: int,
) -> Longs | None:
    """Return places for the buffers of tasks that start then; None if none were found."""
    begins = np.array(starts, dtype=np.int64)
    ends = begins + np.array(problem.durations, dtype=np.int64)
    order = by_start(begins, ends)
    finishes = ends + np.array(problem.tails, dtype=np.int64)
    schedule = in_order(program.schedule, order)
    ranges = live_ranges_in_time(
        schedule, begins[order].astype(np.float64), finishes[order].astype(np.float64)
    )
    try:
        return place_best(schedule.buffers, ranges, machine)
    except InfeasibleError:
        pass
    limits = PlacementLimits(effort=Effort(2.0))
    if len(problem.buffers) > limits.max_buffers:
        return None
    try:
        return place_exactly(schedule.buffers, ranges, machine, limits, seed).places
    except InfeasibleError:
        return None


def _places_at(
    offsets: list[int], program: Program, machine: HardwareModel, problem: SchedulingProblem
) -> Longs:
    """Return the places of all buffers, those that no task touches at address 0."""
    sizes = buffer_bytes(program.schedule.buffers, machine)
    places = np.array([[0, size] for size in sizes], dtype=np.int64).reshape(-1, 2)
    for buffer, offset in zip(problem.buffers, offsets, strict=True):
        places[buffer.index, 0] = offset * machine.alignment_bytes
    return places
