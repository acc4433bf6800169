"""Changes as whole numbers of one scale for all clients, which can be masked and added up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.photon.compression import MASKED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# A sum of noise is as far off once in 10**15.
_NOISE_SCALES = 8.0


@dataclass(frozen=True)
class Lattice:
    """Which numbers clients may send.

    Attributes:
        step: What one stands for.
        largest: How far off nought a client's may be, without noise.
        bits: Of the power of two at which sums wrap around.
    """

    step: float
    largest: int
    bits: int

    @classmethod
    def for_sum(
        cls, num_clients: int, largest_change: float, bits: int, noise_scale: float = 0.0
    ) -> Lattice:
        """Return the finest on which no sum wraps around.

        Args:
            num_clients: In the sum, at most.
            largest_change: Of a parameter of a client.
            bits: One of those of ``compression.MASKED``.
            noise_scale: Standard deviation of the noise in the sum.

        Raises:
            ConfigError: So many clients have no room in so few bits.
        """
        if bits not in MASKED:
            raise ConfigError(f"bits must be one of {tuple(MASKED)}, got {bits}")
        room = (1 << (bits - 1)) - 1
        step = (num_clients * largest_change + _NOISE_SCALES * noise_scale) / room
        largest = int(largest_change / step) if step else 0
        if largest < 1:
            raise ConfigError(
                f"{bits} bits have no room for the sum of {num_clients} clients, noise of "
                f"{noise_scale:.3g} and changes of {largest_change:.3g}; take more bits"
            )
        return cls(step, largest, bits)

    def round(
        self, change: Mapping[str, NDArray[Any]], *, is_private: bool = False
    ) -> dict[str, NDArray[np.int64]]:
        """Return the nearest numbers; for what is too large, the largest.

        Args:
            change: By name.
            is_private: Whether to take the next ones towards nought instead, so that no change gets
                longer than it was clipped to.

        Raises:
            UpdateError: A number is not finite.
        """
        found = {}
        for name, array in change.items():
            if not np.isfinite(array).all():
                raise UpdateError("an update to be sent holds numbers that are not finite")
            exact = array.astype(np.float64) / self.step
            whole = np.trunc(exact) if is_private else np.rint(exact)
            found[name] = np.clip(whole, -self.largest, self.largest).astype(np.int64)
        return found

    def wrap(self, numbers: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Return numbers without sign, as they wrap around."""
        # A cast between integers keeps the lower bits.
        return {name: array.astype(self.dtype) for name, array in numbers.items()}

    def unwrap(self, numbers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """Return the numbers that ``wrap`` was given, or their sum."""
        signed = np.dtype(f"i{self.bits // 8}")
        return {name: array.view(signed).astype(np.int64) for name, array in numbers.items()}

    def values(self, numbers: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
        """Return what numbers stand for."""
        return {name: array.astype(np.float64) * self.step for name, array in numbers.items()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of numbers that wrap around."""
        return np.dtype(f"u{self.bits // 8}")

    @property
    def scheme(self) -> str:
        """How they are sent."""
        return MASKED[self.bits]


@dataclass(frozen=True)
class Secure:
    """How sums are kept secret; see ``secure_sum``.

    Attributes:
        bits: Of a number on the wire.
        threshold: Share of the clients asked that must be there to the end; more than half are
            wanted in any case.
        largest_change: Of a parameter in a round; what is more is sent in the next one. 0 for the
            sum of the round's learning rates, of which AdamW's steps are seldom more.

    Raises:
        ConfigError: A number is out of range.
    """

    bits: int = 16
    threshold: float = 0.67
    largest_change: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in MASKED:
            raise ConfigError(f"bits must be one of {tuple(MASKED)}, got {self.bits}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must be from 0 to 1, got {self.threshold}")
        if self.largest_change < 0:
            raise ConfigError(f"largest_change must be 0 or more, got {self.largest_change}")

    def num_needed(self, num_clients: int) -> int:
        """Return how many of so many clients must be there to the end."""
        return max(2, num_clients // 2 + 1, math.ceil(self.threshold * num_clients - 1e-9))
