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
from hocket.compiler.attention.memory.liveness import live_ranges
from hocket.compiler.attention.schedule import layout, steps
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, Dataflow
from hocket.compiler.attention.schedule.steps import PIPELINE
from hocket.compiler.attention.search.closed_forms import closed_forms
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.attention.tiling import Softmax, Split
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.interpreter import interpret
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.program_json import program_from_json, program_to_json
from hocket.hwmodels.simulate import estimate_program, simulate, task_costs
from hocket.hwmodels.tasks import Unit
from hocket.hwmodels.verify import verify_program

dataflow_names = st.sampled_from(sorted(DATAFLOWS))
# In these nothing waits but for data or for memory; others also keep step.
free_running = st.sampled_from(
    sorted(name for name, dataflow in DATAFLOWS.items() if dataflow.pace == PIPELINE)
)


@st.composite
def programs(
    draw: st.DrawFn, names: st.SearchStrategy[str] = dataflow_names
) -> tuple[AttentionProblem, HardwareModel, Program]:
    """A problem, a machine and a program for it, whatever the tiling; it fits the machine."""
    problem = draw(problems(max_length=20))
    machine = draw(machines())
    dataflow = DATAFLOWS[draw(names)]
    tiling = draw(tilings(problem, machine, dataflow))
    demand = sum(layout.demand(tiling, problem, dataflow, machine).values())
    assume(demand <= machine.on_chip_memory.capacity_bytes)
    return problem, machine, build_program(problem, tiling, dataflow, machine)


@st.composite
def own_dataflows(draw: st.DrawFn) -> Dataflow:
    """Any dataflow that a user can write down, at each pace."""
    flags = ("skips_future", "stacks_heads", "tapers", "fills", "overwrites")
    base = DATAFLOWS[draw(st.sampled_from(["mas", "tileflow", "layerwise", "soft_pipe"]))]
    least = min(base.live_blocks) if base.pace == steps.LOCK_STEP else 1
    softmaxes, splits = base.softmaxes, base.splits
    if base.pace == PIPELINE:
        softmaxes = tuple(draw(st.sets(st.sampled_from(Softmax), min_size=1)))
        # The first can always be followed, the others where softmax and machine let them.
        splits = (Split.HEADS, *draw(st.sets(st.sampled_from([Split.ROWS, Split.KEYS]))))
    return dataclasses.replace(
        base,
        name="own",
        softmaxes=softmaxes,
        splits=splits,
        live_blocks=tuple(sorted(draw(st.sets(st.integers(least, 5), min_size=1)))),
        **{name: draw(st.booleans()) for name in flags},
    )


@given(own_dataflows(), problems(max_length=20), machines(), st.integers(0, 2**32 - 1))
def test_every_dataflow_that_can_be_written_down_computes_attention(
    dataflow: Dataflow, problem: AttentionProblem, machine: HardwareModel, seed: int
) -> None:
    """And its bound holds: by it the exhaustive search leaves tilings out."""
    space = TilingSpace(problem, machine, dataflow)
    assume(len(space.legal))
    index = int(space.legal[seed % len(space.legal)])
    tiling = space.tiling(index)
    program = build_program(problem, tiling, dataflow, machine)
    verify_program(program, machine)
    tensors = make_tensors(problem, seed)
    interpret(program, machine, tensors, random_order(program.schedule, seed))
    expected = reference_attention(problem, tensors)
    np.testing.assert_allclose(tensors["output"], expected, rtol=1e-9, atol=1e-9)
    estimate, _ = estimate_program(program, machine, lower_bounds(problem, machine).cycles)
    least = float(closed_forms(space, space.arrays).least_cycles[index])
    assert least <= estimate.cycles * (1 + 1e-9)


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
    alive = np.array([(live.first, live.last) for live in ranges if live is not None])
    places = program.places[[index for index, live in enumerate(ranges) if live is not None]]
    in_time = (alive[:, :1] <= alive[:, 1]) & (alive[:, 0] <= alive[:, 1:])
    ends = places.sum(axis=1)
    in_space = (places[:, :1] < ends) & (places[:, 0] < ends[:, None])
    np.testing.assert_array_equal(in_time & in_space, np.eye(len(places), dtype=bool))
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
        assert costs.cycles[list(stream.tasks)].sum() <= estimate.cycles * slack
    latencies = machine.dma.latency_cycles * sum(
        task.unit.is_transfer for task in program.schedule.tasks
    )
    assert estimate.cycles <= (costs.cycles.sum() + latencies) * slack
    assert bounds.cycles <= estimate.cycles * slack
    assert estimate.dram_bytes >= compulsory_bytes(problem, machine)
    assert estimate.joules >= costs.joules.sum() / slack


@given(programs())
def test_no_task_starts_before_what_it_waits_for(
    made: tuple[AttentionProblem, HardwareModel, Program],
) -> None:
    _, machine, program = made
    timeline = simulate(program, machine)
    ports: dict[Unit, list[tuple[float, float]]] = {Unit.LOAD: [], Unit.STORE: []}
    for task, span in zip(program.schedule.tasks, timeline.spans, strict=True):
        for wait in task.waits:
            assert timeline.spans[wait].finish <= span.start
        if task.unit.is_transfer:
            shared = not machine.dma.has_separate_write_port
            ports[Unit.LOAD if shared else task.unit].append((span.start, span.end))
    for stream in program.schedule.streams:
        for before, after in zip(stream.tasks, stream.tasks[1:], strict=False):
            assert timeline.spans[before].end <= timeline.spans[after].start
    for port in ports.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(port)):
            assert end <= start + 1e-6
    if not machine.has_concurrent_units:
        costs = task_costs(program.schedule, machine).cycles
        compute = [
            cycles
            for task, cycles in zip(program.schedule.tasks, costs.tolist(), strict=True)
            if task.core == 0 and not task.unit.is_transfer
        ]
        assert timeline.cycles >= sum(compute) / (1 + 1e-9)


@given(programs())
def test_programs_survive_json(made: tuple[AttentionProblem, HardwareModel, Program]) -> None:
    _, _, program = made
    assert program_from_json(program_to_json(program)) == program


@given(programs(free_running), st.randoms(use_true_random=False))
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
    schedule = program.schedule
    mutant = Program.from_placements(
        Schedule.from_tasks(tasks, schedule.buffer_list, schedule.softmax), program.placements
    )
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
