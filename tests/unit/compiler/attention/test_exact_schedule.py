"""Exact schedules: solver, simulator and verifier must agree on what a program takes."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from support.problems import make_tensors, reference_attention

from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.memory.exact import Effort
from hocket.compiler.attention.memory.planner import compact
from hocket.compiler.attention.memory.waits import overlapping_transfers
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search import exact_schedule
from hocket.compiler.attention.search.exact_schedule import (
    ExactSchedule,
    Limits,
    as_program,
    prove_bound,
    schedule_exactly,
)
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.interpreter import interpret
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.simulate import simulate
from hocket.hwmodels.tasks import Operation
from hocket.hwmodels.verify import verify_program

QUICK = Limits(effort=Effort(1.0))


def small_machine(
    num_cores: int = 1,
    lanes: int = 16,
    latency_cycles: int = 100,
    *,
    concurrent: bool = True,
    write_port: bool = False,
) -> HardwareModel:
    base = load_target("mas-edge")
    return dataclasses.replace(
        base,
        num_cores=num_cores,
        has_concurrent_units=concurrent,
        vector_unit=dataclasses.replace(base.vector_unit, lanes=lanes),
        dma=dataclasses.replace(
            base.dma, latency_cycles=latency_cycles, has_separate_write_port=write_port
        ),
    )


def with_capacity(machine: HardwareModel, capacity: int) -> HardwareModel:
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=capacity)
    return dataclasses.replace(machine, on_chip_memory=memory)


def small_problem(heads: int = 1, length: int = 32, dim: int = 16) -> AttentionProblem:
    return AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)


def small_program(
    dataflow: str, machine: HardwareModel, problem: AttentionProblem | None = None
) -> Program:
    flow = DATAFLOWS[dataflow]
    tiling = Tiling(
        query_rows=16,
        kv_columns=16,
        resident_tiles=4,
        live_blocks=max(flow.live_blocks) if flow.live_blocks[0] > 1 else flow.live_blocks[-1],
        softmax=flow.softmaxes[-1],
    )
    return build_program(problem or small_problem(), tiling, flow, machine)


MACHINES = {
    "one core": small_machine(),
    "two cores": small_machine(num_cores=2, lanes=64),
    "write port": small_machine(latency_cycles=7, write_port=True),
    "units in turn": small_machine(concurrent=False),
    "no latency": small_machine(latency_cycles=0, lanes=8),
}


def assert_is_attention(
    program: Program, machine: HardwareModel, problem: AttentionProblem
) -> None:
    verify_program(program, machine)
    tensors = make_tensors(problem, seed=0)
    interpret(program, machine, tensors)
    np.testing.assert_allclose(
        tensors["output"], reference_attention(problem, tensors), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
def test_with_its_order_kept_a_program_takes_what_the_simulator_says(
    dataflow: str, machine: HardwareModel
) -> None:
    program = small_program(dataflow, machine, small_problem(heads=2))
    exact = schedule_exactly(program, machine, QUICK, keeps_order=True)
    timeline = simulate(program, machine)
    assert exact.is_optimal
    assert exact.makespan_cycles == exact.bound_cycles == timeline.cycles
    # The simulator starts everything as soon as it can.
    assert (timeline.starts <= exact.starts_cycles).all()


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
def test_a_free_order_lies_between_the_bounds_and_the_program(
    dataflow: str, machine: HardwareModel
) -> None:
    problem = small_problem()
    program = small_program(dataflow, machine, problem)
    exact = schedule_exactly(program, machine, QUICK)
    given = simulate(program, machine).cycles
    assert lower_bounds(problem, machine).cycles <= exact.bound_cycles
    assert exact.bound_cycles <= exact.makespan_cycles <= given
    better = as_program(exact)
    assert_is_attention(better, machine, problem)
    assert exact.bound_cycles <= simulate(better, machine).cycles <= exact.makespan_cycles
    bound = prove_bound(program, machine, QUICK)
    assert bound.program_cycles == given
    assert bound.bound_cycles <= simulate(better, machine).cycles
    assert bound.is_tight == exact.is_optimal


def test_the_optimum_is_the_best_of_all_orders() -> None:
    """By brute force, and without any of the solver's code."""
    for machine in (MACHINES["one core"], MACHINES["write port"], MACHINES["units in turn"]):
        for dataflow in ("flat", "mas"):
            tiling = Tiling(16, 32, 2, live_blocks=max(DATAFLOWS[dataflow].live_blocks))
            program = build_program(small_problem(), tiling, DATAFLOWS[dataflow], machine)
            exact = schedule_exactly(program, machine, QUICK)
            assert exact.is_optimal
            assert exact.makespan_cycles == best_of_all_orders(program.schedule, machine)


