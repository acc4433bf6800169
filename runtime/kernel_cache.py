"""From the text of a kernel to compiled code, and the next time without compiling.

A kernel lies in a file named for its digest, in a folder that only its owner may write to. Numba
keeps the machine code beside it. Neither is run for lying there: the text must be the one we would
write, and the code must be what was recorded when it was made. Else both are made anew.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import logging
import os
import stat
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import platformdirs

from hocket.runtime.errors import KernelCacheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from hocket.runtime.kernels.source import KernelSource

CACHE_VARIABLE = "HOCKET_CACHE_DIR"
"""Environment variable that names the cache folder."""

_log = logging.getLogger(__name__)

_loaded: dict[tuple[Path, str], ModuleType] = {}
_loading = threading.Lock()


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of generated kernels, made if it is not there.

    Args:
        cache_dir: Folder to keep kernels under. By default that of ``HOCKET_CACHE_DIR``, and
            without it the user's cache folder.

    Raises:
        KernelCacheError: The folder cannot be made.
        PermissionError: The folder belongs to someone else, who could put code there that we
            would run.
    """
    root = cache_dir or os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("hocket")
    folder = Path(root).expanduser().absolute() / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelCacheError(
            f"the kernel cache {folder} cannot be made: {error.strerror}; "
            f"set {CACHE_VARIABLE} to a folder that can be written to"
        ) from error
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise PermissionError(
                f"the kernel cache {folder} belongs to user {status.st_uid}, who could change the "
                f"code in it; set {CACHE_VARIABLE} to a folder of your own"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
    return folder


def load_kernels(
    source: KernelSource, cache_dir: str | os.PathLike[str] | None = None
) -> dict[str, Callable[..., Any]]:
    """Return the compiled functions of ``source`` by name.

    The first call ever compiles them, in a second or so; later processes load their machine code.
    Within a process all callers get the same functions.

    Args:
        source: What to compile.
        cache_dir: As for ``cache_folder``.

    Raises:
        KernelCacheError: The folder cannot be made, or has no room.
        PermissionError: As ``cache_folder``.
    """
    folder = cache_folder(cache_dir)
    with _loading:
        module = _loaded.get((folder, source.digest))
        if module is None:
            module = _load(folder, source)
            _loaded[folder, source.digest] = module
    return {name: getattr(module, name) for name in source.entry_names}


class _TextLoader(importlib.abc.InspectLoader):
    """Runs a text as the module of a file, without reading the file or bytecode beside it.

    Whoever could change either after the check would otherwise have their code run.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def get_source(self, fullname: str) -> str:
        del fullname
        return self.text

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return self.source_to_code(self.text.encode(), str(self.path))


def _load(folder: Path, source: KernelSource) -> ModuleType:
    name = f"hocket_kernel_{source.digest[:32]}"
    path = folder / f"{name}.py"
    _write_if_different(path, source.text.encode())
    _discard_changed_code(path)
    module = ModuleType(name)
    module.__file__ = str(path)
    # Numba looks the module of a function up by name when it loads its machine code.
    sys.modules[name] = module
    try:
        _TextLoader(path, source.text).exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _record_code(path)
    return module


def _discard_changed_code(path: Path) -> None:
    """Delete the machine code of a kernel unless it is what was recorded."""
    files = _code_files(path)
    if not files:
        return
    record = _record_of(path)
    try:
        if record.read_bytes() == _code_digest(files):
            return
        _log.warning("the machine code of %s has changed since it was made; making it anew", path)
    except FileNotFoundError:
        # Another process may be about to record it, or ended before it could.
        _log.info("the machine code of %s has no record; making it anew", path)
    for file in files:
        file.unlink(missing_ok=True)


def _record_code(path: Path) -> None:
    """Record what Numba left.

    A process that compiles the same kernel at the same time records its own; if the two cross,
    the record does not match and the next process compiles once more.
    """
    files = _code_files(path)
    if files:  # none when Numba is told to keep its files elsewhere
        _write_if_different(_record_of(path), _code_digest(files))


def _record_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _code_files(path: Path) -> list[Path]:
    """Return the files in which Numba keeps the machine code of a kernel."""
    beside = (path.parent / "__pycache__").glob(f"{path.stem}.*")
    return sorted(file for file in beside if file.suffix in (".nbi", ".nbc"))


def _code_digest(files: list[Path]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes() if file.exists() else b""
        for part in (file.name.encode(), content):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest().encode()


def _write_if_different(path: Path, content: bytes) -> None:
    """Make a file hold ``content``; no process ever sees a part of it.

    Raises:
        KernelCacheError: There is no room, or it may not be written.
    """
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    try:
        _replace(path, content)
    except OSError as error:
        raise KernelCacheError(
            f"the kernel cache {path.parent} cannot be written: {error.strerror}; "
            f"set {CACHE_VARIABLE} to a folder that has room"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
