"""The service over HTTP, as an ASGI application: ``POST /v1/KIND`` with an operation as JSON.

Who asks is known by a token before anything is read, and a body is never read beyond its limit.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hocket.fl.service.errors import InvalidError, RefusedError
from hocket.fl.service.requests import REFUSALS, parse, read_body
from hocket.fl.service.tokens import Gate
from hocket.fl.venn.service.answers import (
    Answer,
    Assignments,
    Cohort,
    Done,
    Explanation,
    Health,
    Recorded,
    Status,
    to_json,
)
from hocket.fl.venn.service.group_commit import GroupCommit
from hocket.fl.venn.service.manager import Caller
from hocket.fl.venn.service.metrics import Metrics
from hocket.fl.venn.service.openapi import describe
from hocket.fl.venn.service.operations import (
    AskDevices,
    CheckIns,
    EndRound,
    ExplainDevice,
    ExplainJobs,
    Finish,
    ListDevices,
    Register,
    Results,
    Withdraw,
    cost_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request

    from hocket.fl.service.tokens import Role, Token
    from hocket.fl.venn.service.journal import Journal
    from hocket.fl.venn.service.operations import Operation

MAX_BODY_BYTES = 2 * 1024 * 1024
BODY_SECONDS = 10.0
"""That a body may take to arrive."""

MAX_KEY_LENGTH = 100
KEY_HEADER = "idempotency-key"


@dataclass(frozen=True)
class Endpoint:
    """One thing that can be asked.

    Attributes:
        operation: The body.
        answer: What comes back.
        role: That a token must have.
    """

    operation: type[Operation]
    answer: type[Answer]
    role: Role

    @property
    def path(self) -> str:
        """Where it is asked."""
        kind: str = self.operation.model_fields["kind"].default
        return f"/v1/{kind.replace('_', '-')}"


ENDPOINTS = (
    Endpoint(Register, Done, "job"),
    Endpoint(AskDevices, Done, "job"),
    Endpoint(Withdraw, Done, "job"),
    Endpoint(EndRound, Done, "job"),
    Endpoint(Finish, Done, "job"),
    Endpoint(ListDevices, Cohort, "job"),
    Endpoint(ExplainJobs, Status, "job"),
    Endpoint(CheckIns, Assignments, "device"),
    Endpoint(Results, Recorded, "device"),
    Endpoint(ExplainDevice, Explanation, "device"),
)


class Service:
    """What the routes share.

    Args:
        journal: What answers; closed when the application ends.
        tokens: By name; None lets anyone do everything.
        clock: Seconds since 1970.
        failed: Called if writing fails, after which nothing more is answered.
    """

    def __init__(
        self,
        journal: Journal,
        tokens: Mapping[str, Token] | None,
        clock: Callable[[], float],
        failed: Callable[[], None],
    ) -> None:
        self.journal = journal
        self.metrics = Metrics(journal.manager)
        self.gate = Gate(tokens)
        self.commits = GroupCommit(journal, self.metrics, clock=clock, failed=failed)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Answer while the application runs."""
        del app
        self.commits.start()
        yield
        await self.commits.stop()

    async def handle(self, endpoint: Endpoint, request: Request) -> Response:
        """Answer one request, and count it."""
        started, status = time.perf_counter(), 500
        try:
            response = await self._answer(endpoint, request)
            status = response.status_code
            return response
        except RefusedError as error:
            status = error.status
            raise
        finally:
            self.metrics.requests.labels(endpoint.path, status).inc()
            seconds = time.perf_counter() - started
            self.metrics.request_seconds.labels(endpoint.path).observe(seconds)

    async def _answer(self, endpoint: Endpoint, request: Request) -> Response:
        token = self.gate.identify(request.headers.get("authorization"))
        token.needs(endpoint.role)
        self.gate.charge(token, 1, time.monotonic())
        key = _key_of(request)
        body = await read_body(request, MAX_BODY_BYTES, BODY_SECONDS)
        operation = parse(endpoint.operation, body)
        cost = cost_of(operation)
        self.gate.charge(token, cost - 1, time.monotonic())
        caller = Caller(token.name, "operator" in token.roles)
        answer = await self.commits.ask(partial(self._act, caller, operation, key), cost)
        return Response(answer, media_type="application/json")

    def _act(self, caller: Caller, operation: Operation, key: str | None, now: float) -> bytes:
        return self.journal.perform(now, caller, operation, key)

    async def health(self, request: Request) -> Response:
        """Say whether the service writes what it is told."""
        del request
        health = Health(self.commits.is_open, version("hocket"))
        return _respond(health, 200 if health.is_healthy else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Say what Prometheus asks."""
        self.gate.identify(request.headers.get("authorization")).needs("operator")
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def make_app(
    journal: Journal,
    tokens: Mapping[str, Token] | None,
    *,
    clock: Callable[[], float] = time.time,
    failed: Callable[[], None] = lambda: None,
) -> Starlette:
    """Return the application; see ``Service`` for the arguments."""
    service = Service(journal, tokens, clock, failed)
    description = describe((each.path, each.operation, each.answer) for each in ENDPOINTS)

    async def show_description(request: Request) -> Response:
        del request
        return JSONResponse(description)

    return Starlette(
        routes=[
            *(
                Route(each.path, partial(service.handle, each), methods=["POST"])
                for each in ENDPOINTS
            ),
            Route("/healthz", service.health),
            Route("/metrics", service.show_metrics),
            Route("/openapi.json", show_description),
        ],
        exception_handlers=REFUSALS,
        lifespan=service.lifespan,
    )


def _key_of(request: Request) -> str | None:
    key: str | None = request.headers.get(KEY_HEADER)
    if key is not None and (not key.isprintable() or not 1 <= len(key) <= MAX_KEY_LENGTH):
        raise InvalidError(f"{KEY_HEADER}: want 1 to {MAX_KEY_LENGTH} printable characters")
    return key


def _respond(answer: Answer, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(answer), status, headers, media_type="application/json")
