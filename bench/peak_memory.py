"""How much memory does attention take at its peak, beside onnxruntime, as sequences grow?

One attention layer of eight heads, as an operator and as exporters write it out. Each engine runs
in a process of its own that has loaded its libraries: what is measured is what its session and
three runs add to the peak, inputs not counted. Of ours most is the compiler of the kernels, which
a machine pays for once; what a run itself needs (scratch memory, tensors between steps, and
outputs) is predicted and measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Choices, run_bench
from kernels.cases import parse_problem
from kernels.onnx_peers import decomposed, standard_op
from kernels.operands import Operands

import hocket
from hocket.benchmarking import measure_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels.onnx_peers import Graph

COLUMNS = {
    "form": "",
    "length": "d",
    "predicted_mib": ".2f",
    "run_mib": ".2f",
    "ours_mib": ".1f",
    "onnxruntime_mib": ".1f",
    "ratio": ".1f",
}

LENGTHS = (512, 1024, 4096, 8192)
_MIB = 2**20


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a form and length."""
    forms: dict[str, Callable[[Operands], Graph]] = {
        "decomposed": decomposed,
        "Attention": standard_op,
    }
    return [
        {"form": form, "length": length, **compare(write, length)}
        for form, write in forms.items()
        for length in (LENGTHS[1:2] if choices.quick else LENGTHS)
    ]


def compare(write: Callable[[Operands], Graph], length: int) -> dict[str, float]:
    """Return the figures of one model."""
    graph = write(Operands(parse_problem(f"8,{length},{length},64")))
    outputs = list(graph.outputs)
    with tempfile.TemporaryDirectory() as folder:
        model, compiled = Path(folder) / "model.onnx", Path(folder) / "model.hkt"
        model.write_bytes(graph.serialize())
        module = hocket.compile(model, num_threads=1)
        module.save(compiled)
        predicted = module.session(intra_op_num_threads=1).predict_run_bytes()
        ours, theirs = (
            measure_memory(engine, path, 1, graph.feeds, outputs)
            for engine, path in (("ours", compiled), ("onnxruntime", model))
        )
    return {
        "predicted_mib": predicted / _MIB,
        "run_mib": ours.run_bytes / _MIB,
        "ours_mib": ours.peak_bytes / _MIB,
        "onnxruntime_mib": theirs.peak_bytes / _MIB,
        "ratio": theirs.peak_bytes / ours.peak_bytes,
    }


if __name__ == "__main__":
    run_bench("peak memory of one attention layer against onnxruntime (measured)", COLUMNS, measure)
