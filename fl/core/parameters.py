"""Parameters of a model: arrays by name, as bytes and as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hocket.fl.core.errors import UpdateError

Parameters = Mapping[str, NDArray[Any]]
"""Arrays by name. Nobody writes to them: whoever changes a model makes new ones."""


def digest_of(parameters: Parameters) -> str:
    """Return the SHA-256 of all names, element types, shapes and numbers, in hexadecimal.

    Two models of one digest are equal to the last bit, whatever the order of their arrays.
    """
    found = hashlib.sha256()
    for name in sorted(parameters):
        array = parameters[name]
        found.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def num_bytes(parameters: Parameters) -> int:
    """Return the bytes of all arrays together."""
    return sum(array.nbytes for array in parameters.values())


def check_alike(parameters: Parameters, wanted: Parameters, origin: str) -> None:
    """Check that arrays have the names, element types and shapes of others, and are finite.

    Args:
        parameters: To check.
        wanted: What they are to be like.
        origin: Whose they are, for the message.

    Raises:
        UpdateError: Names the array and what is wrong with it.
    """
    if parameters.keys() != wanted.keys():
        missing = sorted(wanted.keys() - parameters.keys())
        unknown = sorted(parameters.keys() - wanted.keys())
        raise UpdateError(f"{origin}: missing arrays {missing}, unknown arrays {unknown}")
    for name, like in wanted.items():
        array = parameters[name]
        if array.dtype != like.dtype or array.shape != like.shape:
            raise UpdateError(
                f"{origin}: array {name!r}: want {like.dtype} of {list(like.shape)}, "
                f"got {array.dtype} of {list(array.shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UpdateError(f"{origin}: array {name!r} holds numbers that are not finite")


def encode_arrays(arrays: Parameters) -> bytes:
    """Return arrays as safetensors bytes, the same for the same arrays in any order."""
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    # It makes rank 1 of a scalar.
    return bytes(save({name: array.reshape(arrays[name].shape) for name, array in ordered.items()}))


def decode_arrays(content: bytes, origin: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of safetensors bytes that nobody has checked.

    Raises:
        UpdateError: They are no safetensors.
    """
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UpdateError(f"{origin}: unreadable arrays: {error}") from error
