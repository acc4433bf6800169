"""Devices of several classes: what each does in which time, and which of its tasks it drops."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.backend import FOOTPRINT, LocalTraining
from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.backend import Backend, Footprint
    from hocket.fl.core.types import ClientTask
    from hocket.hwmodels.machine import HardwareModel

_FORWARD_SHARE = 1 / 3
"""Of a step's time, what its forward pass takes: a backward pass has twice its products."""


class ClassSettings(Protocol):
    """What is said of a class of devices; ``DeviceClass`` of a configuration has it."""

    @property
    def name(self) -> str:
        """Of the class."""
        ...

    @property
    def target(self) -> str:
        """The machine: a name, or a TOML file."""
        ...

    @property
    def share(self) -> float:
        """Of all devices."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Memory that training may take; 0 for all that the machine has."""
        ...

    @property
    def download_bytes_per_second(self) -> float:
        """Of its link, to the device."""
        ...

    @property
    def upload_bytes_per_second(self) -> float:
        """Of its link, from the device."""
        ...

    @property
    def failure_rate(self) -> float:
        """Share of tasks that it drops."""
        ...


@dataclass(frozen=True)
class TaskTime:
    """What the parts of a task take, in seconds."""

    download_seconds: float
    compute_seconds: float
    upload_seconds: float

    @property
    def seconds(self) -> float:
        """Of all parts, one after the other."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


@dataclass(frozen=True)
class Fate:
    """What becomes of a task on its device.

    Attributes:
        seconds: From the start of the round until the device is done, or drops it.
        reason: Why it is dropped; empty if it is not.
    """

    seconds: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class SimulatedClass:
    """A class of devices, with what its machine takes to train a model.

    Attributes:
        settings: Of the class.
        machine: What its devices are.
        backend: The model.
    """

    settings: ClassSettings
    machine: HardwareModel
    backend: Backend

    @property
    def memory_bytes(self) -> int:
        """Memory that training may take."""
        return self.settings.memory_bytes or self.machine.outer_memory.capacity_bytes

    @property
    def attributes(self) -> dict[str, float]:
        """What requests may ask of its devices."""
        return {
            "memory_bytes": float(self.memory_bytes),
            "download_bytes_per_second": self.settings.download_bytes_per_second,
            "upload_bytes_per_second": self.settings.upload_bytes_per_second,
        }

    @functools.cache  # noqa: B019 - as long-lived as the fleet
    def footprint(self, training: LocalTraining) -> Footprint:
        """Return what it takes to train the model on such a device."""
        return self.backend.footprint(self.machine, training)

    def shortage(self, training: LocalTraining) -> str:
        """Return why such a device cannot train the model, in a sentence; empty if it can."""
        needed = self.footprint(training).peak_bytes
        if needed <= self.memory_bytes:
            return ""
        return (
            f"training needs {needed:,} bytes, {self.settings.name} has {self.memory_bytes:,}; "
            "try smaller batches"
        )

    def time_of(self, task: ClientTask, num_examples: int, parameter_bytes: int) -> TaskTime:
        """Return what a task takes without mishap.

        Parameters are sent to the device, and back after training. An evaluation has no backward
        pass, and sends back numbers that are not counted.

        Args:
            task: To be done.
            num_examples: That the device has for it.
            parameter_bytes: Of all parameters.
        """
        training = LocalTraining.from_config(task.config)
        step_seconds = self.footprint(training).step_seconds
        batches = math.ceil(num_examples / training.batch_size)
        if task.kind == "train":
            seconds = num_steps(num_examples, training) * step_seconds
            sent = parameter_bytes
        else:
            seconds, sent = batches * step_seconds * _FORWARD_SHARE, 0
        return TaskTime(
            parameter_bytes / self.settings.download_bytes_per_second,
            seconds,
            sent / self.settings.upload_bytes_per_second,
        )


@dataclass(frozen=True, eq=False)
class Fleet:
    """All devices of a federation, each of a class.

    Attributes:
        classes: Of each device, by its name.
        num_examples: That each has to train and to evaluate on, by its name.
        seed: Of what fails.
    """

    classes: Mapping[str, SimulatedClass]
    num_examples: Mapping[str, tuple[int, int]]
    seed: int

    @property
    def attributes(self) -> dict[str, dict[str, float]]:
        """What requests may ask of each device, by its name."""
        return {name: each.attributes for name, each in self.classes.items()}

    def time_of(self, task: ClientTask, parameter_bytes: int) -> TaskTime:
        """Return what a task takes without mishap."""
        count = self.num_examples[task.device_id][task.kind == "evaluate"]
        return self.classes[task.device_id].time_of(task, count, parameter_bytes)

    def fate_of(self, task: ClientTask, parameter_bytes: int) -> Fate:
        """Return what becomes of a task, the same whenever it is asked.

        A device drops a task at a moment that is drawn evenly from the time it would have taken. A
        device that lacks the memory drops it once it has the parameters.
        """
        kind = self.classes[task.device_id]
        time = self.time_of(task, parameter_bytes)
        if task.kind == "train":
            shortage = kind.shortage(LocalTraining.from_config(task.config))
            if shortage:
                return Fate(time.download_seconds, shortage)
        generator = generator_for(self.seed, "drop-out", task.kind, task.round, task.device_id)
        chance, moment = generator.random(2)
        if chance < kind.settings.failure_rate:
            seconds = float(moment) * time.seconds
            return Fate(seconds, f"it dropped out after {seconds:.3g} simulated seconds")
        return Fate(time.seconds)


def num_steps(num_examples: int, training: LocalTraining) -> int:
    """Return how many steps a device takes in a round."""
    steps = training.epochs * math.ceil(num_examples / training.batch_size)
    return min(steps, training.max_steps) if training.max_steps else steps


def make_fleet(
    classes: Sequence[ClassSettings],
    num_examples: Mapping[str, tuple[int, int]],
    backend: Backend,
    seed: int,
) -> Fleet:
    """Return a fleet whose devices are dealt to classes by their shares.

    Every class has its share of devices to within one; who is in which is drawn.

    Args:
        classes: One or more.
        num_examples: Of each device, by its name.
        backend: The model.
        seed: Of the draw, and of what fails.

    Raises:
        TargetError: A machine is unknown, or its file damaged.
        ConfigError: There are no classes.
        CapabilityError: The backend cannot say what it takes to train it.
    """
    if not classes:
        raise ConfigError("there are no classes of devices")
    if FOOTPRINT not in backend.capabilities:
        raise CapabilityError(
            f"{type(backend).__name__} cannot say what it takes to train it: give it the method "
            "and capability `footprint` of hocket.fl.core.backend, or run it without device classes"
        )
    made = [SimulatedClass(each, load_target(each.target), backend) for each in classes]
    names = sorted(num_examples)
    # Borders between classes, so that rounding never loses a device.
    total = sum(each.share for each in classes)
    borders, reached = [], 0.0
    for each in classes:
        reached += each.share / total
        borders.append(round(reached * len(names)))
    order = generator_for(seed, "device classes").permutation(len(names))
    dealt = {
        names[index]: next(c for c, border in zip(made, borders, strict=True) if place < border)
        for place, index in enumerate(order)
    }
    return Fleet({name: dealt[name] for name in names}, num_examples, seed)
