"""Modules of VGG16 under a budget: what training them was measured to take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory by Linux")
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_an_attacked_module_takes_what_it_was_predicted_to(number: int) -> None:
    settings = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "bench"))
    command = [sys.executable, "-W", "ignore", "-m", "support.module_memory", "0.35", str(number)]
    found = subprocess.run(
        command,
        env={**os.environ, **settings, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["modules"] > 2
    assert figures["predicted"] <= figures["budget"]
    assert figures["measured"] == pytest.approx(figures["predicted"], rel=0.1)
