"""How long the rounds of a federation would take on pools of devices, by two models of time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.observers import Silent
from hocket.fl.core.seeds import generator_for
from hocket.fl.core.types import ClientTask
from hocket.fl.fat.assignment import assign
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.latency import (
    ELEMENT_BYTES,
    Speeds,
    Workload,
    fuller_seconds,
    published_seconds,
)
from hocket.fl.fat.pool import PUBLISHED, Trained, load_pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.backend import Footprint, LocalTraining
    from hocket.fl.fat.assignment import Resources, SpanCost
    from hocket.fl.fat.pool import Pool

POOL = "cifar"
SCALING = {"balanced": 0.0, "unbalanced": -1.0}
"""Pools of devices by their names: the published one, and with more of its weak devices."""

_NETWORK_BYTES_PER_SECOND = 1.25e6  # 10 Mbit/s, for the model that the pool is of
_IMAGE_BYTES = 28 * 28 * ELEMENT_BYTES
_PASSES = 3  # forward, and backward for parameters and for features


def pools_for(whole: Footprint, reserved_bytes: float) -> dict[str, Pool]:
    """Return the pools scaled to a model, so that they are as short of memory and time for it.

    Args:
        whole: What it takes to train all of the model.
        reserved_bytes: That every device has.
    """
    model = Trained(whole.peak_bytes, whole.flops / (2 * _PASSES), whole.weight_bytes)
    return {
        name: load_pool(POOL, 0.0, scaling).scaled(POOL, model, reserved_bytes)
        for name, scaling in SCALING.items()
    }


def network_bytes_per_second(whole: Footprint) -> float:
    """Return the speed of devices' links, scaled alike."""
    return whole.weight_bytes / PUBLISHED[POOL].weight_bytes * _NETWORK_BYTES_PER_SECOND


class Works(Protocol):
    """What devices do in a round."""

    def __call__(
        self, tasks: Sequence[ClientTask], has: Mapping[str, Resources]
    ) -> Mapping[str, Workload]:
        """Return the work of each device that has the memory for some, given what all have."""
        ...


@dataclass
class RoundTimes(Silent):
    """Adds up how long rounds take on each of some pools, the slowest device of each counting.

    Attributes:
        pools: By their names.
        seed: Of the federation.
        works: What devices do.
        network_bytes_per_second: Of each device.
        published, fuller: Seconds so far, by either model, for each pool.
        num_training: Rounds so far that trained.
        stages: Rounds that trained each stage's module, by its number, and what they took by the
            published model: ``rounds``, and seconds for each pool.
    """

    pools: Mapping[str, Pool]
    seed: int
    works: Works
    network_bytes_per_second: float
    published: dict[str, float] = field(default_factory=dict)
    fuller: dict[str, float] = field(default_factory=dict)
    num_training: int = 0
    stages: dict[int, dict[str, float]] = field(default_factory=dict)

    def started(self, round_number: int, tasks: Sequence[ClientTask]) -> None:
        """Count a round; what is evaluated beside training is not part of it.

        Rounds that only score or measure do not count in the published model.
        """
        if any(task.kind != "train" for task in tasks):
            return
        wanted = [StageTask.from_config(task.config) for task in tasks]
        is_training = any(each.work == "train" for each in wanted)
        self.num_training += is_training
        stage = self.stages.setdefault(wanted[0].stage, dict.fromkeys(("rounds", *self.pools), 0.0))
        stage["rounds"] += is_training
        for name, pool in self.pools.items():
            has = {
                task.device_id: pool.resources(self.seed, round_number, task.device_id)
                for task in tasks
            }
            found = [
                self._seconds(pool, device_id, has[device_id], work)
                for device_id, work in self.works(tasks, has).items()
            ]
            slowest = is_training * max(each[0] for each in found)
            self.published[name] = self.published.get(name, 0.0) + slowest
            stage[name] += slowest
            self.fuller[name] = self.fuller.get(name, 0.0) + max(each[1] for each in found)

    def _seconds(
        self, pool: Pool, device_id: str, has: Resources, work: Workload
    ) -> tuple[float, float]:
        speeds = Speeds(
            has.flops_per_second,
            has.memory_bytes,
            pool.class_of(self.seed, device_id).storage_bytes_per_second,
            self.network_bytes_per_second,
        )
        return published_seconds(work, speeds).total, fuller_seconds(work, speeds).total


