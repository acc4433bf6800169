"""The process: a socket, signals, and the end in good order."""

from __future__ import annotations

import gc
import ipaddress
from typing import TYPE_CHECKING

import uvicorn

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.service.app import make_app
from hocket.fl.venn.service.errors import JournalError
from hocket.fl.venn.service.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hocket.fl.venn.policies import Policy
    from hocket.fl.venn.service.tokens import Token

STOP_SECONDS = 10
"""That requests in progress have after SIGTERM."""

MAX_CONNECTIONS = 2000
"""Open at once; more get status 503."""

COLLECTOR = (50_000, 20, 50)
"""Thresholds of the garbage collector. Devices at work are many small objects that live long; by
the default it goes through all of them so often that a check-in takes twice as long, and some wait
for 200 ms."""


def serve(
    database: Path,
    policy: Policy,
    tokens: Mapping[str, Token] | None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int = 0,
    certificate: tuple[Path, Path] | None = None,
    is_synced: bool = True,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        database: The journal; made if it is not there.
        policy, seed: By which devices are shared.
        tokens: By name; None lets anyone do everything, and is for this machine alone.
        host, port: Where; port 0 for any that is free.
        certificate: Files of a TLS certificate and its key.
        is_synced: As ``Journal`` takes it.
        ready: Called with the URL before the first request is taken.

    Raises:
        ConfigError: Anyone could do everything from elsewhere.
        JournalError: The database cannot be used, or could not be written.
    """
    if tokens is None and not _is_loopback(host):
        raise ConfigError(f"{host} can be reached from elsewhere: want tokens")
    journal = Journal(database, policy, seed, is_synced=is_synced)
    has_failed = []

    def fail() -> None:
        has_failed.append(True)
        server.should_exit = True

    config = uvicorn.Config(
        make_app(journal, tokens, failed=fail),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=None if certificate is None else certificate[0],
        ssl_keyfile=None if certificate is None else certificate[1],
    )
    server = uvicorn.Server(config)
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
    socket = config.bind_socket()
    scheme = "http" if certificate is None else "https"
    name = f"[{host}]" if ":" in host else host
    ready(f"{scheme}://{name}:{socket.getsockname()[1]}")
    server.run(sockets=[socket])
    if has_failed:
        raise JournalError(f"{database}: could not be written; start again to go on from the disk")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
