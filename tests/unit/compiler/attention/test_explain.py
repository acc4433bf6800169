"""What is lost beyond the bound: each cause on a program made to show it."""

from __future__ import annotations

import dataclasses

import pytest

from hocket.compiler.attention.bottleneck import Resource, binding_resource
from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.explain import (
    AT_THE_BOUND,
    Explanation,
    explain,
    explain_program,
)
from hocket.compiler.attention.losses import Cause
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.simulate import estimate_program, simulate


def make_problem(heads: int = 4, length: int = 128, dim: int = 64, **changes: object):
    problem = AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, 0.125)
    return dataclasses.replace(problem, **changes)


def make_machine(
    *,
    exp: float = 1.0,
    bandwidth: float = 120e9,
    port: float = 0.0,
    has_separate_write_port: bool = False,
    **changes: object,
) -> HardwareModel:
    """mas-edge, changed."""
    base = load_target("mas-edge")
    return dataclasses.replace(
        base,
        matrix_unit=dataclasses.replace(base.matrix_unit, port_bytes_per_cycle=port),
        vector_unit=dataclasses.replace(base.vector_unit, exp_lane_cycles=exp),
        dma=dataclasses.replace(
            base.dma,
            bandwidth_bytes_per_second=bandwidth,
            has_separate_write_port=has_separate_write_port,
        ),
        **changes,
    )


def explained(
    problem: AttentionProblem,
    machine: HardwareModel,
    dataflow: str = "mas",
    **choices: object,
) -> Explanation:
    """Explain the program of one tiling; 32 rows, whole keys, all of them kept, unless told."""
    flow = DATAFLOWS[dataflow]
    defaults: dict[str, object] = {
        "query_rows": 32,
        "kv_columns": problem.kv_length,
        "resident_tiles": 1000,
        "live_blocks": flow.live_blocks[-1],
        "softmax": flow.softmaxes[-1],
    }
    program = build_program(problem, Tiling(**defaults | choices), flow, machine)
    bound = lower_bounds(problem, machine).cycles
    estimate, timeline = estimate_program(program, machine, bound)
    explanation = explain_program(program, estimate, problem, machine, timeline)
    total = sum(loss.cycles for loss in explanation.losses)
    assert total == pytest.approx(gap_of(explanation), abs=1e-6 * explanation.cycles)
    assert all(loss.cycles > 0 and loss.cause is not Cause.REST for loss in explanation.losses)
    cycles = [loss.cycles for loss in explanation.losses]
    assert cycles == sorted(cycles, reverse=True)
    assert explanation.of_bound == pytest.approx(estimate.of_bound)
    return explanation


def gap_of(explanation: Explanation) -> float:
    return explanation.cycles - explanation.bound_cycles


def lost(explanation: Explanation, cause: Cause) -> float:
    return {loss.cause: loss.cycles for loss in explanation.losses}.get(cause, 0.0)


MACHINES = {
    "matrix": make_machine(),
    "vector": make_machine(exp=400.0),
    "dram": make_machine(bandwidth=3e9),
    "dram with two ports": make_machine(bandwidth=3e9, has_separate_write_port=True),
    "in turns": make_machine(has_concurrent_units=False),
    "narrow port": make_machine(port=64.0),
    "one core": make_machine(num_cores=1),
}


@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_parts_add_up_to_the_gap(dataflow: str, machine: HardwareModel) -> None:
    mask = {"mask": MaskKind.ADDITIVE, "mask_shape": (1, 1, 1, 100)}
    for problem in (
        make_problem(),
        make_problem(3, 100, 40, **mask),
        make_problem(length=96, is_causal=True, kv_heads=2),
    ):
        explained(problem, machine, dataflow, kv_columns=48, query_rows=20)


