"""The attention wing on machines and problems of known outcome."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hocket.compiler.attention import lower
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.build import build_program, build_with_plan
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, Dataflow
from hocket.compiler.attention.schedule.row_blocks import row_blocks
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.space import TilingSpace, sizes
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.errors import InfeasibleError
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.simulate import estimate_program, simulate
from hocket.hwmodels.tasks import Operation, Unit


def make_problem(heads: int = 8, length: int = 256, dim: int = 64) -> AttentionProblem:
    return AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)


def with_vector_cost(lane_cycles: float) -> HardwareModel:
    machine = load_target("mas-edge")
    vector = dataclasses.replace(machine.vector_unit, exp_lane_cycles=lane_cycles - 4.0)
    return dataclasses.replace(machine, vector_unit=vector)


def with_even_vector_cost(lane_cycles: float) -> HardwareModel:
    """mas-edge with this many lane-cycles a score, spread evenly over the steps of softmax."""
    machine = load_target("mas-edge")
    scale = lane_cycles / machine.vector_unit.softmax_lane_cycles
    steps = ("max", "subtract", "exp", "sum", "divide")
    costs = {f"{step}_lane_cycles": scale for step in steps}
    return dataclasses.replace(
        machine, vector_unit=dataclasses.replace(machine.vector_unit, **costs)
    )


@pytest.mark.parametrize("lane_cycles", [5.0, 40.0, 128.0])
def test_two_streams_are_never_slower_than_flat_where_compute_binds(lane_cycles: float) -> None:
    machine = with_vector_cost(lane_cycles)
    problem = make_problem(length=512)
    ours = lower_attention(problem, machine, dataflow="mas").best.estimate
    flat = lower_attention(problem, machine, dataflow="flat").best.estimate
    assert ours.cycles <= flat.cycles
    assert ours.cycles <= 1.15 * ours.bound_cycles


def test_two_voices_gain_most_where_both_have_as_much_to_do() -> None:
    """At 2 E V / M lane-cycles a score, overlap is worth up to a factor of two."""
    machine = with_vector_cost(128.0)
    problem = make_problem(heads=12, length=512)
    ours = lower_attention(problem, machine, dataflow="mas").best.estimate
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
    assert overlaps["mas"] > 0


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
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=512)
    with pytest.raises(InfeasibleError) as caught:
        lower_attention(
            make_problem(length=2048), dataclasses.replace(machine, on_chip_memory=memory)
        )
    words = [line.split(":")[0] for line in caught.value.report]
    assert words == ["resource", "demand", "bound", "gap", "levers"]
    assert "512 bytes" in str(caught.value)


def test_an_unknown_dataflow_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="auto, layerwise, soft_pipe, flat"):
        lower_attention(make_problem(), load_target("mas-edge"), dataflow="flash")


@pytest.mark.parametrize("vector_cost", [5.0, 128.0, 180.0])
@pytest.mark.parametrize(
    ("heads", "length", "dim"), [(12, 512, 64), (8, 512, 32), (12, 256, 64), (16, 196, 80)]
)
def test_our_dataflow_is_within_a_twentieth_of_the_bound(
    heads: int, length: int, dim: int, vector_cost: float
) -> None:
    """On the paper-class device, whatever the softmax costs; `bench/attention_cycles` has all."""
    machine = with_even_vector_cost(vector_cost)
    result = lower_attention(
        make_problem(heads, length, dim), machine, budget=Budget(tasks=600_000), verify=True
    )
    assert 1.0 <= result.best.estimate.of_bound <= 1.05


def test_our_dataflow_is_never_slower_than_any_other() -> None:
    problem = make_problem(heads=4, length=256)
    for lane_cycles in (5.0, 64.0, 180.0):
        machine = with_vector_cost(lane_cycles)
        cycles = {
            name: lower_attention(problem, machine, dataflow=name).best.estimate.cycles
            for name in DATAFLOWS
        }
        # Among programs within 0.2 % the more frugal one is taken.
        assert cycles["hocket"] <= 1.002 * min(cycles.values())


def test_layer_by_layer_takes_what_the_closed_form_says() -> None:
    """Four words a cycle, scores out and in, probabilities out and in: 3.539 M cycles."""
    estimate = lower_attention(
        make_problem(12, 512), load_target("mas-edge"), dataflow="layerwise"
    ).best.estimate
    assert estimate.cycles == pytest.approx(3.539e6, rel=0.01)
    assert estimate.dram_bytes == pytest.approx(2 * 4 * (3.539e6), rel=0.01)


def test_stacked_heads_share_keys_and_values() -> None:
    machine = load_target("mas-edge")
    problem = dataclasses.replace(make_problem(32, 128, 128), kv_heads=8, query_length=1)
    result = lower_attention(problem, machine, verify=True)
    by_tensor = dict(result.best.estimate.dram_bytes_by_tensor)
    assert by_tensor["key"] == 8 * 128 * 128 * 2
    assert lower_attention(problem, machine, dataflow="mas").best.estimate.cycles > (
        result.best.estimate.cycles
    )


def test_what_causality_hides_is_not_computed() -> None:
    machine = load_target("mas-edge")
    dense = make_problem(8, 512)
    causal = dataclasses.replace(dense, is_causal=True)
    ours = lower_attention(causal, machine).best.estimate
    assert ours.cycles < 0.62 * lower_attention(dense, machine).best.estimate.cycles
    published = lower_attention(causal, machine, dataflow="mas").best.estimate
    assert published.cycles > 1.6 * ours.cycles


def test_online_softmax_serves_rows_longer_than_memory() -> None:
    machine = load_target("mas-edge")
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=16_384)
    small = dataclasses.replace(machine, on_chip_memory=memory)
    problem = dataclasses.replace(make_problem(1, 8192, 16), query_length=16)
    result = lower_attention(problem, small, verify=True)
    assert result.best.tiling.softmax is Softmax.ONLINE
    with pytest.raises(InfeasibleError, match="online softmax"):
        lower_attention(problem, small, dataflow="mas")


def test_fewer_tiles_than_a_head_has_are_overwritten_and_loaded_again() -> None:
    machine = load_target("mas-edge")
    problem = make_problem(heads=1, length=256, dim=16)
    tiling = Tiling(32, 32, resident_tiles=16, live_blocks=2)
    dataflow = DATAFLOWS["mas"]
    kept, none = build_with_plan(problem, tiling, dataflow, machine)
    assert none.overwrites == ()
    short = dataclasses.replace(tiling, resident_tiles=12)
    program, plan = build_with_plan(problem, short, dataflow, machine)
    assert {each.tensor for each in plan.overwrites} <= {"key", "value"}
    before, _ = estimate_program(kept, machine, 0.0)
    after, _ = estimate_program(program, machine, 0.0)
    assert after.dram_bytes - before.dram_bytes == plan.reload_bytes > 0
    # Keeping three quarters asks for about a quarter of all later passes, not for all of them.
    streamed = build_with_plan(
        problem, dataclasses.replace(tiling, resident_tiles=2), dataflow, machine
    )[1]
    assert plan.reload_bytes < 0.5 * streamed.reload_bytes
    saved = sum(layout.demand(tiling, problem, dataflow, machine).values()) - sum(
        layout.demand(short, problem, dataflow, machine).values()
    )
    assert saved == 4 * 32 * 16 * 2


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_best_program_takes_less_memory_than_its_slots_and_no_more_time(dataflow: str) -> None:
    machine = load_target("mas-edge")
    problem = make_problem(8, 256)
    best = lower_attention(problem, machine, dataflow=dataflow, verify=True).best
    slots = build_program(problem, best.tiling, DATAFLOWS[dataflow], machine)
    before, after = simulate(slots, machine), simulate(best.program, machine)
    assert best.estimate.peak_on_chip_bytes == best.program.peak_on_chip_bytes
    assert best.program.peak_on_chip_bytes <= slots.peak_on_chip_bytes
    if dataflow == "hocket":
        assert best.program.peak_on_chip_bytes < 0.9 * slots.peak_on_chip_bytes
    assert best.estimate.cycles == after.cycles
    assert after.cycles <= before.cycles * (1 + 1e-12)


def test_a_long_program_stays_in_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = load_target("mas-edge")
    problem = make_problem(8, 256)
    monkeypatch.setattr(lower, "MAX_COMPACT_TASKS", 0)
    best = lower_attention(problem, machine).best
    terms = layout.demand(best.tiling, problem, DATAFLOWS["hocket"], machine)
    assert best.estimate.peak_on_chip_bytes == sum(terms.values())


def test_sizes_stand_for_one_number_of_pieces_each() -> None:
    assert sizes(100, 16) == (1, 2, 4, 8, 16, 32, 48, 64, 100)
    assert sizes(16, 16) == (1, 2, 4, 8, 16)
    assert len(TilingSpace(make_problem(4, 100), load_target("mas-edge"), DATAFLOWS["mas"]).axes)


def test_row_blocks_cover_each_row_once_and_causality_cuts_columns() -> None:
    problem = dataclasses.replace(make_problem(heads=3, length=10), is_causal=True)
    blocks = row_blocks(
        problem, Tiling(4, 4, 4), load_target("mas-edge"), skips_future=True, tapers=False
    )
    found = blocks[:, [st.MATRIX, st.ROW, st.ROWS, st.END]].tolist()
    assert found == [[h, row, rows, end] for h in range(3) for row, rows, end in
                     ((0, 4, 4), (4, 4, 8), (8, 2, 10))]  # fmt: skip
    assert sorted(set(blocks[:, st.CORE].tolist())) == [0, 1]


def test_the_last_row_blocks_taper_off() -> None:
    problem = make_problem(heads=1, length=256)
    blocks = row_blocks(
        problem,
        Tiling(64, 64, 4, split=Split.ROWS),
        load_target("mas-edge"),
        skips_future=False,
        tapers=True,
    )
    assert blocks[:, st.ROWS].tolist() == [64, 64, 32, 32, 16, 16, 16, 16]
    assert blocks[:, st.CORE].tolist() == [0, 1] * 4


OWN = Dataflow("own", "this test", st.PIPELINE, (Softmax.DEFERRED,), (Split.ROWS,), (2,))


def test_a_dataflow_of_ones_own_is_lowered_and_measured_like_the_built_in_ones() -> None:
    machine = load_target("ethos-u85-512")  # divides slowly
    found = lower_attention(make_problem(), machine, dataflow=OWN, verify=True)
    assert found.dataflow == "own"
    assert found.is_optimal
    assert (found.best.tiling.softmax, found.best.tiling.split) == (Softmax.DEFERRED, Split.ROWS)
    theirs = lower_attention(make_problem(), machine, dataflow="mas")
    assert found.best.estimate.cycles < 0.8 * theirs.best.estimate.cycles


def test_a_dataflow_of_ones_own_must_not_pass_for_another() -> None:
    changed = dataclasses.replace(DATAFLOWS["mas"], live_blocks=(4,))
    with pytest.raises(ValueError, match="name of its own"):
        lower_attention(make_problem(), load_target("mas-edge"), dataflow=changed)
    same = dataclasses.replace(DATAFLOWS["mas"])
    assert lower_attention(make_problem(), load_target("mas-edge"), dataflow=same).is_optimal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "want a name"),
        ({"softmaxes": ()}, "at least one"),
        ({"live_blocks": (2, 1)}, "ascending"),
        ({"live_blocks": (0,)}, "from 1 on"),
        ({"pace": 9}, "no pace 9"),
        ({"softmaxes": (Softmax.FULL_ROW,), "splits": (Split.KEYS,)}, "deferred or online"),
        ({"pace": st.LOCK_STEP}, "want the pace PIPELINE"),
        (
            {"pace": st.LOCK_STEP, "softmaxes": (Softmax.FULL_ROW,), "splits": (Split.HEADS,)},
            "at least 3 live_blocks",
        ),
    ],
)
def test_a_dataflow_that_no_program_can_follow_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OWN, **change)
