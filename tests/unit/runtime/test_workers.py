"""A pool runs a function in all its workers and waits for none that is late."""

from __future__ import annotations

import gc
import itertools
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from hocket.runtime import workers
from hocket.runtime.errors import UnsupportedError
from hocket.runtime.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable


def threads_of(pool: WorkerPool) -> list[threading.Thread]:
    assert pool._crew is not None
    return list(pool._crew._threads)


def start_all(pool: WorkerPool) -> None:
    """Have a thread for every worker."""
    together = threading.Barrier(pool.num_threads, timeout=10)
    pool.run(lambda _worker: together.wait() and None)


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        time.sleep(0.001)
    raise AssertionError("it never came about")


def run_script(text: str) -> str:
    """Return what a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
        assert pool._crew is not None
        ran: list[int] = []
        start_all(pool)
        alarms = pool._crew._alarms
        pool._crew._alarms = [threading.Lock()]  # the other thread hears nothing
        pool.run(ran.append)
        assert ran == [0]
        pool._crew._alarms = alarms


def test_a_worker_that_comes_late_is_not_started() -> None:
    run = workers._Run(lambda _worker: pytest.fail("nobody waits for it"), 3)
    assert run.withdraw() == 0
    assert not run.take_part()


def test_workers_that_started_are_the_first() -> None:
    ran: list[int] = []
    run = workers._Run(ran.append, 4)
    assert run.take_part()
    assert run.take_part()
    assert run.withdraw() == 2
    assert not run.take_part()
    assert ran == [1, 2]
    assert [lock.locked() for lock in run.ended] == [True, False, False, True]


def test_who_finds_the_others_taken_works_alone() -> None:
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


def test_runs_within_a_run_work_alone() -> None:
    inner: list[int] = []
    with WorkerPool(2) as pool:
        together = threading.Barrier(2, timeout=10)

        def run_again(_worker: int) -> None:
            together.wait()
            pool.run(inner.append)
            together.wait()

        pool.run(run_again)
    assert inner == [0, 0]


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


def test_of_several_failures_the_first_worker_s_is_told() -> None:
    with WorkerPool(3) as pool:
        together = threading.Barrier(3, timeout=10)

        def fail(worker: int) -> None:
            together.wait()
            if worker >= first:
                raise SystemExit(worker)

        for first in range(3):
            with pytest.raises(SystemExit, match=str(first)):
                pool.run(fail)
        first = 3
        pool.run(fail)


@pytest.mark.parametrize("failing", [0, 1])
def test_failures_and_functions_are_not_kept(failing: int) -> None:
    class OfTheRun(Exception):  # noqa: N818
        pass

    with WorkerPool(2) as pool:
        together = threading.Barrier(2, timeout=10)
        kept: list[weakref.ref[object]] = []

        def run_and_fail() -> None:
            def fail(worker: int) -> None:
                together.wait()
                if worker == failing:
                    failure = OfTheRun()
                    kept.append(weakref.ref(failure))
                    try:
                        raise failure
                    finally:
                        del failure

            kept.append(weakref.ref(fail))
            with pytest.raises(OfTheRun):
                pool.run(fail)

        gc.collect()
        gc.disable()
        try:
            run_and_fail()
            # The other thread may be about to let go.
            wait_until(lambda: all(each() is None for each in kept))
        finally:
            gc.enable()
        assert len(kept) == 2


def test_no_more_workers_than_asked_for() -> None:
    ran: list[int] = []
    with WorkerPool(4) as pool:
        pool.run(ran.append, max_workers=1)
        assert ran == [0]
        together = threading.Barrier(2, timeout=10)

        def note(worker: int) -> None:
            ran.append(worker)
            together.wait()

        start_all(pool)
        pool.run(note, max_workers=2)
        assert sorted(ran) == [0, 0, 1]
        pool.run(lambda _worker: None, max_workers=9)


def test_threads_start_when_they_are_wanted() -> None:
    with WorkerPool(4) as pool:
        assert not threads_of(pool)
        pool.run(lambda _worker: None, max_workers=3)
        assert len(threads_of(pool)) == 2
        start_all(pool)
        start_all(pool)
        assert len(threads_of(pool)) == 3


def test_one_thread_needs_no_code() -> None:
    assert WorkerPool(1)._crew is None


def test_nobody_looks_out_where_others_want_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    with WorkerPool(2) as two, WorkerPool(3) as three, WorkerPool(2, idle_seconds=0) as busy:
        assert two._crew is not None
        assert three._crew is not None
        assert busy._crew is not None
        assert three._crew._idle_turns == three._crew._end_turns == 0
        assert 0 < busy._crew._idle_turns < two._crew._idle_turns
        assert two._crew._end_turns > 0
        for pool in (two, three, busy):
            for _ in range(20):
                start_all(pool)


def test_closed_pool_is_refused_and_closing_twice_is_harmless() -> None:
    pool = WorkerPool(2)
    start_all(pool)
    threads = threads_of(pool)
    pool.close()
    assert not any(thread.is_alive() for thread in threads)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.run(lambda _worker: None)
    unused = WorkerPool(2)
    unused.close()


def test_a_pool_may_be_closed_while_it_runs() -> None:
    for _ in range(200):
        pool = WorkerPool(3)
        done: list[int] = []
        caller = threading.Thread(target=lambda: pool.run(done.append))  # noqa: B023
        caller.start()
        pool.close()
        caller.join(10)
        assert not caller.is_alive()
        # Either the pool was closed before, or all is done.
        assert not done or done.count(0) == 1
        wait_until(lambda: not any(thread.is_alive() for thread in threads_of(pool)))  # noqa: B023


def test_threads_end_with_a_pool_that_nobody_closed() -> None:
    pool = WorkerPool(3)
    start_all(pool)
    threads = threads_of(pool)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    wait_until(lambda: not any(thread.is_alive() for thread in threads))


def test_a_worker_may_be_the_last_to_hold_the_pool() -> None:
    held = [WorkerPool(2)]
    start_all(held[0])
    threads = threads_of(held[0])
    together = threading.Barrier(2, timeout=10)

    def close(worker: int, pool: WorkerPool) -> None:
        together.wait()
        if worker == 1:
            pool.close()

    pool = held.pop()
    pool.run(lambda worker: close(worker, pool))
    wait_until(lambda: not any(thread.is_alive() for thread in threads))


EXIT = """
from hocket.runtime.workers import WorkerPool
pools = [WorkerPool(2) for _ in range(3)]
for pool in pools * 50:
    pool.run(lambda _worker: None)
