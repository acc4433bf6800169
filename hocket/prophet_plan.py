"""What it takes to train a model module by module: its modules, their memory, and their time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.backend import Span
from hocket.fl.fat.latency import (
    ELEMENT_BYTES,
    Speeds,
    Workload,
    fuller_seconds,
    published_seconds,
)
from hocket.fl.fat.partition import Cascade, atoms_of, partition, whole_model
from hocket.fl.fat.pool import MOST_FREE_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.backends.task import Task
    from hocket.fl.core.backend import Footprint, LocalTraining
    from hocket.fl.fat.pool import DeviceClass
    from hocket.runtime.artifact import Artifact

MODULE_SUFFIX = ".hkt"

FLOPS_A_MAC = 6
"""Of a step, forward and backward: three passes of two operations each."""

NETWORK_BYTES_PER_SECOND = 1.25e6
"""Of a device's link where nothing else is known: 10 Mbit/s."""


@dataclass(frozen=True)
class ModulePlan:
    """What it takes to train a module.

    Attributes:
        name: Of the module, with its borders.
        footprint: Of an attacked step, with the early exit that is trained with it.
        share: Of the whole model's peak.
    """

    name: str
    footprint: Footprint
    share: float


@dataclass(frozen=True)
class ClassSeconds:
    """How long a round takes on a kind of device that nothing else runs on.

    Attributes:
        name: Of the kind.
        free_bytes: Memory that is free for training: half of the most there is.
        modules: Seconds for each module, by the fuller model of time.
        whole: The same for the whole model.
        published_modules, published_whole: By the authors' model.
    """

    name: str
    free_bytes: float
    modules: tuple[float, ...]
    whole: float
    published_modules: tuple[float, ...]
    published_whole: float


@dataclass(frozen=True)
class ProphetPlan:
    """What it takes to train a model module by module.

    Attributes:
        budget_bytes: That every device has.
        cascade: The modules.
        modules: What each takes.
        whole: What the whole model takes.
        classes: How long a round takes, by kind of device.
    """

    budget_bytes: int
    cascade: Cascade
    modules: tuple[ModulePlan, ...]
    whole: Footprint
    classes: tuple[ClassSeconds, ...]

    @property
    def peak_bytes(self) -> int:
        """Of the module that takes most."""
        return max(each.footprint.peak_bytes for each in self.modules)


