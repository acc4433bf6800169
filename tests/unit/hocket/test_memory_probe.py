from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.tiny_encoder import write_tiny_encoder

from hocket.benchmarking import BenchmarkError, measure_peak_memory

if TYPE_CHECKING:
    from pathlib import Path

FEEDS = {"ids": np.zeros((1, 4), np.int64), "mask": np.ones((1, 4), np.int64)}


def test_onnxruntime_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_encoder(tmp_path)
    peak = measure_peak_memory("onnxruntime", path, 1, FEEDS, ["classes"])
    # A session of a tiny model: more than nothing, and far less than onnxruntime itself.
    assert 0 < peak < 50_000_000


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"gone\.onnx"):
        measure_peak_memory("onnxruntime", tmp_path / "gone.onnx", 1, FEEDS, ["classes"])
