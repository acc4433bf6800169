"""What tilings ask of on-chip memory: counted for a whole space as for each tiling alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.search_strategies import spaces

from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.problem import MAX_EXTENT, AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import RANGES, HardwareModel


@settings(max_examples=40)
@given(space=spaces(), seed=st.integers(0, 1000))
def test_a_whole_space_is_counted_as_its_tilings_are(space: TilingSpace, seed: int) -> None:
    chosen = np.random.default_rng(seed).integers(len(space.demands), size=20)
    for index in chosen.tolist():
        assert space.demands[index] == demand_of(space, index)


@pytest.mark.parametrize(
    ("heads", "query_length"), [(1, MAX_EXTENT), (4, MAX_EXTENT), (MAX_EXTENT, 1), (1, 1)]
)
@pytest.mark.parametrize("dataflow", ["hocket", "layerwise", "fusemax"])
def test_no_size_makes_a_demand_wrap(heads: int, query_length: int, dataflow: str) -> None:
    """The largest problems on the machine with the largest figures, where 64 bits do not do."""
    problem = AttentionProblem(
        1, heads, 1, query_length, MAX_EXTENT, MAX_EXTENT, MAX_EXTENT, DType.FLOAT32, 1.0
    )
    space = TilingSpace(problem, largest_machine(), DATAFLOWS[dataflow])
    assert (space.demands > 0).all()
    chosen = np.random.default_rng(0).integers(len(space.demands), size=200)
    for index in chosen.tolist():
        assert space.demands[index] == pytest.approx(demand_of(space, index), rel=1e-12)
        # What fits is known exactly.
        if index in space.legal:
            assert space.demands[index] == demand_of(space, index)


def demand_of(space: TilingSpace, index: int) -> int:
    terms = layout.demand(space.tiling(index), space.problem, space.dataflow, space.machine)
    return sum(terms.values())


def largest_machine() -> HardwareModel:
    base = load_target("mas-edge")
    most = {name: int(RANGES[name][1]) for name in ("num_cores", "element_bytes")}
    memory = dataclasses.replace(
        base.on_chip_memory, capacity_bytes=int(RANGES["capacity_bytes"][1])
    )
    return dataclasses.replace(
        base, **most, alignment_bytes=int(RANGES["alignment_bytes"][1]), on_chip_memory=memory
    )
