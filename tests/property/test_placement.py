"""Laws of placement: over random live ranges, and over the programs of all dataflows."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.problems import machines, make_tensors, problems, reference_attention, tilings

from hocket.compiler.attention.memory import waits as wt
from hocket.compiler.attention.memory.exact import (
    Effort,
    PlacementLimits,
    load_solver,
    make_solver,
    place_exactly,
)
from hocket.compiler.attention.memory.liveness import (
    LiveRange,
    live_ranges,
    live_ranges_in_time,
    max_live_bytes,
)
from hocket.compiler.attention.memory.placement import (
    buffer_bytes,
    peak_bytes,
    place_best,
    place_buffers,
    place_by_area,
    place_by_size,
)
from hocket.compiler.attention.memory.planner import compact, in_order, plan_memory
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.happens_before import HappensBefore
from hocket.hwmodels.interpreter import interpret
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Buffer, Program, Schedule
from hocket.hwmodels.simulate import simulate
from hocket.hwmodels.tasks import Block, Operation, Slice, Task
from hocket.hwmodels.verify import verify_program

Buffers = NDArray[np.int64]
Ranges = list[LiveRange | None]
Case = tuple[Buffers, Ranges]

MACHINE = dataclasses.replace(load_target("mas-edge"), element_bytes=1, alignment_bytes=4)
WAYS = (place_buffers, place_by_size, place_by_area)
QUICK = PlacementLimits(effort=Effort(0.5))


@st.composite
def cases(draw: st.DrawFn, max_buffers: int = 12) -> Case:
    """Sizes and live ranges of a few buffers; some are never needed."""
    number = draw(st.integers(1, max_buffers))
    sizes = draw(st.lists(st.integers(1, 40), min_size=number, max_size=number))
    ranges: Ranges = []
    for _ in range(number):
        first = draw(st.integers(0, 15))
        is_needed = draw(st.integers(0, 9)) > 0
        ranges.append(LiveRange(first, first + draw(st.integers(0, 8))) if is_needed else None)
    return np.array([[0, 1, size] for size in sizes], dtype=np.int64), ranges


@st.composite
def programs(draw: st.DrawFn) -> tuple[AttentionProblem, HardwareModel, Program]:
    """A problem, a machine and a program for it, whatever the tiling; it fits the machine."""
    problem = draw(problems(max_length=24, max_dim=6))
    machine = draw(machines())
    dataflow = DATAFLOWS[draw(st.sampled_from(sorted(DATAFLOWS)))]
    tiling = draw(tilings(problem, machine, dataflow))
    demand = sum(layout.demand(tiling, problem, dataflow, machine).values())
    assume(demand <= machine.on_chip_memory.capacity_bytes)
    program = build_program(problem, tiling, dataflow, machine)
    assume(program.schedule.num_tasks < 3000)
    return problem, machine, program


def with_capacity(capacity: int) -> HardwareModel:
    memory = dataclasses.replace(MACHINE.on_chip_memory, capacity_bytes=capacity)
    return dataclasses.replace(MACHINE, on_chip_memory=memory)


def assert_is_placement(case: Case, places: Buffers, machine: HardwareModel) -> None:
    buffers, ranges = case
    ends = places.sum(axis=1)
    assert (places[:, 1] >= buffers[:, 1] * buffers[:, 2] * machine.element_bytes).all()
    assert (places[:, 0] % machine.alignment_bytes == 0).all()
    assert (places[:, 0] >= 0).all()
    assert (ends <= machine.on_chip_memory.capacity_bytes).all()
    for one, other in itertools.combinations(range(len(buffers)), 2):
        first, second = ranges[one], ranges[other]
        if first is not None and second is not None and first.overlaps(second):
            assert ends[one] <= places[other, 0] or ends[other] <= places[one, 0]


def least_bytes(case: Case) -> int:
    sizes = buffer_bytes(case[0], MACHINE)
    # One that is never needed lies at address 0 and takes its bytes all the same.
    return max(max_live_bytes(sizes, case[1]), *sizes)


def best_of_all_orders(case: Case) -> int:
    """The least peak, by brute force: some order of laying each as low as it goes is optimal."""
    buffers, ranges = case
    sizes = buffer_bytes(buffers, MACHINE)
    alive = [(index, live) for index, live in enumerate(ranges) if live is not None]
    best = sum(sizes)
    for order in itertools.permutations(alive):
        laid: list[tuple[int, int, LiveRange]] = []
        for index, live in order:
            offset = 0
            for low, high, other in sorted(laid, key=lambda each: each[0]):
                if live.overlaps(other) and low < offset + sizes[index] and offset < high:
                    offset = high
            laid.append((offset, offset + sizes[index], live))
        best = min(best, max((high for _, high, _ in laid), default=0))
    return max(best, *sizes)


@given(cases())
def test_heuristics_never_let_live_buffers_overlap(case: Case) -> None:
    for place in (*WAYS, place_best):
        places = place(*case, MACHINE)
        assert_is_placement(case, places, MACHINE)
        assert peak_bytes(places) >= least_bytes(case)


@given(cases())
def test_the_best_of_all_ways_is_no_worse_than_any(case: Case) -> None:
    peaks = [peak_bytes(place(*case, MACHINE)) for place in WAYS]
    assert peak_bytes(place_best(*case, MACHINE)) == min(peaks)


@settings(max_examples=50)
@given(cases())
def test_the_exact_placement_lies_between_what_is_alive_and_the_heuristics(case: Case) -> None:
    exact = place_exactly(*case, MACHINE, QUICK)
    assert_is_placement(case, exact.places, MACHINE)
    assert peak_bytes(exact.places) == exact.peak_bytes
    assert least_bytes(case) <= exact.bound_bytes <= exact.peak_bytes
    assert exact.peak_bytes <= peak_bytes(place_best(*case, MACHINE))


@settings(max_examples=40)
@given(cases(max_buffers=5))
def test_the_exact_placement_is_the_best_of_all_orders(case: Case) -> None:
    exact = place_exactly(*case, MACHINE, QUICK)
    assert exact.is_optimal
    assert exact.peak_bytes == best_of_all_orders(case)


@settings(max_examples=30)
@given(cases(max_buffers=8))
def test_the_exact_placement_fits_where_its_own_peak_is_all_there_is(case: Case) -> None:
    exact = place_exactly(*case, MACHINE, QUICK)
    tight = with_capacity(exact.peak_bytes)
    again = place_exactly(*case, tight, QUICK)
    assert_is_placement(case, again.places, tight)
    if exact.is_optimal and exact.peak_bytes > MACHINE.alignment_bytes:
        with pytest.raises(InfeasibleError, match="no placement of these buffers"):
            place_exactly(*case, with_capacity(exact.peak_bytes - 1), QUICK)


def test_linear_scan_wastes_where_the_exact_placement_does_not() -> None:
    # The second buffer leaves a hole that is too small for the fourth.
    sizes = np.array([[0, 1, 8], [0, 1, 4], [0, 1, 8], [0, 1, 12]], dtype=np.int64)
    ranges: Ranges = [LiveRange(0, 1), LiveRange(0, 3), LiveRange(1, 2), LiveRange(2, 4)]
    peaks = [
        peak_bytes(place_buffers(sizes, ranges, MACHINE)),
        place_exactly(sizes, ranges, MACHINE, QUICK).peak_bytes,
        max_live_bytes(buffer_bytes(sizes, MACHINE), ranges),
    ]
    assert peaks == [32, 24, 24]


def test_some_live_ranges_need_more_than_is_ever_alive() -> None:
    # Found by drawing at random; at each moment exactly 20 bytes are alive.
    lives = (
        (8, 0, 0),
        (12, 0, 1),
        (4, 1, 2),
        (4, 2, 2),
        (4, 1, 3),
        (8, 2, 3),
        (8, 3, 5),
        (12, 4, 5),
    )
    sizes = np.array([[0, 1, size] for size, _, _ in lives], dtype=np.int64)
    ranges: Ranges = [LiveRange(first, last) for _, first, last in lives]
    exact = place_exactly(sizes, ranges, MACHINE, QUICK)
    assert_is_placement((sizes, ranges), exact.places, MACHINE)
    assert (max_live_bytes([size for size, _, _ in lives], ranges), exact.peak_bytes) == (20, 24)
    assert exact.is_optimal
    with pytest.raises(InfeasibleError, match="no other exists in less"):
        place_exactly(sizes, ranges, with_capacity(20), QUICK)


def test_the_same_placement_is_found_on_every_run() -> None:
    """A hundred buffers, more than can be placed for good in so little time."""
    generator = np.random.default_rng(0)
    sizes = np.array([[0, 1, size] for size in generator.integers(1, 60, 100)], dtype=np.int64)
    firsts = generator.integers(0, 100, 100)
    ranges: Ranges = [
        LiveRange(first, first + length)
        for first, length in zip(
            firsts.tolist(), generator.integers(1, 40, 100).tolist(), strict=True
        )
    ]
    limits = PlacementLimits(effort=Effort(0.1))
    one, other = (place_exactly(sizes, ranges, MACHINE, limits, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.places, other.places)
    assert one.bound_bytes == other.bound_bytes
    assert not make_solver(limits.effort, 5, packs=True).parameters.use_lns


def test_what_finds_no_room_is_reported_with_what_lives_beside_it() -> None:
    sizes = np.array([[0, 1, 8], [1, 1, 12]], dtype=np.int64)
    ranges: Ranges = [LiveRange(0, 1), LiveRange(1, 2)]
    for place in (*WAYS, place_best):
        with pytest.raises(InfeasibleError) as caught:
            place(sizes, ranges, with_capacity(16))
        assert "no room on chip for a" in str(caught.value)
        assert "bound: 16 bytes" in caught.value.report
        assert any(line.startswith("gap: ") for line in caught.value.report)


def test_exact_placement_names_its_limit_and_the_way_out() -> None:
    sizes = np.array([[0, 1, 8]] * 3, dtype=np.int64)
    ranges: Ranges = [LiveRange(0, 1)] * 3
    with pytest.raises(ValueError, match=r"up to 2 buffers, got 3; raise .*max_buffers"):
        place_exactly(sizes, ranges, MACHINE, PlacementLimits(max_buffers=2))


def test_without_the_solver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(ImportError, match=r"pip install 'hocket\[exact\]'"):
        load_solver()


def test_memory_is_free_for_who_starts_when_it_is_given_back() -> None:
    loads = [
        Task(
            Operation.LOAD,
            core=0,
            reads=(),
            writes=(Block(buffer, 0, 0, 2, 2),),
            outer=Slice("query", 0, 2 * buffer, 0, 2, 2),
        )
        for buffer in range(3)
    ]
    schedule = Schedule.from_tasks(loads, [Buffer("query", 2, 2)] * 3)
    # The second one takes no time, and still comes between the others.
    starts, finishes = np.array([0.0, 5.0, 5.0]), np.array([5.0, 5.0, 9.0])
    first, second, third = live_ranges_in_time(schedule, starts, finishes)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.last < second.first
    assert second.last < third.first


@given(programs(), st.integers(0, 2**32 - 1))
def test_compact_programs_give_the_same_numbers_in_less_memory_and_no_more_time(
    made: tuple[AttentionProblem, HardwareModel, Program], seed: int
) -> None:
    problem, machine, program = made
    compacted = compact(program, machine)
    verify_program(compacted, machine)
    assert compacted.peak_on_chip_bytes <= program.peak_on_chip_bytes
    cycles = [simulate(each, machine).cycles for each in (program, compacted)]
    assert cycles[1] <= cycles[0] * (1 + 1e-12)  # sums of floats in the same order, nearly
    results = []
    for each in (program, compacted):
        tensors = make_tensors(problem, seed)
        interpret(each, machine, tensors)
        results.append(tensors["output"])
    np.testing.assert_array_equal(*results)


@given(programs(), st.integers(0, 2**32 - 1))
def test_a_schedule_without_addresses_gets_them_and_the_waits_they_ask_for(
    made: tuple[AttentionProblem, HardwareModel, Program], seed: int
) -> None:
    problem, machine, program = made
    schedule = in_order(program.schedule, np.arange(program.schedule.num_tasks))
    schedule = wt.with_waits(schedule, wt.data_waits(schedule))
    sizes = buffer_bytes(schedule.buffers, machine)
    try:
        planned = plan_memory(schedule, machine)
    except InfeasibleError:
        # Slots held them, so it is scattered gaps that a linear scan fails for.
        assert max_live_bytes(sizes, live_ranges(schedule)) <= program.peak_on_chip_bytes
        return
    verify_program(planned, machine)
    tensors = make_tensors(problem, seed)
    interpret(planned, machine, tensors)
    np.testing.assert_allclose(
        tensors["output"], reference_attention(problem, tensors), rtol=1e-9, atol=1e-9
    )


@given(programs())
def test_waits_found_anew_are_no_more_than_needed(
    made: tuple[AttentionProblem, HardwareModel, Program],
) -> None:
    """Each of them can be taken away only by breaking the program: none is implied by others."""
    _, machine, program = made
    assume(program.schedule.num_tasks < 60)
    schedule = program.schedule
    pairs = np.concatenate([wt.data_waits(schedule), wt.takeover_waits(schedule, program.places)])
    found = wt.with_waits(schedule, pairs)
    verify_program(Program(found, program.places), machine)
    kept = wt.wait_pairs(found)
    for index, (task, wait) in enumerate(kept.tolist()):
        without = wt.with_waits(found, np.delete(kept, index, axis=0))
        assert not HappensBefore(without).is_ordered(wait, task)
