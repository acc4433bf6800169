"""Latency and memory of a compiled module beside onnxruntime's on the original file."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.sampling import random_feeds
from hocket.verification import ReferenceSession

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

DEFAULT_SECONDS = 5.0
MIN_REPEATS = 5
MAX_REPEATS = 10_000
PAUSE_SECONDS = 0.02
WARM_UP_RUNS = 2
RUNS_A_TURN = 5


class BenchmarkError(RuntimeError):
    """A measurement that could not be made, with what the measured process said."""


@dataclass(frozen=True)
class Latency:
    """Seconds a run, over repeated runs.

    Attributes:
        median_seconds: Half of the runs were faster.
        p10_seconds, p90_seconds: A tenth of the runs were faster, a tenth slower.
        min_seconds: The fastest run.
        repeats: Runs that were timed.
    """

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    min_seconds: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Sum up timings, at least one."""
        if len(seconds) == 1:
            seconds = seconds * 2
            repeats = 1
        else:
            repeats = len(seconds)
        tenths = statistics.quantiles(seconds, n=10, method="inclusive")
        return cls(statistics.median(seconds), tenths[0], tenths[-1], min(seconds), repeats)


@dataclass(frozen=True)
class Memory:
    """What a session added to the resident memory of a fresh process.

    Attributes:
        peak_bytes: The most at any time, while it was created and while it ran.
        run_bytes: The most that runs added to what it held before the first one.
    """

    peak_bytes: int
    run_bytes: int


@dataclass(frozen=True)
class Contender:
    """What was measured of one engine.

    Attributes:
        latency: Its timings.
        memory: What it added; None if it was not measured.
        predicted_run_bytes: What a run was predicted to take, steps of onnxruntime not counted;
            None of those that predict nothing.
    """

    latency: Latency
    memory: Memory | None
    predicted_run_bytes: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Ours beside onnxruntime on the original file, both with the same number of threads."""

    ours: Contender
    onnxruntime: Contender
    num_threads: int

    @property
    def ratio(self) -> float:
        """Onnxruntime's median latency divided by ours: above 1 we are faster."""
        return self.onnxruntime.latency.median_seconds / self.ours.latency.median_seconds


def compare_with_onnxruntime(
    artifact: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    num_threads: int,
    repeats: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    measures_memory: bool = True,
    progress: Callable[[int, float], None] | None = None,
) -> Comparison:
    """Time a compiled module and onnxruntime in turns, in one process, on the same feeds.

    Args:
        artifact: The compiled module.
        model: The ONNX file it was compiled from.
        num_threads: Threads of both.
        repeats: Timed runs of each; about as many as fit into ``seconds`` by default.
        seconds: Time to spend when ``repeats`` is not given.
        seed: Of the feeds.
        dims: Sizes of open dimensions.
        measures_memory: Whether to measure memory, in a fresh process for each.
        progress: Called after each turn with the number of timed runs and the seconds spent.

    Raises:
        VerificationError: onnxruntime cannot load or run the model.
        BenchmarkError: A process that measures memory failed.
    """
    from hocket.inference import InferenceSession
    from hocket.runtime.session import SessionOptions

    session = InferenceSession(artifact, SessionOptions(intra_op_num_threads=num_threads))
    reference = ReferenceSession(model, num_threads)
    feeds = random_feeds(session.sized_inputs(dims), seed)
    names = [spec.name for spec in session.get_outputs()]
    latencies = time_in_turns(
        {
            "ours": lambda: session.run(names, feeds),
            "onnxruntime": lambda: reference.run(names, feeds),
        },
        repeats=repeats,
        seconds=seconds,
        progress=progress,
    )
    memory: dict[str, Memory | None] = dict.fromkeys(latencies)
    if measures_memory:
        for engine, path in (("ours", artifact), ("onnxruntime", model)):
            memory[engine] = measure_memory(engine, path, num_threads, feeds, names)
    return Comparison(
        Contender(latencies["ours"], memory["ours"], session.predict_run_bytes(dims)),
        Contender(latencies["onnxruntime"], memory["onnxruntime"]),
        num_threads,
    )


def time_in_turns(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    progress: Callable[[int, float], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time several ways to do the same, one after the other, again and again.

    What else the machine does then hits all of them alike. A turn begins with a pause, in which the
    threads of the one before stop spinning for more work and leave the cores free, and with runs
    that are not timed, in which caches fill and sleeping cores and threads wake up.

    Args:
        runs: What to time, by name.
        repeats: Timed runs of each; by default as many as there is time for.
        seconds: On the wall, after which no turn is begun.
        progress: Told of how many runs of each are done, and of the seconds so far.
        clock: That runs are timed by: ``time.process_time`` for runs of one thread on a machine
            that others use, too.
    """
    timings: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    wanted = repeats if repeats is not None else MAX_REPEATS
    start = time.perf_counter()
    done = 0
    while done < wanted:
        in_turn = min(RUNS_A_TURN, wanted - done)
        for name, run in runs.items():
            time.sleep(PAUSE_SECONDS)
            timings[name] += _time_runs(run, in_turn, clock)
        done += in_turn
        spent = time.perf_counter() - start
        if progress is not None:
            progress(done, spent)
        if repeats is None and spent >= seconds and done >= MIN_REPEATS:
            break
    return {name: Latency.of(values) for name, values in timings.items()}


def _time_runs(run: Callable[[], object], count: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of ``count`` runs, after some that are not timed."""
    seconds = []
    for _ in range(WARM_UP_RUNS):
        run()
    for _ in range(count):
        before = clock()
        run()
        seconds.append(clock() - before)
    return seconds


def measure_memory(
    engine: str,
    path: str | os.PathLike[str],
    num_threads: int,
    feeds: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
) -> Memory:
    """Return what a session and its runs add to a fresh process.

    Args:
        engine: ``ours`` or ``onnxruntime``.
        path: What the engine loads: the compiled module, or the ONNX file.
        num_threads: Threads of the engine.
        feeds: What to run it on.
        outputs: Names of the outputs to ask for.

    Raises:
        BenchmarkError: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="hocket-") as folder:
        stored = Path(folder) / "feeds.npz"
        # Keyed by place, for a name may hold what no file name may.
        np.savez(stored, *feeds.values())
        request = {
            "engine": engine,
            "path": str(path),
            "num_threads": num_threads,
            "feeds": str(stored),
            "inputs": list(feeds),
            "outputs": list(outputs),
        }
        result = subprocess.run(  # noqa: S603 (our own module, in this interpreter)
            [sys.executable, "-m", "hocket.memory_probe", json.dumps(request)],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        raise BenchmarkError(f"measuring the memory of {engine} failed: {result.stderr.strip()}")
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return Memory(**answer)
