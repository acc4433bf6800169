"""Examples: arrays that models take and what they are to say to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Examples:
    """Some examples, in the order of the first axis of every array.

    Attributes:
        inputs: By the name of the model's input.
        targets: What is wanted, one an example: a class, or an array of token numbers.

    Raises:
        ConfigError: The arrays are of different lengths.
    """

    inputs: Mapping[str, NDArray[Any]]
    targets: NDArray[Any]

    def __post_init__(self) -> None:
        for name, array in self.inputs.items():
            if len(array) != len(self.targets):
                raise ConfigError(
                    f"input {name!r} has {len(array)} examples, the targets {len(self.targets)}"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: NDArray[np.integer[Any]] | slice) -> Examples:
        """Return some of the examples."""
        return Examples(
            {name: array[indices] for name, array in self.inputs.items()}, self.targets[indices]
        )

    def batches(
        self, batch_size: int, generator: np.random.Generator | None = None
    ) -> Iterator[Examples]:
        """Yield all examples in batches, the last of them smaller where they do not go round.

        Args:
            batch_size: Examples a batch.
            generator: To shuffle with; None for the order they are in.
        """
        order = np.arange(len(self)) if generator is None else generator.permutation(len(self))
        for start in range(0, len(self), batch_size):
            yield self.take(order[start : start + batch_size])


class Partitions(Protocol):
    """A data set that is spread over devices."""

    def device_ids(self) -> list[str]:
        """Return every device with data, in a fixed order."""
        ...

    def load(self, device_id: str) -> Examples:
        """Return what a device trains on.

        Raises:
            KeyError: There is no such device.
        """
        ...

    def held_out(self, device_id: str | None = None) -> Examples:
        """Return what nobody trains on: the server's, or what one device has for evaluation."""
        ...
