"""What a run will take, before it is begun."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.compression import BF16, encoded_bytes
from hocket.fl.photon.sizes import SIZES
from hocket.fl.photon.wall_time import Exchange, Workload, break_even

if TYPE_CHECKING:
    from hocket.fl.photon.sizes import GptSize

_BANDWIDTH = re.compile(r"(\d+(?:\.\d*)?)\s*([kMGT]?)(?:bps|bit/s)")
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Measured:
    """What is known of how fast a model trains.

    Attributes:
        steps: Of a synchronous run to the loss that is wanted.
        steps_per_second: Of that run.
        local_steps: Of each client of a federated run to the same loss.
        local_steps_per_second: Of a client.
    """

    steps: float
    steps_per_second: float
    local_steps: float
    local_steps_per_second: float


PUBLISHED_7B = Measured(
    steps=50.7 * 3600 * 0.12,
    steps_per_second=0.12,
    local_steps=95.5 * 3600 * 0.032,
    local_steps_per_second=0.032,
)
"""The paper's run of 7B: its hours of computing are published; throughputs are as recalled, and
agree with the published hours of communication over 10 Gbps."""


_PUBLISHED_CLIENTS = 4
_PUBLISHED_BATCH_TOKENS = 1_024 * 2_048


@dataclass(frozen=True)
class RunPlan:
    """How a federated run compares with a synchronous one. Times are in seconds.

    Attributes:
        num_rounds: Of the federated run.
        synchronous_compute, synchronous_communication: Of the run that exchanges at each step.
        federated_compute, federated_communication: Of the one that exchanges once a round.
        synchronous_bytes, federated_bytes: That all clients send and are sent together.
        break_even_bits_per_second: Bandwidth above which the synchronous run is the faster one.
        client_bytes: Of a client's weights, gradients, moments and one update; activations, which
            go with the batch, come on top.
        client_state_bytes: Of the moments, which a client keeps or sends if its optimizer is kept.
    """

    num_rounds: int
    synchronous_compute: float
    synchronous_communication: float
    federated_compute: float
    federated_communication: float
    synchronous_bytes: float
    federated_bytes: float
    break_even_bits_per_second: float
    client_bytes: int
    client_state_bytes: int

    @property
    def synchronous_seconds(self) -> float:
        """Of the whole synchronous run."""
        return self.synchronous_compute + self.synchronous_communication

    @property
    def federated_seconds(self) -> float:
        """Of the whole federated run."""
        return self.federated_compute + self.federated_communication


def plan_run(
    size: GptSize,
    measured: Measured,
    num_clients: int,
    bandwidth_bits_per_second: float,
    *,
    local_steps_per_round: int = 500,
    topology: str = "ring-all-reduce",
    scheme: str = "bf16",
) -> RunPlan:
    """Return what a run takes.

    Args:
        size: Of the model.
        measured: How fast it trains, and how long.
        num_clients: Of a round.
        bandwidth_bits_per_second: Of the slowest link.
        local_steps_per_round: Steps of a client between exchanges (tau).
        topology: One of ``wall_time.TOPOLOGIES``.
        scheme: How the federated run sends updates; the synchronous one sends bf16 gradients.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    if local_steps_per_round < 1:
        raise ConfigError(f"local_steps_per_round must be 1 or more, got {local_steps_per_round}")
    gradient = Exchange(topology, num_clients, encoded_bytes(size.num_parameters, BF16))
    update = Exchange(topology, num_clients, encoded_bytes(size.num_parameters, scheme))
    num_rounds = math.ceil(measured.local_steps / local_steps_per_round)
    synchronous = Workload(measured.steps / measured.steps_per_second, measured.steps)
    federated = Workload(measured.local_steps / measured.local_steps_per_second, num_rounds)
    bandwidth = bandwidth_bits_per_second
    moments = 2 * 4 * size.num_parameters
    return RunPlan(
        num_rounds=num_rounds,
        synchronous_compute=synchronous.compute_seconds,
        synchronous_communication=synchronous.communication_seconds(gradient, bandwidth),
        federated_compute=federated.compute_seconds,
        federated_communication=federated.communication_seconds(update, bandwidth),
        synchronous_bytes=synchronous.num_exchanges * gradient.total_bytes,
        federated_bytes=num_rounds * update.total_bytes,
        break_even_bits_per_second=break_even(synchronous, federated, gradient, update),
        client_bytes=moments
        + 2 * 4 * size.num_parameters
        + encoded_bytes(size.num_parameters, scheme),
        client_state_bytes=moments,
    )


def measured_by_flops(
    size: GptSize,
    flops_per_second: float,
    num_tokens: float,
    batch_tokens: int,
    num_clients: int,
    extra_compute: float = 1.0,
) -> Measured:
    """Return what a model takes on machines that compute so fast, of which each client has one.

    The synchronous run shares each batch among all of them; each client of the federated run has a
    batch of its own, as many times smaller.

    Args:
        size: Of the model.
        flops_per_second: Of a client's machine, as it really reaches them.
        num_tokens: Of the synchronous run.
        batch_tokens: Of one of its batches.
        num_clients: That share it.
        extra_compute: How many times the tokens the federated run takes to the same loss. The
            paper's, of 7B, took 1.88 times the hours.
    """
    for name, value in (
        ("flops_per_second", flops_per_second),
        ("num_tokens", num_tokens),
        ("batch_tokens", batch_tokens),
        ("num_clients", num_clients),
        ("extra_compute", extra_compute),
    ):
        if value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
    rate = flops_per_second * num_clients / (size.training_flops * batch_tokens)
    steps = num_tokens / batch_tokens
    return Measured(steps, rate, extra_compute * steps, rate)


def parse_bandwidth(text: str) -> float:
    """Return bits a second of text such as ``10Gbps`` or ``250 Mbps``.

    Raises:
        ConfigError: It is none.
    """
    found = _BANDWIDTH.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise ConfigError(f"want a bandwidth such as 10Gbps or 250Mbps, got {text!r}")
    return float(found[1]) * _PREFIXES[found[2]]


def assumed(
    size: GptSize,
    num_clients: int,
    flops_per_second: float | None = None,
    num_tokens: float | None = None,
    batch_tokens: int | None = None,
    extra_compute: float | None = None,
) -> Measured:
    """Return what a run takes where little is known of it.

    With nothing known of the paper's 7B it is the published run. Else what is not known is taken
    from there: the speed of a client's machines, batches, and how many times the tokens a federated
    run takes; and 20 tokens for each parameter (Hoffmann et al. 2022).
    """
    given = (flops_per_second, num_tokens, batch_tokens, extra_compute)
    if size == SIZES["7B"] and num_clients == _PUBLISHED_CLIENTS and given == (None,) * 4:
        return PUBLISHED_7B
    published = SIZES["7B"].training_flops * _PUBLISHED_BATCH_TOKENS * PUBLISHED_7B.steps_per_second
    federated = PUBLISHED_7B.local_steps / PUBLISHED_7B.local_steps_per_second
    synchronous = PUBLISHED_7B.steps / PUBLISHED_7B.steps_per_second
    return measured_by_flops(
        size,
        published / _PUBLISHED_CLIENTS if flops_per_second is None else flops_per_second,
        20.0 * size.num_parameters if num_tokens is None else num_tokens,
        _PUBLISHED_BATCH_TOKENS if batch_tokens is None else batch_tokens,
        num_clients,
        federated / synchronous if extra_compute is None else extra_compute,
    )
