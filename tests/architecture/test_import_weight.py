"""`import hocket` is cheap: it loads nothing until a name is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

BUDGET_SECONDS = 0.1
TRIES = 8
HEAVY = (
    "numpy",
    "numba",
    "llvmlite",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "ortools",
    "torch",
    "typer",
    "rich",
    "matplotlib",
)

# Timed inside a fresh interpreter, so that its own start does not count.
SCRIPT = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "modules": sorted(sys.modules)}}))
"""


def _import_in_subprocess(statement: str) -> tuple[float, set[str]]:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(result.stdout)
    return answer["seconds"], {name.split(".")[0] for name in answer["modules"]}


def test_import_loads_no_heavy_package() -> None:
    _, packages = _import_in_subprocess("import hocket")
    assert "hocket" in packages
    assert packages & set(HEAVY) == set()


def test_import_takes_less_than_the_budget() -> None:
    # The least of several, because what else the machine does can only add to a timing.
    fastest = min(_import_in_subprocess("import hocket")[0] for _ in range(TRIES))
    assert fastest < BUDGET_SECONDS


def test_the_version_loads_no_heavy_package() -> None:
    _, packages = _import_in_subprocess("import hocket; assert hocket.__version__")
    assert packages & set(HEAVY) == set()


def test_loading_an_artifact_loads_no_compiler() -> None:
    """A device installs the two lowest floors only."""
    _, packages = _import_in_subprocess("import hocket.runtime.artifact")
    assert packages & {"onnx", "onnx_ir", "onnxscript", "ortools", "torch"} == set()


def test_the_measure_sees_a_heavy_package() -> None:
    _, packages = _import_in_subprocess("import hocket, numpy")
    assert packages & set(HEAVY) == {"numpy"}
