"""Published pools of devices, and what of a device is free in a round."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.fl.fat.assignment import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.types import Device


@dataclass(frozen=True)
class Trained:
    """What a model takes to be trained whole, by which pools are scaled to other models.

    Attributes:
        memory_bytes: At the peak of a step.
        macs: Multiply-accumulates of the forward pass of a batch.
        weight_bytes: Of its parameters.
    """

    memory_bytes: float
    macs: float
    weight_bytes: float


PUBLISHED = {
    # VGG16 with batch normalisation, 64 images of CIFAR-10, and ResNet34, 32 of Caltech-256: by the
    # authors' own model of memory.
    "cifar": Trained(301.7e6, 64 * 0.315e9, 4 * 15.25e6),
    "caltech": Trained(1130.5e6, 32 * 3.68e9, 4 * 21.42e6),
}
"""What is trained on the published pools' devices, by their names."""

POOLS = tuple(PUBLISHED)
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

    def scaled(self, name: str, model: Trained, reserved_bytes: float) -> Pool:
        """Return a pool that is to a model what this one is to the model it was published with.

        Memory and storage are scaled by the models' memory, speed by their work, so that devices
        lack memory and swap as often, and for as long, as the published ones do.

        Args:
            name: Of the published pool that this is.
            model: What is to be trained.
            reserved_bytes: Memory that each device has free in every round.
        """
        published = PUBLISHED[name]
        memory = model.memory_bytes / published.memory_bytes
        classes = tuple(
            DeviceClass(
                each.name,
                each.flops_per_second * model.macs / published.macs,
                each.memory_bytes * memory,
                each.storage_bytes_per_second * memory,
            )
            for each in self.classes
        )
        return replace(self, classes=classes, reserved_bytes=reserved_bytes)

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
