"""Requests while instances are killed: how many are lost, and how many answers are wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import FederationError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.workloads.workload import Question
from hocket.store_parts import open_round_store

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.fl.store.round_store import RoundStore

JOB, SIZE, DEVICES, ROUNDS, CLIENTS = "job", 20_000, 6, 4, 2


def fault_row(folder: Path, num_requests: int, kill_every: int) -> dict[str, Any]:
    """Return what became of requests while an instance is killed every so many of them."""
    with open_round_store(
        str(folder), memory_bytes=64 << 20, num_instances=CLIENTS, must_exist=False
    ) as store:
        wanted = _fill(store)
        outcome = _Outcome(store, wanted, num_requests)
        killer = threading.Thread(target=outcome.kill, args=(kill_every,))
        clients = [threading.Thread(target=outcome.ask) for _ in range(CLIENTS)]
        for thread in (killer, *clients):
            thread.start()
        for thread in clients:
            thread.join()
        outcome.is_over.set()
        killer.join()
        usage = store.instances.usage()
        lost_entries = len(store.history.verify())
    return {
        "part": "faults",
        "requests": num_requests,
        "killed": outcome.num_killed,
        "instances_lost": usage.num_lost,
        "run_again": usage.num_retries,
        "lost": num_requests - outcome.num_answers,
        "wrong": outcome.num_wrong,
        "damaged_entries": lost_entries,
        "median_ms": 1e3 * statistics.median(outcome.seconds),
        "worst_ms": 1e3 * max(outcome.seconds),
    }


def _fill(store: RoundStore) -> dict[int, Any]:
    """Put rounds, and return the medians of each."""
    rng = np.random.default_rng(0)
    wanted = {}
    for number in range(1, ROUNDS + 1):
        updates = rng.standard_normal((DEVICES, SIZE)).astype(np.float32)
        for place, update in enumerate(updates):
            store.ingest(Key(JOB, number, f"d{place}", UPDATE), {"weights": update})
        store.ingest(Key(JOB, number, SERVER, MODEL), {"weights": updates.mean(axis=0)})
        wanted[number] = np.median(updates, axis=0)
    return wanted


class _Outcome:
    """Clients that ask, somebody who kills, and what came of it."""

    def __init__(self, store: RoundStore, wanted: dict[int, Any], num_requests: int) -> None:
        self.store, self.wanted, self.num_requests = store, wanted, num_requests
        self.num_begun = self.num_answers = self.num_wrong = self.num_killed = 0
        self.seconds: list[float] = []
        self.is_over = threading.Event()
        self._changed = threading.Condition()

    def ask(self) -> None:
        """Ask for the medians of each round in turns, and compare."""
        while True:
            with self._changed:
                if self.num_begun == self.num_requests:
                    return
                number = self.num_begun % ROUNDS + 1
                self.num_begun += 1
                self._changed.notify_all()
            started = time.perf_counter()
            with contextlib.suppress(FederationError, StoreError):
                found = self.store.ask("robust-mean", Question(JOB, number)).arrays["weights"]
                is_right = np.allclose(found, self.wanted[number], rtol=1e-5, atol=1e-6)
                with self._changed:
                    self.num_answers += 1
                    self.num_wrong += not is_right
                    self.seconds.append(time.perf_counter() - started)

    def kill(self, every: int) -> None:
        """Kill an instance every so many requests, at work or idle."""
        due = every
        while not self.is_over.is_set():
            with self._changed:
                self._changed.wait_for(lambda due=due: self.num_begun >= due, timeout=0.1)
                if self.num_begun < due:
                    continue
            for victim in self.store.instances.processes()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    self.num_killed += 1
                    due += every