def best_of_all_orders(schedule: Schedule, machine: HardwareModel) -> float:
    """The least time of any order of tasks, tried one by one; memory is not looked at.

    Whoever reads a buffer comes after all who write it before, and whoever works in place after all
    who filled it; this holds for programs without masks, spills and reloads.
    """
    cycles = task_costs(schedule, machine).cycles.tolist()
    tasks = schedule.tasks
    before: list[set[int]] = [set() for _ in tasks]
    for second, task in enumerate(tasks):
        for first, other in enumerate(tasks[:second]):
            mine = {block.buffer for block in task.blocks}
            if task.operation is Operation.SCORES and other.operation is Operation.SCORES:
                continue
            if mine & {block.buffer for block in other.writes}:
                before[second].add(first)
    latency = [machine.dma.latency_cycles if task.unit.is_transfer else 0 for task in tasks]

    def resource(index: int) -> str:
        task = tasks[index]
        if task.unit.is_transfer:
            return task.unit.value if machine.dma.has_separate_write_port else "port"
        return task.unit.value if machine.has_concurrent_units else "core"

    best = sum(cycles) + sum(latency)
    left = {index: cycles[index] for index in range(len(tasks))}

    def extend(finish: dict[int, float], free: dict[str, float], latest: float) -> None:
        nonlocal best
        if len(finish) == len(tasks):
            best = min(best, latest)
            return
        rest: dict[str, float] = {}
        for index, work in left.items():
            if index not in finish:
                rest[resource(index)] = rest.get(resource(index), 0.0) + work
        if max(free.get(name, 0.0) + work for name, work in rest.items()) >= best:
            return
        for index in range(len(tasks)):
            if index in finish or not before[index] <= finish.keys():
                continue
            name = resource(index)
            start = max([free.get(name, 0.0), *(finish[first] for first in before[index])])
            end = start + cycles[index]
            if end + latency[index] < best:
                extend(
                    {**finish, index: end + latency[index]},
                    {**free, name: end},
                    max(latest, end + latency[index]),
                )

    extend({}, {}, 0.0)
    return best


@pytest.mark.parametrize(
    ("dataflow", "num_cores", "lanes", "length", "most"),
    [
        ("mas", 1, 64, 64, 0.0),
        ("mas", 1, 16, 64, 0.0),
        ("mas", 2, 256, 128, 0.03),
        ("hocket", 1, 16, 64, 0.0),
        ("hocket", 2, 16, 64, 0.03),
        ("hocket", 2, 64, 128, 0.03),
    ],
)
def test_our_order_is_close_to_the_best_one_for_its_tiles(
    dataflow: str, num_cores: int, lanes: int, length: int, most: float
) -> None:
    machine = small_machine(num_cores, lanes)
    program = lower_attention(small_problem(length=length), machine, dataflow=dataflow).best.program
    bound = prove_bound(program, machine, Limits(effort=Effort(2.0)))
    assert 0 <= bound.excess <= most, str(bound)


def test_sequential_fusion_is_far_from_it() -> None:
    """So the bound tells orders apart: taking turns wastes what the tiles would allow."""
    machine = small_machine(lanes=16)
    program = lower_attention(small_problem(length=64), machine, dataflow="flat").best.program
    bound = prove_bound(program, machine, QUICK)
    assert bound.is_tight
    assert bound.excess > 0.1
    assert "above the optimum" in str(bound)


def test_masks_causality_stacked_heads_and_split_keys_survive() -> None:
    machine = small_machine(num_cores=2)
    problem = AttentionProblem(
        1, 2, 1, 32, 32, 16, 16, DType.FLOAT16, 0.25, MaskKind.ADDITIVE, (1, 2, 32, 32),
        is_causal=True,
    )  # fmt: skip
    for softmax, split in ((Softmax.ONLINE, Split.KEYS), (Softmax.DEFERRED, Split.ROWS)):
        tiling = Tiling(16, 16, 2, heads=2, softmax=softmax, split=split)
        program = build_program(problem, tiling, DATAFLOWS["hocket"], machine)
        exact = schedule_exactly(program, machine, QUICK)
        assert_is_attention(as_program(exact), machine, problem)


def test_what_goes_to_dram_is_there_before_it_is_loaded_back() -> None:
    machine = small_machine(latency_cycles=0)
    program = small_program("layerwise", machine)
    better = as_program(schedule_exactly(program, machine, QUICK))
    starts, ends = simulate(better, machine).starts, simulate(better, machine).ends
    pairs = overlapping_transfers(better.schedule.table.rows)
    assert len(pairs)
    assert (ends[pairs[:, 1]] <= starts[pairs[:, 0]]).all()


