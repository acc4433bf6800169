"""What every searcher is and returns, and how it has tilings evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.build import build_with_plan
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.extrapolate import (
    MAX_SIMULATED_TASKS,
    MAX_TASKS,
    estimate_long,
    most_tasks,
)
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.simulate import add_up, simulated_cycles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.cache_overwrite import CachePlan
    from hocket.compiler.attention.search.extrapolate import LeastTotals
    from hocket.compiler.attention.search.objective import Key, Objective
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.compiler.attention.tiling import Tiling
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.program import Program


@dataclass(frozen=True)
class Budget:
    """When a search ends at the latest; whichever comes first.

    Attributes:
        evaluations: Tilings that may be built and simulated.
        tasks: Tasks these may have together. Unlike seconds the same on every machine, so that a
            search finds the same everywhere.
        seconds: Time by ``clock``.
        clock: Where time comes from, in seconds.
    """

    evaluations: int = 4000
    tasks: int = 1_000_000
    seconds: float | None = None
    clock: Callable[[], float] | None = None


@dataclass(frozen=True)
class Candidate:
    """A tiling with the program it leads to, what that takes, and what it loads again.

    Of a program too long to build, ``program`` and ``plan`` are the beginning; its estimate then
    says that it is not simulated.
    """

    tiling: Tiling
    program: Program
    estimate: Estimate
    plan: CachePlan


@dataclass(frozen=True)
class SearchResult:
    """The best candidate, and how it was found.

    Attributes:
        best: The best candidate met.
        dataflow: Name of the dataflow that was searched.
        num_legal: Tilings of the space that fit the machine.
        num_evaluated: Tilings built and simulated.
        num_tasks: Tasks these had together.
        is_optimal: Whether no tiling of the space is better, proved by evaluation or by bound.
        stop_reason: Why the search stopped, in words.
        front: Tilings and estimates of which none is both slower and hungrier than another one
            met, fastest first.
        history: Evaluations made and cycles of the best so far, each time it got better.
    """

    best: Candidate
    dataflow: str
    num_legal: int
    num_evaluated: int
    num_tasks: int
    is_optimal: bool
    stop_reason: str
    front: tuple[tuple[Tiling, Estimate], ...] = ()
    history: tuple[tuple[int, float], ...] = ()


class Searcher(Protocol):
    """Finds a good program in a space of tilings."""

    def search(
        self, space: TilingSpace, objective: Objective, budget: Budget, seed: int
    ) -> SearchResult:
        """Return the best program found; the same for the same arguments.

        Args:
            space: Candidate tilings of a problem on a machine under a dataflow.
            objective: Gives the smallest key to the best estimate.
            budget: When to stop; at least one tiling is evaluated.
            seed: For searchers that draw at random.

        Raises:
            InfeasibleError: No tiling fits the machine; the report says what is missing.
        """
        ...


@dataclass
class Evaluator:
    """Builds and simulates tilings for a searcher, each once, and keeps the best.

    Attributes:
        space: Whose tilings.
        objective: What is better.
        budget: How much may be spent.
    """

    space: TilingSpace
    objective: Objective
    budget: Budget
    num_tasks: int = 0
    known: dict[Tiling, Estimate] = field(default_factory=dict)
    best: tuple[Key, Tiling] | None = None
    history: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._bound = lower_bounds(self.space.problem, self.space.machine).cycles
        self._start = self.budget.clock() if self.budget.clock else 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the budget is; never before the first evaluation."""
        budget = self.budget
        if not self.known:
            return False
        if len(self.known) >= budget.evaluations or self.num_tasks >= budget.tasks:
            return True
        if budget.seconds is None or budget.clock is None:
            return False
        return budget.clock() - self._start >= budget.seconds

    def evaluate(self, tiling: Tiling, least: LeastTotals | None = None) -> Estimate:
        """Return what the program of a tiling that fits takes.

        Args:
            tiling: One of the space.
            least: What the closed forms say of it, if that is at hand.

        Raises:
            InfeasibleError: Too much would have to be simulated to know.
        """
        found = self.known.get(tiling)
        if found is not None:
            return found
        estimate, _, _, num_tasks = self._estimate(tiling, least)
        self.num_tasks += num_tasks
        self.known[tiling] = estimate
        key = self.objective.key(estimate)
        if self.best is None or key < self.best[0]:
            self.best = (key, tiling)
            self.history.append((len(self.known), estimate.cycles))
        return estimate

    def result(
        self, *, is_optimal: bool, stop_reason: str, num_legal: int | None = None
    ) -> SearchResult:
        """Return what was found.

        Args:
            is_optimal: Whether no tiling of the space is better.
            stop_reason: In words.
            num_legal: Tilings of the space that fit, if known; else they are counted.

        Raises:
            InfeasibleError: Nothing was evaluated.
        """
        if self.best is None:
            raise infeasible(self.space)
        tiling = self.best[1]
        estimate, program, plan, _ = self._estimate(tiling)
        return SearchResult(
            best=Candidate(tiling, program, estimate, plan),
            dataflow=self.space.dataflow.name,
            num_legal=len(self.space.legal) if num_legal is None else num_legal,
            num_evaluated=len(self.known),
            num_tasks=self.num_tasks,
            is_optimal=is_optimal,
            stop_reason=stop_reason,
            front=pareto_front(self.known.items()),
            history=tuple(self.history),
        )

    def _estimate(
        self, tiling: Tiling, least: LeastTotals | None = None
    ) -> tuple[Estimate, Program, CachePlan, int]:
        problem, machine, dataflow = self.space.problem, self.space.machine, self.space.dataflow
        if least is None:
            least = closed_forms(self.space, layout.TilingArrays.of([tiling])).of(0)
        if least.simulated_tasks > MAX_SIMULATED_TASKS:
            raise _too_long(self.space, tiling, int(least.simulated_tasks))
        if least.num_tasks > most_tasks(machine):
            return estimate_long(self.space, tiling, least)
        program, plan = build_with_plan(problem, tiling, dataflow, machine)
        schedule = program.schedule
        costs = task_costs(schedule, machine)
        cycles = simulated_cycles(schedule, costs, machine)
        peak = program.peak_on_chip_bytes
        estimate = add_up(schedule, costs, cycles, peak, machine, self._bound)
        return estimate, program, plan, schedule.num_tasks


