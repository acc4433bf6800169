"""Differentiated Module Assignment: devices with memory and time to spare train more modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Resources:
    """What a device has for a round.

    Attributes:
        memory_bytes: For training.
        flops_per_second: It computes.
    """

    memory_bytes: float
    flops_per_second: float

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or self.flops_per_second <= 0:
            raise ConfigError(f"want memory of 0 or more and a speed above 0, got {self}")


@dataclass(frozen=True)
class SpanCost:
    """What it takes to train some modules together, with the exits that are trained then.

    Attributes:
        memory_bytes: At the peak of a step.
        flops: Of a step.
    """

    memory_bytes: float
    flops: float


def assign(
    stage: int,
    num_modules: int,
    devices: Mapping[str, Resources],
    cost: Callable[[int, int], SpanCost],
) -> dict[str, int]:
    """Return the number of the last module that each device trains, from the stage's module on.

    A device takes on a further module as long as what it then trains fits into its memory, and it
    takes no longer for it than the slowest of the devices for the stage's module alone.

    Args:
        stage: Number of the module that is being trained.
        num_modules: Modules there are.
        devices: That take part in the round.
        cost: Of training the modules from one to another.
    """
    if not devices:
        return {}
    slowest = min(each.flops_per_second for each in devices.values())
    limit_seconds = cost(stage, stage).flops / slowest
    found = {}
    for name, device in devices.items():
        last = stage
        for number in range(stage + 1, num_modules):
            wanted = cost(stage, number)
            if wanted.flops / device.flops_per_second > limit_seconds:
                break
            if wanted.memory_bytes > device.memory_bytes:
                break
            last = number
        found[name] = last
    return found


def fitting(
    stage: int, devices: Mapping[str, Resources], cost: Callable[[int, int], SpanCost]
) -> Sequence[str]:
    """Return the devices that have the memory for a stage's own module, by name."""
    needed = cost(stage, stage).memory_bytes
    return [name for name in sorted(devices) if devices[name].memory_bytes >= needed]
