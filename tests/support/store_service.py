"""The store's service as a real process on the loopback."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def store_service(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve a store in a folder, and give its URL and process; at the end it is stopped."""
    command = [sys.executable, "-m", "hocket", "store", "serve", "--store", str(folder)]
    with subprocess.Popen(
        [*command, "--port", "0", "--memory", "64MiB", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "serving" in line
            yield line.split()[-1], process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)
