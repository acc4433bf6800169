"""How fast are whole compiled models beside onnxruntime on the original file?

Trained models that come as files of packages, timed in turns in one process with the same threads;
those that are not installed are left out. Of ours also what its attention takes: the rest is
onnxruntime's work in our regions.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Choices, run_bench
from zoo.models import Packaged, Size, ZooError, dims_of
from zoo.packaged import PACKAGED, find_file

import hocket
from hocket.benchmarking import compare_with_onnxruntime
from hocket.sampling import random_feeds

COLUMNS = {
    "model": "",
    "threads": "d",
    "size": "",
    "ours_ms": ".2f",
    "attention_ms": ".2f",
    "onnxruntime_ms": ".2f",
    "ratio": ".3f",
    "ours_peak_mib": ".0f",
    "onnxruntime_peak_mib": ".0f",
}

SIZES: dict[str, tuple[Size, ...]] = {
    "minilm-l3": (
        {"batch": 1, "length": 32},
        {"batch": 1, "length": 128},
        {"batch": 1, "length": 256},
        {"batch": 1, "length": 512},
        {"batch": 8, "length": 128},
    ),
    "smart-turn": ({"batch": 1},),
    "pp-ocrv4-rec": ({"batch": 1, "height": 48, "width": 320},),
}

_PROFILED_RUNS = 9


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a model, thread count and size."""
    rows = []
    for model in PACKAGED:
        try:
            path = find_file(model.package, model.file, model.version)
        except ZooError as error:
            print(f"{model.name} is left out: {error}", file=sys.stderr)
            continue
        sizes = SIZES[model.name][: 1 if choices.quick else None]
        rows += [
            _compare(model, path, size, threads, 2.0 if choices.quick else 10.0)
            for threads in choices.threads[: 1 if choices.quick else None]
            for size in sizes
        ]
    return rows


def _compare(
    model: Packaged, path: Path, size: Size, num_threads: int, seconds: float
) -> dict[str, Any]:
    module = hocket.compile(path, dims=dims_of(model, size), num_threads=num_threads)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "model.hkt"
        module.save(compiled)
        found = compare_with_onnxruntime(compiled, path, num_threads=num_threads, seconds=seconds)
    session = module.session(intra_op_num_threads=num_threads)
    feeds = random_feeds(session.sized_inputs(), 0)
    profiles = [session.profile(feeds) for _ in range(_PROFILED_RUNS)]
    memories = (found.ours.memory, found.onnxruntime.memory)
    ours_mib, theirs_mib = (each.peak_bytes / 2**20 if each else 0.0 for each in memories)
    return {
        "model": model.name,
        "threads": num_threads,
        "size": ", ".join(f"{name} {number}" for name, number in size.items()),
        "ours_ms": found.ours.latency.median_seconds * 1e3,
        "attention_ms": statistics.median(each.seconds_of("attention") for each in profiles) * 1e3,
        "onnxruntime_ms": found.onnxruntime.latency.median_seconds * 1e3,
        "ratio": found.ratio,
        "ours_peak_mib": ours_mib,
        "onnxruntime_peak_mib": theirs_mib,
    }


if __name__ == "__main__":
    run_bench("latency of trained models against onnxruntime (timed)", COLUMNS, measure)
