"""The file that artifacts travel in: a zip of named entries with a digest over every byte.

The zip is stored, not deflated, with fixed dates: the same entries give the same bytes everywhere,
and no entry is larger than the file. The last 64 bytes, the end of the zip's comment, are the
SHA-256 of all bytes before them, so that any flipped or missing byte is found before anything is
believed.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tempfile
import zipfile
from typing import IO, TYPE_CHECKING

from hocket.runtime.errors import ArtifactError
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST_CHARACTERS = 64
_COMMENT = b"hocket sha256 "
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: lengths of its name and extra field
_EXTRA_HEADER = struct.Struct("<HH")
_EXTRA_ID = 0xD935  # padding for alignment, as other zip aligners mark it
_ALIGNMENT = 64
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold


def save_container(entries: Mapping[str, bytes], path: str | os.PathLike[str]) -> str:
    """Write entries to a file, which appears whole or not at all, and return the digest.

    Raises:
        OSError: As ``atomic_file``.
    """
    with atomic_file(path) as file:
        return _write(entries, file)


def container_digest(entries: Mapping[str, bytes]) -> str:
    """Return the digest of the file that ``save_container`` would write."""
    with tempfile.TemporaryFile() as file:
        return _write(entries, file)


def parse_container(content: bytes) -> tuple[dict[str, memoryview], str]:
    """Return the entries, as views of a file's bytes, and its digest.

    Raises:
        ArtifactError: The file is truncated or changed, or nothing we would write.
    """
    digest = _check_digest(content)
    try:
        # BytesIO shares the bytes until somebody writes to it.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ArtifactError(f"is not a readable zip file: {error}") from error
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ArtifactError("has compressed entries, which no Hocket writes")
    if len({info.filename for info in infos}) != len(infos):
        raise ArtifactError("has two entries of one name, which no Hocket writes")
    return {info.filename: _view(info, content) for info in infos}, digest


def _view(info: zipfile.ZipInfo, content: bytes) -> memoryview:
    """Return the bytes of a stored entry where they lie."""
    header = content[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise ArtifactError(f"entry {info.filename!r} has no header where the zip says")
    name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    view = memoryview(content)[start : start + info.file_size]
    if len(view) != info.file_size or info.compress_size != info.file_size:
        raise ArtifactError(f"entry {info.filename!r} is not whole")
    return view


def _write(entries: Mapping[str, bytes], file: IO[bytes]) -> str:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # the same on every system
            # Pad the header, so that the content starts aligned and tensors can be read in place.
            start = file.tell() + _LOCAL_HEADER.size + len(name.encode()) + _EXTRA_HEADER.size
            padding = -start % _ALIGNMENT
            info.extra = _EXTRA_HEADER.pack(_EXTRA_ID, padding) + bytes(padding)
            archive.writestr(info, content)
        archive.comment = _COMMENT + b"0" * _DIGEST_CHARACTERS
    remaining = file.seek(0, os.SEEK_END) - _DIGEST_CHARACTERS
    file.seek(0)
    digest = hashlib.sha256()
    while remaining:
        chunk = file.read(min(remaining, 1 << 20))
        digest.update(chunk)
        remaining -= len(chunk)
    file.seek(-_DIGEST_CHARACTERS, os.SEEK_END)
    file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def _check_digest(content: bytes) -> str:
    if not content.startswith(b"PK"):
        raise ArtifactError(
            "is not a compiled module (.hkt); `hocket compile` makes one of an ONNX file"
        )
    told = content[-_DIGEST_CHARACTERS:]
    if content[-_DIGEST_CHARACTERS - len(_COMMENT) : -_DIGEST_CHARACTERS] != _COMMENT:
        raise ArtifactError("is truncated, or no compiled module (.hkt); fetch or compile it again")
    found = hashlib.sha256(memoryview(content)[:-_DIGEST_CHARACTERS]).hexdigest()
    if told != found.encode():
        raise ArtifactError(
            "does not match its digest: damaged or changed after it was compiled; fetch or compile "
            "it again"
        )
    return found
