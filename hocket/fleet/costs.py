"""What a job's tasks take on each class of devices, by its model compiled for the class's machine.

A step's time and memory are the footprint's. Of a step that takes S seconds, the forward pass is a
third; the gradient by the examples alone, which a step of an attack wants, is two thirds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hocket.fl.backends.batching import find_batch_sizes
from hocket.fl.core.backend import WHOLE, LocalTraining, Span
from hocket.fl.fat.cascade import StageTask
from hocket.fl.sim.fleet import num_steps
from hocket.fleet.events import Cost
from hocket.runtime.steps import AttentionStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.backends.compiled import CompiledBackend
    from hocket.fl.config import DeviceClass
    from hocket.fl.core.backend import Footprint
    from hocket.fl.core.types import ClientTask
    from hocket.fl.fat.partition import Cascade

_FORWARD, _ATTACK = 1 / 3, 2 / 3
_WITH_BACKWARD = 3.5
"""Memory traffic of an attention's two passes for one of its forward pass, as its time."""


@dataclass(frozen=True, eq=False)
class ClassModel:
    """A job's model, compiled for the machine of a class.

    Attributes:
        settings: Of the class.
        backend: The model; its artifact is the class's.
    """

    settings: DeviceClass
    backend: CompiledBackend

    @property
    def memory_bytes(self) -> int:
        """Memory that training may take on such a device."""
        machine = self.backend.artifact.target
        return self.settings.memory_bytes or machine.outer_memory.capacity_bytes

    @functools.cache  # noqa: B019 - as long-lived as the fleet
    def footprint(self, training: LocalTraining, span: Span = WHOLE) -> Footprint:
        """Return what it takes to train a span of the model."""
        return self.backend.footprint(self.backend.artifact.target, training, span)

    def joules(self, footprint: Footprint) -> float:
        """Return what a step takes for arithmetic and leakage; 0 where the machine has no figures.

        Memory is not in it, except for ``attention_joules``.
        """
        machine = self.backend.artifact.target
        arithmetic = footprint.flops / 2 * machine.matrix_unit.pj_per_mac * 1e-12
        return arithmetic + machine.leakage_watts * footprint.step_seconds

    def attention_joules(self, training: LocalTraining) -> float:
        """Return what a step's attentions take of on-chip and outer memory, by their programs."""
        artifact = self.backend.artifact
        share = training.batch_size / find_batch_sizes(artifact).most
        estimates = [each.estimate for each in artifact.steps if isinstance(each, AttentionStep)]
        moved = sum(each.on_chip_joules + each.dram_joules for each in estimates)
        return _WITH_BACKWARD * share * moved

    def cost(
        self, compute_seconds: float, joules: float, download_bytes: int, upload_bytes: int
    ) -> Cost:
        """Return what a task takes, over the links of the class."""
        return Cost(
            download_seconds=download_bytes / self.settings.download_bytes_per_second,
            compute_seconds=compute_seconds,
            upload_seconds=upload_bytes / self.settings.upload_bytes_per_second,
            joules=joules,
            download_bytes=download_bytes,
            upload_bytes=upload_bytes,
        )


@dataclass(frozen=True)
class Work:
    """What a task computes: so many steps' worth of each span."""

    spans: Mapping[Span, float]

    def seconds(self, model: ClassModel, training: LocalTraining) -> float:
        """Return how long a device of a class computes."""
        return sum(
            steps * model.footprint(training, span).step_seconds
            for span, steps in self.spans.items()
        )

    def joules(self, model: ClassModel, training: LocalTraining) -> float:
        """Return what that takes; attention's memory counts by the span's share of all work."""
        whole = model.footprint(training)
        attention = model.attention_joules(training)
        found = 0.0
        for span, steps in self.spans.items():
            footprint = model.footprint(training, span)
            share = min(1.0, footprint.flops / whole.flops) if whole.flops else 0.0
            found += steps * (model.joules(footprint) + share * attention)
        return found


class Workloads(Protocol):
    """What a job's tasks come to."""

    def work(self, task: ClientTask, num_examples: tuple[int, int]) -> Work:
        """Return what a task computes on so many examples to train and to evaluate on."""
        ...

    def spans(self) -> list[Span]:
        """Return what a device must have the memory for, each by itself."""
        ...


@dataclass(frozen=True)
class WholeModel:
    """Tasks that train all of a model.

    Attributes:
        local_steps: Of every task; 0 where they follow from the examples.
    """

    local_steps: int = 0

    def work(self, task: ClientTask, num_examples: tuple[int, int]) -> Work:
        """Return what a task computes."""
        training = LocalTraining.from_config(task.config)
        return Work({WHOLE: float(self.local_steps or num_steps(num_examples[0], training))})

    def spans(self) -> list[Span]:
        """Return all of the model."""
        return [WHOLE]


@dataclass(frozen=True)
class Modules:
    """Tasks that train modules of a cascade, on what attackers make of examples.

    Attributes:
        cascade: The modules.
    """

    cascade: Cascade

    def work(self, task: ClientTask, num_examples: tuple[int, int]) -> Work:
        """Return what a task computes.

        Passes through frozen modules count in every round; devices that come back may have kept
        what these made.
        """
        wanted = StageTask.from_config(task.config)
        training = LocalTraining.from_config(task.config)
        num_train, num_held_out = (math.ceil(n / training.batch_size) for n in num_examples)
        spans: dict[Span, float] = {}

        def add(first: int, last: int, steps: float) -> None:
            span = self.cascade.piece(first, last).span
            spans[span] = spans.get(span, 0.0) + steps

        if wanted.work != "score":
            for number in range(wanted.stage):
                add(number, number, num_train * _FORWARD)
        if wanted.work == "measure":
            add(wanted.stage, wanted.stage, num_train * wanted.steps * _ATTACK)
        elif wanted.measure_steps:
            share = _FORWARD + wanted.measure_steps * _ATTACK
            for number in range(wanted.stage + 1):
                add(number, number, num_held_out * share)
        if wanted.work == "train":
            attacks = wanted.steps * _ATTACK * wanted.is_adversarial
            add(wanted.stage, wanted.last, num_steps(num_examples[0], training) * (1 + attacks))
        return Work(spans)

    def spans(self) -> list[Span]:
        """Return each module by itself."""
        return [self.cascade.piece(n, n).span for n in range(len(self.cascade))]
