"""What all searchers have in common, on problems and machines of known outcome."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.objective import Energy, Latency
from hocket.compiler.attention.search.searcher import Budget, SearchResult
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.attention.search.trials import Trials
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.verify import verify_program

DRAWING = [name for name in SEARCHERS if name != "exhaustive"]
SMALL = Budget(evaluations=40)


@functools.cache
def make_space(
    heads: int = 4,
    length: int = 64,
    dataflow: str = "hocket",
    capacity_bytes: int = 5_000_000,
    target: str = "mas-edge",
) -> TilingSpace:
    problem = AttentionProblem(1, heads, heads, length, length, 16, 16, DType.FLOAT16, 0.25)
    machine = load_target(target)
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=capacity_bytes)
    machine = dataclasses.replace(machine, on_chip_memory=memory)
    return TilingSpace(problem, machine, DATAFLOWS[dataflow])


def search(name: str, space: TilingSpace, budget: Budget = SMALL, seed: int = 0) -> SearchResult:
    return SEARCHERS[name].search(space, Latency(), budget, seed)


def summary(result: SearchResult) -> tuple[object, ...]:
    """All of a result that can be compared; of programs, their numbers."""
    best, table = result.best, result.best.program.schedule.table
    return (
        best.tiling,
        best.estimate,
        table.rows.tobytes(),
        best.program.places.tobytes(),
        result.num_evaluated,
        result.num_tasks,
        result.is_optimal,
        result.stop_reason,
        result.front,
        result.history,
    )


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_same_seed_finds_the_same(name: str) -> None:
    first, second = (summary(search(name, make_space(), seed=7)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", DRAWING)
def test_another_seed_goes_another_way(name: str) -> None:
    assert search(name, make_space(), seed=1).history != search(name, make_space(), seed=2).history


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_result_is_a_well_formed_program_above_the_bound(name: str, dataflow: str) -> None:
    space = make_space(dataflow=dataflow)
    best = search(name, space, Budget(evaluations=10)).best
    verify_program(best.program, space.machine)
    assert best.estimate.cycles >= lower_bounds(space.problem, space.machine).cycles
    assert best.program.peak_on_chip_bytes <= space.machine.on_chip_memory.capacity_bytes


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_budget_of_evaluations_is_kept(name: str) -> None:
    result = search(name, make_space(), Budget(evaluations=7))
    assert result.num_evaluated == 7
    assert not result.is_optimal
    assert "budget spent after 7 evaluations" in result.stop_reason


def test_a_budget_of_tasks_is_overdrawn_by_one_program_at_most() -> None:
    result = search("exhaustive", make_space(length=128), Budget(tasks=5000))
    assert 5000 <= result.num_tasks < 2 * 5000
    assert "budget spent" in result.stop_reason


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("tasks", [2000, 10_000])
def test_no_program_that_is_drawn_takes_all_of_the_budget(name: str, tasks: int) -> None:
    """What a draw costs is known before it is made: none is dear while there is little to spend."""
    space = make_space(length=128)
    results = [search(name, space, Budget(tasks=tasks), seed) for seed in range(4)]
    best = search("exhaustive", space).best.estimate.cycles
    for result in results:
        # What is loaded again is guessed.
        assert 0.9 * tasks < result.num_tasks < 1.05 * tasks
        assert result.num_evaluated >= 10
        assert result.best.estimate.cycles < 1.6 * best


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_budget_of_time_is_read_from_its_clock(name: str) -> None:
    ticks = itertools.count()
    budget = Budget(seconds=25.0, clock=lambda: float(next(ticks)))
    result = search(name, make_space(), budget)
    assert 1 <= result.num_evaluated <= 25


@pytest.mark.parametrize("name", SEARCHERS)
def test_no_member_of_the_front_is_beaten_by_another(name: str) -> None:
    result = search(name, make_space())
    front = [(estimate.cycles, estimate.joules) for _, estimate in result.front]
    assert front == sorted(front)
    for (cycles, joules), (more_cycles, fewer_joules) in itertools.pairwise(front):
        assert cycles < more_cycles
        assert joules > fewer_joules
    best = result.best.estimate
    assert any(cycles <= best.cycles for cycles, _ in front)


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_history_ends_with_the_best(name: str) -> None:
    result = search(name, make_space())
    evaluations = [count for count, _ in result.history]
    assert evaluations == sorted(set(evaluations))
    assert 1 <= evaluations[-1] <= result.num_evaluated
    assert result.history[-1][1] == result.best.estimate.cycles


@pytest.mark.parametrize("name", SEARCHERS)
def test_where_nothing_fits_the_error_says_what_is_missing(name: str) -> None:
    with pytest.raises(InfeasibleError) as error:
        search(name, make_space(capacity_bytes=64))
    assert [line.split(":")[0] for line in error.value.report] == [
        "resource",
        "demand",
        "bound",
        "gap",
        "levers",
    ]
    assert "64 bytes" in error.value.report[2]


@pytest.mark.parametrize("name", SEARCHERS)
def test_where_one_tiling_fits_it_is_found(name: str) -> None:
    smallest = int(make_space().demands.min())
    space = make_space(capacity_bytes=smallest)
    assert 1 <= len(space.legal) <= 2
    result = search(name, space)
    assert result.best.program.peak_on_chip_bytes == smallest
    assert result.num_legal == len(space.legal)


@pytest.mark.parametrize("name", SEARCHERS)
def test_where_all_programs_are_too_long_the_shortest_is_taken(name: str) -> None:
    result = search(name, make_space(length=128), Budget(tasks=1))
    assert result.num_evaluated == 1
    assert not result.is_optimal


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_space_tried_to_its_end_is_done_with(name: str) -> None:
    space = make_space(heads=1, length=8, dataflow="flat", target="davinci-tiny")
    result = search(name, space, Budget())
    best = search("exhaustive", space, Budget())
    assert result.is_optimal
    assert result.best.estimate == best.best.estimate
    assert result.stop_reason.startswith(f"all of {len(space.legal)} tilings")


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_finds_something_good_in_little_time(name: str) -> None:
    space = make_space()
    results = [search(name, space, Budget(evaluations=150), seed) for seed in range(3)]
    best = search("exhaustive", space, Budget())
    ratios = [each.best.estimate.cycles / best.best.estimate.cycles for each in results]
    assert sorted(ratios)[1] < 1.25


@pytest.mark.parametrize("name", SEARCHERS)
def test_energy_can_be_the_objective(name: str) -> None:
    space = make_space()
    frugal = SEARCHERS[name].search(space, Energy(), SMALL, 0)
    assert all(
        frugal.best.estimate.joules <= estimate.joules * (1 + Energy().tolerance)
        for _, estimate in frugal.front
    )


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("target", ["mas-edge", "davinci-tiny", "host"])
def test_there_is_a_tiling_for_a_single_query_and_key(dataflow: str, target: str) -> None:
    problem = AttentionProblem(1, 1, 1, 1, 1, 4, 4, DType.FLOAT16, 0.5)
    space = TilingSpace(problem, load_target(target), DATAFLOWS[dataflow])
    best = search("exhaustive", space).best
    verify_program(best.program, space.machine)


def test_bounds_alone_rule_out_what_the_exhaustive_search_leaves_out() -> None:
    space = make_space()
    result = search("exhaustive", space, Budget())
    assert result.is_optimal
    assert result.num_evaluated < len(space.legal) / 10


def test_programs_too_long_to_build_do_not_hide_a_proof() -> None:
    """196 rows a head, cut into single rows and keys, is more than any search would build."""
    problem = AttentionProblem(1, 16, 16, 196, 196, 80, 80, DType.FLOAT16, 0.1)
    space = TilingSpace(problem, load_target("mas-edge"), DATAFLOWS["hocket"])
    result = search("exhaustive", space, Budget())
    assert result.is_optimal
    assert result.best.estimate.of_bound < 1.001


def test_points_say_by_how_much_they_do_not_fit() -> None:
    space = make_space(length=128, capacity_bytes=20_000)
    trials = Trials(space, Latency(), Budget(tasks=20_000))
    generator = np.random.default_rng(0)
    seen = {"fits": 0, "too much memory": 0, "too many tasks": 0, "no tiling": 0}
    for _ in range(300):
        point = tuple(generator.integers([len(axis) for axis in space.axes]).tolist())
        trial, tiling = trials.look_at(point), space.at(point)
        assert trials.look_at(point) is trial
        if tiling is None:
            seen["no tiling"] += 1
            assert trial.estimate is None
            assert trial.excess == math.inf
        elif trial.estimate is not None:
            seen["fits"] += 1
            assert trial.excess == 0
        else:
            seen["too many tasks" if space.holds(tiling) else "too much memory"] += 1
            assert 0 < trial.excess < math.inf
    assert all(seen.values()), seen
