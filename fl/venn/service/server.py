"""The process: a journal, an application, and the end in good order."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from hocket.fl.service.process import Process, check_reach
from hocket.fl.venn.service.app import make_app
from hocket.fl.venn.service.errors import JournalError
from hocket.fl.venn.service.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hocket.fl.service.tokens import Token
    from hocket.fl.venn.policies import Policy

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
    check_reach(host, tokens)
    journal = Journal(database, policy, seed, is_synced=is_synced)
    has_failed = []

    process = Process(host, port, certificate)

    def fail() -> None:
        has_failed.append(True)
        process.stop()

    gc.freeze()
    gc.set_threshold(*COLLECTOR)
    process.run(make_app(journal, tokens, failed=fail), ready)
    if has_failed:
        raise JournalError(f"{database}: could not be written; start again to go on from the disk")
