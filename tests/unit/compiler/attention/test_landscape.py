"""The map of a space of tilings, against searches and against every tiling by itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.landscape import map_landscape
from hocket.compiler.attention.search.objective import Latency
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel


def make_space(on_chip_bytes: int = 0) -> TilingSpace:
    machine: HardwareModel = load_target("mas-edge")
    if on_chip_bytes:
        memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=on_chip_bytes)
        machine = dataclasses.replace(machine, on_chip_memory=memory)
    problem = AttentionProblem(1, 2, 2, 64, 96, 32, 32, DType.FLOAT16, 0.125)
    return TilingSpace(problem, machine, DATAFLOWS["hocket"])


@pytest.mark.parametrize("on_chip_bytes", [0, 24_000, 9_000])
def test_blank_places_are_those_where_no_tiling_fits(on_chip_bytes: int) -> None:
    space = make_space(on_chip_bytes)
    found = map_landscape(space)
    capacity = space.machine.on_chip_memory.capacity_bytes
    fitting = set()
    for index in range(len(space.arrays.query_rows)):
        tiling = space.tiling(index)
        terms = layout.demand(tiling, space.problem, space.dataflow, space.machine)
        if sum(terms.values()) <= capacity:
            fitting.add((tiling.query_rows, tiling.kv_columns))
    shown = {
        (found.query_rows[row], found.kv_columns[column])
        for row, column in np.argwhere(np.isfinite(found.cycles))
    }
    assert shown == fitting


def test_no_place_is_faster_than_the_best_there_is() -> None:
    space = make_space()
    found = map_landscape(space)
    best = SEARCHERS["exhaustive"].search(space, Latency(), Budget(), 0)
    assert best.is_optimal
    assert found.is_simulated[np.isfinite(found.cycles)].all()
    least = float(np.nanmin(found.cycles))
    assert best.best.estimate.cycles <= least <= 1.1 * best.best.estimate.cycles


def test_what_is_not_simulated_is_said() -> None:
    space = make_space()
    guessed, all_of_it = map_landscape(space, max_tasks=0), map_landscape(space)
    assert not guessed.is_simulated.any()
    some = map_landscape(space, max_tasks=2000)
    assert 0 < some.is_simulated.sum() < all_of_it.is_simulated.sum()
    np.testing.assert_array_equal(
        some.cycles[some.is_simulated], all_of_it.cycles[some.is_simulated]
    )
    np.testing.assert_array_equal(
        some.cycles[~some.is_simulated], guessed.cycles[~some.is_simulated]
    )


def test_a_machine_without_room_has_a_blank_map() -> None:
    found = map_landscape(make_space(64))
    assert all(math.isnan(value) for value in found.cycles.ravel())
