"""The processes that measure, and the environments they run in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.kinds import is_installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kernels.cases import Case

FORCED = " forced"
"""What the names of peers end in that ran with their best kernels forced upon them."""

_BENCH = Path(__file__).parent.parent
_CPUINFO = Path("/proc/cpuinfo")
# MKL asks this function whether the CPU is Intel's, and takes slower kernels if it is not, even
# where the CPU has the instructions of the faster ones. A library that is loaded before MKL answers
# in its place.
_ANSWER = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


@dataclass(frozen=True)
class Setting:
    """An environment to measure in.

    Attributes:
        name: Appended to the names of peers.
        variables: Of the environment.
        is_forced: Whether only peers take part whose kernels are another's choice otherwise.
    """

    name: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    is_forced: bool = False


def force_mkl(folder: Path, libraries: Sequence[str]) -> tuple[Setting | None, str]:
    """Return the setting in which MKL takes its best kernels on any CPU.

    Args:
        folder: Where to put what is compiled for it.
        libraries: Those that take part.

    Returns:
        None, and why, where there is no such setting or no need for it.
    """
    if "torch" not in libraries or not is_installed("torch"):
        return None, ""
    if not _CPUINFO.exists():
        return None, "MKL's choice of kernels can be forced on Linux only"
    if "GenuineIntel" in _CPUINFO.read_text(encoding="utf-8"):
        return None, "MKL takes its best kernels by itself on this CPU"
    compiler = shutil.which("cc")
    if compiler is None:
        return None, "MKL's kernels as shipped only: there is no C compiler to force others with"
    source, library = folder / "answer.c", folder / "answer.so"
    source.write_text(_ANSWER, encoding="ascii")
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        return None, f"MKL's kernels as shipped only: {made.stderr.strip()[:100]}"
    return Setting(FORCED, {"LD_PRELOAD": str(library)}, is_forced=True), ""


def ask(
    task: str,
    cases: Sequence[Case],
    setting: Setting,
    *,
    threads: int,
    libraries: Sequence[str],
    is_quick: bool,
) -> Iterator[dict[str, Any]]:
    """Let a process of its own carry out a task, and yield its answers as they come.

    Where it ends before it has answered for each case, the one it was at gets the answer
    ``{"failure": why}``, and another process goes on with the next.
    """
    left = list(cases)
    while True:
        failure = ""
        for answer in _answers(task, left, setting, threads, libraries, is_quick):
            if "failure" in answer:
                failure = answer["failure"]
                break
            left = left[1:]
            yield answer
        if not failure:
            return
        yield {"failure": failure}
        left = left[1:]
        if not left:
            return


def _answers(
    task: str,
    cases: Sequence[Case],
    setting: Setting,
    threads: int,
    libraries: Sequence[str],
    is_quick: bool,
) -> Iterator[dict[str, Any]]:
    request = {
        "task": task,
        "cases": [{"kind": c.kind, "name": c.name, "problem": c.text} for c in cases],
        "threads": threads,
        "libraries": list(libraries),
        "is_quick": is_quick,
        "is_forced": setting.is_forced,
    }
    environment = os.environ | setting.variables
    # Libraries that make their threads when they load, and would never let go of the others.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment |= {"OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(_BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        subprocess.Popen(
            [sys.executable, "-m", "kernels.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environment,
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise AssertionError("a process with pipes has them")
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            yield json.loads(line)
        if process.wait():
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:]
            yield {"failure": last[0] if last else f"ended with status {process.returncode}"}
