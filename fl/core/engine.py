"""Where clients run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply


class Engine(Protocol):
    """Runs tasks on devices: in this process, in a pool of them, on a cluster, across a network."""

    def devices(self) -> list[Device]:
        """Return the devices that are there now, by name."""
        ...

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as they come.

        What goes wrong with one task, an error or a lost process, is a ``ClientFailure`` and leaves
        the others alone. Tasks not done in time are failures that are late.

        Args:
            tasks: At most one for each device.
            parameters: That all devices begin with.
            timeout_seconds: Time for all of them together; None for as long as it takes.
        """
        ...

    def close(self) -> None:
        """Stop what it has started. Closing twice is closing once."""
        ...
