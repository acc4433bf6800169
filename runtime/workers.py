"""A small pool of threads that wait for work between runs.

To wake a thread, and to be woken by one, takes as long as a small attention. So both sides look
out for each other awake for a moment before they go to sleep, in machine code, because a thread
that looks from Python keeps the others out of it. What they look at are hints: who takes part in a
run, and when it is over, is settled by locks alone.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from hocket.runtime.arena import aligned_bytes
from hocket.runtime.cpu import detect_cpu, usable_cores
from hocket.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Watch = Callable[[int, int, int, int, int], int]

IDLE_SECONDS = 100e-6
"""How long a thread looks out for the next run before it sleeps, unless a pool says otherwise.

A session that has nothing but an attention calls for it again after half of that.
"""

END_SECONDS = 100e-6
"""How long a caller looks out for the end of the others' parts: most items of work are shorter."""

# So long at least a thread that has reported stays out of Python, where the caller is wanted next:
# to find it taken costs the caller as much as to be woken.
_ASIDE_SECONDS = 10e-6

# Words that change often lie in different cache lines, and in different pairs of them.
_LINE_BYTES = 128
_RUNS, _REPORTS = 0, _LINE_BYTES // 8


class WorkerPool:
    """The calling thread and ``num_threads - 1`` others.

    The functions it runs must hand out their own work, by a counter, say: a worker that the
    operating system wakes late finds nothing left to do, and nobody waits for it.

    Any thread may use it at any time. The others serve one run at a time: who comes when they are
    taken works alone. They start with the first run that wants them, and they end with the pool.

    Args:
        num_threads: Workers, the caller included; None for one a core.
        idle_seconds: How long threads look out for the next run before they sleep; 0 if there is
            other work for the cores as soon as a run is over.

    Raises:
        UnsupportedError: ``num_threads`` is below 1.
    """

    def __init__(self, num_threads: int | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        count = os.cpu_count() or 1 if num_threads is None else num_threads
        if count < 1:
            raise UnsupportedError(f"a pool needs 1 thread or more, got {count}")
        self.num_threads = count
        self._crew = _Crew(count, idle_seconds) if count > 1 else None
        if self._crew is not None:
            # At exit there is more to do, see _end_all.
            weakref.finalize(self, self._crew.dismiss).atexit = False

    def run(self, function: Callable[[int], None], max_workers: int | None = None) -> None:
        """Call ``function(worker)`` in each worker, 0 being the caller, until the work is done.

        It is done when the caller's call has returned, and those of all workers that had started
        by then. Workers that had not are never started, so ``function`` must not count on them.

        Args:
            function: Called with the number of the worker, below ``num_threads``.
            max_workers: Use no more workers than this; there may be no work for them.

        Raises:
            RuntimeError: The pool is closed.
            Exception: What ``function`` raised in any worker, the caller's first.
        """
        count = self.num_threads if max_workers is None else min(max_workers, self.num_threads)
        crew = self._crew
        if crew is None or count <= 1:
            function(0)
            return
        if crew.is_dismissed:
            raise RuntimeError("the pool is closed")
        if not crew.taken.acquire(blocking=False):
            function(0)
            return
        try:
            crew.run(function, count)
        finally:
            crew.taken.release()

    def close(self) -> None:
        """End the threads. Closing twice is harmless."""
        if self._crew is not None:
            self._crew.dismiss()
            self._crew.join()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Run:
    """One call of ``WorkerPool.run``.

    Attributes:
        function: What to call.
        tickets: Numbers of workers that have not started, the first one last. Whoever pops one may
            start, or has kept others from starting.
        ended: By number, a lock that is free once a worker that started has ended.
        failures: By number, what a worker raised.
    """

    __slots__ = ("ended", "failures", "function", "tickets")

    def __init__(self, function: Callable[[int], None], count: int) -> None:
        self.function = function
        self.tickets = list(range(count - 1, 0, -1))
        self.ended = [threading.Lock() for _ in range(count)]
        self.failures: list[BaseException | None] = [None] * count
        for lock in self.ended:
            lock.acquire()

    def take_part(self) -> bool:
        """Call the function if there is a ticket left; return whether there was."""
        try:
            worker = self.tickets.pop()
        except IndexError:
            return False
        try:
            self.function(worker)
        except BaseException as failure:  # noqa: BLE001 - the caller raises it
            self.failures[worker] = failure
        self.ended[worker].release()
        return True

    def withdraw(self) -> int:
        """Let nobody start any more; return how many did, who are the first."""
        count = len(self.ended)
        try:
            while True:
                self.tickets.pop(0)
                count -= 1
        except IndexError:
            return count - 1


class _Crew:
    """The threads of a pool and what they share with it.

    They hold this and not the pool, so that a pool nobody uses any more can be given back.

    Attributes:
        taken: Held by the thread whose run they serve.
        is_dismissed: Whether they are to end.
    """

    def __init__(self, num_threads: int, idle_seconds: float) -> None:
        self._watch, turns_a_second = _load_watch()
        # Where threads outnumber cores, whoever looks out keeps from a core those it looks out for.
        turns_a_second *= num_threads <= usable_cores()
        self._idle_turns = int(max(idle_seconds, _ASIDE_SECONDS) * turns_a_second)
        self._end_turns = int(END_SECONDS * turns_a_second)
        words = aligned_bytes(2 * _LINE_BYTES)
        words[:] = 0
        # The number of runs so far, and that of the workers that have ended their part in this one.
        self._words = words.data.cast("q")
        self._runs_address = words.ctypes.data + 8 * _RUNS
        self._reports_address = words.ctypes.data + 8 * _REPORTS
        self.is_dismissed = False
        self.start_anew()
        _crews.add(self)

    def start_anew(self) -> None:
        """Forget all threads."""
        self.taken = threading.Lock()
        self._run: _Run | None = None
        # Each thread has a lock that is released to wake it.
        self._alarms: list[threading.Lock] = []
        self._threads: list[threading.Thread] = []

    def run(self, function: Callable[[int], None], count: int) -> None:
        """Run as ``WorkerPool.run`` does with ``count`` workers; one at a time."""
        words = self._words
        words[_REPORTS] = 0
        run = _Run(function, count)
        try:
            self._run = run
            if len(self._alarms) < count - 1:
                self._hire(count - 1)
            for alarm in self._alarms[: count - 1]:
                _release(alarm)
            words[_RUNS] += 1
            function(0)
        finally:
            self._run = None
            started = run.withdraw()
            if started:
                self._look_out_for(started)
                for lock in run.ended[1 : started + 1]:
                    lock.acquire()
            failures, run.failures = run.failures, []
        try:
            for failure in failures:
                if failure is not None:
                    raise failure
        finally:
            # Its traceback names this frame: what both name would outlive both.
            del failures, failure

    def dismiss(self) -> None:
        """Let the threads end as soon as they have nothing to do."""
        self.is_dismissed = True
        self._words[_RUNS] += 1
        for alarm in tuple(self._alarms):
            _release(alarm)

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():
                thread.join()

    def _hire(self, count: int) -> None:
        """Have at least ``count`` threads."""
        while len(self._alarms) < count:
            alarm = threading.Lock()
            alarm.acquire()
            number = len(self._alarms) + 1
            thread = threading.Thread(
                target=self._serve, args=(alarm,), name=f"hocket_{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
            self._alarms.append(alarm)
            if self.is_dismissed:  # maybe before it had an alarm
                _release(alarm)

    def _serve(self, alarm: threading.Lock) -> None:
        """Take part in runs, until the end."""
        words = self._words
        while not self.is_dismissed:
            alarm.acquire()
            known = words[_RUNS]
            run = self._run
            reports = 0 if run is None else int(run.take_part())
            # Neither the function nor its arrays are to live on here.
            del run
            # Reports only when it has left Python to the caller, which is back at once.
            self._watch(self._reports_address, reports, self._runs_address, known, self._idle_turns)

    def _look_out_for(self, reports: int) -> None:
        """Look out for the last of so many reports for a moment."""
        known = self._words[_REPORTS]
        while known < reports:
            address = self._reports_address
            found = self._watch(address, 0, address, known, self._end_turns)
            if found == known:
                return
            known = found


def _release(alarm: threading.Lock) -> None:
    try:  # noqa: SIM105 - suppress() takes several times as long
        alarm.release()
    except RuntimeError:
        pass  # it has gone off, and nobody has looked since


@functools.cache
def _load_watch() -> tuple[Watch, float]:
    """Return the function that waits awake, and how many turns it makes in a second."""
    from hocket.runtime.kernel_cache import load_kernels
    from hocket.runtime.kernels.waiting import ENTRY_NAME, waiting_source

    watch = load_kernels(waiting_source(detect_cpu()))[ENTRY_NAME]
    word = aligned_bytes(8)
    word[:] = 0
    address = word.ctypes.data
    turns = 500
    seconds = []
    for _ in range(5):
        before = time.perf_counter()
        watch(address, 0, address, 0, turns)
        seconds.append(time.perf_counter() - before)
    return watch, turns / max(min(seconds), 1e-9)


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


def _end_all() -> None:
    """End the threads of all pools before the interpreter takes away what they run."""
    for crew in tuple(_crews):
        crew.dismiss()
    for crew in tuple(_crews):
        crew.join()


def _start_all_anew() -> None:
    """Forget the threads of all pools, in a process that was forked and has none of them."""
    for crew in tuple(_crews):
        crew.start_anew()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
