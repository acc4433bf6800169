"""What a serverless cache must do, wherever its instances are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hocket.fl.core.errors import FederationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from hocket.fl.core.store import Key
    from hocket.fl.store.workloads.workload import Answer

ATTEMPTS = 5
"""How many instances a request may take with it."""


class InstanceLostError(FederationError):
    """An instance has died; what it was asked for can be asked of another."""


@dataclass(frozen=True)
class Usage:
    """What instances have done.

    Attributes:
        num_instances: That are alive.
        num_requests: That were answered.
        num_lost: Instances that died.
        num_retries: Requests that were run again for it.
        num_cold_starts: Requests that waited for a new instance.
        cold_start_seconds: How long they did, in all.
        busy_seconds: In which instances worked, in all.
        held_bytes, shared_bytes: Of entries, and of the memory they are in.
    """

    num_instances: int
    num_requests: int
    num_lost: int
    num_retries: int
    num_cold_starts: int
    cold_start_seconds: float
    busy_seconds: float
    held_bytes: int
    shared_bytes: int


class Cache(Protocol):
    """Holds entries in memory and runs work on them there. For several threads at once."""

    @property
    def capacity_bytes(self) -> int:
        """Of all that is held."""
        ...

    def hold(self, key: Key, content: bytes | memoryview) -> bool:
        """Hold an entry, in the place of what was held under its key.

        Returns:
            Whether there was room.
        """
        ...

    def drop(self, key: Key) -> None:
        """Let go of an entry; whoever reads it may read on."""
        ...

    def holds(self, key: Key) -> bool:
        """Return whether an entry is held."""
        ...

    def reading(self, keys: Sequence[Key]) -> AbstractContextManager[Mapping[Key, memoryview]]:
        """Give the bytes of those entries that are held, which stay as they are meanwhile."""
        ...

    def run(
        self,
        workload: str,
        facts: Mapping[str, Any],
        keys: Sequence[Key],
        read: Callable[[Key], bytes | memoryview],
    ) -> Answer:
        """Run work on entries in an instance, and again in another if that one dies.

        Args:
            workload: By name.
            facts: Of its plan.
            keys: Of its plan.
            read: Gives the bytes of an entry that is not held; they are held for this request.

        Raises:
            ConfigError, StoreError, UpdateError: The work itself failed.
            FederationError: Instances died of it time and again, or it took too long.
        """
        ...

    def usage(self) -> Usage:
        """Return what instances have done so far."""
        ...

    def processes(self) -> list[int]:
        """Return the process numbers of all instances, at work or idle."""
        ...

    def close(self) -> None:
        """Stop all instances and let go of all entries. Nothing may be running."""
        ...


def died_too_often(workload: str) -> FederationError:
    """Return the error of a request that has taken too many instances with it."""
    return FederationError(
        f"{workload}: {ATTEMPTS} instances died of it, one after the other; "
        "is there too little memory?"
    )
