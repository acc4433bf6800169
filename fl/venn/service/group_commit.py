"""Many operations, one write: questions that come while the disk is busy are written together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.service.errors import OverloadedError, RefusedError
from hocket.fl.venn.service.manager import Caller
from hocket.fl.venn.service.operations import Tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.venn.service.journal import Journal
    from hocket.fl.venn.service.metrics import Metrics

MAX_PENDING = 20_000
"""Devices or other operations that wait at most; more are turned away."""

MAX_GROUP = 5000
"""Devices or other operations in a write; so much may stand between a question and its answer."""

TICK_SECONDS = 0.5
"""How late a deadline may be."""

_CLOCK = Caller("(clock)")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pending:
    act: Callable[[], bytes]
    cost: int
    answer: asyncio.Future[bytes]


class GroupCommit:
    """Runs questions one after the other, and answers once all of a group are on disk.

    If the disk fails, what is in memory is ahead of it and can no longer be trusted: every question
    is refused from then on, and ``failed`` is called. A restart goes on from the disk.

    Args:
        journal: What answers.
        metrics: Counts.
        clock: Seconds since 1970.
        failed: Called once, if writing fails.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._failed = failed
        self._pending: deque[_Pending] = deque()
        self._cost = 0
        self._has_work = asyncio.Event()
        self._is_open = True
        self._is_broken = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._group: list[_Pending] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_open(self) -> bool:
        """Whether questions are taken."""
        return self._is_open

    @property
    def journal(self) -> Journal:
        """What answers; to be read only."""
        return self._journal

    def start(self) -> None:
        """Begin, in the loop that runs."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._tick())]

    async def stop(self) -> None:
        """Answer what waits, take nothing more, and close the journal.

        If it is broken, what is in memory is left behind: a restart goes on from the disk.
        """
        self._is_open = False
        self._has_work.set()
        run, tick = self._tasks
        tick.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tick
        await run
        self._thread.shutdown()
        if self._is_broken:
            self._journal.abandon()
        else:
            self._journal.close()

    async def ask(self, act: Callable[[float], bytes], cost: int = 1) -> bytes:
        """Return what a question is answered, once that is on disk.

        Args:
            act: Asks the journal, at the time it is given.
            cost: Devices or other operations that it is about.

        Raises:
            RefusedError: It may not be; ``OverloadedError`` if it was not even asked.
        """
        if not self._is_open:
            raise OverloadedError("the service is stopping", {"Retry-After": "5"})
        if self._cost + cost > MAX_PENDING:
            raise OverloadedError("too much is waiting to be written", {"Retry-After": "1"})
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(lambda: act(self._clock()), cost, answer))
        self._cost += cost
        self._metrics.pending.set(self._cost)
        self._has_work.set()
        return await answer

    async def _run(self) -> None:
        try:
            while self._is_open or self._pending:
                await self._has_work.wait()
                self._has_work.clear()
                while self._pending:
                    await self._write_group()
        except Exception:
            # The disk's, or one that nobody foresaw: what is in memory can no longer be trusted.
            _LOGGER.exception("the service cannot go on, and stops")
            self._break()

    async def _write_group(self) -> None:
        self._group = self._take_group()
        answers = [_attempt(each.act) for each in self._group]
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._journal.commit)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.group_size.observe(len(self._group))
        for each, answer in zip(self._group, answers, strict=True):
            _answer(each.answer, answer)
        self._group = []

    def _take_group(self) -> list[_Pending]:
        group: list[_Pending] = []
        cost = 0
        while self._pending and (not group or cost + self._pending[0].cost <= MAX_GROUP):
            group.append(self._pending.popleft())
            cost += group[-1].cost
        self._cost -= cost
        self._metrics.pending.set(self._cost)
        return group

    def _break(self) -> None:
        """Refuse what waits, and all that comes."""
        self._is_open, self._is_broken = False, True
        for each in (*self._group, *self._pending):
            _answer(each.answer, OverloadedError("the service cannot write, and stops"))
        self._group = []
        self._pending.clear()
        self._failed()

    async def _tick(self) -> None:
        """Let deadlines pass where nobody asks anything."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._is_open and self._journal.manager.next_due <= self._clock():
                # Where too much waits, whatever is asked lets time pass, too.
                with contextlib.suppress(OverloadedError):
                    await self.ask(lambda now: self._journal.perform(now, _CLOCK, Tick()))


def _attempt(act: Callable[[], bytes]) -> bytes | RefusedError:
    try:
        return act()
    except RefusedError as error:
        return error


def _answer(future: asyncio.Future[bytes], answer: bytes | RefusedError) -> None:
    if future.done():  # who asked has gone away
        return
    if isinstance(answer, RefusedError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
