"""A genetic algorithm over the axes of a space, one of the two searchers MAS-Attention names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.search.trials import Trials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget, SearchResult
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.compiler.attention.search.trials import Point

    Fitness = tuple[float, ...]
    Individual = tuple[Fitness, Point]

POPULATION = 32
ELITE = 2
"""The best of a generation that live on as they are."""

TOURNAMENT = 3
"""Of so many drawn the fittest becomes a parent."""

CROSSOVER = 0.9
"""Share of children with two parents."""

NEIGHBOUR = 0.5
"""Share of mutations that go to the next larger or smaller value, instead of to any."""

PATIENCE = 4
"""After so many generations without a tiling not met before, all but the elite is drawn anew."""


class GeneticSearcher:
    """Breeds points of the space; a point's genes are its places on the axes.

    Parents win tournaments, children take each gene from either of two, and some genes mutate. A
    tiling that does not fit is less fit than any that does, the less the more it exceeds memory, so
    that a population finds its way back to what fits.
    """

    def search(
        self, space: TilingSpace, objective: Objective, budget: Budget, seed: int
    ) -> SearchResult:
        """Return the best program found. See ``Searcher.search``."""
        breeding = _Breeding(Trials(space, objective, budget), objective, seed)
        return breeding.run()


class _Breeding:
    """One run: the population and the generator of its chances."""

    def __init__(self, trials: Trials, objective: Objective, seed: int) -> None:
        self.trials = trials
        self.objective = objective
        self.generator = np.random.default_rng(seed)
        self.lengths = np.array([len(axis) for axis in trials.space.axes])
        # Axes of one value have nothing to mutate to.
        self.open_axes = np.flatnonzero(self.lengths > 1)

    def run(self) -> SearchResult:
        trials, known = self.trials, self.trials.evaluator.known
        population: list[Individual] = []
        num_idle = 0
        while not trials.is_over:
            num_known = len(known)
            elite = sorted(population)[:ELITE]
            is_fresh = not population or num_idle >= PATIENCE
            parents, population = population, list(elite)
            while len(population) < POPULATION and not trials.is_over:
                point = self.draw() if is_fresh else self.child(parents)
                population.append((self.fitness(point), point))
            num_idle = num_idle + 1 if len(known) == num_known and not is_fresh else 0
        return trials.result()

    def draw(self) -> Point:
        return tuple(self.generator.integers(self.lengths).tolist())

    def fitness(self, point: Point) -> Fitness:
        """Return a key, smaller for a fitter point."""
        trial = self.trials.look_at(point)
        if trial.estimate is None:
            return (1.0, trial.excess)
        return (0.0, *self.objective.key(trial.estimate))

    def child(self, parents: list[Individual]) -> Point:
        genes: NDArray[np.int64] = np.array(self.winner(parents))
        if self.generator.random() < CROSSOVER:
            other = np.array(self.winner(parents))
            genes = np.where(self.generator.random(len(genes)) < 0.5, genes, other)
        num_open = len(self.open_axes)
        for axis in self.open_axes:
            if self.generator.random() * num_open < 1.0:
                genes[axis] = self.mutated(int(genes[axis]), int(self.lengths[axis]))
        point: Point = tuple(genes.tolist())
        return point

    def winner(self, parents: list[Individual]) -> Point:
        drawn = self.generator.integers(len(parents), size=TOURNAMENT)
        winner: Individual = min(parents[index] for index in drawn)
        return winner[1]

    def mutated(self, value: int, length: int) -> int:
        """Return another place on an axis."""
        if self.generator.random() < NEIGHBOUR:
            step = 1 if self.generator.random() < 0.5 else -1
            return value + step if 0 <= value + step < length else value - step
        other = int(self.generator.integers(length - 1))
        return other + (other >= value)
