"""How long training takes across links: what is computed, what is sent, and which is better.

The model of Photon (Sani et al. 2025, section on wall time): each round computes ``local_steps``
steps and exchanges the model once; synchronous training exchanges it at every step. The slowest
link alone is looked at, at a fixed bandwidth, and nothing overlaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hocket.fl.core.errors import ConfigError

PARAMETER_SERVER, ALL_REDUCE, RING = "parameter-server", "all-reduce", "ring-all-reduce"
TOPOLOGIES = (PARAMETER_SERVER, ALL_REDUCE, RING)
BITS = 8


@dataclass(frozen=True)
class Exchange:
    """One exchange of a model among clients.

    Attributes:
        topology: One of ``TOPOLOGIES``. Through a parameter server all clients' updates pass one
            link, down as well as up; all-reduce sends each client's to every other; a ring sends
            pieces around, so that time hardly grows with clients.
        num_clients: That take part (K).
        model_bytes: Of one client's model or update (S).

    Raises:
        ConfigError: The topology is unknown, or a number out of range.
    """

    topology: str
    num_clients: int
    model_bytes: float

    def __post_init__(self) -> None:
        if self.topology not in TOPOLOGIES:
            raise ConfigError(f"topology must be one of {TOPOLOGIES}, got {self.topology!r}")
        if self.num_clients < 1:
            raise ConfigError(f"num_clients must be 1 or more, got {self.num_clients}")
        if self.model_bytes <= 0:
            raise ConfigError(f"model_bytes must be above 0, got {self.model_bytes}")

    @property
    def link_bytes(self) -> float:
        """That pass the busiest link one way; the two ways are not busy at once."""
        others = self.num_clients - 1
        factor = {
            "parameter-server": self.num_clients,
            "all-reduce": others,
            "ring-all-reduce": 2 * others / self.num_clients,
        }[self.topology]
        return self.model_bytes * factor

    @property
    def total_bytes(self) -> float:
        """That are sent in all, by everyone."""
        others = self.num_clients - 1
        factor = {
            "parameter-server": 2 * self.num_clients,
            "all-reduce": self.num_clients * others,
            "ring-all-reduce": 2 * others,
        }[self.topology]
        return self.model_bytes * factor

    def seconds(self, bandwidth_bits_per_second: float) -> float:
        """Return how long it takes over a link."""
        if bandwidth_bits_per_second <= 0:
            raise ConfigError(f"bandwidth must be above 0, got {bandwidth_bits_per_second}")
        return BITS * self.link_bytes / bandwidth_bits_per_second


@dataclass(frozen=True)
class Workload:
    """A run whose parts take turns.

    Attributes:
        compute_seconds: All of the computing, of one client, steps one after the other.
        num_exchanges: Times that the model is exchanged.
        aggregate_seconds: That the server takes for each.
    """

    compute_seconds: float
    num_exchanges: float
    aggregate_seconds: float = 0.0

    def communication_seconds(self, exchange: Exchange, bandwidth_bits_per_second: float) -> float:
        """Return the time of all exchanges."""
        return self.num_exchanges * exchange.seconds(bandwidth_bits_per_second)

    def seconds(self, exchange: Exchange, bandwidth_bits_per_second: float) -> float:
        """Return the time of the run."""
        waiting = self.communication_seconds(exchange, bandwidth_bits_per_second)
        return self.compute_seconds + waiting + self.num_exchanges * self.aggregate_seconds


def break_even(
    synchronous: Workload, federated: Workload, exchange: Exchange, federated_exchange: Exchange
) -> float:
    """Return the bandwidth at which both take as long, in bits a second.

    Below it the federated run is faster. Infinity if it is faster over any link, 0 if over none.

    Args:
        synchronous: Exchanges at every step.
        federated: Exchanges once a round.
        exchange: Of the synchronous run.
        federated_exchange: Of the federated run, perhaps of smaller updates.
    """
    more_bits = BITS * (
        synchronous.num_exchanges * exchange.link_bytes
        - federated.num_exchanges * federated_exchange.link_bytes
    )
    more_seconds = (
        federated.compute_seconds
        + federated.num_exchanges * federated.aggregate_seconds
        - synchronous.compute_seconds
        - synchronous.num_exchanges * synchronous.aggregate_seconds
    )
    if more_seconds <= 0:
        return math.inf if more_bits >= 0 else 0.0
    return max(0.0, more_bits / more_seconds)
