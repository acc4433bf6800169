"""How robust is a model that is trained module by module, beside one that is trained whole?

FedProphet beside joint adversarial training of the same model (jFAT), all on Fashion-MNIST, with
the same devices, steps, seeds and attacks. Accuracies are of the composed model, on test images
that no device has. Memory is the backend's footprint of an attacked step, and measured in a process
of its own. Seconds are simulated: the authors' pools of devices, scaled to the model, by their
model of time and by the fuller one.

Rows are written as they are known; ``--resume`` keeps those that the file has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from adversarial.memory import measured_bytes
from adversarial.models import ARCHITECTURES, EXIT_FEATURES, INPUT, Model, compile_architecture
from adversarial.times import NETWORK_BYTES_PER_SECOND, CascadeWorks, RoundTimes
from harness import PACKAGES, choices_of, make_parser, read_rows, report, stamp, write_rows

from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.store import MemoryStore
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.cascade import CascadeClient
from hocket.fl.fat.evaluation import accuracy_under
from hocket.fl.fat.pool import PUBLISHED, Pool, Trained, load_pool
from hocket.fl.fat.strategy import CascadeSettings, FedProphet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.fat.partition import Cascade

QUESTION = "robust accuracy, memory and time of module-wise adversarial training"
RADIUS = 0.1  # usual for Fashion-MNIST, by the largest change of a pixel
POOL = "cifar"
SCALING = {"balanced": 0.0, "unbalanced": -1.0}
COLUMNS = {
    "model": "s",
    "method": "s",
    "seed": "d",
    "modules": "d",
    "rounds": "d",
    "clean": ".3f",
    "pgd": ".3f",
    "peak_mb": ".2f",
    "memory_share": ".2f",
    "measured_mb": ".2f",
    "speed_up_a_round": ".1f",
    "speed_up": ".1f",
    "fuller_speed_up": ".1f",
}


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        models: Names of the models.
        methods: Names of the methods.
        joint_rounds: Of jFAT.
        settings: Of FedProphet.
        max_steps: Of a device in a round.
        num_devices: Devices.
        num_test_images: Test images that are attacked.
        test_steps, restarts: Of the attack on them.
        seeds: One run each.
    """

    models: tuple[str, ...]
    methods: tuple[str, ...]
    joint_rounds: int
    settings: CascadeSettings
    max_steps: int
    num_devices: int
    num_test_images: int
    test_steps: int
    restarts: int
    seeds: tuple[int, ...]


METHODS: dict[str, dict[str, Any]] = {
    "jfat": {},
    "fedprophet": {},
    "fedprophet, no prophets": {"prophet": 0.0},
    "fedprophet, exits as published": {},
    "fedprophet, exits' gradients kept": {"keeps_exit_gradients": True},
}
"""By their names, and what settings differ from the size's."""

FULL = Size(
    models=("vgg", "vit"),
    methods=tuple(METHODS),
    joint_rounds=40,
    settings=CascadeSettings(
        rounds_per_stage=40,
        warm_up=0,
        patience=6,
        settle=2,
        adjust_every=4,
        input_radius=RADIUS,
        steps=5,
        measure_steps=5,
        learning_rate_decay=0.95,
    ),
    max_steps=10,
    num_devices=100,
    num_test_images=1000,
    test_steps=20,
    restarts=1,
    seeds=(0, 1, 2),
)
SHORT = replace(
    FULL,
    models=("vgg",),
    joint_rounds=10,
    settings=replace(FULL.settings, rounds_per_stage=10, patience=3, learning_rate_decay=0.85),
    num_test_images=300,
    seeds=(0,),
)
QUICK = Size(
    models=("small",),
    methods=("jfat", "fedprophet"),
    joint_rounds=4,
    settings=replace(
        FULL.settings, rounds_per_stage=4, settle=0, steps=2, measure_steps=2, fraction_train=0.02
    ),
    max_steps=4,
    num_devices=200,
    num_test_images=64,
    test_steps=5,
    restarts=1,
    seeds=(0,),
)


@dataclass(frozen=True)
class Clients:
    """Makes clients of a cascade.

    Attributes:
        model: The model.
        cascade: Its modules.
        partitions: Everyone's images.
    """

    model: Model
    cascade: Cascade
    partitions: ImagePartitions

    def device_ids(self) -> list[str]:
        """Return all devices."""
        return self.partitions.device_ids()

    def __call__(self) -> CascadeClient:
        """Return a client."""
        return CascadeClient(self.model.spans(self.cascade.exits), self.partitions, self.cascade)


