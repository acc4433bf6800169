"""How robust is a model that is trained module by module, beside one that is trained whole?

FedProphet, with and without prophets, beside joint adversarial training of the same model (jFAT)
and of a smaller one that fits into the same memory; all on Fashion-MNIST, with the same devices,
rounds of the same steps, seeds and attacks. Accuracies are of the composed model on test images
that no device has; memory is the backend's footprint of an attacked step; seconds are simulated,
on the authors' pool of devices, by their model of time and by the fuller one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from harness import PACKAGES, Choices, parse_choices, report, stamp
from torch import nn
from torch.nn import functional
from training.models import export

import hocket
from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import LocalTraining, Span
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.observers import Silent
from hocket.fl.core.store import MemoryStore
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.cascade import CascadeClient, StageTask
from hocket.fl.fat.evaluation import accuracy_under
from hocket.fl.fat.latency import Speeds, Workload, fuller_seconds, published_seconds
from hocket.fl.fat.partition import atoms_of, partition, whole_model
from hocket.fl.fat.pool import load_pool
from hocket.fl.fat.strategy import CascadeSettings, FedProphet
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.backend import Footprint
    from hocket.fl.core.types import ClientTask
    from hocket.fl.fat.partition import Cascade
    from hocket.fl.fat.pool import Pool
    from hocket.runtime.artifact import Artifact

MACHINE = load_target("mas-edge")
RADIUS = 0.1  # usual for Fashion-MNIST, by the largest change of a pixel
NETWORK_BYTES_PER_SECOND = 1.25e6  # 10 Mbit/s
ELEMENT_BYTES = 4
COLUMNS = {
    "method": "s",
    "seed": "d",
    "modules": "d",
    "rounds": "d",
    "clean": ".3f",
    "pgd": ".3f",
    "peak_mb": ".2f",
    "memory_share": ".2f",
    "published_s": ".1f",
    "published_s_a_round": ".2f",
    "fuller_s": ".1f",
}


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        channels: Of the model's convolutions; the smaller model has the first two.
        budget_share: Of the whole model's memory that devices have.
        settings: Of FedProphet; jFAT trains as many rounds as all stages together.
        training: Of a device.
        num_devices: Devices.
        num_test_images: Test images that are attacked.
        test_steps, restarts: Of the attack on them.
        seeds: One run each.
    """

    channels: tuple[int, ...]
    budget_share: float
    settings: CascadeSettings
    training: LocalTraining
    num_devices: int
    num_test_images: int
    test_steps: int
    restarts: int
    seeds: tuple[int, ...]


SGD = LocalTraining(
    epochs=100, max_steps=30, batch_size=64, learning_rate=0.02, momentum=0.9, weight_decay=1e-4
)
FULL = Size(
    channels=(32, 64, 128, 128),
    budget_share=0.5,
    settings=CascadeSettings(
        rounds_per_stage=150,
        warm_up=20,
        patience=40,
        settle=5,
        adjust_every=15,
        input_radius=RADIUS,
    ),
    training=SGD,
    num_devices=100,
    num_test_images=1000,
    test_steps=100,
    restarts=3,
    seeds=(0, 1, 2),
)
QUICK = Size(
    channels=(16, 32),
    budget_share=0.85,
    settings=CascadeSettings(
        rounds_per_stage=12,
        warm_up=3,
        patience=8,
        settle=1,
        adjust_every=3,
        input_radius=RADIUS,
        steps=4,
        measure_steps=4,
        fraction_train=0.02,
    ),
    training=replace(SGD, max_steps=8, batch_size=32, learning_rate=0.05),
    num_devices=200,
    num_test_images=256,
    test_steps=20,
    restarts=1,
    seeds=(0,),
)


class Vgg(nn.Module):
    """Images ``[batch, 1, 28, 28]`` to logits; the map is halved by the first three layers."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        sizes = [1, *channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(one, other, 3, padding=1, bias=False)
            for one, other in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, 10]``."""
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            pixels = torch.relu(norm(layer(pixels)))
            pixels = functional.max_pool2d(pixels, 2) if number < 3 else pixels
        logits: torch.Tensor = self.head(functional.adaptive_avg_pool2d(pixels, 1).flatten(1))
        return logits


