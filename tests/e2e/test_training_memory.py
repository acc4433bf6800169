"""Predicted memory of training beside what processes that train were measured to take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory by Linux")
@pytest.mark.parametrize(
    ("model", "optimizer", "batch"),
    [
        ("gpt", "adamw", 4),
        ("vit", "sgd", 8),
        ("cnn", "sgd", 16),
    ],
)
def test_predicted_memory_is_within_a_tenth_of_the_measured(
    model: str, optimizer: str, batch: int
) -> None:
    # What is freed goes back to the system at once: counted is what is in use, not what glibc
    # keeps for later.
    settings = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "bench"))
    found = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "support.training_memory",
            model,
            optimizer,
            str(batch),
        ],
        env={**os.environ, **settings, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["predicted"] == pytest.approx(figures["measured"], rel=0.1)