def infeasible(space: TilingSpace) -> InfeasibleError:
    """Return the error that says why not even the smallest tiling fits."""
    problem, machine, dataflow = space.problem, space.machine, space.dataflow
    if space.has_room_for_tensors:
        memory = machine.on_chip_memory
        smallest = space.tiling(int(space.demands.argmin()))
        terms, choice = layout.demand(smallest, problem, dataflow, machine), f", with {smallest}"
        levers = _levers(space)
    else:
        memory, choice = machine.outer_memory, ""
        terms = layout.outer_demand(problem, dataflow, machine)
        levers = _outer_levers(space)
    total, capacity = sum(terms.values()), memory.capacity_bytes
    listed = " + ".join(f"{name} {term}" for name, term in terms.items())
    return InfeasibleError(
        f"attention ({problem}) does not fit {machine.name} with dataflow {dataflow.name}",
        (
            f"resource: {memory.name} of {machine.name}",
            f"demand: at least {total} bytes ({listed}){choice}",
            f"bound: {capacity} bytes",
            f"gap: {max(total - capacity, 0)} bytes",
            f"levers: {levers}",
        ),
    )


def _too_long(space: TilingSpace, tiling: Tiling, num_tasks: int) -> InfeasibleError:
    """Return the error that says that a tiling's row blocks are too long to simulate."""
    return InfeasibleError(
        f"attention ({space.problem}) is too long to simulate on {space.machine.name} with "
        f"dataflow {space.dataflow.name}",
        (
            "resource: tasks that are simulated for an estimate",
            f"demand: about {num_tasks}, with {tiling}",
            f"bound: {MAX_SIMULATED_TASKS}",
            f"gap: {num_tasks - MAX_SIMULATED_TASKS}",
            "levers: more on-chip memory, so that tiles can be larger, a shorter kv_length",
        ),
    )


def _outer_levers(space: TilingSpace) -> str:
    levers = ["a machine with more outer memory", "fewer sequences, or shorter ones, at a time"]
    if space.dataflow.spills_scores or space.dataflow.spills_probabilities:
        levers.insert(0, "a dataflow that keeps scores on chip")
    return ", ".join(levers)


def _levers(space: TilingSpace) -> str:
    from hocket.compiler.attention.tiling import Softmax

    levers = ["a machine with more on-chip memory", "a shorter kv_length"]
    if Softmax.ONLINE not in space.dataflow.softmaxes:
        levers.insert(
            0, "a dataflow with online softmax (hocket, fusemax), which needs no whole row"
        )
    if space.machine.num_cores > 1:
        levers.append("fewer cores at once")
    return ", ".join(levers)


def pareto_front(
    met: Iterable[tuple[Tiling, Estimate]],
) -> tuple[tuple[Tiling, Estimate], ...]:
    """Return those of which none is both slower and hungrier than another one, fastest first."""
    front: list[tuple[Tiling, Estimate]] = []
    for tiling, estimate in sorted(met, key=lambda pair: (pair[1].cycles, pair[1].joules)):
        if not front or estimate.joules < front[-1][1].joules:
            front.append((tiling, estimate))
    return tuple(front)


def shortest(
    order: NDArray[np.int64], num_tasks: NDArray[np.float64], budget: Budget
) -> tuple[NDArray[np.int64], int]:
    """Return the tilings that a budget allows to evaluate, and how many take too much for it.

    The one that takes least is always among them, so that there is an answer.
    """
    is_short = num_tasks[order] <= max(budget.tasks, MAX_TASKS)
    is_short |= num_tasks[order] == num_tasks[order].min()
    return order[is_short], int((~is_short).sum())
