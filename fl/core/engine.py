"""Where clients run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.types import ClientFailure, Device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hocket.fl.core.client import ClientFactory
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Reply


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


def named_devices(
    make_client: ClientFactory, attributes: Mapping[str, Mapping[str, float]] | None = None
) -> list[Device]:
    """Return the devices that a factory's clients can stand for, by name.

    Args:
        make_client: The factory.
        attributes: Of each device, by its name; devices not named have none.
    """
    known = attributes or {}
    return [Device(name, dict(known.get(name, {}))) for name in sorted(make_client.device_ids())]


def failure(task: ClientTask, reason: object) -> ClientFailure:
    """Return that a task came to nothing, and why."""
    text = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)
    return ClientFailure(task.round, task.device_id, task.kind, text)


def lateness(task: ClientTask) -> ClientFailure:
    """Return that a task was not done in time."""
    reason = "it was not done in time"
    return ClientFailure(task.round, task.device_id, task.kind, reason, is_late=True)
