"""The process: a store that is open as long as it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.fl.service.process import Process, check_reach
from hocket.fl.store.service.app import Limits, make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hocket.fl.service.tokens import Token
    from hocket.fl.store.round_store import RoundStore


def serve(
    store: RoundStore,
    tokens: Mapping[str, Token] | None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: tuple[Path, Path] | None = None,
    limits: Limits | None = None,
    folder: Path | None = None,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are answered first.

    Args:
        store: What answers; the caller closes it.
        tokens: By name; None lets anyone do everything, and is for this machine alone.
        host, port: Where; port 0 for any that is free.
        certificate: Files of a TLS certificate and its key.
        limits: How much is taken.
        folder: Where bodies are put as they come.
        ready: Called with the URL before the first request is taken.

    Raises:
        ConfigError: Anyone could do everything from elsewhere.
    """
    check_reach(host, tokens)
    Process(host, port, certificate).run(make_app(store, tokens, limits, folder), ready)
