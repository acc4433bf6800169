"""Laws of estimates of programs that are not built: never below what any program must take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.search_strategies import spaces

from hocket.compiler.attention.bounds import (
    compulsory_bytes,
    compulsory_loads_by_tensor,
    compulsory_stores,
    lower_bounds,
)
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.build import build_with_plan
from hocket.compiler.attention.search import extrapolate
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.extrapolate import estimate_long
from hocket.compiler.attention.tiling import Split
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from hocket.compiler.attention.search.space import TilingSpace

SLACK = 1 + 1e-9


def some_legal(space: TilingSpace, seed: int, count: int) -> list[int]:
    generator = np.random.default_rng(seed)
    legal = space.legal
    return generator.choice(legal, size=min(count, len(legal)), replace=False).tolist()


@settings(max_examples=60)
@given(space=spaces(), seed=st.integers(0, 1000), window=st.sampled_from([1, 50, 400]))
def test_no_extrapolated_figure_is_below_its_bound(
    space: TilingSpace, seed: int, window: int
) -> None:
    assume(len(space.legal))
    problem, machine = space.problem, space.machine
    forms = closed_forms(space, space.arrays)
    for index in some_legal(space, seed, count=6):
        tiling = space.tiling(index)
        least = forms.of(index)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extrapolate, "WINDOW_TASKS", window)
            estimate, program, _, num_tasks = estimate_long(space, tiling, least)
        verify_program(program, machine)
        assert not estimate.is_simulated
        assert num_tasks >= program.schedule.num_tasks
        terms = layout.demand(tiling, problem, space.dataflow, machine)
        assert estimate.peak_on_chip_bytes == sum(terms.values())
        assert estimate.cycles >= max(least.cycles, lower_bounds(problem, machine).cycles)
        assert estimate.joules * SLACK >= forms.least_joules[index]
        moved = dict(estimate.dram_bytes_by_tensor)
        for tensor, count in compulsory_loads_by_tensor(problem, machine).items():
            assert moved[tensor] >= count
        assert moved["output"] >= compulsory_stores(problem, machine)
        assert estimate.dram_bytes >= compulsory_bytes(problem, machine)
        for share in (
            estimate.matrix_utilization,
            estimate.vector_utilization,
            estimate.dma_utilization,
        ):
            assert 0 <= share <= SLACK


@settings(max_examples=60)
@given(space=spaces(), seed=st.integers(0, 1000))
def test_tasks_are_counted_before_they_are_made(space: TilingSpace, seed: int) -> None:
    """Exactly where all keys and values are kept, and there is no mask; else within a factor.

    Where cores share the keys, a block of rows is counted for each of them, though causality may
    hide all keys of one: not exactly then, either.
    """
    assume(len(space.legal))
    forms = closed_forms(space, space.arrays)
    for index in some_legal(space, seed, count=6):
        tiling = space.tiling(index)
        program, plan = build_with_plan(space.problem, tiling, space.dataflow, space.machine)
        counted, made = float(forms.program_tasks[index]), program.schedule.num_tasks
        keeps_all = tiling.resident_tiles >= plan.num_tiles * plan.kv_matrices
        is_hidden = space.problem.is_causal and tiling.split is Split.KEYS
        if keeps_all and space.problem.mask_shape is None and not is_hidden:
            assert counted == pytest.approx(made), str(tiling)
        assert made / 2 <= counted <= made * 2, str(tiling)
