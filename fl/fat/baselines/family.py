"""Models of several sizes, of which each device trains the largest that it has the memory for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.types import ClientTask
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.strategy import CascadeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.strategy import ServerState
    from hocket.fl.core.types import Device, Kind, Setting
    from hocket.fl.fat.assignment import SpanCost
    from hocket.fl.fat.strategy import Availability

MEMBER = "family.member"
"""Setting of a task: number of the model that a device trains, from the largest, 0."""


@dataclass(frozen=True)
class FamilyTraining:
    """What strategies share whose devices train one of several models on attacked examples.

    Attributes:
        costs: What it takes to train each model, the largest first.
        available: What devices have in a round.
        memory_bytes: That each has, where ``available`` is not given; 0 for as much as it takes.
        settings: Of attacks and rounds; those of stages do not count.
        training: What devices are told; the learning rate is that of the first round.
        seed: Of what the server draws.
    """

    costs: tuple[SpanCost, ...]
    available: Availability | None = None
    memory_bytes: float = 0.0
    settings: CascadeSettings = field(default_factory=CascadeSettings)
    training: LocalTraining = field(default_factory=LocalTraining)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.costs:
            raise ConfigError("want one model or more")

    def request(self, job: str, round_number: int, num_devices: int) -> DeviceRequest:
        """Return a request for a share of the devices, the same in every round."""
        del round_number
        return DeviceRequest(job, max(1, int(self.settings.fraction_train * num_devices)))

    def configure(
        self,
        state: ServerState,
        round_number: int,
        devices: Sequence[Device],
        seed: int,
        kind: Kind,
    ) -> list[ClientTask]:
        """Return a task for each device that some model fits on; none to evaluate."""
        del state
        if kind == "evaluate":
            return []
        has = None if self.available is None else self.available(seed, round_number, devices)
        tasks = []
        for device in devices:
            name = device.device_id
            memory = has[name].memory_bytes if has else self.memory_bytes
            member = self._largest(memory)
            if member is not None:
                drawn = derive_seed(seed, "train", round_number, name)
                config = self._config(round_number, member, int(memory))
                tasks.append(ClientTask(round_number, name, "train", drawn, config))
        return tasks

    def num_updates_needed(self, num_tasks: int) -> int:
        """Return one: a round counts whoever is left."""
        del num_tasks
        return 1

    def is_finished(self, state: ServerState) -> bool:
        """Return that there is always more to learn."""
        del state
        return False

    def _largest(self, memory_bytes: float) -> int | None:
        """Return the largest model that fits; None if none does."""
        fitting = (
            number
            for number, cost in enumerate(self.costs)
            if cost.memory_bytes <= memory_bytes or not memory_bytes
        )
        return next(fitting, None)

    def _config(self, round_number: int, member: int, budget_bytes: int) -> dict[str, Setting]:
        settings = self.settings
        decayed = self.training.learning_rate * settings.learning_rate_decay ** (round_number - 1)
        is_adversarial = round_number > settings.warm_up
        task = StageTask(
            radius=float(settings.input_radius),
            input_radius=float(settings.input_radius),
            steps=settings.steps,
            measure_steps=settings.measure_steps if is_adversarial else 0,
            is_adversarial=is_adversarial,
            budget_bytes=budget_bytes,
        )
        training = replace(self.training, learning_rate=decayed)
        return {**training.to_config(), **task.to_config(), MEMBER: member}


def member_of(task: ClientTask, count: int) -> int:
    """Return the number of the model that a task is for.

    Raises:
        UpdateError: There is no such model.
    """
    member = task.config.get(MEMBER)
    if not isinstance(member, int) or not 0 <= member < count:
        raise UpdateError(f"{task}: want a model from 0 to {count - 1}, got {member!r}")
    return member
