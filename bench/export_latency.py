"""How fast is an exported model in stock onnxruntime?

A trained sentence encoder, exported for this CPU, beside ``hocket.InferenceSession`` on the module
it was exported from and stock onnxruntime on the original file: in turns, in one process, with the
same threads. Ratios are of medians, and of the fastest runs, which others on the machine disturb
least. With one thread, time is what the process had of its core; with more, time on the wall. The
model's table of positions ends at 512 tokens; for 1024 it is repeated, which changes numbers and
not time.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from harness import Choices, parse_choices, read_rows, report, stamp, write_rows
from onnx import numpy_helper
from zoo.models import ZooError
from zoo.packaged import PACKAGED, find_file

import hocket
from hocket.benchmarking import time_in_turns
from hocket.sampling import random_feeds

QUESTION = "latency of an exported model in stock onnxruntime (timed)"
COLUMNS = {
    "threads": "d",
    "length": "d",
    "exported_ms": ".2f",
    "session_ms": ".2f",
    "original_ms": ".2f",
    "over_session": ".3f",
    "over_original": ".3f",
    "least_over_session": ".3f",
    "least_over_original": ".3f",
    "max_error": ".1e",
}
LENGTHS = (128, 256, 512, 1024)
POSITIONS = 512
RUNS, QUICK_RUNS = 200, 5


def main() -> int:
    """Measure what no row has yet, row by row, and report."""
    choices, _ = parse_choices(QUESTION)
    (model,) = (each for each in PACKAGED if each.name == "minilm-l3")
    try:
        path = find_file(model.package, model.file, model.version)
    except ZooError as error:
        print(f"there is nothing to measure: {error}", file=sys.stderr)
        return 0
    about = stamp()
    kept = choices.json_path if not choices.quick else None
    rows = read_rows(kept) if kept else []
    done = {(row["threads"], row["length"]) for row in rows}
    for threads in choices.threads[: 1 if choices.quick else None]:
        for length in LENGTHS[: 1 if choices.quick else None]:
            if (threads, length) in done:
                continue
            rows.append(_measure(path, threads, length, choices))
            if kept:
                write_rows(QUESTION, rows, kept, about)
    report(QUESTION, rows, COLUMNS, choices, about=about)
    return 0


def _measure(path: Path, threads: int, length: int, choices: Choices) -> dict[str, Any]:
    model = onnx.load(path)
    if length > POSITIONS:
        _repeat_positions(model, length)
    dims = {"batch_size": 1, "sequence_length": length}
    module = hocket.compile(model, dims=dims, num_threads=threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = module.export(folder / "export", "x86_64-linux-gnu", cpu="native")
        library = folder / "export" / f"lib{manifest['prefix']}_onnxruntime.so"
        exported = _session((folder / "export" / "model.onnx").read_bytes(), threads, library)
    runs = {
        "exported": exported,
        "session": module.session(intra_op_num_threads=threads),
        "original": _session(model.SerializeToString(), threads),
    }
    feeds = random_feeds(module.inputs, 0)
    found = {name: session.run(None, feeds) for name, session in runs.items()}
    errors = [
        float(np.abs(ours - theirs).max())
        for ours, theirs in zip(found["exported"], found["original"], strict=True)
    ]
    times = time_in_turns(
        {name: functools.partial(session.run, None, feeds) for name, session in runs.items()},
        clock=time.process_time if threads == 1 else time.perf_counter,
        repeats=QUICK_RUNS if choices.quick else RUNS,
    )
    medians = {name: found.median_seconds * 1e3 for name, found in times.items()}
    least = {name: found.min_seconds * 1e3 for name, found in times.items()}
    return {
        "threads": threads,
        "length": length,
        **{f"{name}_ms": median for name, median in medians.items()},
        **{f"{name}_least_ms": fastest for name, fastest in least.items()},
        "over_session": medians["session"] / medians["exported"],
        "over_original": medians["original"] / medians["exported"],
        "least_over_session": least["session"] / least["exported"],
        "least_over_original": least["original"] / least["exported"],
        "max_error": max(errors),
        "repeats": times["exported"].repeats,
    }


def _session(content: bytes, threads: int, library: Path | None = None) -> Any:
    """Return a session of stock onnxruntime, as it comes but for its threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(content, options)


def _repeat_positions(model: onnx.ModelProto, length: int) -> None:
    """Make the tables of positions, and what is sliced to a length, as long as is wanted."""
    constants = (
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    for tensor in (*model.graph.initializer, *constants):
        shape = tuple(tensor.dims)
        if shape[:1] == (POSITIONS,) and len(shape) == 2:
            longer = np.resize(numpy_helper.to_array(tensor), (length, shape[1]))
        elif shape == (1, POSITIONS):
            array = numpy_helper.to_array(tensor)
            numbers = np.arange(length) if array.any() else np.zeros(length)
            longer = numbers.astype(array.dtype)[None]
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(longer, tensor.name))


if __name__ == "__main__":
    sys.exit(main())
