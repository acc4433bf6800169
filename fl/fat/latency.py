"""How long a device takes for a round: the authors' model of it, and a fuller one.

The published model (``training_latency`` of the authors' ``sys_utils.py``) counts a
multiply-accumulate as one operation and a step as two forward passes, charges 0.17 s for each
access to memory, and leaves communication, passes through frozen modules and evaluation out. The
fuller one counts all of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hocket.fl.core.errors import ConfigError

ELEMENT_BYTES = 4
ACCESS_SECONDS = 0.17
"""What the published model charges for an access to memory; its source is not named there."""

_STATES = 3  # parameters, gradients and momenta: sgd with momentum


@dataclass(frozen=True)
class Workload:
    """What a device does in a round, of the modules that it trains.

    Attributes:
        num_parameters: Of these modules (P).
        num_features: Numbers that layers keep of a batch (F).
        forward_macs: Multiply-accumulates of a batch's forward pass.
        batch_bytes: Of a batch as it is read.
        num_batches: Steps of the round.
        attack_steps: Gradients an attack sees; 0 for clean training.
        peak_bytes: Measured or by a footprint; for the fuller model.
        frozen_macs: Of a batch's pass through frozen modules.
        through_macs, through_parameters: Of the frozen modules that attacks on the model's input go
            through: multiply-accumulates of a forward pass, and how many numbers they hold.
        num_frozen_batches: Such passes in the round: those of features that are not kept.
        evaluation_macs: Of all that is evaluated in the round, forward and backward.
        sent_bytes, received_bytes: By the device.
    """

    num_parameters: float
    num_features: float
    forward_macs: float
    batch_bytes: float
    num_batches: int = 30
    attack_steps: int = 10
    peak_bytes: float = 0.0
    frozen_macs: float = 0.0
    through_macs: float = 0.0
    through_parameters: float = 0.0
    num_frozen_batches: int = 0
    evaluation_macs: float = 0.0
    sent_bytes: float = 0.0
    received_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.num_batches < 1 or self.attack_steps < 0:
            raise ConfigError(f"want 1 batch or more and attack_steps of 0 or more, got {self}")


@dataclass(frozen=True)
class Speeds:
    """What a device has for a round.

    Attributes:
        flops_per_second: It computes.
        memory_bytes: Free for training.
        storage_bytes_per_second: Of what it swaps to.
        network_bytes_per_second: Up and down.
        access_seconds: For each access to memory.
    """

    flops_per_second: float
    memory_bytes: float
    storage_bytes_per_second: float
    network_bytes_per_second: float = math.inf
    access_seconds: float = ACCESS_SECONDS

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "memory_bytes", "storage_bytes_per_second"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class RoundSeconds:
    """How long a round takes, part by part; what a model leaves out is 0."""

    compute: float
    memory: float
    frozen: float = 0.0
    evaluation: float = 0.0
    communication: float = 0.0

    @property
    def total(self) -> float:
        """All of it; nothing is overlapped."""
        return self.compute + self.memory + self.frozen + self.evaluation + self.communication


def published_seconds(work: Workload, has: Speeds) -> RoundSeconds:
    """Return a round's time by the authors' model, all examples being attacked."""
    macs = 2 * (1 + work.attack_steps) * work.forward_macs + _macs_through(work)
    compute = work.num_batches * macs / has.flops_per_second
    return RoundSeconds(compute, _memory_seconds(work, has))


def fuller_seconds(work: Workload, has: Speeds) -> RoundSeconds:
    """Return a round's time with all that a device does.

    A multiply-accumulate is two operations. A step is three forward passes: one, and the gradients
    by parameters and by features; each step of an attack is two, as parameters need none.
    """
    per_batch = 2 * work.forward_macs * (3 + 2 * work.attack_steps) + 2 * _macs_through(work)
    moved = work.sent_bytes + work.received_bytes
    over = max(0.0, work.peak_bytes - has.memory_bytes)
    # What does not fit goes out and comes back in, in each pass forward and back.
    swapped = 2 * over * (1 + work.attack_steps) * work.num_batches
    read = work.batch_bytes * work.num_batches
    through_bytes = ELEMENT_BYTES * work.through_parameters
    if work.peak_bytes + through_bytes > has.memory_bytes:
        read += work.num_batches * (2 * work.attack_steps + 1) * through_bytes
    return RoundSeconds(
        compute=work.num_batches * per_batch / has.flops_per_second,
        memory=(read + swapped) / has.storage_bytes_per_second,
        frozen=2 * work.frozen_macs * work.num_frozen_batches / has.flops_per_second,
        evaluation=2 * work.evaluation_macs / has.flops_per_second,
        communication=moved / has.network_bytes_per_second,
    )


def _macs_through(work: Workload) -> float:
    """Return what attacks through frozen modules add to a batch.

    A step is a forward pass, the same again for what the way back needs, and the way back, which is
    another as parameters have no gradients; what it leads to is passed on once more.
    """
    return (3 * work.attack_steps + 1) * work.through_macs if work.attack_steps else 0.0


def _memory_seconds(work: Workload, has: Speeds) -> float:
    weights = ELEMENT_BYTES * work.num_parameters
    features = ELEMENT_BYTES * work.num_features
    needed = features + _STATES * weights
    bandwidth, access = has.storage_bytes_per_second, has.access_seconds
    if needed <= has.memory_bytes:
        seconds = work.num_batches * (work.batch_bytes / bandwidth + access) + weights / bandwidth
    else:
        moved = 2 * features + 4 * weights + 2 * (_STATES - 2) * weights
        accesses = math.ceil((features + weights) / has.memory_bytes) + math.ceil(
            needed / has.memory_bytes
        )
        seconds = work.num_batches * (moved / bandwidth + access * accesses)
    attacked = features + weights
    through = ELEMENT_BYTES * work.through_parameters
    if work.attack_steps and through and attacked + through > has.memory_bytes:
        # Frozen weights come in on the way there and on the way back, and never go out.
        accesses = 2 * math.ceil((attacked + through) / has.memory_bytes)
        each = 2 * through / bandwidth + access * accesses
        seconds += work.num_batches * work.attack_steps * each
    elif work.attack_steps and attacked > has.memory_bytes:
        moved = 2 * features + 4 * weights
        accesses = 2 * math.ceil(attacked / has.memory_bytes)
        each = moved / bandwidth + access * accesses
        seconds += work.num_batches * work.attack_steps * each
    return seconds
