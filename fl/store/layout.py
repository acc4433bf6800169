"""One object an update: safetensors whose numbers begin on a cache line, and an index of them.

All float32 arrays of an object lie side by side, so that work on whole updates (a norm, a product,
a mean) goes through one vector and knows no layers; a layer alone is one range of its bytes.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from hocket.fl.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters

ALIGNMENT_BYTES = 64
HEAD_BYTES = 8
MAX_INDEX_BYTES = 64 << 20

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Layer:
    """Where one array of an object lies.

    Attributes:
        dtype: Of its numbers.
        shape: Of the array.
        start, end: Its bytes in the object.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


def encode(parameters: Parameters) -> bytes:
    """Return arrays as one object: the same bytes for the same arrays in any order.

    Raises:
        StoreError: An array is of a type that objects do not have.
    """
    return b"".join(pieces(parameters))


def pieces(parameters: Parameters) -> list[bytes | memoryview]:
    """Return an object in pieces: its index, then the bytes of each array, which are not copied.

    Raises:
        StoreError: An array is of a type that objects do not have.
    """
    front, layers = _laid_out({name: (each.dtype, each.shape) for name, each in parameters.items()})
    arrays = [np.ascontiguousarray(parameters[name]) for name in layers]
    # By bytes, as bfloat16 is no type of Python's buffers.
    return [front, *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def blank(
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    memory: Callable[[int], memoryview],
) -> memoryview:
    """Return an object whose arrays are still to be written.

    Args:
        kinds: Type and shape of each array.
        memory: Gives as many bytes as it is asked for.

    Raises:
        StoreError: An array is of a type that objects do not have.
    """
    front, layers = _laid_out(kinds)
    found = memory(max((layer.end for layer in layers.values()), default=len(front)))
    found[: len(front)] = front
    return found


def _laid_out(
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
) -> tuple[bytes, dict[str, Layer]]:
    """Return an object's length and index, and where its arrays lie behind these, in order."""
    # Wide numbers first keep all aligned, and arrays of one type lie side by side.
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, kinds[name][0].name, name))
    table: dict[str, Any] = {}
    end = 0
    for name in order:
        dtype, shape = kinds[name]
        if dtype not in _CODES:
            raise StoreError(f"array {name!r}: objects have no numbers of type {dtype}")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    index = json.dumps(table, separators=(",", ":")).encode()
    # The format allows spaces behind its index.
    index += b" " * (-(HEAD_BYTES + len(index)) % ALIGNMENT_BYTES)
    front = len(index).to_bytes(HEAD_BYTES, "little") + index
    return front, {
        name: Layer(*kinds[name], *(len(front) + place for place in entry["data_offsets"]))
        for name, entry in table.items()
    }


def index_bytes(head: bytes | memoryview, origin: str) -> int:
    """Return how many bytes the index and the length in front of it take.

    Args:
        head: The first ``HEAD_BYTES`` of an object.
        origin: Whose they are, for the message.

    Raises:
        StoreError: They are none of an object, or say more than ``MAX_INDEX_BYTES``.
    """
    length = int.from_bytes(head[:HEAD_BYTES], "little")
    if len(head) < HEAD_BYTES or not 2 <= length <= MAX_INDEX_BYTES:
        raise StoreError(f"{origin}: is no object of arrays: its index would have {length} bytes")
    return HEAD_BYTES + length


def read_index(front: bytes | memoryview, num_bytes: int, origin: str) -> dict[str, Layer]:
    """Return where the arrays of an object lie.

    Args:
        front: At least its first ``index_bytes``.
        num_bytes: Of the whole object.
        origin: Whose it is, for the message.

    Raises:
        StoreError: It is no object, or an array would lie outside of it.
    """
    begin = index_bytes(front, origin)
    if len(front) < begin:
        raise StoreError(f"{origin}: is cut short: its index has {begin} bytes, got {len(front)}")
    try:
        return dict(_read_table(bytes(front[HEAD_BYTES:begin]), num_bytes))
    except StoreError as error:
        raise StoreError(f"{origin}: {error}") from error


# A round's updates have the same index, to a byte.
@functools.lru_cache(64)
def _read_table(index: bytes, num_bytes: int) -> Mapping[str, Layer]:
    begin = HEAD_BYTES + len(index)
    try:
        table = json.loads(index)
        entries = [(name, entry) for name, entry in table.items() if name != "__metadata__"]
        return {name: _layer(name, entry, begin, num_bytes) for name, entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"has an unreadable index: {error}") from error


def _layer(name: str, entry: Mapping[str, Any], begin: int, num_bytes: int) -> Layer:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise StoreError(f"array {name!r} has malformed sizes")
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise StoreError(f"array {name!r} has the unknown type {entry['dtype']!r}")
    if end - start != math.prod(shape) * dtype.itemsize or begin + end > num_bytes:
        raise StoreError(f"array {name!r}: its bytes do not match its shape")
    return Layer(dtype, tuple(shape), begin + start, begin + end)


def view(content: bytes | memoryview, origin: str) -> dict[str, NDArray[Any]]:
    """Return read-only arrays over an object, which is not copied.

    Raises:
        StoreError: It is no object.
    """
    layers = read_index(content, len(content), origin)
    return {name: view_layer(content, layer) for name, layer in layers.items()}


def view_layer(content: bytes | memoryview, layer: Layer, offset: int = 0) -> NDArray[Any]:
    """Return a read-only array over its bytes, which are not copied.

    Args:
        content: An object, or a part of it.
        layer: Which array.
        offset: Where in the object ``content`` begins.
    """
    inside = memoryview(content)[layer.start - offset : layer.end - offset].toreadonly()
    return np.frombuffer(inside, layer.dtype).reshape(layer.shape)


def spans(layers: Mapping[str, Layer]) -> list[list[str]]:
    """Return names of arrays of one type that lie side by side, in the order in which they lie."""
    found: list[list[str]] = []
    end, dtype = -1, None
    # Arrays without numbers end where they begin.
    for name, layer in sorted(layers.items(), key=lambda each: (each[1].start, each[1].end)):
        if layer.dtype != dtype or layer.start != end:
            found.append([])
        found[-1].append(name)
        end, dtype = layer.end, layer.dtype
    return found


def view_span(content: bytes | memoryview, layers: Sequence[Layer]) -> NDArray[Any]:
    """Return a vector over arrays that lie side by side, which are not copied.

    It can be written if the content can.
    """
    inside = memoryview(content)[layers[0].start : layers[-1].end]
    return np.frombuffer(inside, layers[0].dtype)


def flat_numbers(content: bytes | memoryview, origin: str) -> NDArray[np.float32]:
    """Return all floats of an object as one vector.

    A view where they are all float32; else a copy. Integers, such as counts of batches, are none of
    it: whether two devices counted alike says nothing about where they went.

    Returns:
        ``[numbers]`` of float32, in the order in which they lie in the object.

    Raises:
        StoreError: It is no object.
    """
    layers = read_index(content, len(content), origin).values()
    floats = sorted(
        (layer for layer in layers if layer.dtype.kind not in "iub"), key=lambda layer: layer.start
    )
    if not floats:
        return np.zeros(0, np.float32)
    is_dense = all(one.end == other.start for one, other in itertools.pairwise(floats))
    if is_dense and all(layer.dtype == np.float32 for layer in floats):
        inside = memoryview(content)[floats[0].start : floats[-1].end].toreadonly()
        return np.frombuffer(inside, np.float32)
    parts = [view_layer(content, layer).ravel().astype(np.float32) for layer in floats]
    return np.concatenate(parts)
