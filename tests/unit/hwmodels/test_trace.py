"""Charts and traces of programs that fit on a page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.small_programs import BLOCK_BYTES, heads, make_machine, make_program

from hocket.hwmodels.simulate import Timeline, simulate
from hocket.hwmodels.tasks import Task
from hocket.hwmodels.trace import (
    block_numbers,
    on_chip_usage,
    opening_gantt,
    text_gantt,
    trace_events,
)


def make_timeline(tasks: list[Task]) -> Timeline:
    return simulate(make_program(tasks), make_machine())


def test_text_gantt_shows_who_works_when() -> None:
    matrix, vector, dma, scale, legend = text_gantt(
        make_timeline(heads(0)), width=548, end_cycle=548
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
    assert text_gantt(make_timeline([])) == "(no tasks)"


def test_a_long_program_is_cut_where_single_tasks_can_still_be_seen() -> None:
    short = make_timeline(heads(0, 0))
    assert opening_gantt(short, 40) == text_gantt(short, 40)
    assert opening_gantt(short, 40, 9e6).endswith("(the whole takes 9,000,000 cycles)")
    long = make_timeline(heads(*[0] * 30))
    chart = opening_gantt(long, 40)
    assert chart.endswith(f"(the whole takes {long.cycles:,.0f} cycles)")
    shown = float(chart.splitlines()[3].split()[-2].replace(",", ""))
    # Ten tasks of the matrix unit, of four columns each on average.
    starts = sorted(long.starts[long.program.schedule.table.units == 0])
    assert sum(start < shown for start in starts) in (10, 11)


def test_memory_in_use_follows_the_buffers() -> None:
    timeline = make_timeline(heads(0))
    moments, counts = on_chip_usage(timeline)
    assert moments[0] == 0
    assert (np.diff(moments) > 0).all()
    assert counts[-1] == 0
    used = dict(zip(moments.tolist(), counts.tolist(), strict=True))
    # The query's buffer from the first load on, the key's from the second; both until the scores
    # are there, which end at 282.
    assert used[0.0] == BLOCK_BYTES
    assert used[128.0] == 2 * BLOCK_BYTES
    assert used[256.0] == 3 * BLOCK_BYTES  # the value begins to arrive
    assert used[266.0] == 4 * BLOCK_BYTES  # and the scores to be made
    assert used[282.0] == 2 * BLOCK_BYTES
    assert counts.max() <= timeline.program.peak_on_chip_bytes


def test_tasks_of_one_row_block_have_its_number_on_each_core() -> None:
    numbers = block_numbers(make_timeline(heads(0, 0, 1))).tolist()
    alone = [-1, -1, 0, 0, -1, 0, -1]
    second = [-1, -1, 1, 1, -1, 1, -1]
    assert numbers == alone + second + alone


def test_trace_events_are_one_a_task_in_microseconds() -> None:
    timeline = make_timeline(heads(0))
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
    timeline = make_timeline(heads(0, 1))
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
