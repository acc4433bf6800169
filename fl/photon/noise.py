"""Noise that nobody can draw again: whole numbers of a discrete Gaussian, from secret seeds."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_KEY_BYTES, _NONCE_BYTES = 32, 16
_FLOAT_BITS = 53
# Of a standard deviation, where the noise is to stand for real numbers.
_STEPS = 1 << 16


class SecretNoise:
    """Draws noise by ChaCha20 from a key of the operating system's randomness.

    What is drawn is not kept, and cannot be had again: a round that is done anew has other noise.

    Args:
        key: Of tests, that want the same noise again.
    """

    def __init__(self, key: bytes = b"") -> None:
        cipher = ChaCha20(key or secrets.token_bytes(_KEY_BYTES), bytes(_NONCE_BYTES))
        self._stream = Cipher(cipher, mode=None).encryptor()

    def draw(self, scale: float, count: int) -> NDArray[np.int64]:
        """Return numbers k with probabilities in proportion to exp(-k**2 / (2 * scale**2)).

        By rejection from a discrete Laplace distribution (Canonne, Kamath and Steinke 2020,
        algorithm 3), with probabilities in float64.
        """
        width = math.floor(scale) + 1
        found = np.empty(0, np.int64)
        while len(found) < count:
            # Two of three or more are accepted.
            wanted = 2 * (count - len(found)) + 64
            tries = self._laplace(width, wanted)
            exponent = (np.abs(tries) - scale**2 / width) ** 2 / (2 * scale**2)
            accepted = self._uniform(len(tries)) < np.exp(-exponent)
            found = np.concatenate([found, tries[accepted]])
        return found[:count]

    def _laplace(self, width: int, count: int) -> NDArray[np.int64]:
        sizes = np.floor(-width * np.log1p(-self._uniform(count))).astype(np.int64)
        is_negative = self._uniform(count) < 0.5
        # There is one zero, not two.
        signed = np.where(is_negative, -sizes, sizes)
        found: NDArray[np.int64] = signed[~(is_negative & (sizes == 0))]
        return found

    def _uniform(self, count: int) -> NDArray[np.float64]:
        """Return numbers from 0 to below 1."""
        drawn = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")
        return (drawn >> np.uint64(64 - _FLOAT_BITS)).astype(np.float64) * 2.0**-_FLOAT_BITS


def with_noise(
    mean: Mapping[str, NDArray[np.float64]], scale: float
) -> dict[str, NDArray[np.float64]]:
    """Return arrays with noise of a standard deviation on every number."""
    noise = SecretNoise()
    return {
        name: array + noise.draw(_STEPS, array.size).reshape(array.shape) * (scale / _STEPS)
        for name, array in mean.items()
    }
