"""Updates on the wire: a header and chunks, each with a digest of its own.

A packed update is arrays of bytes by name, as every engine carries them: ``header``, then
``chunk/00000`` and so on. A digest covers what a chunk holds, where it belongs, and whose it is, so
that neither a flipped bit nor a chunk of another round, device or place is taken for the right one.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.photon.compression import decode, encode, encoded_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters

HEADER = "header"
CHUNK_BYTES = 1 << 20
_VERSION = 1
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Label:
    """Whose an update is.

    Attributes:
        job, round, device_id: Of the task that it answers.
    """

    job: str
    round: int
    device_id: str


def pack(
    label: Label, arrays: Mapping[str, NDArray[Any]], scheme: str, chunk_bytes: int = CHUNK_BYTES
) -> dict[str, NDArray[np.uint8]]:
    """Return an update as it is sent.

    Args:
        label: Whose it is.
        arrays: float32, by name; whole numbers if they are masked.
        scheme: How its numbers are sent, one of ``compression.SCHEMES`` or ``compression.MASKED``.
        chunk_bytes: Of a chunk, without its digest; the last has what is left.

    Raises:
        ConfigError: There is no such scheme, or chunks are to hold nothing.
        UpdateError: A number is not finite.
    """
    if chunk_bytes < 1:
        raise ConfigError(f"chunk_bytes must be 1 or more, got {chunk_bytes}")
    header = {
        "version": _VERSION,
        "job": label.job,
        "round": label.round,
        "device": label.device_id,
        "scheme": scheme,
        "chunk_bytes": chunk_bytes,
        "arrays": [[name, list(arrays[name].shape)] for name in sorted(arrays)],
    }
    text = json.dumps(header, sort_keys=True).encode()
    body = b"".join(encode(arrays[name], scheme) for name in sorted(arrays))
    packed = {HEADER: _sealed(text, HEADER)}
    for number, start in enumerate(range(0, len(body), chunk_bytes)):
        place = _place(number, text)
        packed[_chunk(number)] = _sealed(body[start : start + chunk_bytes], place)
    return packed


def unpack(
    packed: Parameters, label: Label, like: Mapping[str, NDArray[Any]], wanted_scheme: str = ""
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield an update's arrays, one at a time, by name.

    All chunks are checked before the first array is yielded.

    Args:
        packed: As it came.
        label: Whose it must be.
        like: Arrays of the names and shapes that it must have.
        wanted_scheme: In which it must be; empty for any.

    Raises:
        UpdateError: It is damaged, incomplete, or of something else.
    """
    header, text = _read_header(packed, label, like)
    scheme, chunk_bytes = header["scheme"], header["chunk_bytes"]
    if wanted_scheme not in ("", scheme):
        raise UpdateError(
            f"update of {label.device_id!r}: want it in {wanted_scheme}, got {scheme}"
        )
    sizes = [encoded_bytes(like[name].size, scheme) for name in sorted(like)]
    num_chunks = -(-sum(sizes) // chunk_bytes)
    wanted = {HEADER, *(_chunk(number) for number in range(num_chunks))}
    if packed.keys() != wanted:
        raise UpdateError(
            f"update of {label.device_id!r}: want {num_chunks} chunks, got {len(packed) - 1}"
        )
    chunks = [
        _opened(packed[_chunk(number)], _place(number, text), label) for number in range(num_chunks)
    ]
    if sum(map(len, chunks)) != sum(sizes):
        raise UpdateError(f"update of {label.device_id!r}: its chunks are of other sizes")
    start = 0
    for name, size in zip(sorted(like), sizes, strict=True):
        content = _slice(chunks, start, size, chunk_bytes)
        yield name, decode(content, like[name].size, scheme).reshape(like[name].shape)
        start += size


def wire_bytes(packed: Parameters) -> int:
    """Return the bytes that an update takes on the wire, header and digests included."""
    return sum(array.nbytes for array in packed.values())


def _read_header(
    packed: Parameters, label: Label, like: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Any], bytes]:
    if HEADER not in packed:
        raise UpdateError(f"update of {label.device_id!r}: it has no header")
    text = _opened(packed[HEADER], HEADER, label)
    try:
        header: dict[str, Any] = json.loads(text)
        found = Label(header["job"], header["round"], header["device"])
        named = {name: tuple(shape) for name, shape in header["arrays"]}
        version, chunk_bytes = header["version"], int(header["chunk_bytes"])
        encoded_bytes(0, header["scheme"])
    except (ValueError, KeyError, TypeError) as error:
        raise UpdateError(f"update of {label.device_id!r}: unreadable header: {error}") from error
    if version != _VERSION or chunk_bytes < 1:
        raise UpdateError(f"update of {label.device_id!r}: unknown version {version}")
    if found != label:
        raise UpdateError(f"want an update of {label}, got one of {found}")
    shapes = {name: array.shape for name, array in like.items()}
    if named != shapes:
        other = sorted(name for name in {*named, *shapes} if named.get(name) != shapes.get(name))
        raise UpdateError(f"update of {label.device_id!r}: other arrays or shapes: {other[:5]}")
    return header, text


def _slice(chunks: list[bytes], start: int, size: int, chunk_bytes: int) -> bytes:
    first, last = start // chunk_bytes, math.ceil((start + size) / chunk_bytes)
    joined = b"".join(chunks[first:last])
    offset = start - first * chunk_bytes
    return joined[offset : offset + size]


def _chunk(number: int) -> str:
    return f"chunk/{number:05d}"


def _place(number: int, header: bytes) -> str:
    return f"{_chunk(number)} {hashlib.sha256(header).hexdigest()}"


def _sealed(content: bytes, place: str) -> NDArray[np.uint8]:
    return np.frombuffer(_digest(content, place) + content, np.uint8)


def _digest(content: bytes, place: str) -> bytes:
    return hashlib.sha256(place.encode() + b"\n" + content).digest()


def _opened(sealed: NDArray[Any], place: str, label: Label) -> bytes:
    if sealed.dtype != np.uint8 or sealed.ndim != 1:
        raise UpdateError(f"update of {label.device_id!r}: a chunk is no array of bytes")
    content = sealed.tobytes()
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if _digest(rest, place) != digest:
        raise UpdateError(f"update of {label.device_id!r}: {place.partition(' ')[0]} is damaged")
    return rest
