"""Laws of schedules, programs and simulation over random problems, machines and tilings."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.problems import machines, make_tensors, problems, reference_attention, tilings

from hocket.compiler.attention.bounds import compulsory_bytes, lower_bounds
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.memory.liveness import live_ranges
from hocket.compiler.attention.memory.planner import plan_memory
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.tiling import TilingSpace
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.interpreter import interpret
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Program, Schedule, Unit
from hocket.hwmodels.program_json import program_from_json, program_to_json
from hocket.hwmodels.simulate import estimate_program, simulate, task_costs
from hocket.hwmodels.verify import verify_program, verify_schedule

dataflow_names = st.sampled_from(sorted(DATAFLOWS))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[AttentionProblem, HardwareModel, Schedule]:
    """A problem, a machine and a schedule for it, whatever the tiling."""
    problem = draw(problems())
    machine = draw(machines())
    tiling = draw(tilings(problem, machine))
    schedule = DATAFLOWS[draw(dataflow_names)].build(problem, tiling, machine)
    return problem, machine, schedule


def plan_or_none(schedule: Schedule, machine: HardwareModel) -> Program | None:
    try:
        return plan_memory(schedule, machine)
    except InfeasibleError:
        return None


@st.composite
def programs(draw: st.DrawFn) -> tuple[AttentionProblem, HardwareModel, Program]:
    """A problem, a machine and a program for it; a schedule that finds no room is drawn anew."""
    problem, machine, schedule = draw(schedules())
    verify_schedule(schedule, machine)
    program = plan_or_none(schedule, machine)
    assume(program is not None)
    assert program is not None
    return problem, machine, program


def random_order(schedule: Schedule, seed: int) -> list[int]:
    """An order that keeps streams and waits, and is otherwise as odd as chance makes it."""
    generator = random.Random(seed)
    favourites = {stream: generator.random() for stream in schedule.streams}
    pending = {}
    dependents: list[list[int]] = [[] for _ in schedule.tasks]
    for stream in schedule.streams:
        for before, after in zip((-1, *stream.tasks), stream.tasks, strict=False):
            waits = {*schedule.tasks[after].waits, *({before} if before >= 0 else ())}
            pending[after] = len(waits)
            for wait in waits:
                dependents[wait].append(after)
    weight = {index: favourites[stream] for stream in schedule.streams for index in stream.tasks}
    ready = [(weight[index], index) for index, count in pending.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(index)
        for dependent in dependents[index]:
            pending[dependent] -= 1
            if not pending[dependent]:
                heapq.heappush(ready, (weight[dependent], dependent))
    return order


@given(programs(), st.integers(0, 2**32 - 1))
def test_every_dataflow_with_every_tiling_computes_attention(
    made: tuple[AttentionProblem, HardwareModel, Program], seed: int
) -> None:
    problem, machine, program = made
    verify_program(program, machine)
    tensors = make_tensors(problem, seed)
    expected = reference_attention(problem, tensors)
    for order in (None, random_order(program.schedule, seed)):
        tensors["output"][...] = 7.0
        interpret(program, machine, tensors, order)
        np.testing.assert_allclose(tensors["output"], expected, rtol=1e-9, atol=1e-9)


@given(programs())
def test_buffers_alive_together_never_share_addresses(
    made: tuple[AttentionProblem, HardwareModel, Program],
) -> None:
    _, machine, program = made
    ranges = live_ranges(program.schedule)
    for one, first in enumerate(ranges):
        for other in range(one):
            second = ranges[other]
            if first is None or second is None or not first.overlaps(second):
                continue
            a, b = program.placements[one], program.placements[other]
            assert a.end_bytes <= b.offset_bytes or b.end_bytes <= a.offset_bytes
    assert program.peak_on_chip_bytes <= machine.on_chip_memory.capacity_bytes


@given(programs())
def test_simulated_time_lies_between_each_units_bound_and_the_sum_of_all_tasks(
    made: tuple[AttentionProblem, HardwareModel, Program],
) -> None:
    problem, machine, program = made
    bounds = lower_bounds(problem, machine)
    estimate, _ = estimate_program(program, machine, bounds.cycles)
    costs = task_costs(program.schedule, machine)
    slack = 1 + 1e-9
    for stream in program.schedule.streams:
        assert sum(costs[index].cycles for index in stream.tasks) <= estimate.cycles * slack
    latencies = machine.dma.latency_cycles * sum(
        task.unit is Unit.DMA for task in program.schedule.tasks
    )
    assert estimate.cycles <= (sum(cost.cycles for cost in costs) + latencies) * slack
    assert bounds.cycles <= estimate.cycles * slack
    assert estimate.dram_bytes >= compulsory_bytes(problem, machine)
    assert estimate.joules >= sum(cost.joules for cost in costs) / slack


@given(programs())
def test_no_task_starts_before_what_it_waits_for(
    made: tuple[AttentionProblem, HardwareModel, Program],
) -> None:
    _, machine, program = made
    timeline = simulate(program, machine)
    port: list[tuple[float, float]] = []
    for task, span in zip(program.schedule.tasks, timeline.spans, strict=True):
        for wait in task.waits:
            assert timeline.spans[wait].finish <= span.start
        if task.unit is Unit.DMA:
            port.append((span.start, span.end))
    for stream in program.schedule.streams:
        for before, after in zip(stream.tasks, stream.tasks[1:], strict=False):
            assert timeline.spans[before].end <= timeline.spans[after].start
    port.sort()
    for (_, end), (start, _) in itertools.pairwise(port):
        assert end <= start + 1e-6
    if not machine.has_concurrent_units:
        assert timeline.cycles >= sum(
            cost.cycles
            for task, cost in zip(
                program.schedule.tasks, task_costs(program.schedule, machine), strict=True
            )
            if task.core == 0 and task.unit is not Unit.DMA
        ) / (1 + 1e-9)


@given(programs())
def test_programs_survive_json(made: tuple[AttentionProblem, HardwareModel, Program]) -> None:
    _, _, program = made
    assert program_from_json(program_to_json(program)) == program


@given(programs(), st.randoms(use_true_random=False))
def test_a_dropped_wait_is_found(
    made: tuple[AttentionProblem, HardwareModel, Program], generator: random.Random
) -> None:
    """A wait that nothing else implies is needed: without it, verify must refuse the program."""
    _, machine, program = made
    tasks = list(program.schedule.tasks)
    index = generator.choice([i for i, task in enumerate(tasks) if task.waits])
    waits = tasks[index].waits
    dropped = generator.choice(waits)
    tasks[index] = dataclasses.replace(
        tasks[index], waits=tuple(wait for wait in waits if wait != dropped)
    )
    mutant = Program(Schedule(tuple(tasks), program.schedule.buffers), program.placements)
    if _is_implied(mutant.schedule, dropped, index):
        verify_program(mutant, machine)
    else:
        with pytest.raises(ProgramError):
            verify_program(mutant, machine)


def _is_implied(schedule: Schedule, before: int, after: int) -> bool:
    """Whether ``before`` reaches ``after`` through streams and waits; by plain search."""
    previous: dict[int, int] = {}
    for stream in schedule.streams:
        previous.update(zip(stream.tasks[1:], stream.tasks, strict=False))
    seen, queue = set(), [after]
    while queue:
        index = queue.pop()
        befores = [*schedule.tasks[index].waits]
        if index in previous:
            befores.append(previous[index])
        for each in befores:
            if each == before:
                return True
            if each not in seen:
                seen.add(each)
                queue.append(each)
    return False


@given(problems(max_length=6, max_dim=4), machines(min_capacity=1 << 8), dataflow_names)
def test_infeasible_means_that_no_tiling_can_be_planned(
    problem: AttentionProblem, machine: HardwareModel, dataflow: str
) -> None:
    """Against brute force over the whole space."""
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=machine.alignment_bytes * 9)
    machine = dataclasses.replace(machine, on_chip_memory=memory)
    try:
        lower_attention(problem, machine, dataflow=dataflow, max_candidates=1)
    except InfeasibleError:
        assert not any(
            plan_or_none(
                DATAFLOWS[dataflow].build(
                    problem, dataclasses.replace(tiling, prefetch_tasks=0), machine
                ),
                machine,
            )
            for tiling in TilingSpace(problem, machine, DATAFLOWS[dataflow].num_live_row_blocks)
        )


@given(problems(), machines(min_capacity=1 << 14), dataflow_names)
def test_search_gives_a_verified_program_above_the_bound_and_the_same_each_time(
    problem: AttentionProblem, machine: HardwareModel, dataflow: str
) -> None:
    try:
        result = lower_attention(problem, machine, dataflow=dataflow, max_candidates=2)
    except InfeasibleError:
        return
    verify_program(result.best.program, machine)
    assert result.best.estimate.cycles >= result.best.estimate.bound_cycles / (1 + 1e-9)
    again = lower_attention(problem, machine, dataflow=dataflow, max_candidates=2)
    assert again == result
