"""Updates in fewer bits: bfloat16, or whole numbers of 8 or 4 bits with a scale a block.

What is lost in one round, a client adds to what it sends in the next (error feedback, Seide et al.
2014; Karimireddy et al. 2019): sums over rounds then lack the last loss and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FLOAT32, BF16, INT8, INT4 = "float32", "bf16", "int8", "int4"
SCHEMES = (FLOAT32, BF16, INT8, INT4)
"""How updates may be sent."""

MASKED = {8: "masked8", 16: "masked16", 32: "masked32"}
"""How whole numbers without sign are sent that masks hide, by their bits: as they are."""

BLOCKS = {INT8: 256, INT4: 64}
"""Numbers that share a scale."""

_LARGEST = {INT8: 127, INT4: 7}
_BF16_LARGEST = 0x7F7F
_SCALE_BYTES = 2
_UNSIGNED = {name: np.dtype(f"<u{bits // 8}") for bits, name in MASKED.items()}


def encode(array: NDArray[Any], scheme: str) -> bytes:
    """Return the numbers of an array in a scheme.

    A whole number stands for itself times the scale of its block, a bfloat16 no smaller than the
    block's largest number by the largest whole number; so none is off by more than half a scale.

    Args:
        array: float32, of any shape, finite; whole numbers if they are masked.
        scheme: One of ``SCHEMES`` or ``MASKED``.

    Raises:
        ConfigError: There is no such scheme.
        UpdateError: A number is not finite.
    """
    _check(scheme)
    if scheme in _UNSIGNED:
        return np.asarray(array).astype(_UNSIGNED[scheme], casting="safe").tobytes()
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    if not np.isfinite(flat).all():
        raise UpdateError("an update to be sent holds numbers that are not finite")
    if scheme == FLOAT32:
        return flat.astype("<f4").tobytes()
    if scheme == BF16:
        return _to_bf16(flat).astype("<u2").tobytes()
    blocks = _in_blocks(flat, BLOCKS[scheme])
    largest = np.abs(blocks).max(axis=1, initial=0.0)
    bits = _to_bf16_upwards((largest / np.float32(_LARGEST[scheme])).astype(np.float32))
    scales = _from_bf16(bits)
    # A scale of 0, of a block of zeros, stands for 0 whatever the number.
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    codes = np.rint(blocks.astype(np.float64) / divisors).astype(np.int8).reshape(-1)[: flat.size]
    if scheme == INT4:
        codes = _in_nibbles(codes)
    return bits.astype("<u2").tobytes() + codes.tobytes()


def decode(content: bytes, count: int, scheme: str) -> NDArray[Any]:
    """Return so many numbers that ``encode`` made bytes of, ``[count]``, of the type it was given.

    Raises:
        ConfigError: There is no such scheme.
        UpdateError: There are more bytes or fewer.
    """
    wanted = encoded_bytes(count, scheme)
    if len(content) != wanted:
        raise UpdateError(f"want {wanted} bytes of {count} numbers in {scheme}, got {len(content)}")
    if scheme in _UNSIGNED:
        return np.frombuffer(content, _UNSIGNED[scheme]).astype(_UNSIGNED[scheme].newbyteorder("="))
    if scheme == FLOAT32:
        return np.frombuffer(content, "<f4").astype(np.float32)
    if scheme == BF16:
        return _from_bf16(np.frombuffer(content, "<u2").astype(np.uint16))
    block = BLOCKS[scheme]
    num_blocks = -(-count // block)
    scales = _from_bf16(np.frombuffer(content, "<u2", num_blocks).astype(np.uint16))
    codes = np.frombuffer(content, np.int8, offset=_SCALE_BYTES * num_blocks)
    if scheme == INT4:
        codes = _from_nibbles(codes)
    blocks = _in_blocks(codes[:count].astype(np.float32), block)
    found: NDArray[np.float32] = (blocks * scales[:, None]).reshape(-1)[:count]
    return found


def encoded_bytes(count: int, scheme: str) -> int:
    """Return the bytes of so many numbers."""
    _check(scheme)
    if scheme in _UNSIGNED:
        return count * _UNSIGNED[scheme].itemsize
    if scheme in BLOCKS:
        scales = _SCALE_BYTES * -(-count // BLOCKS[scheme])
        return scales + (count if scheme == INT8 else -(-count // 2))
    return count * (4 if scheme == FLOAT32 else 2)


def compensated(
    change: Mapping[str, NDArray[Any]], residual: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Return what is to be sent: a change, and what earlier rounds lost.

    Args:
        change: By name, float32.
        residual: What was lost, of the same names; empty for nothing.
    """
    if not residual:
        return {name: np.asarray(array, np.float32) for name, array in change.items()}
    return {name: (array + residual[name]).astype(np.float32) for name, array in change.items()}


def _check(scheme: str) -> None:
    if scheme not in SCHEMES and scheme not in _UNSIGNED:
        raise ConfigError(f"scheme must be one of {SCHEMES}, got {scheme!r}")


def _in_blocks(flat: NDArray[Any], block: int) -> NDArray[Any]:
    missing = -flat.size % block
    return np.pad(flat, (0, missing)).reshape(-1, block)


def _in_nibbles(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return numbers of -8 to 7 two a byte, the first in the lower half."""
    pairs = _in_blocks(codes, 2).view(np.uint8)
    packed: NDArray[np.int8] = ((pairs[:, 0] & 15) | (pairs[:, 1] << 4)).view(np.int8)
    return packed


def _from_nibbles(packed: NDArray[np.int8]) -> NDArray[np.int8]:
    # To the right, the sign goes along.
    lower = (packed << 4) >> 4
    upper = packed >> 4
    return np.stack([lower, upper], axis=1).reshape(-1)


def _to_bf16(flat: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the nearest bfloat16, of two the even one; the largest there is, not infinity."""
    bits = flat.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    sign = rounded & 0x8000
    return np.asarray(sign | np.minimum(rounded & 0x7FFF, _BF16_LARGEST)).astype(np.uint16)


def _to_bf16_upwards(positive: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the least bfloat16 that is not below numbers of 0 or more."""
    return ((positive.view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16).astype(np.uint16)


def _from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)
