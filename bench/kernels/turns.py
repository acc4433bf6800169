"""Timing several ways to do the same, in turns, so that they meet the same machine.

What counts is the best run, by the clock; with one thread by CPU time. Measured with twelve
heads of 512 by 64 beside two other busy processes on two cores, in six windows of 4 s: ratios of
medians, or of the fastest runs by the clock, ranged from 1.0 to 6, those of the least CPU time from
1.22 to 1.29; on the quiet machine all of them agreed within 4 %, and the fastest run by the clock
with the least CPU time within 1 %. CPU time says nothing of two threads, one of which may have done
all the work: there, figures are worth something on a quiet machine only.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# In which a library's threads stop spinning for more work, and leave the cores to the next one.
_PAUSE_SECONDS = 0.02
_TURN_SECONDS = 0.015
_MAX_RUNS_A_TURN = 10
_MIN_TURNS = 3
# One that is that much slower than the fastest has been timed well enough after a few turns, or
# after one if that takes seconds.
_HOPELESS = 3.0
_LONG_SECONDS = 1.0


@dataclass
class Timing:
    """Seconds a run, over repeated runs.

    Attributes:
        num_threads: Threads that worked.
        wall: Of each run, by the clock.
        cpu: Of each run, of all threads together.
    """

    num_threads: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def best_seconds(self) -> float:
        """The best run: least CPU time of one thread, least time of several."""
        return min(self.cpu if self.num_threads == 1 else self.wall)

    @property
    def median_seconds(self) -> float:
        """By the clock, half of the runs were faster."""
        return statistics.median(self.wall)


def take_turns(
    runs: Mapping[str, Callable[[], object]], num_threads: int, *, seconds: float
) -> dict[str, Timing]:
    """Time several ways to do the same, one after the other, again and again.

    Each turn of each begins with a run that is not timed: caches fill, and sleeping threads wake
    up. Who begins changes from turn to turn.
    """
    timings = {name: Timing(num_threads) for name in runs}
    names = list(runs)
    start = time.perf_counter()
    number = 0
    while number < _MIN_TURNS or time.perf_counter() - start < seconds:
        if number:
            fastest = min(timing.best_seconds for timing in timings.values())
            names = [
                name
                for name, seconds_a_run in ((name, timings[name].best_seconds) for name in names)
                if seconds_a_run < _HOPELESS * fastest
                or (number < _MIN_TURNS and seconds_a_run < _LONG_SECONDS)
            ]
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if num_threads > 1:
                time.sleep(_PAUSE_SECONDS)
            _take_turn(runs[name], timings[name])
        number += 1
    return timings


def _take_turn(run: Callable[[], object], timing: Timing) -> None:
    before = time.perf_counter()
    run()
    guess = time.perf_counter() - before
    for _ in range(max(1, min(_MAX_RUNS_A_TURN, int(_TURN_SECONDS / guess)))):
        before, cpu_before = time.perf_counter(), time.process_time()
        run()
        timing.cpu.append(time.process_time() - cpu_before)
        timing.wall.append(time.perf_counter() - before)
