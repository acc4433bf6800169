"""A model compiled for every built-in machine: the same numbers here, a program that fits there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.tiny_encoder import write_tiny_encoder

import hocket
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.options import CompileOptions
from hocket.hwmodels.loader import list_targets

DIMS = {"batch": 1, "seq": 24}


@pytest.mark.parametrize("target", list_targets())
def test_a_module_for_any_target_runs_here_and_fits_there(target: str, tmp_path: Path) -> None:
    model = write_tiny_encoder(tmp_path)
    module = hocket.compile(model, target, DIMS, options=CompileOptions(verify=True))
    artifact = module.artifact
    for step in artifact.attention_steps:
        program = artifact.program(step)  # verified against the target
        assert program.peak_on_chip_bytes <= artifact.target.on_chip_memory.capacity_bytes
        assert step.estimate.of_bound >= 1.0
    path = tmp_path / "module.hkt"
    module.save(path)
    session = hocket.InferenceSession(str(path))
    ids = np.arange(24, dtype=np.int64)[None, :] % 50
    feeds = {"ids": ids, "mask": np.ones_like(ids)}
    reference = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for ours, theirs in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
def test_a_module_with_any_dataflow_survives_its_file(dataflow: str, tmp_path: Path) -> None:
    model = write_tiny_encoder(tmp_path)
    options = CompileOptions(dataflow=dataflow, verify=True, search_tasks=20_000)
    module = hocket.compile(model, "mas-edge", DIMS, options=options)
    path = tmp_path / "module.hkt"
    module.save(path)
    again = hocket.load(str(path)).artifact
    assert again == module.artifact
    assert all(again.program(step) for step in again.attention_steps)
