"""How much is done at once, and how much may wait for it; more is turned away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from hocket.fl.service.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AGAIN_SECONDS = 1


class Backlog:
    """Places for work, and a queue of bounded length before them. For one loop of asyncio.

    Args:
        most_at_work: Places.
        most_waiting: Requests that wait for one.
    """

    def __init__(self, most_at_work: int, most_waiting: int) -> None:
        self._places = asyncio.Semaphore(most_at_work)
        self._most_waiting = most_waiting
        self.num_waiting = self.num_at_work = self.num_refused = 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Have a place, as soon as there is one.

        Raises:
            OverloadedError: Too many wait; the header says when to come again.
        """
        if self._places.locked() and self.num_waiting >= self._most_waiting:
            self.num_refused += 1
            raise OverloadedError("too much is waiting", {"Retry-After": f"{AGAIN_SECONDS}"})
        self.num_waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.num_waiting -= 1
        self.num_at_work += 1
        try:
            yield
        finally:
            self.num_at_work -= 1
            self._places.release()