def compile_open(
    model: Path,
    sizes: Mapping[str, int | str | tuple[int, int]],
    batch_size: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """Return a model compiled, or loaded where it is; the first axis takes batches of any size.

    Args:
        model: An ONNX file, or a compiled module.
        sizes: Of open dimensions, as ``hocket.compile`` takes them.
        batch_size: Most examples at a time.
        progress: Of the compilation, as ``hocket.compile`` takes it.

    Raises:
        ModelError: The model cannot be read, or a dimension has no size.
    """
    from hocket.module import compile, load  # noqa: A004

    if model.suffix == MODULE_SUFFIX:
        return load(model).artifact
    from hocket.compiler.graph.load import load_model

    found = dict(sizes)
    for each in load_model(model, leaves_open=True).model.graph.inputs:
        name = None if not each.shape else getattr(each.shape[0], "value", None)
        if name:
            found.setdefault(name, (1, batch_size))
    return compile(str(model), dims=found, progress=progress).artifact


def spans_with_exits(
    artifact: Artifact, task: Task, frozen: Sequence[str] = (), exit_features: int = 1
) -> CompiledSpans:
    """Return a model with an early exit behind each atom, to plan with.

    Arguments are those of ``CompiledSpans``.
    """
    from hocket.fl.backends.spans import CompiledSpans

    bare = CompiledSpans(artifact, (), task, frozen=frozen)
    atoms = atoms_of(bare.borders(), bare.parameters())
    exits = [atom.name for atom in atoms]
    return CompiledSpans(artifact, exits, task, exit_features=exit_features, frozen=frozen)


def footprint_of(spans: CompiledSpans, training: LocalTraining, span: Span) -> Footprint:
    """Return what it takes to train a span on the machine that the model is compiled for."""
    return spans.footprint(spans.artifact.target, training, span)


def cascade_under(spans: CompiledSpans, training: LocalTraining, budget_bytes: int) -> Cascade:
    """Return the modules under a budget; one that is all of the model where there is none.

    Args:
        spans: The model, with an exit behind each atom.
        training: What devices do.
        budget_bytes: That each of them has; 0 for as much as it takes.

    Raises:
        ConfigError: An atom takes more by itself.
    """
    if not budget_bytes:
        return whole_model(spans.owned)
    atoms = atoms_of(spans.borders(), spans.parameters())
    return partition(
        atoms, spans.owned, lambda span: footprint_of(spans, training, span), budget_bytes
    )


def plan_prophet(
    spans: CompiledSpans,
    training: LocalTraining,
    budget_bytes: int,
    classes: Sequence[DeviceClass] = (),
    attack_steps: int = 10,
) -> ProphetPlan:
    """Return what it takes to train a model under a budget; nothing is trained.

    Args:
        spans: The model, with an exit behind each atom.
        training: What devices do; ``max_steps`` are the batches of a round, 30 if it says none.
        budget_bytes: Memory that each device has.
        classes: Kinds of devices.
        attack_steps: Of the attack in training.

    Raises:
        ConfigError: An atom takes more by itself.
    """
    cascade = cascade_under(spans, training, budget_bytes)
    whole = footprint_of(spans, training, Span(is_attacked=True))
    found = [
        footprint_of(spans, training, cascade.piece(number, number).span)
        for number in range(len(cascade))
    ]
    modules = tuple(
        ModulePlan(str(module), each, each.peak_bytes / whole.peak_bytes)
        for module, each in zip(cascade.modules, found, strict=True)
    )
    batch_bytes = _batch_bytes(spans, training)
    works = [
        _work(found, number, training, batch_bytes, attack_steps) for number in range(len(found))
    ]
    all_of_it = _work([whole], 0, training, batch_bytes, attack_steps)
    times = tuple(_seconds(kind, works, all_of_it, budget_bytes) for kind in classes)
    return ProphetPlan(budget_bytes, cascade, modules, whole, times)


def _batch_bytes(spans: CompiledSpans, training: LocalTraining) -> int:
    (spec,) = spans.artifact.signature.inputs
    count = training.batch_size
    for size in spec.shape[1:]:
        count *= int(size)
    return count * spec.numpy_dtype.itemsize


def _work(
    modules: Sequence[Footprint],
    number: int,
    training: LocalTraining,
    batch_bytes: int,
    attack_steps: int,
) -> Workload:
    """Return what a device does in a round of a module's stage, with no features kept before."""
    cost, frozen = modules[number], modules[:number]
    num_batches = training.max_steps or 30
    return Workload(
        num_parameters=cost.gradient_bytes / ELEMENT_BYTES,
        num_features=cost.activation_bytes / ELEMENT_BYTES,
        forward_macs=cost.flops / FLOPS_A_MAC,
        batch_bytes=batch_bytes,
        num_batches=num_batches,
        attack_steps=attack_steps,
        peak_bytes=cost.peak_bytes,
        frozen_macs=sum(each.flops for each in frozen) / FLOPS_A_MAC,
        num_frozen_batches=num_batches if frozen else 0,
        sent_bytes=cost.gradient_bytes,
        received_bytes=sum(each.weight_bytes for each in modules[: number + 1]),
    )


def _seconds(
    kind: DeviceClass, works: Sequence[Workload], whole: Workload, budget_bytes: int
) -> ClassSeconds:
    free = max(kind.memory_bytes * MOST_FREE_MEMORY / 2, float(budget_bytes))
    speeds = Speeds(
        kind.flops_per_second, free, kind.storage_bytes_per_second, NETWORK_BYTES_PER_SECOND
    )
    return ClassSeconds(
        name=kind.name,
        free_bytes=free,
        modules=tuple(fuller_seconds(each, speeds).total for each in works),
        whole=fuller_seconds(whole, speeds).total,
        published_modules=tuple(published_seconds(each, speeds).total for each in works),
        published_whole=published_seconds(whole, speeds).total,
    )