def run(name: str, method: str, seed: int, size: Size) -> dict[str, Any]:
    """Return a row: a federation from beginning to end, and what its model withstands."""
    began = time.monotonic()
    features = 1 if "as published" in method else EXIT_FEATURES
    model = compile_architecture(name, exit_features=features, max_steps=size.max_steps)
    training, whole = model.training, model.whole_footprint()
    budget = int(ARCHITECTURES[name].budget_share * whole.peak_bytes)
    is_joint = method == "jfat"
    cascade = model.whole() if is_joint else model.cascade(budget)
    spans = model.spans(cascade.exits)
    pairs = [(one, last) for last in range(len(cascade)) for one in range(last + 1)]
    footprints = {pair: model.footprint(spans, cascade.piece(*pair).span) for pair in pairs}
    costs = {pair: SpanCost(each.peak_bytes, each.flops) for pair, each in footprints.items()}
    pools = _pools(Trained(whole.peak_bytes, whole.flops / 6, whole.weight_bytes), budget)
    network = whole.weight_bytes / PUBLISHED[POOL].weight_bytes * NETWORK_BYTES_PER_SECOND
    times = RoundTimes(pools, seed, CascadeWorks(footprints, costs, training), network)
    settings = replace(size.settings, **METHODS[method])
    if is_joint:
        rounds = size.joint_rounds
        settings = replace(settings, rounds_per_stage=rounds, patience=rounds)
    partitions = ImagePartitions(
        "fashion-mnist",
        Partitioning("shards", num_devices=size.num_devices, shards_per_device=5, seed=seed),
        INPUT,
        held_out_share=0.1,
    )
    strategy = FedProphet(
        cascade,
        costs=costs,
        # Who lacks the memory swaps in joint training, and has no less to do.
        available=None if is_joint else pools["balanced"].available,
        settings=settings,
        training=training,
    )
    coordinator = Coordinator(
        plan=Plan("bench", num_rounds=10_000, seed=seed),
        strategy=strategy,
        engine=InProcessEngine(Clients(model, cascade, partitions), WallClock()),
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
    peaks = [footprints[number, number].peak_bytes for number in range(len(cascade))]
    measured = measured_bytes(name, training.batch_size, 0 if is_joint else budget)
    return {
        "model": name,
        "method": method,
        "seed": seed,
        "modules": len(cascade),
        "rounds": progress.round,
        "clean": found.clean,
        "pgd": found.attacked,
        "peak_mb": max(peaks) / 1e6,
        "module_mb": [each / 1e6 for each in peaks],
        "measured_mb": max(measured) / 1e6,
        "measured_module_mb": [each / 1e6 for each in measured],
        "budget_mb": budget / 1e6,
        "memory_share": max(peaks) / whole.peak_bytes,
        "published_s": times.published,
        "fuller_s": times.fuller,
        "digest": progress.digest,
        "bench_s": time.monotonic() - began,
    }


def _pools(model: Trained, reserved_bytes: float) -> dict[str, Pool]:
    """Return the balanced and the unbalanced pool, scaled to a model."""
    return {
        name: load_pool(POOL, 0.0, scaling).scaled(POOL, model, reserved_bytes)
        for name, scaling in SCALING.items()
    }


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with how much faster they are than jFAT of the same model and seed."""
    joint = {(row["model"], row["seed"]): row for row in rows if row["method"] == "jfat"}
    found = []
    for row in rows:
        other = joint.get((row["model"], row["seed"]), row)
        total = other["published_s"]["balanced"] / row["published_s"]["balanced"]
        found.append(
            {
                **row,
                "speed_up": total,
                "speed_up_a_round": total * row["rounds"] / other["rounds"],
                "fuller_speed_up": other["fuller_s"]["balanced"] / row["fuller_s"]["balanced"],
            }
        )
    return found


def main() -> None:
    """Measure what the command line asks for."""
    parser = make_parser(QUESTION)
    parser.add_argument("--short", action="store_true", help="a form of some minutes")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, help="only these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parsed = parser.parse_args()
    choices = choices_of(parsed)
    size = QUICK if parsed.quick else SHORT if parsed.short else FULL
    torch.set_num_threads(choices.threads[0])
    about = stamp((*PACKAGES, "torch"))
    rows = read_rows(choices.json_path) if parsed.resume and choices.json_path else []
    for seed in parsed.seeds or size.seeds:
        for name in parsed.models or size.models:
            for method in parsed.methods or size.methods:
                key = (name, method, seed)
                if key in {(row["model"], row["method"], row["seed"]) for row in rows}:
                    continue
                rows.append(run(*key, size))
                if choices.json_path is not None:
                    write_rows(QUESTION, rows, choices.json_path, about)
    report(
        QUESTION,
        rows,
        COLUMNS,
        choices,
        shown=compared(rows),
        notes=(
            "peak: of an attacked step, by footprint; share: of the whole model's",
            "speed-up: over jFAT, by the authors' model of time, on the balanced pool",
            "fuller: with all operations, communication, frozen modules and evaluation",
        ),
        about=about,
    )


if __name__ == "__main__":
    main()
