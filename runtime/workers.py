"""A small pool of threads that wait for work between runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hocket.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class WorkerPool:
    """The calling thread and ``num_threads - 1`` others.

    The functions it runs must hand out their own work, by a counter, say: a worker that the
    operating system wakes late finds nothing left to do, and nobody waits for it.

    Attributes:
        num_threads: Workers, the caller included.

    Raises:
        UnsupportedError: ``num_threads`` is below 1.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        count = os.cpu_count() or 1 if num_threads is None else num_threads
        if count < 1:
            raise UnsupportedError(f"a pool needs 1 thread or more, got {count}")
        self.num_threads = count
        self._executor = (
            ThreadPoolExecutor(count - 1, thread_name_prefix="hocket") if count > 1 else None
        )

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
        if self._executor is None or count <= 1:
            function(0)
            return
        others = [self._executor.submit(function, worker) for worker in range(1, count)]
        try:
            function(0)
        finally:
            started = [other for other in others if not other.cancel()]
            failures = [other.exception() for other in started]
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        """End the threads. Closing twice is harmless."""
        if self._executor is not None:
            self._executor.shutdown()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