print("done")
"""


def test_the_interpreter_ends_without_closing() -> None:
    assert run_script(EXIT) == "done"


FORK = """
import os, threading
from hocket.runtime.workers import WorkerPool

def start_all(pool):
    together = threading.Barrier(2, timeout=10)
    ran = []
    def note(worker):
        ran.append(worker)
        together.wait()
    pool.run(note)
    return sorted(ran) == [0, 1]

pool = WorkerPool(2)
assert start_all(pool)
child = os.fork()
if child == 0:
    good = start_all(pool)
    pool.close()
    os._exit(0 if good else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert start_all(pool)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert run_script(FORK) == "done"


def test_pool_needs_a_thread() -> None:
    with pytest.raises(UnsupportedError, match="1 thread or more"):
        WorkerPool(0)
    with WorkerPool() as pool:
        assert pool.num_threads >= 1


class Failure(Exception):  # noqa: N818
    """What workers of the stress test raise, with the number of the worker."""


@pytest.mark.parametrize("num_threads", [2, 4])
@pytest.mark.parametrize("looks_out", [True, False])
def test_no_call_to_work_is_lost(
    num_threads: int, looks_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: num_threads if looks_out else 1)
    chance = random.Random(0)
    with WorkerPool(num_threads) as pool:
        for _ in range(1000):
            start_all(pool)  # or it would wait for ever
            # The others are looking out, about to sleep, or asleep.
            match chance.randrange(3):
                case 0:
                    sum(range(chance.randrange(10_000)))
                case 1:
                    time.sleep(chance.random() * 2 * workers.IDLE_SECONDS)
        assert len(threads_of(pool)) == num_threads - 1


@pytest.mark.parametrize("num_threads", [2, 3, 5])
@pytest.mark.parametrize("looks_out", [True, False])
def test_thousands_of_runs_from_several_threads(
    num_threads: int, looks_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: num_threads if looks_out else 1)
    wrong: list[str] = []

    def call_often(pool: WorkerPool, seed: int) -> None:
        chance = random.Random(seed)
        try:
            for turn in range(700):
                check_one_run(pool, chance)
                if turn % 50 == 0:
                    time.sleep(chance.random() * 1e-3)
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            wrong.append(repr(error))

    with WorkerPool(num_threads) as pool:
        callers = [threading.Thread(target=call_often, args=(pool, seed)) for seed in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(120)
        assert not any(caller.is_alive() for caller in callers)
        assert not wrong
        start_all(pool)  # all threads are still there
    assert not any(thread.is_alive() for thread in threads_of(pool))


def check_one_run(pool: WorkerPool, chance: random.Random) -> None:
    """Run a function of random length that may fail; check all that a run promises."""
    most = chance.choice([None, 1, 2, pool.num_threads, pool.num_threads + 3])
    count = pool.num_threads if most is None else min(most, pool.num_threads)
    items = itertools.count()
    num_items = chance.randrange(12)
    lengths = [chance.choice([0, 0, 100, 5000]) for _ in range(num_items)]
    # A worker that fails leaves its items to nobody: what is lost is known by who failed.
    failing = {worker for worker in range(count) if chance.random() < 0.05}
    done: list[int] = []
    started: list[int] = []
    ended: list[int] = []
    failed: list[int] = []
    is_over = threading.Event()

    def work(worker: int) -> None:
        assert not is_over.is_set()
        started.append(worker)
        try:
            if worker in failing:
                failed.append(worker)
                raise Failure(worker)
            while (item := next(items)) < num_items:
                sum(range(lengths[item]))
                done.append(item)
        finally:
            ended.append(worker)

    raised = None
    try:
        pool.run(work, most)
    except Failure as failure:
        (raised,) = failure.args
    ended_by_then = sorted(ended)
    is_over.set()
    assert 0 in started
    assert sorted(started) == ended_by_then
    assert len(set(started)) == len(started)
    assert all(0 <= worker < count for worker in started)
    assert raised == min(failed, default=None)
    if 0 not in failed:
        assert sorted(done) == list(range(num_items))
