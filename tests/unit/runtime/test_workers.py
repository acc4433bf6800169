"""A pool runs a function in all its workers and waits for none that is late."""

from __future__ import annotations

import threading

import pytest

from hocket.runtime.errors import UnsupportedError
from hocket.runtime.workers import WorkerPool


def test_all_workers_run_and_the_caller_is_one() -> None:
    with WorkerPool(3) as pool:
        # Nobody leaves before all have come.
        together = threading.Barrier(3, timeout=10)
        seen: dict[int, int] = {}

        def note(worker: int) -> None:
            seen[worker] = threading.get_ident()
            together.wait()

        pool.run(note)
    assert sorted(seen) == [0, 1, 2]
    assert seen[0] == threading.get_ident()
    assert len(set(seen.values())) == 3


def test_caller_does_not_wait_for_workers_that_never_started() -> None:
    with WorkerPool(2) as pool:
        release = threading.Event()
        entered = threading.Event()
        ran: list[int] = []

        def keep_busy(worker: int) -> None:
            if worker == 1:
                entered.set()
                release.wait(10)
            else:
                entered.wait(10)

        busy = threading.Thread(target=pool.run, args=(keep_busy,))
        busy.start()
        assert entered.wait(10)
        pool.run(ran.append)  # its only other thread is taken
        assert ran == [0]
        release.set()
        busy.join(10)
        assert ran == [0]


def test_caller_waits_for_workers_that_started() -> None:
    with WorkerPool(2) as pool:
        entered, finished = threading.Event(), threading.Event()

        def work(worker: int) -> None:
            if worker == 1:
                entered.set()
                sum(range(300_000))  # still at it when the caller is through
                finished.set()
            else:
                assert entered.wait(10)

        pool.run(work)
        assert finished.is_set()


def test_failures_of_any_worker_reach_the_caller() -> None:
    with WorkerPool(2) as pool:
        both = threading.Barrier(2, timeout=10)

        def fail(worker: int, failing: int) -> None:
            both.wait()
            if worker == failing:
                raise KeyError(worker)

        for failing in (0, 1):
            with pytest.raises(KeyError, match=str(failing)):
                pool.run(lambda worker, failing=failing: fail(worker, failing))  # type: ignore[misc]


def test_no_more_workers_than_asked_for() -> None:
    ran: list[int] = []
    with WorkerPool(4) as pool:
        pool.run(ran.append, max_workers=1)
    assert ran == [0]


def test_closed_pool_is_refused_and_closing_twice_is_harmless() -> None:
    pool = WorkerPool(2)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError):
        pool.run(lambda _worker: None)


def test_pool_needs_a_thread() -> None:
    with pytest.raises(UnsupportedError, match="1 thread or more"):
        WorkerPool(0)
    with WorkerPool() as pool:
        assert pool.num_threads >= 1
