"""Uniform draws: what any cleverer searcher has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.search.trials import Trials

if TYPE_CHECKING:
    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget, SearchResult
    from hocket.compiler.attention.search.space import TilingSpace


class RandomSearcher:
    """Draws a value for each axis, all alike in probability, and keeps the best tiling."""

    def search(
        self, space: TilingSpace, objective: Objective, budget: Budget, seed: int
    ) -> SearchResult:
        """Return the best program found. See ``Searcher.search``."""
        generator = np.random.default_rng(seed)
        lengths = [len(axis) for axis in space.axes]
        trials = Trials(space, objective, budget)
        while not trials.is_over:
            trials.look_at(tuple(generator.integers(lengths).tolist()))
        return trials.result()
