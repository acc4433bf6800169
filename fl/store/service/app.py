"""The store over HTTP, as an ASGI application.

Who asks is known by a token before anything is read. A body is never read beyond its limit, and
goes to disk as it comes: slow senders hold no memory. So much is done at once, so much may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hocket.fl.core.errors import ConfigError, FederationError, StoreError, UpdateError
from hocket.fl.core.store import Key
from hocket.fl.service.backlog import Backlog
from hocket.fl.service.errors import BrokenError, InvalidError, UnknownError
from hocket.fl.service.requests import REFUSALS, body_parts, parse, read_body, said_length
from hocket.fl.service.tokens import Gate
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, UPDATE
from hocket.fl.store.monitor import overview
from hocket.fl.store.pricing import load_prices
from hocket.fl.store.service.messages import About, Ask, Collect, Select
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.store.workloads.workload import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from typing import TypeVar

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from hocket.fl.service.tokens import Role, Token
    from hocket.fl.store.catalog import Entry
    from hocket.fl.store.round_store import RoundStore

    T = TypeVar("T")

ABOUT_HEADER = "hocket-about"
MAX_QUESTION_BYTES = 1 << 20
QUESTION_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""Between two parts of a body that is put."""

PIECE_BYTES = 1 << 20
PAGE = Path(__file__).parent
_PAGES = {
    "/": ("dashboard.html", "text/html"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Limits:
    """How much is taken.

    Attributes:
        body_bytes: Of an entry.
        at_work: Requests at once.
        waiting: Requests that may wait; more are refused, with the time to come again.
    """

    body_bytes: int = 2 << 30
    at_work: int = 8
    waiting: int = 64


@dataclass(frozen=True)
class Service:
    """What the routes share.

    Attributes:
        store: What answers; the caller closes it.
        gate: Knows tokens.
        limits: How much is taken.
        folder: Where bodies are put as they come.
        backlog: Who works and who waits.
        started: When, by ``time.monotonic``.
    """

    store: RoundStore
    gate: Gate
    limits: Limits
    folder: Path | None
    backlog: Backlog
    started: float = field(default_factory=time.monotonic)

    def identify(self, request: Request, role: Role) -> None:
        """Check who asks, and that they may so often.

        Raises:
            RefusedError: They may not.
        """
        token = self.gate.identify(request.headers.get("authorization"))
        token.needs(role)
        self.gate.charge(token, 1, time.monotonic())

    async def work(self, act: Callable[[], T]) -> T:
        """Return what is done in a thread, when there is a place for it.

        Raises:
            RefusedError: It cannot be done, or too much waits.
        """
        async with self.backlog.place():
            return await _in_thread(act)

    async def put(self, request: Request) -> Response:
        """Keep an entry; ``hocket-about`` has what is known of it."""
        self.identify(request, "writer")
        key, about = _key(request), parse(About, request.headers.get(ABOUT_HEADER, "{}"))
        said_length(request, self.limits.body_bytes)
        async with self.backlog.place():
            # A file without a name, which is gone with the request.
            with tempfile.TemporaryFile(dir=self.folder) as file:
                parts = body_parts(request, self.limits.body_bytes, SILENCE_SECONDS)
                async for part in parts:
                    await asyncio.to_thread(file.write, part)
                file.flush()
                entry = await _in_thread(lambda: self._keep(key, about, file))
        return JSONResponse(_told(entry), 201)

    def _keep(self, key: Key, about: About, file: Any) -> Entry:
        known = (about.metrics, about.provenance, about.parents())
        if file.tell() == 0:
            return self.store.history.record(key, b"", *known)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            content = memoryview(mapped)
            try:
                if key.kind in (UPDATE, MODEL):
                    return self.store.ingest(key, layout.view(content, str(key)), *known)
                return self.store.keep(key, content, *known)
            finally:
                content.release()

    async def get(self, request: Request) -> Response:
        """Send an entry, or one ``layer`` of it."""
        self.identify(request, "reader")
        key, layer = _key(request), request.query_params.get("layer")
        stack = contextlib.AsyncExitStack()
        try:
            await stack.enter_async_context(self.backlog.place())
            entry = await _in_thread(lambda: self.store.history.catalog.entry(key))
            if layer is None:
                content = await _in_thread(lambda: stack.enter_context(self.store.content(key)))
            else:
                array = await _in_thread(lambda: self.store.history.layer(key, layer))
                content = memoryview(layout.encode({layer: array}))
        except BaseException:
            await stack.aclose()
            raise
        headers = {"Content-Length": str(len(content)), "ETag": f'"{entry.digest}"'}
        return _Held(stack, _sent(content), 200, headers, media_type="application/octet-stream")

    async def forget(self, request: Request) -> Response:
        """Forget an entry; its bytes go with the next collection."""
        self.identify(request, "operator")
        key = _key(request)
        await self.work(lambda: self.store.delete(key))
        return Response(status_code=204)

    async def listing(self, request: Request) -> Response:
        """List the entries whose keys begin with ``prefix``."""
        self.identify(request, "reader")
        prefix = request.query_params.get("prefix", "")
        catalog = self.store.history.catalog
        entries = await self.work(lambda: [catalog.entry(key) for key in self.store.keys(prefix)])
        return JSONResponse({"entries": [_told(entry) for entry in entries]})

    async def select(self, request: Request) -> Response:
        """Answer a question in SQL."""
        self.identify(request, "reader")
        body = await read_body(request, MAX_QUESTION_BYTES, QUESTION_SECONDS)
        statement = parse(Select, body).statement
        names, rows = await self.work(lambda: self.store.history.catalog.select(statement))
        told = [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in rows]
        return JSONResponse({"columns": names, "rows": told})

    async def run(self, request: Request) -> Response:
        """Answer a workload's question as JSON, or, with ``?model``, by the model it makes."""
        self.identify(request, "reader")
        workload = request.path_params["workload"]
        body = await read_body(request, MAX_QUESTION_BYTES, QUESTION_SECONDS)
        ask = parse(Ask, body)
        question = Question(ask.job, ask.round, ask.device, ask.options)
        answer = await self.work(lambda: self.store.ask(workload, question))
        if "model" not in request.query_params:
            told = {"values": answer.values, "has_model": bool(answer.arrays)}
            return JSONResponse(told)
        if not answer.arrays:
            raise InvalidError(f"{workload} makes no model")
        return StreamingResponse(
            _sent(*layout.pieces(answer.arrays)), media_type="application/octet-stream"
        )

    async def workloads(self, request: Request) -> Response:
        """List what can be asked."""
        self.identify(request, "reader")
        return JSONResponse(
            {
                name: {"class": str(each.access), "about": each.about}
                for name, each in WORKLOADS.items()
            }
        )

    async def stats(self, request: Request) -> Response:
        """Tell how the store does."""
        self.identify(request, "reader")
        up_seconds = time.monotonic() - self.started
        found = await _in_thread(lambda: overview(self.store, load_prices(), up_seconds))
        backlog = self.backlog
        found["service"] = {
            "version": version("hocket"),
            "at_work": backlog.num_at_work,
            "waiting": backlog.num_waiting,
            "refused": backlog.num_refused,
        }
        return JSONResponse(found)

    async def collect(self, request: Request) -> Response:
        """Forget what is to be forgotten, and delete bytes that no entry has."""
        self.identify(request, "operator")
        wanted = parse(Collect, await read_body(request, MAX_QUESTION_BYTES, QUESTION_SECONDS))
        return JSONResponse(await self.work(lambda: self._collect(wanted)))

    def _collect(self, wanted: Collect) -> dict[str, int]:
        history, forgotten = self.store.history, 0
        if wanted.job is not None and wanted.keep_rounds is not None:
            forgotten += self.store.forget(history.expired(wanted.job, wanted.keep_rounds))
        if wanted.job is not None and wanted.erase_device is not None:
            entries = history.catalog.entries(job=wanted.job, device=wanted.erase_device)
            forgotten += self.store.forget([entry.key for entry in entries])
        num_objects, freed = history.collect_garbage(wanted.grace_seconds)
        return {"forgotten": forgotten, "objects": num_objects, "bytes": freed}

    async def verify(self, request: Request) -> Response:
        """Read all bytes, and compare them with their digests."""
        self.identify(request, "operator")
        damages = await self.work(self.store.history.verify)
        return JSONResponse({"damaged": {str(each.key): each.reason for each in damages}})

    async def health(self, request: Request) -> Response:
        """Say that the service is there, and whether it wants a token."""
        del request
        about = {"version": version("hocket"), "wants_token": self.gate.wants_token}
        return JSONResponse({"is_healthy": True, **about})


def make_app(
    store: RoundStore,
    tokens: Mapping[str, Token] | None,
    limits: Limits | None = None,
    folder: Path | None = None,
) -> Starlette:
    """Return the application.

    Args:
        store: What answers; the caller closes it.
        tokens: By name; None lets anyone do everything.
        limits: How much is taken.
        folder: Where bodies are put as they come; the system's for temporary files by default.
    """
    limits = limits or Limits()
    backlog = Backlog(limits.at_work, limits.waiting)
    service = Service(store, Gate(tokens), limits, folder, backlog)
    entry = "/v1/entries/{job}/{round}/{device}/{kind}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("PUT", entry, service.put),
        ("GET", entry, service.get),
        ("DELETE", entry, service.forget),
        ("GET", "/v1/entries", service.listing),
        ("POST", "/v1/query", service.select),
        ("GET", "/v1/workloads", service.workloads),
        ("POST", "/v1/run/{workload}", service.run),
        ("GET", "/v1/stats", service.stats),
        ("POST", "/v1/gc", service.collect),
        ("POST", "/v1/verify", service.verify),
        ("GET", "/healthz", service.health),
    ]
    pages = [Route(path, partial(_page, *found)) for path, found in _PAGES.items()]
    return Starlette(
        routes=[*(Route(path, act, methods=[verb]) for verb, path, act in routes), *pages],
        exception_handlers=REFUSALS,
    )


async def _page(name: str, kind: str, request: Request) -> Response:
    del request
    content = (PAGE / name).read_bytes()
    return Response(content, headers=_PAGE_HEADERS, media_type=kind)


async def _in_thread(act: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(act)
    except KeyError as error:
        raise UnknownError(f"there is no entry {error.args[0]}") from error
    except (ConfigError, UpdateError) as error:
        raise InvalidError(str(error)) from error
    except (StoreError, FederationError) as error:
        raise BrokenError(str(error)) from error


def _key(request: Request) -> Key:
    parts = request.path_params
    if not parts["round"].isdecimal() or len(parts["round"]) > 10:
        raise InvalidError(f"want the number of a round, got {parts['round']!r}")
    try:
        return Key(parts["job"], int(parts["round"]), parts["device"], parts["kind"])
    except ConfigError as error:
        raise InvalidError(str(error)) from error


class _Held(StreamingResponse):
    """Sends what stays where it is until all of it is sent, or nobody wants it any more."""

    def __init__(self, stack: contextlib.AsyncExitStack, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _sent(*pieces: bytes | memoryview) -> AsyncIterator[memoryview]:
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            yield memoryview(piece)[start : start + PIECE_BYTES]


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "key": str(entry.key),
        "num_bytes": entry.num_bytes,
        "digest": entry.digest,
        "metrics": dict(entry.metrics),
        "provenance": dict(entry.provenance),
    }
