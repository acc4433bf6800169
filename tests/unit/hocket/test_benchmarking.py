from __future__ import annotations

import subprocess
import sys

import pytest

from hocket.benchmarking import Comparison, Contender, Latency, time_in_turns


def test_latency_sums_up_its_timings() -> None:
    latency = Latency.of([float(value) for value in range(1, 12)])
    assert latency.median_seconds == 6
    assert latency.p10_seconds == 2
    assert latency.p90_seconds == 10
    assert latency.min_seconds == 1
    assert latency.repeats == 11


def test_one_timing_is_enough() -> None:
    latency = Latency.of([2.0])
    assert latency == Latency(2.0, 2.0, 2.0, 2.0, 1)


def test_runs_take_turns_each_after_some_that_are_not_timed() -> None:
    calls: list[str] = []
    result = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=7
    )
    assert "".join(calls) == "ab" + "a" * (2 + 5) + "b" * (2 + 5) + "a" * (2 + 2) + "b" * (2 + 2)
    assert result["a"].repeats == result["b"].repeats == 7


def test_a_time_limit_still_gives_enough_runs() -> None:
    result = time_in_turns({"a": lambda: None}, seconds=0.0)
    assert result["a"].repeats == 5


def test_runs_are_timed_by_the_clock_that_is_given() -> None:
    worked = [0.0]

    def work() -> None:
        worked[0] += 3.0

    result = time_in_turns({"a": work}, repeats=6, clock=lambda: worked[0])
    assert result["a"] == Latency(3.0, 3.0, 3.0, 3.0, 6)


def test_progress_is_told_each_turn() -> None:
    seen: list[int] = []
    time_in_turns({"a": lambda: None}, repeats=6, progress=lambda count, _: seen.append(count))
    assert seen == [5, 6]


def test_the_ratio_is_above_one_where_ours_is_faster() -> None:
    ours, theirs = (Contender(Latency.of([seconds]), None) for seconds in (1.0, 3.0))
    assert Comparison(ours, theirs, num_threads=1).ratio == 3


def test_the_probe_sees_memory_that_was_given_back() -> None:
    """In a process of its own, as the probe is used: others give back what tests before took."""
    script = """
from hocket import memory_probe

before = memory_probe.start_counting()
block = bytearray(64_000_000)
del block
print(memory_probe.peak_bytes() - before)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    # The peak stays after the block is gone; a tenth is left for what else the process frees.
    assert int(ended.stdout) == pytest.approx(64_000_000, rel=0.1)
