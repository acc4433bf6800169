"""The devices of a fleet: of which class each is, and when it is there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.seeds import generator_for
from hocket.fl.core.types import Device
from hocket.fl.venn.traces import PERIOD_SECONDS, client_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hocket.fl.config import DeviceClass


@dataclass(frozen=True)
class DeviceSession:
    """A time in which a device is there; see ``events.Session``."""

    device: Device
    start: float
    end: float


@dataclass(frozen=True)
class Population:
    """All devices.

    Attributes:
        classes: Name of each device's class, by its own.
        seed: Of when they are there.
    """

    classes: Mapping[str, str]
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of all devices, in order."""
        return tuple(self.classes)

    def sessions(self, attributes: Mapping[str, Mapping[str, float]]) -> Iterator[DeviceSession]:
        """Yield when devices are there, by their starts, without end.

        Sessions are of real FedScale clients, drawn for the population; five days repeat.

        Args:
            attributes: What devices of each class say of themselves, by its name.
        """
        devices = [Device(name, attributes[kind]) for name, kind in self.classes.items()]
        starts, ends, clients = client_sessions(len(devices), self.seed)
        for period in itertools.count():
            for start, end, client in zip(starts, ends, clients, strict=True):
                passed = period * PERIOD_SECONDS
                yield DeviceSession(devices[client], float(start) + passed, float(end) + passed)


def make_population(num_devices: int, classes: Sequence[DeviceClass], seed: int) -> Population:
    """Return devices that are dealt to classes by their shares, each to within one.

    Args:
        num_devices: There are.
        classes: Whose shares are 1 together.
        seed: Of who is in which, and of when devices are there.
    """
    borders = [
        round(reached * num_devices) for reached in itertools.accumulate(c.share for c in classes)
    ]
    order = generator_for(seed, "fleet classes").permutation(num_devices)
    kinds = {
        index: next(c.name for c, border in zip(classes, borders, strict=True) if place < border)
        for place, index in enumerate(order.tolist())
    }
    return Population({f"device-{index:04d}": kinds[index] for index in sorted(kinds)}, seed)