@dataclass(frozen=True)
class Model:
    """A compiled model and what its pieces take.

    Attributes:
        artifact: The model.
        training: How it is trained.
    """

    artifact: Artifact
    training: LocalTraining

    def planner(self) -> CompiledSpans:
        """Return the model with an exit behind each atom."""
        bare = CompiledSpans(self.artifact)
        atoms = atoms_of(bare.borders(), bare.parameters())
        return CompiledSpans(self.artifact, [atom.name for atom in atoms])

    def cascade(self, budget_bytes: int) -> Cascade:
        """Return the modules under a budget."""
        spans = self.planner()
        atoms = atoms_of(spans.borders(), spans.parameters())
        return partition(
            atoms, spans.owned, lambda span: footprint(spans, self.training, span), budget_bytes
        )

    def whole(self) -> Cascade:
        """Return the model as one module."""
        return whole_model(CompiledSpans(self.artifact).owned)


@dataclass(frozen=True)
class Clients:
    """Makes clients of a cascade.

    Attributes:
        artifact: The model.
        cascade: Its modules.
        partitions: Everyone's images.
    """

    artifact: Artifact
    cascade: Cascade
    partitions: ImagePartitions

    def device_ids(self) -> list[str]:
        """Return all devices."""
        return self.partitions.device_ids()

    def __call__(self) -> CascadeClient:
        """Return a client."""
        spans = CompiledSpans(self.artifact, self.cascade.exits)
        return CascadeClient(spans, self.partitions, self.cascade)


@dataclass
class RoundTimes(Silent):
    """Adds up how long rounds would take on a pool of devices, the slowest of each counting.

    Attributes:
        pool: Of devices.
        seed: Of the federation.
        training: Of a device.
        footprints: Of training the modules from one to another.
        published, fuller: Seconds so far, by either model.
    """

    pool: Pool
    seed: int
    training: LocalTraining
    footprints: dict[tuple[int, int], Footprint]
    published: float = 0.0
    fuller: float = 0.0

    def started(self, round_number: int, tasks: Sequence[ClientTask]) -> None:
        """Count a round."""
        found = [self._seconds(round_number, task) for task in tasks]
        self.published += max(each[0] for each in found)
        self.fuller += max(each[1] for each in found)

    def _seconds(self, round_number: int, task: ClientTask) -> tuple[float, float]:
        wanted = StageTask.from_config(task.config)
        has = self.pool.resources(self.seed, round_number, task.device_id)
        kind = self.pool.class_of(self.seed, task.device_id)
        speeds = Speeds(
            has.flops_per_second,
            has.memory_bytes,
            kind.storage_bytes_per_second,
            NETWORK_BYTES_PER_SECOND,
        )
        cost = self.footprints[wanted.stage, wanted.last]
        macs = cost.flops / 6  # forward and backward, two operations each
        frozen = sum(self.footprints[n, n].flops / 6 for n in range(wanted.stage))
        work = Workload(
            num_parameters=cost.gradient_bytes / ELEMENT_BYTES,
            num_features=cost.activation_bytes / ELEMENT_BYTES,
            forward_macs=macs,
            batch_bytes=self.training.batch_size * 28 * 28 * ELEMENT_BYTES,
            num_batches=self.training.max_steps,
            attack_steps=wanted.steps if wanted.is_adversarial else 0,
            peak_bytes=cost.peak_bytes,
            frozen_macs=frozen,
            num_frozen_batches=self.training.max_steps if wanted.stage else 0,
            evaluation_macs=3 * wanted.measure_steps * (frozen + macs),
            sent_bytes=cost.gradient_bytes,
            received_bytes=sum(self.footprints[n, n].weight_bytes for n in range(wanted.last + 1)),
        )
        return published_seconds(work, speeds).total, fuller_seconds(work, speeds).total


def make_model(channels: Sequence[int], training: LocalTraining) -> Model:
    """Return a compiled model with random parameters, the same each time."""
    torch.manual_seed(0)
    module = Vgg(channels).train()
    model = export(module, {"pixels": torch.zeros(2, 1, 28, 28)}, is_training=True)
    return Model(hocket.compile(model, dims={"batch": (1, 64)}).artifact, training)


