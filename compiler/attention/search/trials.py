"""Points of a space tried one by one: what all searchers that draw at random share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.searcher import Evaluator, SearchResult, infeasible

if TYPE_CHECKING:
    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.compiler.attention.tiling import Tiling
    from hocket.hwmodels.estimate import Estimate

    Point = tuple[int, ...]

MAX_FRUITLESS = 4000
"""After so many points in a row that bring no tiling to evaluate, a search gives up."""

MAX_SHARE = 0.1
"""Share of the whole budget that one evaluation may take, so that chance has more than one try."""

MAX_OF_LEAST = 2.0
"""Where that is less than any tiling takes: so many times the tasks of the one that takes least."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a point.

    Attributes:
        estimate: What its program takes; None if it was not built.
        excess: If it was not built: by which share it asks for more memory, or more tasks, than
            there are; infinite for choices that do not go together.
    """

    estimate: Estimate | None
    excess: float = 0.0


class Trials:
    """Tries points of a space, each once, until the budget or the space is exhausted.

    Points whose tilings do not fit the machine are not evaluated, and not counted as evaluations;
    nor are those that would take too large a part of the budget, or more than what is left of it.
    """

    def __init__(self, space: TilingSpace, objective: Objective, budget: Budget) -> None:
        """Begin.

        Raises:
            InfeasibleError: No tiling of the space fits the machine.
        """
        if not len(space.legal):
            raise infeasible(space)
        self.space = space
        self.budget = budget
        self.evaluator = Evaluator(space, objective, budget)
        num_tasks = closed_forms(space, space.arrays).num_tasks[space.legal]
        self._least_tasks = float(num_tasks.min())
        self._most_tasks = max(MAX_SHARE * budget.tasks, MAX_OF_LEAST * self._least_tasks)
        self._tried: dict[Point, Trial] = {}
        self._num_fruitless = 0

    @property
    def is_complete(self) -> bool:
        """Whether every tiling that fits was evaluated."""
        return len(self.evaluator.known) == len(self.space.legal)

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop."""
        return self.is_spent or self.is_complete or self._num_fruitless >= MAX_FRUITLESS

    @property
    def is_spent(self) -> bool:
        """Whether the budget is, or what is left of it is too little for any tiling."""
        evaluator = self.evaluator
        is_little = evaluator.num_tasks + self._least_tasks > self.budget.tasks
        return evaluator.is_spent or (is_little and bool(evaluator.known))

    def look_at(self, point: Point) -> Trial:
        """Try a point; what was tried before is remembered."""
        num_known = len(self.evaluator.known)
        trial = self._tried.get(point)
        if trial is None:
            trial = self._tried[point] = self._try(self.space.at(point))
        is_new = len(self.evaluator.known) > num_known
        self._num_fruitless = 0 if is_new else self._num_fruitless + 1
        return trial

    def result(self, why_else: str = "nothing new was drawn any more") -> SearchResult:
        """Return what was found.

        If nothing was, the tiling that asks for least memory is taken, of those that may be tried.

        Args:
            why_else: Reason to stop if neither the budget nor the space was exhausted.
        """
        evaluator = self.evaluator
        is_complete, is_spent = self.is_complete, self.is_spent
        if evaluator.best is None:
            legal = self.space.legal
            num_tasks = closed_forms(self.space, self.space.arrays).num_tasks[legal]
            allowed = legal[num_tasks <= self._most_tasks]
            smallest = allowed[self.space.demands[allowed].argmin()]
            evaluator.evaluate(self.space.tiling(int(smallest)))
        count = f"{len(evaluator.known)} evaluations of {len(self.space.legal)} tilings"
        reason = f"{why_else} after {count}"
        if is_complete:
            reason = f"all of {len(self.space.legal)} tilings evaluated"
        elif is_spent:
            reason = f"budget spent after {count}"
        is_exact = all(estimate.is_simulated for estimate in evaluator.known.values())
        return evaluator.result(is_optimal=is_complete and is_exact, stop_reason=reason)

    def _try(self, tiling: Tiling | None) -> Trial:
        if tiling is None:
            return Trial(None, math.inf)
        space = self.space
        demand = sum(layout.demand(tiling, space.problem, space.dataflow, space.machine).values())
        excess = demand / space.machine.on_chip_memory.capacity_bytes - 1
        if excess > 0:
            return Trial(None, excess)
        least = closed_forms(space, layout.TilingArrays.of([tiling])).of(0)
        excess = least.simulated_tasks / self._allowed_tasks() - 1
        if excess > 0:
            return Trial(None, excess)
        return Trial(self.evaluator.evaluate(tiling, least))

    def _allowed_tasks(self) -> float:
        """Return how many tasks the next evaluation may take."""
        if not self.evaluator.known:
            return self._most_tasks
        return min(self._most_tasks, max(self.budget.tasks - self.evaluator.num_tasks, 1))
