from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from kernels.cases import parse_problem
from kernels.onnx_peers import standard_op
from kernels.operands import Operands
from support.tiny_encoder import write_tiny_encoder

import hocket
from hocket.benchmarking import BenchmarkError, measure_memory

if TYPE_CHECKING:
    from pathlib import Path

FEEDS = {"ids": np.zeros((1, 4), np.int64), "mask": np.ones((1, 4), np.int64)}


def test_onnxruntime_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_encoder(tmp_path)
    found = measure_memory("onnxruntime", path, 1, FEEDS, ["classes"])
    # A session of a tiny model: more than nothing, and far less than onnxruntime itself.
    assert 0 < found.peak_bytes < 50_000_000
    assert 0 <= found.run_bytes <= found.peak_bytes


def test_a_run_takes_what_is_predicted(tmp_path: Path) -> None:
    problem = parse_problem("8,4096,4096,64")
    graph = standard_op(Operands(problem))
    model, compiled = tmp_path / "model.onnx", tmp_path / "model.hkt"
    model.write_bytes(graph.serialize())
    module = hocket.compile(model, num_threads=1)
    module.save(compiled)
    predicted = module.session(intra_op_num_threads=1).predict_run_bytes()
    found = measure_memory("ours", compiled, 1, graph.feeds, list(graph.outputs))
    # Two outputs may be alive at once: a run's own, and the last run's as it is let go.
    output = sum(spec.nbytes for spec in module.outputs)
    assert 0.9 * predicted <= found.run_bytes <= 1.1 * (predicted + output)


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"gone\.onnx"):
        measure_memory("onnxruntime", tmp_path / "gone.onnx", 1, FEEDS, ["classes"])