def footprint(spans: CompiledSpans, training: LocalTraining, span: Span) -> Footprint:
    """Return what it takes to train a span."""
    return spans.footprint(MACHINE, training, span)


def run(
    method: str, model: Model, cascade: Cascade, size: Size, seed: int, whole_bytes: int, **of: Any
) -> dict[str, Any]:
    """Return a row: a federation from beginning to end, and what its model withstands."""
    spans = CompiledSpans(model.artifact, cascade.exits)
    pairs = [(one, last) for last in range(len(cascade)) for one in range(last + 1)]
    footprints = {
        pair: footprint(spans, size.training, cascade.piece(*pair).span) for pair in pairs
    }
    peak = max(footprints[number, number].peak_bytes for number in range(len(cascade)))
    pool = load_pool("cifar", peak)
    times = RoundTimes(pool, seed, size.training, footprints)
    partitions = ImagePartitions(
        "fashion-mnist",
        Partitioning("shards", num_devices=size.num_devices, shards_per_device=5, seed=seed),
        "pixels",
        held_out_share=0.2,
    )
    strategy = FedProphet(
        cascade,
        costs={pair: SpanCost(each.peak_bytes, each.flops) for pair, each in footprints.items()},
        available=pool.available,
        settings=replace(size.settings, **of),
        training=size.training,
    )
    engine = InProcessEngine(Clients(model.artifact, cascade, partitions), WallClock())
    coordinator = Coordinator(
        plan=Plan("fedprophet", num_rounds=10_000, seed=seed),
        strategy=strategy,
        engine=engine,
        scheduler=FifoScheduler(),
        store=MemoryStore(),
        clock=WallClock(),
        observers=[times],
    )
    progress = coordinator.run(coordinator.begin(spans.parameters()))
    spans.load_parameters(progress.state.parameters)
    examples = partitions.held_out().take(slice(0, size.num_test_images))
    attack = Attack(size.test_steps, restarts=size.restarts)
    found = accuracy_under(spans, examples, Linf(RADIUS), attack, seed)
    return {
        "method": method,
        "seed": seed,
        "modules": len(cascade),
        "rounds": progress.round,
        "clean": found.clean,
        "pgd": found.attacked,
        "peak_mb": peak / 1e6,
        "memory_share": peak / whole_bytes,
        "published_s": times.published,
        "published_s_a_round": times.published / progress.round,
        "fuller_s": times.fuller,
        "digest": progress.digest,
    }


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return a row for each method and seed."""
    size = QUICK if choices.quick else FULL
    torch.set_num_threads(choices.threads[0])
    model = make_model(size.channels, size.training)
    small = make_model(size.channels[:1], size.training)
    spans = model.planner()
    whole_bytes = footprint(spans, size.training, Span(is_attacked=True)).peak_bytes
    cascade = model.cascade(int(size.budget_share * whole_bytes))
    rounds = len(cascade) * size.settings.rounds_per_stage
    joint = {"rounds_per_stage": rounds, "patience": rounds}
    rows = []
    for seed in size.seeds:
        for method, which, modules, of in (
            ("fedprophet", model, cascade, {}),
            ("fedprophet, no prophets", model, cascade, {"prophet": 0.0}),
            ("jfat", model, model.whole(), joint),
            ("jfat, smaller model", small, small.whole(), joint),
            ("not adversarial", model, model.whole(), {**joint, "warm_up": rounds}),
        ):
            rows.append(run(method, which, modules, size, seed, whole_bytes, **of))
    return rows


if __name__ == "__main__":
    QUESTION = "robust accuracy and memory of module-wise adversarial training"
    chosen, _ = parse_choices(QUESTION)
    report(
        QUESTION,
        measure(chosen),
        COLUMNS,
        chosen,
        notes=(
            "peak: of an attacked step, by footprint; share: of the whole model's",
            "published: by the authors' model of time, on their devices for CIFAR-10",
            "fuller: with all operations, communication, frozen modules and evaluation",
        ),
        about=stamp((*PACKAGES, "torch")),
    )
