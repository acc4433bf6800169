"""What a federation does: whom to ask for what, and what to make of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, ClientUpdate, Device, Kind


@dataclass(frozen=True, eq=False)
class ServerState:
    """All that a server keeps from round to round.

    Attributes:
        parameters: The model.
        kept: The strategy's own arrays, such as momenta.
    """

    parameters: Parameters
    kept: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Strategy(Protocol):
    """An algorithm of federated learning. It holds no clock, no sockets, no devices, no state."""

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the state before the first round."""
        ...

    def request(self, job: str, round_number: int, num_devices: int) -> DeviceRequest:
        """Return what devices a round wants.

        Args:
            job: The federation's name.
            round_number: From 1.
            num_devices: Devices there are in all.
        """
        ...

    def configure(
        self,
        state: ServerState,
        round_number: int,
        devices: Sequence[Device],
        seed: int,
        kind: Kind,
    ) -> list[ClientTask]:
        """Return what devices are to do; at most one task for each.

        Args:
            state: Before the round; to evaluate, after it.
            round_number: From 1.
            devices: To train, those that the round got, perhaps fewer than it wanted; to evaluate,
                all there are.
            seed: Of the federation.
            kind: What they are to do.
        """
        ...

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return arrays like those that a device is to send back: all parameters, or some."""
        ...

    def num_updates_needed(self, num_tasks: int) -> int:
        """Return how many updates make a round count, of so many tasks."""
        ...

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return the state after a round.

        The order of the updates does not change a bit of it. What is wrong with an update has been
        found before: all are like what ``returned`` says.
        """
        ...

    def is_finished(self, state: ServerState) -> bool:
        """Return whether more rounds would change nothing."""
        ...
