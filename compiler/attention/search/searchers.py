"""The searchers there are, by the name a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.compiler.attention.search.exhaustive import ExhaustiveSearcher
from hocket.compiler.attention.search.genetic import GeneticSearcher
from hocket.compiler.attention.search.random_search import RandomSearcher
from hocket.compiler.attention.search.tree_search import TreeSearcher

if TYPE_CHECKING:
    from hocket.compiler.attention.search.searcher import Searcher

SEARCHERS: dict[str, Searcher] = {
    "exhaustive": ExhaustiveSearcher(),
    "random": RandomSearcher(),
    "genetic": GeneticSearcher(),
    "tree": TreeSearcher(),
}
"""Search of the tiling space for the best program on a machine; the first is the default."""
