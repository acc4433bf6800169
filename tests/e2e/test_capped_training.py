"""In a process that is held to a device's memory modules are trained, and the whole is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is capped by Linux")
def test_modules_fit_where_the_whole_model_does_not() -> None:
    # What is freed goes back to the system, and counts no longer.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "bench"))
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "support.capped_training", "0.6"],
        env={**os.environ, **settings, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])
    assert len(figures["modules_fit"]) > 1
    assert all(figures["modules_fit"])
    assert not figures["whole_fits"]
    # It is the cap that it does not fit: with what it is predicted to take it does.
    assert figures["whole_fits_without"]
