"""What a federation will take, before it begins: memory, bytes and time by class of device."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.config import DeviceClass
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.types import ClientTask, Device
from hocket.fl.sim.fleet import Fleet, SimulatedClass, make_fleet, num_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.federation import Federation
    from hocket.fl.core.backend import Footprint, LocalTraining
    from hocket.fl.core.devices import DeviceRequest
    from hocket.hwmodels.machine import HardwareModel

# What a device takes part with where its file names no classes: this computer, all of them.
_ANY = (DeviceClass(name="any"),)


@dataclass(frozen=True)
class ClassPlan:
    """What taking part in a round is for a class of devices.

    Attributes:
        name: Of the class.
        machine: What its devices are.
        num_devices: Devices of the class.
        memory_bytes: Memory that one has.
        footprint: What training takes there.
        shortage: Why it does not fit, in a sentence; empty if it does.
        steps: Of the device with the median of examples.
        download_seconds, compute_seconds, upload_seconds: Of that device's round.
        slowest_seconds: Of the slowest device's round.
        joules: Of that device's local steps, by the machine's figures for arithmetic and leakage;
            memory traffic is not counted. None where the machine gives no figures.
    """

    name: str
    machine: str
    num_devices: int
    memory_bytes: int
    footprint: Footprint
    shortage: str
    steps: int
    download_seconds: float
    compute_seconds: float
    upload_seconds: float
    slowest_seconds: float
    joules: float | None

    @property
    def seconds(self) -> float:
        """Of the median device's round."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


@dataclass(frozen=True)
class FederationPlan:
    """What a federation will take.

    Attributes:
        rounds: Of the whole federation.
        devices_per_round: That train in each.
        download_bytes, upload_bytes: Of a device in a round.
        round_seconds: Expected of a round: that of the slowest device of those drawn, or the
            deadline. Only devices that can train are drawn; dropping out is not counted.
        classes: By class of device.
    """

    rounds: int
    devices_per_round: int
    download_bytes: int
    upload_bytes: int
    round_seconds: float
    classes: tuple[ClassPlan, ...]

    @property
    def fits(self) -> bool:
        """Whether there is a class of devices that can train the model."""
        return any(not each.shortage for each in self.classes)

    @property
    def total_bytes(self) -> int:
        """That the server sends and gets in all rounds."""
        sent = self.download_bytes + self.upload_bytes
        return self.rounds * self.devices_per_round * sent

    @property
    def total_seconds(self) -> float:
        """Expected of all rounds."""
        return self.rounds * self.round_seconds


def plan_federation(federation: Federation) -> FederationPlan:
    """Return what a federation will take; nothing is trained.

    Raises:
        CapabilityError: The backend cannot say what it takes to train it.
    """
    config, backend = federation.config, federation.backend
    fleet = federation.fleet
    if fleet is None:
        fleet = make_fleet(_ANY, federation.num_examples, backend, config.federation.seed)
    training = config.training.as_training()
    size = num_bytes(backend.parameters())
    kinds = {id(each): each for each in fleet.classes.values()}
    classes = [_plan_class(kind, fleet, training, size) for kind in kinds.values()]
    names = [each.name for each in config.device_classes or _ANY]
    request = federation.strategy.request(config.federation.name, 1, len(fleet.classes))
    able = _able_devices(fleet, request, training)
    drawn = min(request.count, len(able))
    times = [_round_seconds(fleet, name, training, size) for name in able]
    limit = config.federation.timeout_seconds or math.inf
    return FederationPlan(
        rounds=config.federation.rounds,
        devices_per_round=drawn,
        download_bytes=size,
        upload_bytes=size,
        round_seconds=expected_largest([min(each, limit) for each in times], drawn),
        classes=tuple(sorted(classes, key=lambda each: names.index(each.name))),
    )


def expected_largest(values: Sequence[float], count: int) -> float:
    """Return the mean of the largest of ``count`` values drawn at random, none of them twice.

    Of n values in order, the i-th is the largest of a draw in C(i - 1, count - 1) of the
    C(n, count) draws there are.
    """
    if not count:
        return 0.0
    draws = math.comb(len(values), count)
    return math.fsum(
        value * (math.comb(place, count - 1) / draws) for place, value in enumerate(sorted(values))
    )


def _plan_class(
    kind: SimulatedClass, fleet: Fleet, training: LocalTraining, size: int
) -> ClassPlan:
    names = [name for name, each in fleet.classes.items() if each is kind]
    counts = sorted(fleet.num_examples[name][0] for name in names)
    median = statistics.median_low(counts)
    times = {count: kind.time_of(_task(training), count, size) for count in {median, counts[-1]}}
    footprint, steps = kind.footprint(training), num_steps(median, training)
    return ClassPlan(
        name=kind.settings.name,
        machine=kind.machine.name,
        num_devices=len(names),
        memory_bytes=kind.memory_bytes,
        footprint=footprint,
        shortage=kind.shortage(training),
        steps=steps,
        download_seconds=times[median].download_seconds,
        compute_seconds=times[median].compute_seconds,
        upload_seconds=times[median].upload_seconds,
        slowest_seconds=times[counts[-1]].seconds,
        joules=_joules(kind.machine, footprint, steps),
    )


def _able_devices(fleet: Fleet, request: DeviceRequest, training: LocalTraining) -> list[str]:
    return [
        name
        for name, kind in fleet.classes.items()
        if request.is_met_by(Device(name, kind.attributes)) and not kind.shortage(training)
    ]


def _round_seconds(fleet: Fleet, name: str, training: LocalTraining, size: int) -> float:
    return fleet.time_of(_task(training, name), size).seconds


def _task(training: LocalTraining, device_id: str = "any") -> ClientTask:
    return ClientTask(1, device_id, "train", 0, training.to_config())


def _joules(machine: HardwareModel, footprint: Footprint, steps: int) -> float | None:
    """Return what steps take; a multiply-accumulate is two operations of the footprint's."""
    if not machine.matrix_unit.pj_per_mac:
        return None
    arithmetic = footprint.flops / 2 * machine.matrix_unit.pj_per_mac * 1e-12
    return steps * (arithmetic + machine.leakage_watts * footprint.step_seconds)
