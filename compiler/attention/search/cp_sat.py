"""Scheduling problems solved by CP-SAT, the constraint solver of OR-Tools (the extra ``exact``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.compiler.attention.memory.exact import load_solver, make_solver

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

    from hocket.compiler.attention.memory.exact import Effort
    from hocket.compiler.attention.search.scheduling_problem import LiveBuffer, SchedulingProblem


@dataclass(frozen=True)
class Answer:
    """What the solver says.

    Attributes:
        starts: When each task starts, in steps.
        bound: No makespan is less, proved.
        offsets: Where each buffer of the problem lies, in units of alignment, if that was asked for
            and found.
    """

    starts: list[int]
    bound: int
    offsets: list[int] | None = None


def solve(
    problem: SchedulingProblem,
    effort: Effort,
    seed: int,
    *,
    has_addresses: bool = False,
    is_blind: bool = False,
) -> Answer:
    """Have the solver minimise the makespan.

    Args:
        problem: What to order.
        effort: How long it may work.
        seed: Of the solver.
        has_addresses: Whether to choose addresses, too.
        is_blind: Whether to tell it nothing of what is known of the answer: no bounds, and not the
            program's own order to start from.

    Raises:
        ImportError: OR-Tools is not installed.
    """
    if is_blind:
        heads, tails = [0] * len(problem.durations), problem.tails
        horizon, least = sum(problem.durations) + sum(problem.tails), 0
    else:
        heads, tails = problem.heads(), problem.longest_tails()
        horizon, least = problem.program_makespan, problem.least_makespan(heads, tails)
        if least >= horizon and not has_addresses:
            return Answer(problem.program_starts, horizon)
    cp = load_solver()
    model = cp.CpModel()
    makespan = model.new_int_var(least, horizon, "makespan")
    starts, spans = [], []
    for task, length in enumerate(problem.durations):
        latest = horizon - tails[task] - length
        start = model.new_int_var(heads[task], latest, f"start {task}")
        starts.append(start)
        spans.append(model.new_fixed_size_interval_var(start, length, f"task {task}"))
        model.add(makespan >= start + length + tails[task])
    for (first, second), lag in problem.lags.items():
        model.add(starts[second] >= starts[first] + lag)
    for tasks in problem.resources:
        model.add_no_overlap([spans[task] for task in tasks])
    if not is_blind:
        model.add_hint(makespan, horizon)
        for start, hint in zip(starts, problem.program_starts, strict=True):
            model.add_hint(start, hint)
    sizes = [buffer.units for buffer in problem.buffers]
    offsets = []
    if has_addresses or sum(sizes) > problem.whole_units:
        lives = [_live_interval(model, problem, buffer, starts) for buffer in problem.buffers]
        model.add_cumulative(lives, sizes, problem.memory_units)
        if has_addresses:
            offsets = _add_addresses(model, problem, lives)
    model.minimize(makespan)
    solver = make_solver(effort, seed, packs=has_addresses)
    status = solver.solve(model)
    if status == cp.INFEASIBLE and not has_addresses:
        raise RuntimeError("the solver refuses the program's own order: this is a bug, report it")
    if status not in (cp.OPTIMAL, cp.FEASIBLE):
        return Answer(problem.program_starts, least)
    return Answer(
        [solver.value(start) for start in starts],
        round(solver.best_objective_bound),
        [solver.value(offset) for offset in offsets] if has_addresses else None,
    )


def _live_interval(
    model: cp_model.CpModel,
    problem: SchedulingProblem,
    buffer: LiveBuffer,
    starts: list[cp_model.IntVar],
) -> cp_model.IntervalVar:
    """Return the interval from the first task's start of a buffer to the last one's end."""
    horizon = problem.program_makespan

    def free(task: int, start: Any) -> Any:
        return start + problem.durations[task] + problem.memory_tails[task]

    hints = problem.program_starts
    hint_begin = min(hints[task] for task in buffer.first)
    hint_end = max(free(task, hints[task]) for task in buffer.last)
    begin, end = starts[buffer.first[0]], free(buffer.last[0], starts[buffer.last[0]])
    if len(buffer.first) > 1:
        begin = model.new_int_var(0, horizon, f"begin {buffer.index}")
        model.add_hint(begin, hint_begin)
        for task in buffer.first:
            model.add(begin <= starts[task])
    if len(buffer.last) > 1:
        end = model.new_int_var(0, horizon, f"end {buffer.index}")
        model.add_hint(end, hint_end)
        for task in buffer.last:
            model.add(end >= free(task, starts[task]))
    length = model.new_int_var(0, horizon, f"length {buffer.index}")
    model.add_hint(length, hint_end - hint_begin)
    return model.new_interval_var(begin, length, end, f"buffer {buffer.index}")


def _add_addresses(
    model: cp_model.CpModel, problem: SchedulingProblem, lives: list[cp_model.IntervalVar]
) -> list[cp_model.IntVar]:
    """Give each buffer an address, such that no two have bytes in common while both live."""
    offsets, spaces = [], []
    for buffer in problem.buffers:
        highest = problem.whole_units - buffer.units
        offset = model.new_int_var(0, highest, f"offset {buffer.index}")
        model.add_hint(offset, buffer.offset)
        spaces.append(
            model.new_fixed_size_interval_var(offset, buffer.units, f"space {buffer.index}")
        )
        offsets.append(offset)
    model.add_no_overlap_2d(lives, spaces)
    return offsets