def test_the_resource_that_binds_is_named() -> None:
    problem = make_problem()
    found = {
        name: binding_resource(lower_bounds(problem, machine), machine)
        for name, machine in MACHINES.items()
    }
    assert found["matrix"] is Resource.MATRIX
    assert found["vector"] is Resource.VECTOR
    assert found["dram"] is found["dram with two ports"] is Resource.DRAM
    assert found["in turns"] is Resource.CORE


def test_units_in_turn_wait_for_each_other() -> None:
    machine = make_machine(exp=124.0)
    explanation = explained(make_problem(), machine, "flat")
    assert explanation.losses[0].cause is Cause.WAIT_VECTOR
    assert "waits for the vector unit" in explanation.next_lever
    assert "more row blocks in flight" in explanation.next_lever


def test_scores_that_go_to_dram_are_to_blame() -> None:
    explanation = explained(make_problem(length=256), make_machine(bandwidth=10e9), "layerwise")
    assert explanation.losses[0].cause is Cause.SPILLS
    # Four heads of 256 x 256 scores of 2 bytes, there and back, twice.
    assert f"{4 * 256 * 256 * 2 * 4:,} bytes of scores" in explanation.next_lever


def test_tiles_loaded_again_are_to_blame() -> None:
    machine = make_machine(bandwidth=10e9)
    explanation = explained(
        make_problem(length=256), machine, query_rows=16, kv_columns=64, resident_tiles=4
    )
    assert explanation.losses[0].cause is Cause.RELOADS
    assert "more on-chip memory" in explanation.next_lever
    kept = explained(make_problem(length=256), machine, query_rows=16, kv_columns=64)
    assert lost(kept, Cause.RELOADS) == 0


def test_reloads_count_where_dram_binds() -> None:
    machine, problem = make_machine(bandwidth=1e9), make_problem(length=256)
    program = explained(problem, machine, query_rows=16, kv_columns=64, resident_tiles=4)
    assert program.binding is Resource.DRAM
    assert program.losses[0].cause is Cause.RELOADS


def test_blocks_filled_in_part_are_to_blame() -> None:
    explanation = explained(make_problem(length=130), make_machine(), query_rows=130)
    # Rows and keys each take nine blocks of sixteen for 130.
    padded = 4 * 144 * (144 * 64 + 64 * 130) / 256 / 2
    exact = 4 * 130 * 130 * 128 / 256 / 2
    assert lost(explanation, Cause.PADDING) == pytest.approx(padded - exact)
    assert lost(explained(make_problem(), make_machine()), Cause.PADDING) == 0


def test_start_ups_are_counted() -> None:
    # Four heads of four row blocks with two products of 16 cycles' start each, over two cores.
    explanation = explained(make_problem(), make_machine())
    assert lost(explanation, Cause.STARTUPS) == 4 * 4 * 2 * 16 / 2


def test_a_narrow_port_is_to_blame() -> None:
    assert lost(explained(make_problem(), make_machine(port=32.0)), Cause.PORT) > 0
    assert lost(explained(make_problem(), make_machine()), Cause.PORT) == 0


def test_scores_that_causality_hides_are_to_blame() -> None:
    problem = make_problem(length=256, is_causal=True)
    explanation = explained(problem, make_machine())
    assert explanation.losses[0].cause is Cause.HIDDEN_SCORES
    assert "1.99x the scores" in explanation.next_lever
    fewer = explained(problem, make_machine(), "hocket", split=Split.ROWS, softmax=Softmax.FULL_ROW)
    assert lost(fewer, Cause.HIDDEN_SCORES) < lost(explanation, Cause.HIDDEN_SCORES) / 3


def test_what_the_vector_unit_does_too_much_is_told_apart() -> None:
    machine, problem = make_machine(exp=400.0), make_problem(length=128, dim=32)
    full = explained(problem, machine)
    # Each score is divided where each of four times fewer outputs would do.
    assert lost(full, Cause.DIVISION) == pytest.approx(4 * 128 * (128 - 32) / 256 / 2)
    online = explained(problem, machine, "fusemax", kv_columns=32)
    assert lost(online, Cause.DIVISION) == 0
    assert lost(online, Cause.RESCALING) > 0


