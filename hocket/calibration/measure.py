"""Timing this CPU: how much work of each kind it does a second."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.calibration.probes import make_probes
from hocket.calibration.system import memory_bytes, read_caches
from hocket.hwmodels.machine import MAX_CORES
from hocket.runtime.cpu import CpuFeatures, detect_cpu, usable_cores
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.calibration.probes import Probe
    from hocket.calibration.system import Cache

    Timer = Callable[[], float]
    Progress = Callable[[str, int, int], None]

REPEATS = 51
QUICK_REPEATS = 11


class CalibrationError(RuntimeError):
    """A CPU that cannot be measured as asked for, or measurements that contradict one another."""


@dataclass(frozen=True)
class Measurements:
    """What was found out about this CPU.

    Attributes:
        cpu: Its vector unit, as LLVM sees it.
        num_cores: Cores that worked at a time.
        cycles_per_second: Of the clock, while one core works.
        scores_per_second: Scores of a whole attention with ``HEAD_DIM`` columns, both products and
            softmax, that a core works through.
        maxima_per_second: Scores that a core takes the maximum of.
        exponentials_per_second: Scores that a core subtracts the maximum from, exponentiates and
            sums.
        read_bytes_per_second: Bytes that all cores together read from memory.
        caches: Of the first core; empty if the system does not tell.
        memory_bytes: Of the machine; None if the system does not tell.

    Raises:
        CalibrationError: A rate is not a positive number.
    """

    cpu: CpuFeatures
    num_cores: int
    cycles_per_second: float
    scores_per_second: float
    maxima_per_second: float
    exponentials_per_second: float
    read_bytes_per_second: float
    caches: tuple[Cache, ...]
    memory_bytes: int | None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_per_second") and not (math.isfinite(value) and value > 0):
                raise CalibrationError(f"{name} must be positive, got {value}; measure again")


def measure(
    num_cores: int = 0,
    *,
    is_quick: bool = False,
    timer: Timer = time.perf_counter,
    progress: Progress | None = None,
) -> Measurements:
    """Time this CPU. Nothing else should run meanwhile; it takes some seconds.

    Args:
        num_cores: Cores to use; 0 for all that this process may run on.
        is_quick: Repeat less and read less memory.
        timer: Returns the seconds since some moment.
        progress: Called before each probe with its name, its place and how many there are.

    Raises:
        CalibrationError: More cores are asked for than there are, or a rate is not positive.
    """
    usable = min(usable_cores(), MAX_CORES)
    num_cores = num_cores or usable
    if not 1 <= num_cores <= usable:
        raise CalibrationError(
            f"want 1 to {usable} cores, as many as this process may run on, got {num_cores}"
        )
    cpu, caches = detect_cpu(), read_caches()
    with WorkerPool(num_cores) as pool:
        rates = take_rates(
            make_probes(cpu, caches, pool, is_quick=is_quick),
            QUICK_REPEATS if is_quick else REPEATS,
            timer,
            progress,
        )
    return Measurements(
        cpu=cpu,
        num_cores=num_cores,
        cycles_per_second=rates["cycles"],
        scores_per_second=rates["scores"] / num_cores,
        maxima_per_second=rates["maxima"] / num_cores,
        exponentials_per_second=rates["exponentials"] / num_cores,
        read_bytes_per_second=rates["read_bytes"],
        caches=caches,
        memory_bytes=memory_bytes(),
    )


def take_rates(
    probes: Mapping[str, Probe],
    repeats: int,
    timer: Timer = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the work that each probe does a second, by its key.

    A rate comes from the median of ``repeats`` runs, after one that is not timed.
    """
    rates = {}
    for place, (key, probe) in enumerate(probes.items()):
        if progress is not None:
            progress(probe.name, place, len(probes))
        probe.run()
        seconds = []
        for _ in range(repeats):
            before = timer()
            probe.run()
            seconds.append(timer() - before)
        median = statistics.median(seconds)
        rates[key] = probe.amount / median if median > 0 else math.inf
    return rates
