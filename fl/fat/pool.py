"""Published pools of devices, and what of a device is free in a round."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.fl.fat.assignment import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.types import Device

POOLS = ("cifar", "caltech")
"""Names of the published pools."""

APP_SHARES = (1.0, 0.735, 0.459, 0.524, 0.167, 0.231)
"""Of a device's speed what is left beside: nothing, video in 1080p and 4k, inference, detection,
browsing (the authors' ``sys_utils.py``)."""

MOST_FREE_MEMORY = 0.2
"""Of a device's memory what is free in a round at most, in the authors' code."""


@dataclass(frozen=True)
class DeviceClass:
    """A kind of device.

    Attributes:
        name: Of its kind.
        flops_per_second: At its peak.
        memory_bytes: In all.
        storage_bytes_per_second: Of what it swaps to.
    """

    name: str
    flops_per_second: float
    memory_bytes: float
    storage_bytes_per_second: float


@dataclass(frozen=True)
class Pool:
    """Devices of several kinds, each drawn from the kinds once and for all.

    Attributes:
        classes: The kinds.
        reserved_bytes: Memory that each has free in every round, whatever else it does.
        scaling: Kinds are as likely as speed times memory to this power: 0 for the balanced
            federation, -1 for the unbalanced one, in which weak devices are many.
    """

    classes: tuple[DeviceClass, ...]
    reserved_bytes: float
    scaling: float = 0.0

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("a pool has one kind of device or more")

    def class_of(self, seed: int, device_id: str) -> DeviceClass:
        """Return what kind a device is."""
        sizes = np.array([each.flops_per_second * each.memory_bytes for each in self.classes])
        shares = (sizes / sizes.max()) ** self.scaling
        generator = generator_for(seed, "device class", device_id)
        return self.classes[generator.choice(len(self.classes), p=shares / shares.sum())]

    def resources(self, seed: int, round_number: int, device_id: str) -> Resources:
        """Return what a device has free in a round."""
        kind = self.class_of(seed, device_id)
        generator = generator_for(seed, "availability", round_number, device_id)
        share = APP_SHARES[generator.integers(len(APP_SHARES))]
        free = kind.memory_bytes * generator.uniform(0, MOST_FREE_MEMORY)
        return Resources(max(free, self.reserved_bytes), kind.flops_per_second * share)

    def available(
        self, seed: int, round_number: int, devices: Sequence[Device]
    ) -> Mapping[str, Resources]:
        """Return what devices have free in a round, as ``FedProphet`` asks for it."""
        return {
            device.device_id: self.resources(seed, round_number, device.device_id)
            for device in devices
        }


def load_pool(name: str, reserved_bytes: float, scaling: float = 0.0) -> Pool:
    """Return a published pool.

    Raises:
        ConfigError: There is none of the name.
    """
    if name not in POOLS:
        raise ConfigError(f"pool must be one of {POOLS}, got {name!r}")
    text = files("hocket.fl.fat.pools").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    classes = tuple(
        DeviceClass(name=kind, **figures)
        for kind, figures in tomllib.loads(text)["devices"].items()
    )
    return Pool(classes, reserved_bytes, scaling)
