"""A process that creates one session, runs it, and says how much memory each took at its peak.

Run as ``python -m hocket.memory_probe REQUEST`` by ``benchmarking.measure_memory``: a process
of its own, because the peak of one that has already done something else says nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 3

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def probe(request: dict[str, Any]) -> dict[str, int]:
    """Carry out a request and return the bytes that it added.

    They are ``peak_bytes``, what session and runs together added at their peak, and ``run_bytes``,
    what runs added to what the session held already.

    A request names the ``engine`` (``ours`` or ``onnxruntime``), the ``path`` of what it loads,
    ``num_threads``, the ``feeds`` (an ``.npz`` file), the ``inputs`` they are for and the
    ``outputs`` to ask for.

    Libraries are loaded before the count begins: what is compared is the memory of the engines'
    work, not the size of their packages.
    """
    import numba  # noqa: F401 (loaded now, so that it is not counted)
    import numpy as np

    from hocket.inference import InferenceSession
    from hocket.runtime.session import SessionOptions
    from hocket.verification import ReferenceSession, load_onnxruntime

    load_onnxruntime()
    # Where it happens to be installed, numba loads it with the first kernel.
    with contextlib.suppress(ImportError):
        importlib.import_module("scipy.linalg")
    with np.load(request["feeds"]) as archive:
        feeds = dict(zip(request["inputs"], archive.values(), strict=True))
    names, num_threads = request["outputs"], request["num_threads"]

    def run_ours() -> Callable[[], object]:
        session = InferenceSession(
            request["path"], SessionOptions(intra_op_num_threads=num_threads)
        )
        return lambda: session.run(names, feeds)

    def run_onnxruntime() -> Callable[[], object]:
        reference = ReferenceSession(request["path"], num_threads)
        return lambda: reference.run(names, feeds)

    before = start_counting()
    run = run_ours() if request["engine"] == "ours" else run_onnxruntime()
    peak_of_session = peak_bytes()
    held = start_counting()
    for _ in range(RUNS):
        run()
    peak_of_runs = peak_bytes()
    return {
        "peak_bytes": max(max(peak_of_session, peak_of_runs) - before, 0),
        "run_bytes": max(peak_of_runs - held, 0),
    }


def start_counting() -> int:
    """Forget the peak so far, where the system can, and return the bytes in use."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return peak_bytes()
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Return the largest resident memory of this process since ``start_counting``.

    Not ``ru_maxrss`` where it can be helped: a new process inherits that from its parent.
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"{_STATUS} has no {key}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(json.loads(sys.argv[1]))) + "\n")
