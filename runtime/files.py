"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file beside ``path`` and put it in its place when the block ends well.

    If the block fails, nothing has changed. A link is followed, what it points to is replaced.

    Raises:
        OSError: The folder is missing or cannot be written to, something that is no regular file
            (a folder, a device) stands in the place, or there is no room; it names ``path``.
    """
    target, temporary, handle = _open_beside(path)
    try:
        with errors_naming(path):
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def errors_naming(
    path: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Let errors of the system name a file, where they name none.

    Args:
        path: As its user knows it.
        beside: What is written meanwhile, and put in its place at the end; errors that name it, or
            what is in it, name ``path``, too.
    """
    try:
        yield
    except OSError as error:
        found = error.filename
        is_beside = beside is not None and str(found).startswith(str(beside))
        if error.errno and (found is None or is_beside):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure that a file could be written by ``atomic_file``, and leave all as it is.

    Raises:
        OSError: It could not; see ``atomic_file``.
    """
    _, temporary, handle = _open_beside(path)
    os.close(handle)
    temporary.unlink()


def _open_beside(path: str | os.PathLike[str]) -> tuple[Path, Path, int]:
    """Return what a path points to, and the path and the handle of a new file beside that."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = IsADirectoryError if target.is_dir() else FileExistsError
        raise kind(17, "cannot be replaced, it is not a regular file", str(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        # The name that the user gave, not that of our temporary file.
        raise type(error)(error.errno, error.strerror, str(path)) from error
    return target, temporary, handle
