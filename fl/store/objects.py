"""Bytes under their own SHA-256, in memory, in a folder or in an object store."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import LocalStore, MemoryStore, S3Store

from hocket.fl.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER = "objects"


@dataclass(frozen=True)
class ListedObject:
    """An object, unopened.

    Attributes:
        digest: Under which it is kept.
        num_bytes: Of it.
        modified_seconds: When it was written, since 1970.
    """

    digest: str
    num_bytes: int
    modified_seconds: float


@dataclass(frozen=True)
class Objects:
    """Immutable bytes, each under its digest; the same bytes are kept once.

    Attributes:
        storage: Any store of the obstore package.
        origin: Where it is, for messages.
    """

    storage: Any
    origin: str

    def put(self, content: bytes | memoryview) -> str:
        """Keep bytes, whole or not at all, and return their digest.

        Bytes that are there already are not written again.

        Raises:
            StoreError: They cannot be written.
        """
        digest = hashlib.sha256(content).hexdigest()
        if not self.has(digest):
            try:
                obstore.put(self.storage, _path(digest), content)
            except BaseError as error:
                reason = str(error).partition("\n\nDebug source")[0]
                raise StoreError(f"{self.origin}: cannot be written to: {reason}") from error
        return digest

    def has(self, digest: str) -> bool:
        """Return whether bytes are kept."""
        try:
            obstore.head(self.storage, _path(digest))
        except FileNotFoundError:
            return False
        return True

    def get(self, digest: str) -> memoryview:
        """Return bytes, checked against their digest.

        Raises:
            KeyError: There are none.
            StoreError: They are others.
        """
        try:
            content = memoryview(obstore.get(self.storage, _path(digest)).bytes())
        except FileNotFoundError:
            raise KeyError(digest) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(
                f"{self.origin}: object {digest} does not hold what was put there; "
                "delete it, and put it again if you can"
            )
        return content

    def get_range(self, digest: str, start: int, end: int) -> memoryview:
        """Return some of an object's bytes, which are not checked: its digest is of all of them.

        Raises:
            KeyError: There is no such object.
            StoreError: It ends before.
        """
        if end <= start:
            return memoryview(b"")
        try:
            found = memoryview(obstore.get_range(self.storage, _path(digest), start=start, end=end))
        except FileNotFoundError:
            raise KeyError(digest) from None
        except GenericError:
            # Some servers of S3's protocol answer a range by the whole.
            found = self.get(digest)[start:end]
        if len(found) != end - start:
            raise StoreError(f"{self.origin}: object {digest} ends before byte {end}")
        return found

    def delete(self, digest: str) -> None:
        """Forget bytes; nothing happens if there are none."""
        try:
            obstore.delete(self.storage, _path(digest))
        except FileNotFoundError:
            return

    def listing(self) -> Iterator[ListedObject]:
        """Yield all objects, in no order."""
        for batch in obstore.list(self.storage, f"{_FOLDER}/"):
            for entry in batch:
                digest = entry["path"].rsplit("/", 1)[-1]
                if _DIGEST.fullmatch(digest):
                    seconds = entry["last_modified"].timestamp()
                    yield ListedObject(digest, entry["size"], seconds)


def open_objects(url: str) -> Objects:
    """Open the objects that an address names.

    Args:
        url: ``memory://``; a folder, or ``file:///FOLDER``; or ``s3://BUCKET/PREFIX?endpoint=URL``,
            whose keys come from ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, as everywhere,
            and whose other settings (``region``, ``virtual_hosted_style_request``) follow ``?``.

    Raises:
        ConfigError: It is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return Objects(MemoryStore(), url)
    if parts.scheme in ("", "file"):
        folder = parts.path if parts.scheme else url
        if not folder or parts.netloc:
            raise ConfigError(f"{url!r}: want a folder, such as 'runs/history' or 'file:///data'")
        return Objects(LocalStore(folder, mkdir=True), folder)
    if parts.scheme == "s3" and parts.netloc:
        settings = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        plain = settings.get("endpoint", "").startswith("http://")
        storage = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=settings,  # type: ignore[arg-type]
            client_options={"allow_http": plain},
        )
        return Objects(storage, url.split("?", 1)[0])
    raise ConfigError(f"{url!r}: want 'memory://', a folder, 'file:///FOLDER' or 's3://BUCKET'")


def _path(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ConfigError(f"want a SHA-256 of 64 hexadecimal digits, got {digest!r}")
    return f"{_FOLDER}/{digest[:2]}/{digest}"
