"""Tensors read in place from safetensors bytes.

The library's own reader copies every tensor; weights are most of an artifact, and a device has no
room for them twice. The format is a length, a JSON table and the numbers.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.runtime.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_LENGTH_BYTES = 8


def view_tensors(content: memoryview) -> dict[str, NDArray[Any]]:
    """Return read-only arrays over safetensors bytes that nobody has checked.

    Raises:
        ArtifactError: The bytes are no safetensors, or hold a type other than a float.
    """
    try:
        length = int.from_bytes(content[:_LENGTH_BYTES], "little")
        data = content[_LENGTH_BYTES + length :]
        table = json.loads(bytes(content[_LENGTH_BYTES : _LENGTH_BYTES + length]))
        return {
            name: _view(name, entry, data)
            for name, entry in table.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"has unreadable weights: {error}") from error


def _view(name: str, entry: dict[str, Any], data: memoryview) -> NDArray[Any]:
    shape = entry["shape"]
    start, end = entry["data_offsets"]
    numbers = [*shape, start, end]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ArtifactError(f"weight {name!r}: malformed shape or offsets")
    if entry["dtype"] not in _DTYPES:
        raise ArtifactError(f"weight {name!r}: unknown type {entry['dtype']!r}")
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    if end > len(data) or end - start != math.prod(shape) * dtype.itemsize:
        raise ArtifactError(f"weight {name!r}: its bytes do not match its shape")
    return np.frombuffer(data[start:end], dtype).reshape(shape)