def workload(
    footprint: Footprint,
    frozen: Sequence[Footprint],
    wanted: StageTask,
    training: LocalTraining,
) -> Workload:
    """Return what a device does.

    Args:
        footprint: Of what it trains.
        frozen: Of the modules before that.
        wanted: Its task.
        training: How it trains.
    """
    macs = _macs(footprint)
    frozen_macs = sum(_macs(each) for each in frozen)
    is_training = wanted.work == "train"
    is_through = is_training and wanted.begins < wanted.stage
    return Workload(
        num_parameters=footprint.gradient_bytes / ELEMENT_BYTES,
        num_features=footprint.activation_bytes / ELEMENT_BYTES,
        forward_macs=macs,
        batch_bytes=training.batch_size * _IMAGE_BYTES,
        num_batches=training.max_steps if is_training else 1,
        attack_steps=wanted.steps if is_training and wanted.is_adversarial else 0,
        peak_bytes=footprint.peak_bytes,
        frozen_macs=frozen_macs,
        through_macs=frozen_macs if is_through else 0.0,
        through_parameters=is_through * sum(each.weight_bytes for each in frozen) / ELEMENT_BYTES,
        num_frozen_batches=training.max_steps if frozen and not is_through else 0,
        evaluation_macs=_PASSES * wanted.measure_steps * (frozen_macs + macs),
        sent_bytes=footprint.gradient_bytes if is_training else 0,
        received_bytes=footprint.weight_bytes + sum(each.weight_bytes for each in frozen),
    )


@dataclass(frozen=True)
class CascadeWorks:
    """What devices do for FedProphet; which modules each trains is assigned anew for each pool.

    Attributes:
        footprints: Of training the modules from one to another.
        costs: The same, as the strategy knows them.
        training: Of a device.
    """

    footprints: Mapping[tuple[int, int], Footprint]
    costs: Mapping[tuple[int, int], SpanCost]
    training: LocalTraining

    def __call__(
        self, tasks: Sequence[ClientTask], has: Mapping[str, Resources]
    ) -> dict[str, Workload]:
        """Return the work of each device."""
        wanted = {task.device_id: StageTask.from_config(task.config) for task in tasks}
        number = next(iter(wanted.values())).stage
        count = 1 + max(last for _, last in self.footprints)
        last = assign(number, count, has, lambda one, other: self.costs[one, other])
        frozen = [self.footprints[each, each] for each in range(number)]
        return {
            name: workload(
                self.footprints[
                    number, last[name] if each.work == "train" and each.prophet else number
                ],
                frozen,
                each,
                self.training,
            )
            for name, each in wanted.items()
        }


@dataclass(frozen=True)
class SizeWorks:
    """What devices do that train the largest of several models that fits into their memory.

    Attributes:
        footprints: Of the models, the largest first.
        training: Of a device.
    """

    footprints: Sequence[Footprint]
    training: LocalTraining

    def __call__(
        self, tasks: Sequence[ClientTask], has: Mapping[str, Resources]
    ) -> dict[str, Workload]:
        """Return the work of each device."""
        found = {}
        for task in tasks:
            memory = has[task.device_id].memory_bytes
            fits = [each for each in self.footprints if each.peak_bytes <= memory]
            footprint = fits[0] if fits else self.footprints[-1]
            wanted = StageTask.from_config(task.config)
            found[task.device_id] = workload(footprint, (), wanted, self.training)
        return found


def simulate(times: RoundTimes, stage: StageTask, num_rounds: int) -> None:
    """Let ten of a hundred devices, drawn anew, train a stage's module for some rounds.

    Args:
        times: To add to.
        stage: What they do.
        num_rounds: That there are.
    """
    for number in range(1, num_rounds + 1):
        chosen = generator_for(times.seed, "chosen", number).choice(100, 10, replace=False)
        tasks = [ClientTask(number, f"d{each}", "train", 0, stage.to_config()) for each in chosen]
        times.started(number, tasks)


def _macs(footprint: Footprint) -> float:
    return footprint.flops / (2 * _PASSES)
