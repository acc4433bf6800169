"""A real browser without a screen, for tests of pages: Chromium, spoken to over two pipes.

The DevTools protocol as JSON, each message ended by a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_WAIT_SECONDS = 60.0


def find_browser() -> str | None:
    """Return a browser's program; None if there is none: `make browser` gets one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Page:
    """A page that is open.

    Attributes:
        errors: What the browser has logged as one.
    """

    def __init__(self, connection: _Connection, session: str) -> None:
        self._connection, self._session = connection, session
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser something about this page."""
        return self._connection.call(method, parameters, self._session, self._note)

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        method = message.get("method")
        is_error = (
            method == "Runtime.exceptionThrown"
            or (method == "Log.entryAdded" and about["entry"]["level"] == "error")
            or (method == "Runtime.consoleAPICalled" and about["type"] == "error")
        )
        if is_error:
            self.errors.append(json.dumps(about))

    def open(self, url: str, width: int, *, is_dark: bool = False) -> None:
        """Go to a page, in a window of a width in CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of JavaScript comes to."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a condition, in JavaScript, holds."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition}; {self.evaluate(_TEXT)}"

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


_TEXT = "document.body.innerText"


class _Connection:
    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer, self._number = b"", 0

    def call(
        self, method: str, parameters: dict[str, Any], session: str = "", note: Any = None
    ) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next(method)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            if note is not None:
                note(found)

    def _next(self, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], _WAIT_SECONDS)
            assert ready, f"the browser does not answer {method}"
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def open_page(program: str, folder: Path) -> Iterator[Page]:
    """Start a browser with a profile in an empty folder, and give a page of it."""
    (to_read, send), (receive, to_write) = os.pipe(), os.pipe()
    command = [program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder}"]
    # It reads from descriptor 3 and writes to 4.
    line = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
    with subprocess.Popen(
        ["bash", "-c", line, *command],
        pass_fds=(to_read, to_write),
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(to_read)
        os.close(to_write)
        try:
            connection = _Connection(send, receive)
            target = connection.call("Target.createTarget", {"url": "about:blank"})["targetId"]
            about = {"targetId": target, "flatten": True}
            page = Page(connection, connection.call("Target.attachToTarget", about)["sessionId"])
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            process.kill()
            process.wait()
            os.close(send)
            os.close(receive)
