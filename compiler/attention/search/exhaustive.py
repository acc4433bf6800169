"""Scores every legal tiling by closed forms, simulates the most promising ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.memory.planner import plan_memory
from hocket.compiler.attention.search.analytic import analytic_cost
from hocket.compiler.attention.search.searcher import Candidate, SearchResult
from hocket.compiler.attention.tiling import illegality, on_chip_demand
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.simulate import estimate_program
from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling, TilingSpace
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

MAX_SIMULATED_TASKS = 40_000
"""Tasks; a search ends early once its programs have more together, some seconds' worth."""

LONG_PROGRAM = 30_000
"""Tasks; tilings that lead to longer programs are tried only after all others."""

MAX_TASKS = 300_000
"""Tasks; longer programs are not built at all. Also as many as are built, over all tilings in the
order of their demand, before a problem is called infeasible."""

MAX_REFUSED_PER_SIMULATED = 4
"""So many tilings for which the planner finds no room, per program of the budget, end a search."""


class ExhaustiveSearcher:
    """Every tiling of the space is scored; the ``budget`` best scores are built and simulated.

    Ties between scores go to fewer bytes from DRAM, then to the order of the space, so that the
    result depends on nothing but the arguments. ``seed`` is not used.
    """

    def search(
        self,
        space: TilingSpace,
        dataflow: Dataflow,
        objective: Callable[[Estimate], tuple[float, ...]],
        budget: int,
        seed: int,  # noqa: ARG002 - part of the protocol
    ) -> SearchResult:
        """Return the best program found. See ``Searcher.search``."""
        problem, machine = space.problem, space.machine
        alive = space.num_live_row_blocks
        if least_bytes(problem, machine) > machine.on_chip_memory.capacity_bytes:
            raise infeasible(space)
        tilings = [each for each in space if illegality(each, problem, machine, alive) is None]
        bound = lower_bounds(problem, machine).cycles
        found: list[Candidate] = []
        num_refused = 0
        for tiling in _by_score(tilings, space, dataflow):
            if len(found) >= budget or num_refused >= MAX_REFUSED_PER_SIMULATED * budget:
                break
            planned = _plan(tiling, space, dataflow)
            num_refused += not planned
            for deepest, program in planned[: budget - len(found)]:
                estimate, _ = estimate_program(program, machine, bound)
                found.append(Candidate(deepest, program, estimate))
            if sum(len(each.program.schedule.tasks) for each in found) > MAX_SIMULATED_TASKS:
                break
        reason = f"simulated {len(found)} programs of the best of {len(tilings)} legal tilings"
        if not found:
            tiling, program = _plan_smallest(space, dataflow)
            found.append(Candidate(tiling, program, estimate_program(program, machine, bound)[0]))
            reason = "only one of the smallest tilings fits on chip"
        best = min(found, key=lambda candidate: objective(candidate.estimate))
        return SearchResult(best, dataflow.name, len(tilings), len(found), reason)


def _plan(tiling: Tiling, space: TilingSpace, dataflow: Dataflow) -> list[tuple[Tiling, Program]]:
    """Return the programs of a tiling, by prefetch depth; empty if none finds room on chip."""
    planned: list[tuple[Tiling, Program]] = []
    for depth in (*_prefetch_depths(tiling, space), 1):
        if depth == 1 and planned:
            break  # one task ahead is for memories in which nothing deeper finds room
        deepest = replace(tiling, prefetch_tasks=depth)
        schedule = dataflow.build(space.problem, deepest, space.machine)
        try:
            planned.append((deepest, plan_memory(schedule, space.machine)))
        except InfeasibleError:
            continue
    return planned


def _plan_smallest(space: TilingSpace, dataflow: Dataflow) -> tuple[Tiling, Program]:
    """Return the first program that finds room among the tilings that need least.

    The closed form of what fits is a close guess; the planner has the last word.
    """
    problem, machine = space.problem, space.machine
    tilings = list(space)
    cost = analytic_cost(tilings, problem, machine, dataflow.overlaps_units)
    alive = space.num_live_row_blocks
    demands = [sum(on_chip_demand(each, problem, machine, alive).values()) for each in tilings]
    remaining = float(MAX_TASKS)
    refused: InfeasibleError | None = None
    for index in np.argsort(demands, kind="stable"):
        remaining -= cost.num_tasks[index]
        if remaining < 0:
            break
        unhurried = replace(tilings[index], prefetch_tasks=0)
        try:
            schedule = dataflow.build(problem, unhurried, machine)
            return unhurried, plan_memory(schedule, machine)
        except InfeasibleError as error:
            refused = error
    raise infeasible(space) from refused


def least_bytes(problem: AttentionProblem, machine: HardwareModel) -> int:
    """Return bytes without which nothing can be computed: one row of scores and what makes it."""
    length = problem.kv_length
    if problem.is_causal:
        length = min(length, problem.query_length)
    return (length + 2 * problem.head_dim) * machine.element_bytes


def infeasible(space: TilingSpace) -> InfeasibleError:
    """Return the error that says why not even the smallest tiling fits."""
    problem, machine = space.problem, space.machine
    alive = space.num_live_row_blocks
    demand = min(
        (on_chip_demand(tiling, problem, machine, alive) for tiling in space),
        key=lambda terms: sum(terms.values()),
    )
    total = sum(demand.values())
    capacity = machine.on_chip_memory.capacity_bytes
    terms = " + ".join(f"{term} {count}" for term, count in demand.items())
    return InfeasibleError(
        f"attention ({problem}) does not fit {machine.name}",
        (
            f"resource: {machine.on_chip_memory.name} of {machine.name}",
            f"demand: at least {total} bytes ({terms})",
            f"bound: {capacity} bytes",
            f"gap: {max(total - capacity, 0)} bytes",
            "levers: a machine with more on-chip memory, a shorter kv_length, fewer cores at once",
        ),
    )


def _by_score(tilings: list[Tiling], space: TilingSpace, dataflow: Dataflow) -> Iterator[Tiling]:
    """Yield tilings, best score first."""
    if not tilings:
        return
    problem, machine = space.problem, space.machine
    cost = analytic_cost(tilings, problem, machine, dataflow.overlaps_units)
    is_long = cost.num_tasks > LONG_PROGRAM
    # Scores within a thousandth are alike: the forms are no better than that.
    rounded = np.floor(np.log(np.maximum(cost.cycles, 1.0)) / np.log1p(1e-3))
    order = np.lexsort((np.arange(len(tilings)), cost.dma_bytes, rounded, is_long))
    for index in order:
        if cost.num_tasks[index] <= MAX_TASKS:
            yield tilings[index]


def _prefetch_depths(tiling: Tiling, space: TilingSpace) -> list[int]:
    """Return how far ahead transfers are tried: one row block, and one whole set of heads.

    The latter spreads the load of the next heads' keys and values over all row blocks of these.
    """
    tiles = ceil_div(space.problem.kv_length, tiling.kv_columns)
    row_block = tiling.heads * (2 * tiles + 2)
    depths = {row_block}
    if tiling.keeps_kv:
        depths.add(row_block * ceil_div(space.problem.query_length, tiling.query_rows))
    return sorted(depths)
