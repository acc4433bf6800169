"""Worker processes of the local engine, as a terminal's Ctrl-C finds them."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import closing
from pathlib import Path

import pytest
from support import flower_apps
from support.federation import Clients, SoftmaxRegression

from hocket.fl.core.clock import WallClock
from hocket.fl.engines.local import ProcessEngine


def is_blocked(status: Path, number: int) -> bool:
    """Whether a process, by its file in /proc, holds a signal back."""
    (line,) = (each for each in status.read_text().splitlines() if each.startswith("SigBlk:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_workers_leave_an_interrupt_to_whoever_started_them() -> None:
    with closing(ProcessEngine(Clients(), 1, WallClock())) as engine:
        federation = flower_apps.coordinator(engine)
        start = SoftmaxRegression().parameters()
        state = federation.strategy.initialize(start)
        tasks = federation.strategy.configure(state, 1, engine.devices(), 11, "train")
        replies = engine.run(tasks, start)
        next(replies)
        workers = multiprocessing.active_children()
        assert workers
        for each in workers:
            status = Path(f"/proc/{each.pid}/status")
            assert is_blocked(status, signal.SIGINT)
            assert not is_blocked(status, signal.SIGTERM)
        assert not is_blocked(Path("/proc/self/status"), signal.SIGINT)
        assert len(list(replies)) == len(tasks) - 1
