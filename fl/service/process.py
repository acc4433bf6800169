"""The process of a service: a socket, signals, and the end in good order."""

from __future__ import annotations

import ipaddress
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from hocket.fl.service.tokens import Token

STOP_SECONDS = 10
"""That requests in progress have after SIGTERM."""

MAX_CONNECTIONS = 2000
"""Open at once; more get status 503."""


def check_reach(host: str, tokens: Mapping[str, Token] | None) -> None:
    """Check that a service without tokens is for this machine alone.

    Raises:
        ConfigError: Anyone could do everything from elsewhere.
    """
    if tokens is None and not _is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from elsewhere: want tokens; the command `token` beside "
            "`serve` makes them, and --tokens FILE names them"
        )


class Process:
    """Serves an application until SIGTERM or SIGINT, or until ``stop`` is called.

    Args:
        host, port: Where; port 0 for any that is free.
        certificate: Files of a TLS certificate and its key.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, certificate: tuple[Path, Path] | None = None
    ) -> None:
        self._host, self._port, self._certificate = host, port, certificate
        self._server: uvicorn.Server | None = None

    def run(self, app: Any, ready: Callable[[str], None] = lambda _: None) -> None:
        """Serve, in the main thread.

        Args:
            app: An ASGI application.
            ready: Called with the URL before the first request is taken.

        Raises:
            ConfigError: No such file, or address; or the port is taken.
        """
        certificate = self._certificate
        for path in certificate or ():
            if not path.is_file():
                raise ConfigError(
                    f"{path}: there is no such file; --certificate and --key want PEM"
                )
        config = uvicorn.Config(
            app,
            host=self._host,
            port=self._port,
            access_log=False,
            log_level="warning",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=None if certificate is None else certificate[0],
            ssl_keyfile=None if certificate is None else certificate[1],
        )
        self._server = uvicorn.Server(config)
        listener = _bind(self._host, self._port)
        # Whoever comes before the loop runs waits for it.
        listener.listen(config.backlog)
        scheme = "http" if certificate is None else "https"
        name = f"[{self._host}]" if ":" in self._host else self._host
        ready(f"{scheme}://{name}:{listener.getsockname()[1]}")
        # The server ends by raising the signal again that it was stopped by: what the caller has
        # open would stay so.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            self._server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)

    def stop(self) -> None:
        """End once requests in progress are answered."""
        if self._server is not None:
            self._server.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket of this address; uvicorn's own would end the process, naming no port."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give another --port (0 for "
            "any that is free) or --host"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
