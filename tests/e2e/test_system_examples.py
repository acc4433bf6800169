"""The short scripts for Venn, Photon and a fleet say what they are to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    """Run an example in a folder that must be empty afterwards, and return what it said."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(folder.iterdir()) == []
    return result.stdout


def test_devices_shared_by_venn_are_spent_more_sparingly(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    said = run("venn.py", tmp_path)
    offered = {name: int(count) for name, count in re.findall(r"^(\w+): (\d+) phones", said, re.M)}
    assert offered["venn"] < offered["fifo"]
    assert re.findall(r"^(\w+): 6 of 6 jobs", said, re.M) == ["random", "srsf", "venn"]


def test_two_clients_far_apart_learn_a_language(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = run("photon.py", tmp_path)
    perplexities = [float(found) for found in re.findall(r"perplexity (\d+\.\d)", said)]
    assert len(perplexities) == 4
    assert perplexities[-1] < 0.8 * perplexities[0]


def test_a_fleet_trains_its_jobs_and_answers_questions(tmp_path: Path) -> None:
    for package in ("torch", "sklearn", "obstore"):
        pytest.importorskip(package)
    said = run("fleet.py", tmp_path)
    digests = re.findall(r"^(\w+): digest [0-9a-f]{16}$", said, re.M)
    assert digests == ["vision", "documents", "programs"]
    answered = re.findall(r"^(\w+) of (\w+) after round (\d)$", said, re.M)
    assert {(workload, job) for workload, job, _ in answered} == {
        ("audit", "vision"),
        ("inference", "vision"),
        ("clustering", "documents"),
        ("inference", "documents"),
        ("filtering", "programs"),
    }
