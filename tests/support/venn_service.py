"""The device scheduler's service without a network: its application in a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.service.app import make_app
from hocket.fl.venn.service.client import ServiceClient, ServiceScheduler
from hocket.fl.venn.service.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.fl.service.tokens import Token
    from hocket.fl.venn.policies import Policy

URL = "http://service"


class ServiceHere(httpx.BaseTransport):
    """A service on a database; ``kill`` and ``stop`` end it, and another may go on from there."""

    def __init__(
        self,
        database: Path,
        *,
        policy: Policy = POLICIES["venn"],
        tokens: Mapping[str, Token] | None = None,
        clock: Callable[[], float] = time.time,
        **settings: Any,
    ) -> None:
        self.has_failed = False
        self.journal = Journal(database, policy, is_synced=False, **settings)
        app = make_app(self.journal, tokens, clock=clock, failed=self._fail)
        self._loop = asyncio.new_event_loop()
        self._lifespan = app.router.lifespan_context(app)
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self._inner = httpx.ASGITransport(app)

    def _fail(self) -> None:
        self.has_failed = True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        content = request.read()

        async def ask() -> httpx.Response:
            asked = httpx.Request(
                request.method, request.url, headers=request.headers, content=content
            )
            response = await self._inner.handle_async_request(asked)
            found = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=found)

        return self._loop.run_until_complete(ask())

    def together(self, *requests: httpx.Request) -> list[httpx.Response]:
        """Answer several requests that come at the same time."""

        async def ask() -> list[httpx.Response]:
            answers = await asyncio.gather(*map(self._inner.handle_async_request, requests))
            for each in answers:
                await each.aread()
            return answers

        return self._loop.run_until_complete(ask())

    def http(self) -> httpx.Client:
        """Return what asks this service."""
        return httpx.Client(transport=self, base_url=URL)

    def client(self, token: str = "", **settings: Any) -> ServiceClient:
        """Return our client of this service."""
        return ServiceClient(URL, token, http=self.http(), **settings)

    def stop(self) -> None:
        """End in good order."""
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self._loop.close()

    def kill(self) -> None:
        """End as SIGKILL does: what is not on disk is lost."""
        self.journal.abandon()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()


def scheduler_by_service() -> ServiceScheduler:
    """Return a scheduler that is a service of its own, which ends when nobody has it any more."""
    here = ServiceHere(Path(":memory:"), clock=HandClock(1000.0))
    scheduler = ServiceScheduler(here.client())
    weakref.finalize(scheduler, here.stop)
    return scheduler


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self, time: float = 0.0) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time
