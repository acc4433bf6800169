"""Where rounds leave what is to last: bytes under keys that say what they are."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST_BYTES = 32


@dataclass(frozen=True, order=True)
class Key:
    """What an entry is.

    Attributes:
        job: Whose it is.
        round: Of which round; 0 for what belongs to none.
        device: Of which device; ``server`` for none.
        kind: What it is: ``state``, ``update``, ``metrics``, ...

    Raises:
        ConfigError: A name is empty, long, or has other characters than letters, digits, ``._-``.
    """

    job: str
    round: int
    device: str
    kind: str

    def __post_init__(self) -> None:
        for name in (self.job, self.device, self.kind):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"want a name of letters, digits, '.', '_', '-', 1 to 100 long and not "
                    f"beginning with a mark, got {name!r}"
                )
        if self.round < 0:
            raise ConfigError(f"round must be 0 or more, got {self.round}")

    def __str__(self) -> str:
        return f"{self.job}/{self.round:08d}/{self.device}/{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key that ``str`` made a text of.

        Raises:
            ConfigError: It made none like it.
        """
        parts = text.split("/")
        if len(parts) != 4 or not re.fullmatch(r"\d{8,}", parts[1]):
            raise ConfigError(f"want JOB/ROUND/DEVICE/KIND, got {text!r}")
        return cls(parts[0], int(parts[1]), parts[2], parts[3])


class Store(Protocol):
    """Keeps bytes. May be used from several threads at once."""

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; what the key held before is replaced, whole or not at all."""
        ...

    def get(self, key: Key) -> bytes:
        """Return the bytes.

        Raises:
            KeyError: There are none.
            StoreError: They are not those that were put there.
        """
        ...

    def delete(self, key: Key) -> None:
        """Forget the bytes; nothing happens if there are none."""
        ...

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        ...


class MemoryStore:
    """Keeps bytes in memory."""

    def __init__(self) -> None:
        self._entries: dict[Key, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; what the key held before is replaced."""
        with self._lock:
            self._entries[key] = bytes(content)

    def get(self, key: Key) -> bytes:
        """Return the bytes."""
        with self._lock:
            return self._entries[key]

    def delete(self, key: Key) -> None:
        """Forget the bytes."""
        with self._lock:
            self._entries.pop(key, None)

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        with self._lock:
            return sorted(key for key in self._entries if str(key).startswith(prefix))


class FolderStore:
    """Keeps each entry in a file, with its digest in front.

    A process that is killed leaves every entry as it was before or after a ``put``.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; what the key held before is replaced, whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)

    def get(self, key: Key) -> bytes:
        """Return the bytes, checked against their digest."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(rest).digest() != digest:
            raise StoreError(f"{path}: does not hold what was put there; delete it")
        return rest

    def delete(self, key: Key) -> None:
        """Forget the bytes; nothing happens if there are none."""
        self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        found = []
        for path in self._folder.glob("*/*/*/*"):
            text = path.relative_to(self._folder).as_posix()
            if path.name.startswith(".") or not text.startswith(prefix):
                continue
            found.append(Key.parse(text))
        return sorted(found)

    def _path(self, key: Key) -> Path:
        return self._folder / str(key)
