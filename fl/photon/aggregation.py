"""The mean of clients' changes, one client in memory at a time, the same whoever comes first.

Sums of floats depend on their order, and to wait for an order is to hold what came early. So sums
are whole numbers of a fixed point, whose addition knows no order. Of 64 bits, what the largest
change and the weights do not need is left for the fraction: the mean is off by less than 2**-58 for
each client, far less than float32 can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import UpdateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_RANGE_BITS = 3
LARGEST_CHANGE = 2.0**_RANGE_BITS
"""No parameter may change by as much in a round."""


class StreamingMean:
    """Adds up weighted changes.

    Args:
        like: Arrays of the names and shapes that changes have.
        most_weight: Of all changes together, at most.
    """

    def __init__(self, like: Mapping[str, NDArray[Any]], most_weight: int) -> None:
        self._sums = {name: np.zeros(array.shape, np.int64) for name, array in like.items()}
        self._most_weight = most_weight
        self._fraction_bits = 62 - _RANGE_BITS - most_weight.bit_length()
        self._weight = 0

    @property
    def weight(self) -> int:
        """Of all changes so far."""
        return self._weight

    def add(self, change: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Add a change.

        Args:
            change: By name, float32.
            weight: A whole number, 1 or more.

        Raises:
            UpdateError: A number is not finite or too large, or weights are more than they may be;
                nothing is added then.
        """
        if weight < 1 or self._weight + weight > self._most_weight:
            raise UpdateError(
                f"want weights of 1 or more, {self._most_weight} together at most; got {weight} "
                f"after {self._weight}"
            )
        for name, array in change.items():
            # Written so that it is false of what is no number.
            if not (np.abs(array) < LARGEST_CHANGE).all():
                raise UpdateError(
                    f"array {name!r} has changed by {LARGEST_CHANGE:g} or more, or holds numbers "
                    "that are not finite"
                )
        factor = float(weight) * 2.0**self._fraction_bits
        for name, array in change.items():
            self._sums[name] += np.rint(array.astype(np.float64) * factor).astype(np.int64)
        self._weight += weight

    def mean(self) -> dict[str, NDArray[np.float64]]:
        """Return the mean.

        Raises:
            UpdateError: Nothing has been added.
        """
        if not self._weight:
            raise UpdateError("there are no updates to aggregate")
        divisor = float(self._weight) * 2.0**self._fraction_bits
        return {name: array.astype(np.float64) / divisor for name, array in self._sums.items()}
