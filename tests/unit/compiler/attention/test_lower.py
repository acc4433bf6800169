"""The attention wing on machines and problems of known outcome."""

from __future__ import annotations

import dataclasses

import pytest

from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, natural_dataflow
from hocket.compiler.attention.schedule.row_blocks import row_blocks, split_over_cores
from hocket.compiler.attention.tiling import Tiling, TilingSpace, illegality, on_chip_demand
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Operation, Unit
from hocket.hwmodels.simulate import simulate


def make_problem(heads: int = 8, length: int = 256, dim: int = 64) -> AttentionProblem:
    return AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)


def with_vector_cost(lane_cycles: float) -> HardwareModel:
    machine = load_target("mas-edge")
    vector = dataclasses.replace(machine.vector_unit, exp_lane_cycles=lane_cycles - 4.0)
    return dataclasses.replace(machine, vector_unit=vector)


@pytest.mark.parametrize("lane_cycles", [5.0, 40.0, 128.0])
def test_dual_stream_is_never_slower_than_flat_where_compute_binds(lane_cycles: float) -> None:
    machine = with_vector_cost(lane_cycles)
    problem = make_problem(length=512)
    ours = lower_attention(problem, machine, dataflow="dual_stream").best.estimate
    flat = lower_attention(problem, machine, dataflow="flat").best.estimate
    assert ours.cycles <= flat.cycles
    assert ours.cycles <= 1.15 * ours.bound_cycles


def test_two_voices_gain_most_where_both_have_as_much_to_do() -> None:
    """At 2 E V / M lane-cycles a score, overlap is worth up to a factor of two."""
    machine = with_vector_cost(128.0)
    problem = make_problem(heads=12, length=512)
    ours = lower_attention(problem, machine, dataflow="dual_stream").best.estimate
    flat = lower_attention(problem, machine, dataflow="flat").best.estimate
    assert flat.cycles / ours.cycles > 1.7
    assert ours.matrix_utilization > 0.9
    assert ours.vector_utilization > 0.9


def test_both_units_work_at_once_in_a_dual_stream_schedule_and_never_in_flat() -> None:
    machine = with_vector_cost(128.0)
    problem = make_problem(heads=2, length=128)
    overlaps = {}
    for dataflow in DATAFLOWS:
        program = lower_attention(problem, machine, dataflow=dataflow).best.program
        timeline = simulate(program, machine)
        spans = {Unit.MATRIX: [], Unit.VECTOR: []}
        for task, span in zip(program.schedule.tasks, timeline.spans, strict=True):
            if task.core == 0 and task.unit in spans:
                spans[task.unit].append((span.start, span.end))
        overlaps[dataflow] = sum(
            max(0.0, min(a_end, b_end) - max(a, b))
            for a, a_end in spans[Unit.MATRIX]
            for b, b_end in spans[Unit.VECTOR]
        )
    assert overlaps["flat"] == 0
    assert overlaps["dual_stream"] > 0


def test_scores_never_leave_the_chip() -> None:
    program = lower_attention(make_problem(), load_target("mas-edge")).best.program
    moved = {task.outer.tensor for task in program.schedule.tasks if task.outer is not None}
    assert moved == {"query", "key", "value", "output"}
    stored = {
        task.outer.tensor
        for task in program.schedule.tasks
        if task.operation is Operation.STORE and task.outer is not None
    }
    assert stored == {"output"}


def test_infeasible_names_resource_demand_bound_gap_and_levers() -> None:
    machine = load_target("mas-edge")
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=4096)
    with pytest.raises(InfeasibleError) as caught:
        lower_attention(
            make_problem(length=2048), dataclasses.replace(machine, on_chip_memory=memory)
        )
    words = [line.split(":")[0] for line in caught.value.report]
    assert words == ["resource", "demand", "bound", "gap", "levers"]
    assert "4096 bytes" in str(caught.value)


def test_an_unknown_dataflow_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="auto, dual_stream, flat"):
        lower_attention(make_problem(), load_target("mas-edge"), dataflow="flash")


def test_the_natural_dataflow_fills_the_units_there_are() -> None:
    assert natural_dataflow(load_target("mas-edge")).name == "dual_stream"
    assert natural_dataflow(load_target("host")).name == "flat"


def test_a_tiling_that_does_not_fit_says_what_takes_the_room() -> None:
    machine = load_target("mas-edge")
    problem = make_problem(length=4096)
    tiling = Tiling(1, 1024, 1024, 16, 16, keeps_kv=False, prefetch_tasks=1)
    reason = illegality(tiling, problem, machine, num_live_row_blocks=2)
    assert reason is not None
    assert "most of it for scores" in reason
    demand = on_chip_demand(tiling, problem, machine, num_live_row_blocks=2)
    # Two live row blocks on each of two cores, 1024 x 4096 words of two bytes.
    assert demand["scores"] == 2 * 2 * 1024 * 4096 * 2


def test_the_space_holds_multiples_of_the_block_and_the_whole_length() -> None:
    problem = make_problem(heads=4, length=100)
    heads, rows, columns = TilingSpace(problem, load_target("mas-edge"), 2).axes()
    assert heads == (1, 2)
    assert rows == columns == (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 100)


def test_row_blocks_cover_each_row_once_and_causality_cuts_columns() -> None:
    problem = dataclasses.replace(make_problem(heads=3, length=10), is_causal=True)
    tiling = Tiling(2, 4, 4, 1, 1, keeps_kv=True, prefetch_tasks=0)
    blocks = row_blocks(problem, tiling)
    assert [(b.matrices, b.row, b.rows, b.columns) for b in blocks] == [
        ((0, 1), 0, 4, 4),
        ((0, 1), 4, 4, 8),
        ((0, 1), 8, 2, 10),
        ((2,), 0, 4, 4),
        ((2,), 4, 4, 8),
        ((2,), 8, 2, 10),
    ]
    shares = split_over_cores(blocks, 2)
    assert [block for share in shares for block in share] == blocks
    assert all(shares)
