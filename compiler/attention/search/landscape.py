"""What tilings take by the sizes of their tiles: a map of the space that a search goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.objective import Latency
from hocket.compiler.attention.search.searcher import Budget, Evaluator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.search.space import TilingSpace

MAX_TASKS = 2_000_000
"""Tasks that are simulated for a map, all its places together."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """Cycles by the sizes of tiles, of the likeliest tiling of each size.

    Attributes:
        query_rows: Sizes of row blocks, ascending, ``[R]``.
        kv_columns: Keys of one product, ascending, ``[C]``.
        cycles: ``[R, C]``; nan where no tiling of these sizes fits the machine.
        is_simulated: ``[R, C]``; else cycles are the closed form's guess.
    """

    query_rows: tuple[int, ...]
    kv_columns: tuple[int, ...]
    cycles: NDArray[np.float64]
    is_simulated: NDArray[np.bool_]


def map_landscape(space: TilingSpace, max_tasks: int = MAX_TASKS) -> Landscape:
    """Return the map of a space.

    Of all tilings with the same sizes that fit, the one that the closed forms take to be fastest is
    simulated; so a place may be slower than another choice of order would make it, never faster.

    Args:
        space: Of a problem on a machine, under a dataflow.
        max_tasks: To be simulated in all; the places that look fastest come first.
    """
    arrays, legal = space.arrays, space.legal
    rows, columns = np.unique(arrays.query_rows), np.unique(arrays.kv_columns)
    cycles = np.full((len(rows), len(columns)), np.nan)
    is_simulated = np.zeros(cycles.shape, bool)
    found = Landscape(tuple(rows.tolist()), tuple(columns.tolist()), cycles, is_simulated)
    if not len(legal):
        return found
    forms = closed_forms(space, arrays)
    order = legal[np.argsort(forms.about_cycles[legal], kind="stable")]
    places = np.searchsorted(rows, arrays.query_rows[order]) * len(columns)
    places += np.searchsorted(columns, arrays.kv_columns[order])
    # The first of each place is its best, and places follow each other from the best on.
    _, first = np.unique(places, return_index=True)
    evaluator = Evaluator(space, Latency(), Budget())
    for at in np.sort(first):
        index, place = int(order[at]), np.unravel_index(places[at], cycles.shape)
        cycles[place] = forms.about_cycles[index]
        if evaluator.num_tasks + forms.num_tasks[index] <= max_tasks:
            cycles[place] = evaluator.evaluate(space.tiling(index), forms.of(index)).cycles
            is_simulated[place] = True
    return found
