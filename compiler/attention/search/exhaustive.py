"""The whole space: every tiling is evaluated, or proved not to be better than one that was."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.searcher import (
    Evaluator,
    SearchResult,
    infeasible,
    shortest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget
    from hocket.compiler.attention.search.space import TilingSpace


class ExhaustiveSearcher:
    """Branch and bound over all tilings that fit, most promising first.

    A tiling is left out only if its closed-form lower bounds show that it cannot beat the best one
    met. When the budget ends the search before all are dealt with, the result says so.
    """

    def search(
        self,
        space: TilingSpace,
        objective: Objective,
        budget: Budget,
        seed: int,  # noqa: ARG002 - part of the protocol; nothing is drawn
    ) -> SearchResult:
        """Return the best program found. See ``Searcher.search``."""
        legal = space.legal
        if not len(legal):
            raise infeasible(space)
        forms = closed_forms(space, space.arrays)
        evaluator = Evaluator(space, objective, budget)
        order = legal[np.lexsort((-space.demands[legal], _rounded(forms.about_cycles[legal])))]
        order, num_long = shortest(order, forms.num_tasks, budget)
        cycles, joules = forms.least_cycles.tolist(), forms.least_joules.tolist()
        is_legal = np.zeros(len(cycles), np.bool_)
        is_legal[order] = True

        def is_worth(index: int) -> bool:
            """Return whether a tiling may beat the best one met."""
            least = objective.least_key(cycles[index], joules[index])
            return evaluator.best is None or least < evaluator.best[0]

        queue = deque(order.tolist())
        near: deque[int] = deque()
        while (near or queue) and not evaluator.is_spent:
            index = (near or queue).popleft()
            if not is_worth(index):
                continue
            tiling = space.tiling(index)
            if tiling in evaluator.known:
                continue
            best = evaluator.best
            evaluator.evaluate(tiling, forms.of(index))
            if evaluator.best is not best:
                # Where there is a better one there are more: look around it first.
                near.extend(each for each in space.neighbours(index) if is_legal[each])
        remaining = sum(
            is_worth(index) and space.tiling(index) not in evaluator.known for index in queue
        )
        remaining += num_long
        is_optimal = remaining == 0 and all(each.is_simulated for each in evaluator.known.values())
        reason = f"all of {len(legal)} tilings evaluated or proved no better"
        if remaining:
            reason = (
                f"budget spent after {len(evaluator.known)} evaluations, "
                f"{remaining} of {len(legal)} tilings neither evaluated nor ruled out"
            )
        return evaluator.result(is_optimal=is_optimal, stop_reason=reason)


def _rounded(cycles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return steps of a thousandth: guesses closer than that are alike."""
    steps: NDArray[np.float64] = np.floor(np.log(np.maximum(cycles, 1.0)) / np.log1p(1e-3))
    return steps
