"""The simulator against programs small enough to time by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from hocket.hwmodels.cost import product_cycles, softmax_cycles, task_costs
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.estimate import Estimate, add_estimates
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Buffer, Placement, Program, Schedule
from hocket.hwmodels.simulate import Stall, estimate_program, simulate
from hocket.hwmodels.tasks import Block, Operation, Slice, Task
from hocket.hwmodels.trace import text_gantt, trace_events
from hocket.hwmodels.verify import verify_program

SIZE = 16  # one block of the matrix unit


def make_machine(**changes: object) -> HardwareModel:
    """mas-edge with round numbers: no start-up, 4 bytes a cycle, latency 10, softmax 5 cycles."""
    base = load_target("mas-edge")
    return dataclasses.replace(
        base,
        clock_hz=1e9,
        matrix_unit=dataclasses.replace(base.matrix_unit, startup_cycles=0),
        vector_unit=dataclasses.replace(base.vector_unit, startup_cycles=0),
        dma=dataclasses.replace(base.dma, bandwidth_bytes_per_second=4e9, latency_cycles=10),
        **changes,
    )


def whole(buffer: int) -> Block:
    return Block(buffer, 0, 0, SIZE, SIZE)


def load(tensor: str, buffer: int, core: int = 0) -> Task:
    return Task(
        Operation.LOAD,
        core,
        reads=(),
        writes=(whole(buffer),),
        outer=Slice(tensor, 0, 0, 0, SIZE, SIZE),
    )


def one_head(core: int = 0, first_buffer: int = 0, first_task: int = 0) -> list[Task]:
    """Load, load, scores, softmax, load, output, store: one head that is one block."""
    query, key, scores, value, output = range(first_buffer, first_buffer + 5)
    at = first_task
    return [
        load("query", query, core),
        load("key", key, core),
        Task(
            Operation.SCORES,
            core,
            (whole(query), whole(key)),
            (whole(scores),),
            waits=(at, at + 1),
        ),
        Task(
            Operation.SOFTMAX,
            core,
            (),
            (whole(scores),),
            waits=(at + 2,),
        ),
        load("value", value, core),
        Task(
            Operation.OUTPUT,
            core,
            (whole(scores), whole(value)),
            (whole(output),),
            waits=(at + 3, at + 4),
        ),
        Task(
            Operation.STORE,
            core,
            (whole(output),),
            (),
            outer=Slice("output", 0, 0, 0, SIZE, SIZE),
            waits=(at + 5,),
        ),
    ]


def make_program(tasks: list[Task], num_buffers: int) -> Program:
    tensors = ["query", "key", "scores", "value", "output"]
    buffers = tuple(Buffer(tensors[index % 5], SIZE, SIZE) for index in range(num_buffers))
    places = tuple(Placement(512 * index, 512) for index in range(num_buffers))
    return Program.from_placements(Schedule.from_tasks(tasks, buffers), places)


def test_costs_of_single_tasks() -> None:
    machine = make_machine()
    assert product_cycles(16, 16, 64, machine) == 64
    assert product_cycles(17, 16, 64, machine) == 128  # a cut block takes as long as a whole one
    assert softmax_cycles(16, 16, False, machine) == 16 * 16 * 5 / 256
    assert softmax_cycles(16, 16, True, machine) == 16 * 16 * 6 / 256
    costs = task_costs(make_program(one_head(), 5).schedule, machine)
    assert (costs.cycles[0], costs.outer_bytes[0]) == (128, 512)
    assert costs.picojoules[0, 2] == pytest.approx(512 * 56.24)


def test_one_head_takes_what_adds_up_by_hand() -> None:
    machine = make_machine()
    program = make_program(one_head(), 5)
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
    tasks = one_head() + one_head(core=1, first_buffer=5, first_task=7)
    program = make_program(tasks, 10)
    verify_program(program, machine)
    timeline = simulate(program, machine)
    busy = sorted((s.start, s.end) for i, s in enumerate(timeline.spans) if i % 7 in (0, 1, 4, 6))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(busy))
    assert timeline.cycles >= 8 * 128
    assert Stall.PORT in {span.stall for span in timeline.spans}


def test_units_that_take_turns_do() -> None:
    machine = make_machine(has_concurrent_units=False)
    tasks = one_head()
    # A second softmax that nothing but the shared pipelines keeps from running beside OUTPUT.
    tasks.append(Task(Operation.SOFTMAX, 0, (), (whole(5),)))
    program = make_program(tasks, 6)
    taking_turns = simulate(program, machine).spans
    beside = simulate(program, make_machine()).spans
    assert taking_turns[7].start == taking_turns[5].end
    assert beside[7].start == beside[3].end


def test_leakage_adds_watts_times_seconds() -> None:
    program = make_program(one_head(), 5)
    still, _ = estimate_program(program, make_machine(), 0.0)
    leaky, _ = estimate_program(program, make_machine(leakage_watts=2.0), 0.0)
    assert leaky.joules - still.joules == pytest.approx(2.0 * still.seconds)


def test_estimates_add_up_and_keep_the_highest_peak() -> None:
    estimate, _ = estimate_program(make_program(one_head(), 5), make_machine(), 512.0)
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


def test_text_gantt_shows_who_works_when() -> None:
    timeline = simulate(make_program(one_head(), 5), make_machine())
    matrix, vector, dma, *_ = text_gantt(timeline, width=548, end_cycle=548).splitlines()
    assert matrix.startswith("core 0  matrix ")
    assert matrix[15:].index("C") == 266
    assert matrix[15:].index("O") == 394
    assert vector[15:].index("P") == 282
    assert vector[15:].count("P") == 5
    assert dma[15:].startswith("l" * 384)
    assert dma[15:].index("s") == 410


def test_trace_events_are_one_a_task_in_microseconds() -> None:
    timeline = simulate(make_program(one_head(), 5), make_machine())
    events = [event for event in trace_events(timeline)["traceEvents"] if event["ph"] == "X"]
    assert len(events) == 7
    assert events[2]["name"] == "scores"
    assert events[2]["ts"] == pytest.approx(0.266)
    assert events[2]["args"]["stall"] == "waits for a load"
    json.dumps(events)


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
    tasks = one_head()
    tasks[2] = dataclasses.replace(tasks[2], **change)
    with pytest.raises(ProgramError, match=message):
        verify_program(make_program(tasks, 5), make_machine())


def test_verify_finds_addresses_that_collide_or_fall_outside() -> None:
    machine = make_machine()
    program = make_program(one_head(), 5)
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
