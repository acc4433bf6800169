"""Monte-Carlo tree search over the axes of a space, one after the other.

As the mapper of TileFlow (MICRO 2023) is described: a state fixes the first few choices, random
ones complete it, and what that takes is its reward. MAS-Attention names such a search, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.search.trials import Trials

if TYPE_CHECKING:
    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import Budget, SearchResult
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.compiler.attention.search.trials import Point

EXPLORATION = 0.2
"""Weight of the doubt about a state that was seldom visited, in decades of cycles or joules."""

FLOOR = 2.0
"""Decades below the best reward seen at which a state stands that led to nothing that fits."""


class TreeSearcher:
    """Grows a tree of choices, an axis a level, those with fewest values on top.

    From the root it takes the child of the highest upper confidence bound, down to a state with a
    child not made yet; makes it, completes it at random, and gives the reward, minus the logarithm
    of cycles or joules, to all states above. As one looks for the best and not the average, a
    state's value is the best reward it led to.
    """

    def search(
        self, space: TilingSpace, objective: Objective, budget: Budget, seed: int
    ) -> SearchResult:
        """Return the best program found. See ``Searcher.search``."""
        trials = Trials(space, objective, budget)
        tree = _Tree(space, np.random.default_rng(seed))
        while not trials.is_over and not tree.root.is_done:
            path, point = tree.descend()
            estimate = trials.look_at(point).estimate
            reward = None
            if estimate is not None:
                reward = -math.log10(max(objective.amount(estimate), 1e-300))
            tree.give(path, reward)
        return trials.result()


class _Node:
    """A state: the choices above it are made, those below are open."""

    __slots__ = ("children", "is_done", "reward", "untried", "visits")

    def __init__(self, untried: list[int]) -> None:
        self.untried = untried
        self.children: dict[int, _Node] = {}
        self.visits = 0
        self.reward: float | None = None
        self.is_done = False


class _Tree:
    """The states met so far."""

    def __init__(self, space: TilingSpace, generator: np.random.Generator) -> None:
        self.generator = generator
        lengths = [len(axis) for axis in space.axes]
        self.order = sorted(range(len(lengths)), key=lambda axis: lengths[axis])
        self.lengths = [lengths[axis] for axis in self.order]
        self.root = self.node(0)
        self.best = -math.inf

    def node(self, depth: int) -> _Node:
        if depth == len(self.lengths):
            return _Node([])
        return _Node(self.generator.permutation(self.lengths[depth]).tolist())

    def descend(self) -> tuple[list[_Node], Point]:
        """Return the states from the root to a new one, or a last one, and a point under it."""
        node, path, choices = self.root, [self.root], list[int]()
        while len(choices) < len(self.lengths):
            is_new = bool(node.untried)
            choice = node.untried.pop() if is_new else self.most_promising(node)
            choices.append(choice)
            if is_new:
                node.children[choice] = self.node(len(choices))
            node = node.children[choice]
            path.append(node)
            if is_new:
                break
        rest = self.lengths[len(choices) :]
        choices += self.generator.integers(rest).tolist() if rest else []
        place = dict(zip(self.order, choices, strict=True))
        return path, tuple(place[axis] for axis in range(len(place)))

    def most_promising(self, node: _Node) -> int:
        """Return the choice whose state has the highest upper confidence bound."""
        log_visits = math.log(node.visits)
        open_children = (item for item in node.children.items() if not item[1].is_done)
        return max(open_children, key=lambda item: self.bound(item[1], log_visits))[0]

    def bound(self, node: _Node, log_visits: float) -> float:
        reward = node.reward
        if reward is None:
            reward = self.best - FLOOR if self.best > -math.inf else 0.0
        return reward + EXPLORATION * math.sqrt(log_visits / node.visits)

    def give(self, path: list[_Node], reward: float | None) -> None:
        """Let all states of a path know a reward, None for a tiling that was not evaluated."""
        for node in reversed(path):
            node.visits += 1
            if reward is not None:
                node.reward = reward if node.reward is None else max(node.reward, reward)
                self.best = max(self.best, reward)
            if len(path) > len(self.lengths) and not node.untried:
                # The last state is a whole tiling; nothing is left to try in it.
                node.is_done = all(child.is_done for child in node.children.values())
