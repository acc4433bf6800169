"""The simulator against programs small enough to time by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from support.small_programs import heads, make_machine, make_program, whole

from hocket.hwmodels.cost import machine_figures, product_cost, softmax_cost, task_costs
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.estimate import Estimate, add_estimates
from hocket.hwmodels.program import Placement, Program
from hocket.hwmodels.simulate import Stall, estimate_program, simulate
from hocket.hwmodels.tasks import Block, Operation, Task
from hocket.hwmodels.verify import verify_program


def test_costs_of_single_tasks() -> None:
    machine = make_machine()
    figures = machine_figures(machine)
    assert product_cost(16, 16, 64, False, figures)[0] == 64
    # A cut block takes as long as a whole one.
    assert product_cost(17, 16, 64, False, figures)[0] == 128
    assert softmax_cost(16, 16, 0, True, False, figures)[0] == 16 * 16 * 5 / 256
    assert softmax_cost(16, 16, 16 * 16, True, False, figures)[0] == 16 * 16 * 6 / 256
    costs = task_costs(make_program(heads(0)).schedule, machine)
    assert (costs.cycles[0], costs.outer_bytes[0]) == (128, 512)
    assert costs.picojoules[0, 2] == pytest.approx(512 * 56.24)


def test_one_head_takes_what_adds_up_by_hand() -> None:
    machine = make_machine()
    program = make_program(heads(0))
    verify_program(program, machine)
    spans = simulate(program, machine).spans
    # Transfers of 128 cycles follow each other on the port; data are there 10 cycles later.
    assert [(s.start, s.end) for s in spans[:2]] == [(0, 128), (128, 256)]
    assert spans[2].start == 266
    assert spans[2].end == 266 + 16
    assert spans[3].start == 282
    assert spans[3].end == 282 + 5
    assert (spans[4].start, spans[4].finish) == (256, 394)
    assert (spans[5].start, spans[5].end) == (394, 410)
    assert (spans[6].start, spans[6].finish) == (410, 548)
    assert spans[2].stall is Stall.LOAD
    assert spans[3].stall is Stall.MATRIX
    estimate, _ = estimate_program(program, machine, bound_cycles=512.0)
    assert estimate.cycles == 548
    assert estimate.dram_bytes == 4 * 512
    assert estimate.matrix_busy_cycles == 32
    assert estimate.peak_on_chip_bytes == 5 * 512
    assert estimate.seconds == pytest.approx(548e-9)


def test_cores_share_the_port() -> None:
    machine = make_machine()
    program = make_program(heads(0, 1))
    verify_program(program, machine)
    timeline = simulate(program, machine)
    busy = sorted((s.start, s.end) for i, s in enumerate(timeline.spans) if i % 7 in (0, 1, 4, 6))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(busy))
    assert timeline.cycles >= 8 * 128
    assert Stall.PORT in {span.stall for span in timeline.spans}


def test_units_that_take_turns_do() -> None:
    machine = make_machine(has_concurrent_units=False)
    tasks = heads(0)
    # A second softmax that nothing but the shared pipelines keeps from running beside OUTPUT.
    tasks.append(Task(Operation.SOFTMAX, 0, (), (whole(5),)))
    program = make_program(tasks)
    taking_turns = simulate(program, machine).spans
    beside = simulate(program, make_machine()).spans
    assert taking_turns[7].start == taking_turns[5].end
    assert beside[7].start == beside[3].end


def test_leakage_adds_watts_times_seconds() -> None:
    program = make_program(heads(0))
    still, _ = estimate_program(program, make_machine(), 0.0)
    leaky, _ = estimate_program(program, make_machine(leakage_watts=2.0), 0.0)
    assert leaky.joules - still.joules == pytest.approx(2.0 * still.seconds)


def test_estimates_add_up_and_keep_the_highest_peak() -> None:
    estimate, _ = estimate_program(make_program(heads(0)), make_machine(), 512.0)
    higher = dataclasses.replace(estimate, peak_on_chip_bytes=99_999)
    total = add_estimates([estimate, higher])
    assert total.cycles == 2 * estimate.cycles
    assert total.peak_on_chip_bytes == 99_999
    assert add_estimates([]).cycles == 0
    assert Estimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate
    with pytest.raises(ProgramError, match="cycles"):
        Estimate.from_json(estimate.to_json() | {"cycles": float("nan")})
    with pytest.raises(ProgramError, match="joules"):
        Estimate.from_json(estimate.to_json() | {"compute_joules": "1"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core": 7}, "core does not exist"),
        ({"waits": (5,)}, "does not come before it"),
        ({"reads": (Block(0, 0, 0, 16, 16),)}, "wrong number of operands"),
        ({"writes": (Block(2, 8, 0, 16, 16),)}, "lies outside its buffer"),
        ({"writes": (Block(9, 0, 0, 16, 16),)}, "buffer that does not exist"),
        ({"writes": (Block(2, 0, 0, 8, 16),)}, "do not agree"),
        ({"causal_offset": 0}, "causality goes with softmax"),
        ({"accumulates": True}, "only OUTPUT and EXPONENTIALS accumulate"),
        ({"waits": ()}, "race for buffer"),
    ],
)
def test_verify_names_what_is_wrong(change: dict[str, object], message: str) -> None:
    tasks = heads(0)
    tasks[2] = dataclasses.replace(tasks[2], **change)
    with pytest.raises(ProgramError, match=message):
        verify_program(make_program(tasks, num_buffers=5), make_machine())


def test_verify_finds_addresses_that_collide_or_fall_outside() -> None:
    machine = make_machine()
    program = make_program(heads(0))
    places = list(program.placements)
    for place, message in [
        (Placement(0, 512), "may overwrite buffer 0|may overwrite"),
        (Placement(100, 512), "not aligned"),
        (Placement(0, 100), "larger than its placement"),
        (Placement(5_000_000 // 64 * 64, 512), "ends past"),
    ]:
        changed = Program.from_placements(program.schedule, (places[0], place, *places[2:]))
        with pytest.raises(ProgramError, match=message):
            verify_program(changed, machine)
