"""Charts and traces of programs that fit on a page."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Buffer, Placement, Program, Schedule
from hocket.hwmodels.simulate import Timeline, simulate
from hocket.hwmodels.tasks import Block, Operation, Slice, Task
from hocket.hwmodels.trace import (
    block_numbers,
    on_chip_usage,
    opening_gantt,
    text_gantt,
    trace_events,
)

SIZE = 16  # one block of the matrix unit
BYTES = SIZE * SIZE * 2


def make_machine() -> HardwareModel:
    """mas-edge with round numbers: no start-up, 4 bytes a cycle, latency 10, softmax 5 cycles."""
    base = load_target("mas-edge")
    return dataclasses.replace(
        base,
        clock_hz=1e9,
        matrix_unit=dataclasses.replace(base.matrix_unit, startup_cycles=0),
        vector_unit=dataclasses.replace(base.vector_unit, startup_cycles=0),
        dma=dataclasses.replace(base.dma, bandwidth_bytes_per_second=4e9, latency_cycles=10),
    )


def whole(buffer: int) -> Block:
    return Block(buffer, 0, 0, SIZE, SIZE)


def one_head(core: int = 0, first_buffer: int = 0, first_task: int = 0) -> list[Task]:
    """Load, load, scores, softmax, load, output, store: one head that is one block."""
    query, key, scores, value, output = range(first_buffer, first_buffer + 5)
    at = first_task

    def load(tensor: str, buffer: int) -> Task:
        outer = Slice(tensor, 0, 0, 0, SIZE, SIZE)
        return Task(Operation.LOAD, core, (), (whole(buffer),), outer)

    return [
        load("query", query),
        load("key", key),
        Task(
            Operation.SCORES,
            core,
            (whole(query), whole(key)),
            (whole(scores),),
            waits=(at, at + 1),
        ),
        Task(Operation.SOFTMAX, core, (), (whole(scores),), waits=(at + 2,)),
        load("value", value),
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
            Slice("output", 0, 0, 0, SIZE, SIZE),
            waits=(at + 5,),
        ),
    ]


def make_timeline(tasks: list[Task]) -> Timeline:
    tensors = ["query", "key", "scores", "value", "output"]
    count = 1 + max(block.buffer for task in tasks for block in task.blocks)
    buffers = [Buffer(tensors[index % 5], SIZE, SIZE) for index in range(count)]
    places = [Placement(BYTES * index, BYTES) for index in range(count)]
    program = Program.from_placements(Schedule.from_tasks(tasks, buffers), places)
    return simulate(program, make_machine())


def many_heads(heads: int) -> Timeline:
    return make_timeline([task for i in range(heads) for task in one_head(0, 5 * i, 7 * i)])


def test_text_gantt_shows_who_works_when() -> None:
    matrix, vector, dma, scale, legend = text_gantt(
        make_timeline(one_head()), width=548, end_cycle=548
    ).splitlines()
    assert matrix.startswith("core 0  matrix ")
    assert matrix[15:].index("C") == 266
    assert matrix[15:].index("O") == 394
    assert vector[15:].index("P") == 282
    assert vector[15:].count("P") == 5
    assert dma[15:].startswith("l" * 384)
    assert dma[15:].index("s") == 410
    assert scale.endswith("548 cycles")
    assert " ".join(legend.split()) == "C scores P softmax O output l load s store . idle"


def test_a_chart_of_nothing_says_so() -> None:
    program = Program.from_placements(Schedule.from_tasks([], []), [])
    assert text_gantt(simulate(program, make_machine())) == "(no tasks)"


def test_a_long_program_is_cut_where_single_tasks_can_still_be_seen() -> None:
    short = many_heads(2)
    assert opening_gantt(short, 40) == text_gantt(short, 40)
    assert opening_gantt(short, 40, 9e6).endswith("(the whole takes 9,000,000 cycles)")
    long = many_heads(30)
    chart = opening_gantt(long, 40)
    assert chart.endswith(f"(the whole takes {long.cycles:,.0f} cycles)")
    shown = float(chart.splitlines()[3].split()[-2].replace(",", ""))
    # Ten tasks of the matrix unit, of four columns each on average.
    starts = sorted(long.starts[long.program.schedule.table.units == 0])
    assert sum(start < shown for start in starts) in (10, 11)


def test_memory_in_use_follows_the_buffers() -> None:
    timeline = make_timeline(one_head())
    moments, counts = on_chip_usage(timeline)
    assert moments[0] == 0
    assert (np.diff(moments) > 0).all()
    assert counts[-1] == 0
    used = dict(zip(moments.tolist(), counts.tolist(), strict=True))
    # The query's buffer from the first load on, the key's from the second; both until the scores
    # are there, which end at 282.
    assert used[0.0] == BYTES
    assert used[128.0] == 2 * BYTES
    assert used[256.0] == 3 * BYTES  # the value begins to arrive
    assert used[266.0] == 4 * BYTES  # and the scores to be made
    assert used[282.0] == 2 * BYTES
    assert counts.max() <= timeline.program.peak_on_chip_bytes


def test_tasks_of_one_row_block_have_its_number_on_each_core() -> None:
    tasks = one_head() + one_head(0, 5, 7) + one_head(1, 10, 14)
    numbers = block_numbers(make_timeline(tasks)).tolist()
    alone = [-1, -1, 0, 0, -1, 0, -1]
    second = [-1, -1, 1, 1, -1, 1, -1]
    assert numbers == alone + second + alone


def test_trace_events_are_one_a_task_in_microseconds() -> None:
    timeline = make_timeline(one_head())
    trace = trace_events(timeline)
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) == 7
    assert events[2]["name"] == "scores"
    assert events[2]["ts"] == pytest.approx(0.266)
    assert events[2]["args"]["stall"] == "waits for a load"
    assert events[2]["args"]["idle_cycles_before"] == 266
    threads = {event["tid"] for event in events}
    named = {
        event["tid"]: event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert {named[thread] for thread in threads} == {
        "matrix unit",
        "vector unit",
        "load queue",
        "store queue",
    }
    json.dumps(trace, allow_nan=False)


def test_the_trace_counts_the_memory_in_use() -> None:
    timeline = make_timeline(one_head() + one_head(1, 5, 7))
    events = trace_events(timeline)["traceEvents"]
    counters = [event for event in events if event["ph"] == "C"]
    moments, counts = on_chip_usage(timeline)
    assert [event["args"]["bytes"] for event in counters] == counts.tolist()
    assert [event["ts"] for event in counters] == pytest.approx((moments / 1e3).tolist())
    (process,) = {event["pid"] for event in counters}
    names = {
        event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"
    }
    assert names[process] == "L1 (on-chip memory)"
    assert set(names) == {0, 1, process}
