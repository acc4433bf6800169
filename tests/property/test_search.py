"""What must hold of every search: bounds that hold, and searchers that agree with brute force."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.search_strategies import spaces, tiny_spaces

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.objective import Energy, Latency
from hocket.compiler.attention.search.searcher import Budget, Evaluator
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.attention.search.work import work_of
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from hocket.compiler.attention.search.objective import Objective
    from hocket.hwmodels.machine import HardwareModel

UNLIMITED = Budget(evaluations=1 << 40, tasks=1 << 40)
OBJECTIVES = (Latency(), Latency(tolerance=0.0), Energy(), Energy(tolerance=0.0))


def some_legal(space: TilingSpace, seed: int, count: int = 16) -> list[int]:
    """Indices of tilings that fit, drawn so that small and large ones are among them."""
    legal = space.legal
    generator = np.random.default_rng(seed)
    return generator.choice(legal, size=min(count, len(legal)), replace=False).tolist()


@settings(max_examples=100, deadline=None)
@given(space=spaces(), seed=st.integers(0, 1000))
def test_closed_forms_never_exceed_what_the_simulator_says(space: TilingSpace, seed: int) -> None:
    assume(len(space.legal))
    forms = closed_forms(space, space.arrays)
    evaluator = Evaluator(space, Latency(), UNLIMITED)
    for index in some_legal(space, seed):
        tiling = space.tiling(index)
        estimate = evaluator.evaluate(tiling)
        assert forms.least_cycles[index] <= estimate.cycles, str(tiling)
        assert forms.least_joules[index] <= estimate.joules, str(tiling)
        assert forms.least_cycles[index] <= forms.about_cycles[index]


@settings(max_examples=60, deadline=None)
@given(space=spaces(), seed=st.integers(0, 1000))
def test_work_is_what_the_tasks_of_the_program_add_up_to(space: TilingSpace, seed: int) -> None:
    assume(len(space.legal))
    work = work_of(space, space.arrays)
    for index in some_legal(space, seed, count=8):
        tiling = space.tiling(index)
        schedule = build_program(space.problem, tiling, space.dataflow, space.machine).schedule
        costs = task_costs(schedule, space.machine)
        operations = schedule.table.rows[:, col.OPERATION]

        def total(*which: int) -> float:
            return float(costs.cycles[np.isin(operations, which)].sum())  # noqa: B023

        computes = ~np.isin(operations, (col.LOAD, col.STORE))
        expected = {
            "scores_cycles": total(col.SCORES),
            "softmax_cycles": total(col.SOFTMAX, col.EXPONENTIALS),
            "output_cycles": total(col.OUTPUT),
            "later_cycles": total(col.RESCALE, col.MERGE, col.NORMALIZE),
            "picojoules": float(costs.picojoules[computes].sum()),
            "num_steps": int(computes.sum()),
        }
        found = {name: float(getattr(work, name)[index]) for name in expected}
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), str(tiling)


@settings(max_examples=25, deadline=None)
@given(space=tiny_spaces(), objective=st.sampled_from(OBJECTIVES))
def test_exhaustive_search_finds_what_trying_all_finds(
    space: TilingSpace, objective: Objective
) -> None:
    assume(len(space.legal))
    brute = Evaluator(space, objective, UNLIMITED)
    for index in space.legal.tolist():
        brute.evaluate(space.tiling(index))
    assert brute.best is not None
    result = SEARCHERS["exhaustive"].search(space, objective, UNLIMITED, 0)
    assert objective.key(result.best.estimate) == brute.best[0]
    assert result.is_optimal
    assert result.num_legal == len(space.legal)


@settings(max_examples=25, deadline=None)
@given(
    space=tiny_spaces(),
    objective=st.sampled_from(OBJECTIVES),
    name=st.sampled_from([name for name in SEARCHERS if name != "exhaustive"]),
    seed=st.integers(0, 100),
)
def test_no_searcher_beats_the_exhaustive_one_or_the_bound(
    space: TilingSpace, objective: Objective, name: str, seed: int
) -> None:
    assume(len(space.legal))
    best = SEARCHERS["exhaustive"].search(space, objective, UNLIMITED, 0)
    result = SEARCHERS[name].search(space, objective, Budget(evaluations=60), seed)
    verify_program(result.best.program, space.machine)
    bound = lower_bounds(space.problem, space.machine).cycles
    assert result.best.estimate.cycles >= bound * (1 - 1e-9)
    key, least = objective.key(result.best.estimate), objective.key(best.best.estimate)
    assert key >= least
    if result.is_optimal:
        assert key == least
        assert result.num_evaluated == len(space.legal)


def refuse(name: str, space: TilingSpace) -> InfeasibleError | None:
    try:
        SEARCHERS[name].search(space, Latency(), Budget(evaluations=20), 0)
    except InfeasibleError as error:
        return error
    return None


@settings(max_examples=30, deadline=None)
@given(space=tiny_spaces(), name=st.sampled_from(list(SEARCHERS)), share=st.floats(0.3, 1.2))
def test_a_search_gives_an_answer_just_if_the_smallest_tiling_fits(
    space: TilingSpace, name: str, share: float
) -> None:
    """Also where hardly anything fits, so that no draw is likely to hit upon it."""
    smallest = int(space.demands.min())
    space = dataclasses.replace(
        space, machine=with_capacity(space.machine, max(int(smallest * share), 1))
    )
    error = refuse(name, space)
    assert (error is None) == (space.machine.on_chip_memory.capacity_bytes >= smallest)
    if error is not None:
        words = [line.split(":")[0] for line in error.report]
        assert words == ["resource", "demand", "bound", "gap", "levers"]


def with_capacity(machine: HardwareModel, capacity_bytes: int) -> HardwareModel:
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=capacity_bytes)
    return dataclasses.replace(machine, on_chip_memory=memory)


def with_more(machine: HardwareModel, what: str, factor: int) -> HardwareModel:
    if what == "memory":
        return with_capacity(machine, machine.on_chip_memory.capacity_bytes * factor)
    if what == "bandwidth":
        bandwidth = machine.dma.bandwidth_bytes_per_second * factor
        dma = dataclasses.replace(machine.dma, bandwidth_bytes_per_second=bandwidth)
        return dataclasses.replace(machine, dma=dma)
    if what == "lanes":
        lanes = machine.vector_unit.lanes * factor
        return dataclasses.replace(
            machine, vector_unit=dataclasses.replace(machine.vector_unit, lanes=lanes)
        )
    macs = machine.matrix_unit.macs_per_cycle * factor
    return dataclasses.replace(
        machine, matrix_unit=dataclasses.replace(machine.matrix_unit, macs_per_cycle=macs)
    )


@settings(max_examples=40, deadline=None)
@given(
    space=tiny_spaces(),
    what=st.sampled_from(["memory", "bandwidth", "lanes", "multipliers"]),
    factor=st.integers(2, 5),
)
def test_more_of_anything_never_takes_longer(space: TilingSpace, what: str, factor: int) -> None:
    """Programs do not depend on speeds or sizes, and their time is a longest path."""
    assume(len(space.legal))
    better = dataclasses.replace(space, machine=with_more(space.machine, what, factor))
    cycles = [
        SEARCHERS["exhaustive"].search(each, Latency(0.0), UNLIMITED, 0).best.estimate.cycles
        for each in (space, better)
    ]
    assert cycles[1] <= cycles[0] * (1 + 1e-12)