def tight_case() -> tuple[AttentionProblem, HardwareModel, Program]:
    """A program that fills the memory of its machine to the last byte."""
    problem = small_problem(length=48)
    roomy = small_machine(lanes=32)
    program = compact(small_program("hocket", roomy, problem), roomy)
    return problem, with_capacity(roomy, program.peak_on_chip_bytes), program


def test_scarce_memory_is_kept_to() -> None:
    problem, machine, program = tight_case()
    exact = schedule_exactly(program, machine, QUICK)
    better = as_program(exact)
    assert_is_attention(better, machine, problem)
    assert better.peak_on_chip_bytes <= program.peak_on_chip_bytes
    roomy = with_capacity(machine, 1 << 20)
    free = schedule_exactly(program, roomy, QUICK)
    assert free.bound_cycles <= exact.makespan_cycles <= simulate(program, machine).cycles


def test_where_live_buffers_find_no_addresses_these_are_searched_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, machine, program = tight_case()
    usual = schedule_exactly(program, machine, QUICK)
    monkeypatch.setattr(exact_schedule, "_place", lambda *_: None)
    exact = schedule_exactly(program, machine, QUICK)
    better = as_program(exact)
    assert_is_attention(better, machine, problem)
    assert usual.bound_cycles <= exact.makespan_cycles <= simulate(program, machine).cycles
    assert simulate(better, machine).cycles <= exact.makespan_cycles


def test_cycles_without_a_common_step_are_rounded_up_and_bounds_down() -> None:
    base = small_machine(num_cores=2)
    machine = dataclasses.replace(
        base,
        vector_unit=dataclasses.replace(base.vector_unit, exp_lane_cycles=3.14159265, lanes=7),
        dma=dataclasses.replace(base.dma, bandwidth_bytes_per_second=28.7654321e9),
    )
    problem = small_problem()
    program = small_program("mas", machine, problem)
    kept = schedule_exactly(program, machine, QUICK, keeps_order=True)
    given = simulate(program, machine).cycles
    assert kept.bound_cycles <= given <= kept.makespan_cycles
    assert kept.makespan_cycles == pytest.approx(kept.bound_cycles, rel=1e-5)
    exact = schedule_exactly(program, machine, QUICK)
    best = simulate(as_program(exact), machine).cycles
    assert exact.bound_cycles <= best <= exact.makespan_cycles
    bound = prove_bound(program, machine, QUICK)
    assert bound.bound_cycles <= best
    assert bound.bound_cycles == pytest.approx(exact.bound_cycles, rel=1e-5)


def test_the_same_question_has_the_same_answer() -> None:
    machine = small_machine(num_cores=2)
    program = small_program("hocket", machine, small_problem(length=48))
    first, second = (schedule_exactly(program, machine, QUICK, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.starts_cycles, second.starts_cycles)
    assert as_program(first) == as_program(second)
    assert (first.makespan_cycles, first.bound_cycles) == (
        second.makespan_cycles,
        second.bound_cycles,
    )


def test_it_reads_well() -> None:
    machine = small_machine()
    program = small_program("mas", machine)
    exact = schedule_exactly(program, machine, QUICK)
    assert str(exact).endswith("cycles, optimal")
    unproved: ExactSchedule = dataclasses.replace(exact, is_optimal=False)
    assert "bound" in str(unproved)


def test_too_long_a_program_is_refused_with_the_way_out() -> None:
    machine = small_machine()
    program = small_program("mas", machine)
    for ask in (schedule_exactly, prove_bound):
        with pytest.raises(ValueError, match=r"up to 5 tasks, the program has .*Limits.max_tasks"):
            ask(program, machine, Limits(max_tasks=5))


def test_a_malformed_program_is_refused() -> None:
    machine = small_machine()
    program = small_program("mas", machine)
    places = np.zeros_like(program.places)
    places[:, 1] = program.places[:, 1]
    with pytest.raises(ProgramError):
        schedule_exactly(Program(program.schedule, places), machine)


@pytest.mark.parametrize("effort", [{"work": 0.0}, {"seconds": 0.0}])
def test_no_effort_is_refused(effort: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Effort(**effort)


def test_without_the_solver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = small_machine()
    program = small_program("flat", machine)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(ImportError, match=r"pip install 'hocket\[exact\]'"):
        schedule_exactly(program, machine)