def test_a_core_without_work_is_seen() -> None:
    explanation = explained(make_problem(heads=1, length=256), make_machine(), query_rows=256)
    assert explanation.losses[0].cause is Cause.IMBALANCE
    assert "only 1 of 2 cores work" in explanation.next_lever


def test_fill_and_drain_are_what_comes_before_and_after() -> None:
    machine, problem = make_machine(num_cores=1), make_problem(heads=1)
    flow = DATAFLOWS["mas"]
    program = build_program(problem, Tiling(32, 128, 1000), flow, machine)
    spans = simulate(program, machine).spans
    products = [s for s, task in zip(spans, program.schedule.tasks, strict=True)
                if task.unit.value == "matrix"]  # fmt: skip
    explanation = explained(problem, machine, live_blocks=2)
    assert lost(explanation, Cause.FILL) == products[0].start
    assert lost(explanation, Cause.DRAIN) == pytest.approx(
        explanation.cycles - max(span.end for span in products)
    )


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        (make_machine(bandwidth=3e9), "more DRAM bandwidth"),
        (make_machine(bandwidth=1e13), "more multiply-accumulates a cycle"),
        (make_machine(bandwidth=1e13, exp=2000.0), "more vector lanes"),
    ],
)
def test_at_the_bound_only_a_faster_machine_helps(machine: HardwareModel, what: str) -> None:
    problem = make_problem(heads=8, length=256)
    found = lower_attention(problem, machine, budget=Budget(tasks=20_000))
    explanation = explain(found, problem, machine)
    assert explanation.of_bound < AT_THE_BOUND
    assert explanation.next_lever.startswith(what)
    bound = explanation.bound_cycles
    assert explanation.doubled_bound_cycles < bound
    text = f"x2 would bring the bound from {bound:,.0f} to {explanation.doubled_bound_cycles:,.0f}"
    assert text in explanation.next_lever


def test_the_sentence_has_ratio_resource_share_and_lever() -> None:
    explanation = explained(make_problem(), make_machine(exp=124.0), "flat")
    text = str(explanation)
    assert text.startswith(f"{explanation.of_bound:.2f}x of the bound; matrix unit busy ")
    assert f"{explanation.binding_utilization:.0%}" in text
    assert text.endswith(f"next lever: {explanation.next_lever}")


def test_of_a_long_program_the_beginning_is_scaled() -> None:
    """Twice the work: what recurs doubles, what happens once stays, and all still adds up."""
    problem, machine = make_problem(), make_machine(exp=124.0)
    program = build_program(
        problem, Tiling(32, 128, 1000, live_blocks=1), DATAFLOWS["flat"], machine
    )
    bound = lower_bounds(problem, machine).cycles
    estimate, _ = estimate_program(program, machine, bound)
    once = explain_program(program, estimate, problem, machine)
    twice_the_problem = dataclasses.replace(problem, batch=2)
    names = [f"{unit}_busy_cycles" for unit in ("matrix", "vector", "load", "store")]
    long = dataclasses.replace(
        estimate,
        **{name: 2 * getattr(estimate, name) for name in names},
        cycles=2 * estimate.cycles,
        bound_cycles=lower_bounds(twice_the_problem, machine).cycles,
        is_simulated=False,
    )
    whole = explain_program(program, long, twice_the_problem, machine)
    assert lost(whole, Cause.WAIT_VECTOR) == pytest.approx(2 * lost(once, Cause.WAIT_VECTOR))
    assert lost(whole, Cause.FILL) == lost(once, Cause.FILL)
    assert sum(loss.cycles for loss in whole.losses) == pytest.approx(gap_of(whole))
    assert lost(whole, Cause.REST) == pytest.approx(
        lost(once, Cause.FILL) + lost(once, Cause.DRAIN) + lost(once, Cause.IMBALANCE)
    )
    assert "extrapolation" not in whole.next_lever
