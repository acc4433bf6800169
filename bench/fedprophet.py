"""How robust is a model that is trained module by module, beside one that is trained whole?

FedProphet beside joint adversarial training of the same model (jFAT), all on Fashion-MNIST, with
the same devices, steps, seeds and attacks. Accuracies are of the composed model, on test images
that no device has. Memory is the backend's footprint of an attacked step, and measured in a process
of its own. Seconds are simulated: the authors' pools of devices, scaled to the model, by their
model of time and by the fuller one.

Rows are written as they are known; ``--resume`` keeps those that the file has.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from adversarial.memory import measured_bytes
from adversarial.methods import JOINT, MAIN, METHODS, Setting, make_method
from adversarial.models import ARCHITECTURES, INPUT, compile_architecture
from adversarial.times import SCALING, RoundTimes, network_bytes_per_second, pools_for
from harness import PACKAGES, choices_of, make_parser, read_rows, report, stamp, write_rows

from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.store import MemoryStore
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import accuracy_under
from hocket.fl.fat.libraries import auto_attack
from hocket.fl.fat.strategy import CascadeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.core.data import Examples

QUESTION = "robust accuracy, memory and time of module-wise adversarial training"
ACCURACIES = ("clean", "pgd", "auto_attack")
COLUMNS = {
    "model": "s",
    "method": "s",
    "seeds": "d",
    "modules": "d",
    "training_rounds": ".1f",
    "clean": "s",
    "pgd": "s",
    "auto_attack": "s",
    "peak_mb": ".2f",
    "memory_share": ".2f",
    "measured_share": ".2f",
    "faster_a_round": ".1f",
    "faster_a_stage": ".1f",
    "faster": ".1f",
    "faster_unbalanced": ".1f",
    "fuller_faster": ".1f",
}


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        models: Names of the models.
        methods: Names of the methods.
        joint_rounds: Of all methods but FedProphet.
        settings: Of FedProphet; the model has a radius of its own.
        max_steps: Of a device in a round.
        num_devices: Devices.
        num_test_images: Test images that are attacked.
        num_auto_images: The first of them, which AutoAttack has too; 0 for none.
        test_steps, restarts: Of the attack on them.
        seeds: One run each.
        is_memory_measured: Beside what footprints say; a process for each row.
    """

    models: tuple[str, ...]
    methods: tuple[str, ...]
    joint_rounds: int
    settings: CascadeSettings
    max_steps: int
    num_devices: int
    num_test_images: int
    num_auto_images: int
    test_steps: int
    restarts: int
    seeds: tuple[int, ...]
    is_memory_measured: bool = True


FULL = Size(
    models=("vgg", "vit"),
    methods=MAIN,
    joint_rounds=12,
    settings=CascadeSettings(
        rounds_per_stage=12,
        later_rounds=3,
        warm_up=0,
        patience=4,
        settle=1,
        adjust_every=3,
        steps=5,
        measure_steps=5,
        prophet=0.5,
        learning_rate_decay=0.9,
        stage_learning_rate_decay=0.8,
    ),
    max_steps=16,
    num_devices=100,
    num_test_images=1000,
    num_auto_images=64,
    test_steps=20,
    restarts=1,
    seeds=(0, 1, 2),
)
SHORT = replace(
    FULL,
    models=("vgg",),
    methods=MAIN[:3],
    joint_rounds=8,
    settings=replace(
        FULL.settings, rounds_per_stage=8, later_rounds=3, patience=2, learning_rate_decay=0.8
    ),
    num_test_images=300,
    num_auto_images=0,
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
    num_auto_images=0,
    test_steps=5,
    restarts=1,
    seeds=(0,),
    is_memory_measured=False,
)


def run(name: str, method: str, seed: int, size: Size) -> dict[str, Any]:
    """Return a row: a federation from beginning to end, and what its model withstands."""
    began = time.monotonic()
    architecture = ARCHITECTURES[name]
    reference = compile_architecture(name, seed=seed)
    whole = reference.whole_footprint()
    budget = int(architecture.budget_share * whole.peak_bytes)
    pools = pools_for(whole, budget)
    partitions = ImagePartitions(
        "fashion-mnist",
        Partitioning("shards", num_devices=size.num_devices, shards_per_device=10, seed=seed),
        INPUT,
        held_out_share=0.1,
    )
    made = make_method(
        method,
        Setting(
            architecture=name,
            budget_bytes=budget,
            pool=pools["balanced"],
            settings=replace(size.settings, input_radius=architecture.radius),
            rounds=size.joint_rounds,
            max_steps=size.max_steps,
            partitions=partitions,
            seed=seed,
        ),
    )
    times = RoundTimes(pools, seed, made.works, network_bytes_per_second(whole))
    coordinator = Coordinator(
        plan=Plan("bench", num_rounds=made.rounds, seed=seed),
        strategy=made.strategy,
        engine=InProcessEngine(made.clients, WallClock()),
        scheduler=FifoScheduler(),
        store=MemoryStore(),
        clock=WallClock(),
        observers=[times],
    )
    progress = coordinator.run(coordinator.begin(made.spans.parameters()))
    own = made.spans.parameters().keys()
    final = progress.state.parameters
    made.spans.load_parameters({key: final[key] for key in own})
    examples = partitions.held_out().take(slice(0, size.num_test_images))
    attack = Attack(size.test_steps, restarts=size.restarts)
    found = accuracy_under(made.spans, examples, Linf(architecture.radius), attack, seed)
    measured = [0]
    if size.is_memory_measured:
        measured = measured_bytes(name, architecture.training.batch_size, **made.measured)
    return {
        "model": name,
        "method": method,
        "seed": seed,
        "radius": architecture.radius,
        "modules": len(made.peaks),
        "rounds": progress.round,
        "training_rounds": times.num_training,
        "clean": found.clean,
        "pgd": found.attacked,
        "auto_attack": _auto_attack(
            made.spans, examples, size.num_auto_images, architecture.radius, seed
        ),
        "peak_mb": max(made.peaks) / 1e6,
        "module_mb": [each / 1e6 for each in made.peaks],
        "measured_mb": max(measured) / 1e6,
        "measured_module_mb": [each / 1e6 for each in measured],
        "budget_mb": budget / 1e6,
        "largest_atom_mb": reference.largest_atom_bytes() / 1e6,
        "memory_share": max(made.peaks) / whole.peak_bytes,
        "published_s": times.published,
        "published_stages": times.stages,
        "fuller_s": times.fuller,
        "failures": sum(report.num_failures for report in progress.reports),
        "digest": progress.digest,
        "bench_s": time.monotonic() - began,
    }


def _auto_attack(
    spans: CompiledSpans, examples: Examples, count: int, radius: float, seed: int
) -> float:
    """Return the accuracy under AutoAttack's standard version; -1 without images."""
    if not count:
        return -1.0
    (inputs,) = examples.take(slice(0, count)).inputs.values()
    targets = examples.targets[:count]
    return float(auto_attack(spans.scores, inputs, targets, radius, seed).is_robust.mean())


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with how they compare with jFAT of the same model and seed, if it is there."""
    joint = {(row["model"], row["seed"]): row for row in rows if row["method"] == JOINT}
    found = []
    for row in rows:
        other = joint.get((row["model"], row["seed"]), row)
        faster = {
            (which, pool): other[which][pool] / row[which][pool]
            for which in ("published_s", "fuller_s")
            for pool in SCALING
        }
        found.append(
            {
                **row,
                "measured_share": row["measured_mb"] / (other["measured_mb"] or 1.0),
                "faster_a_round": faster["published_s", "balanced"]
                * row["training_rounds"]
                / other["training_rounds"],
                "faster_a_stage": _seconds_a_stage(other) / _seconds_a_stage(row),
                "faster": faster["published_s", "balanced"],
                "faster_unbalanced": faster["published_s", "unbalanced"],
                "fuller_faster": faster["fuller_s", "balanced"],
            }
        )
    return found


def _seconds_a_stage(row: dict[str, Any]) -> float:
    """Return what a round takes on the balanced pool, each stage counting alike."""
    stages = [each for each in row["published_stages"].values() if each["rounds"]]
    return statistics.fmean(each["balanced"] / each["rounds"] for each in stages)


def averaged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each model and method: means over seeds, accuracies with their spread.

    The spread is the standard deviation of the seeds' figures; of one seed there is none.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["method"]), []).append(row)
    found = []
    for (model, method), group in groups.items():
        means = {
            name: statistics.fmean(row[name] for row in group)
            for name, form in COLUMNS.items()
            if form.endswith("f")
        }
        accuracies = {name: _with_spread([row[name] for row in group]) for name in ACCURACIES}
        modules, seeds = group[0]["modules"], len(group)
        found.append(
            {"model": model, "method": method, "modules": modules, "seeds": seeds}
            | means
            | accuracies
        )
    return found


def _with_spread(values: Sequence[float]) -> str:
    if min(values) < 0:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


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
                made_by = {"commit": about["commit"], "command": about["command"]}
                row = run(*key, size) | made_by
                if parsed.resume and choices.json_path:  # another run may have added to it
                    rows = read_rows(choices.json_path)
                rows.append(row)
                if choices.json_path is not None:
                    write_rows(QUESTION, rows, choices.json_path, about)
    report(
        QUESTION,
        rows,
        COLUMNS,
        choices,
        shown=averaged(compared(rows)),
        notes=(
            "accuracies: means over seeds ± their standard deviation",
            "peak: of an attacked step, by footprint; share: of the whole model's; published: 0.20",
            "faster: than jFAT, by the authors' model of time, balanced pool; published: 10.8",
            "a round: mean over all rounds; a stage: with as many rounds in each, as published",
            "fuller: with all operations, communication, frozen modules and evaluation",
        ),
        about=about,
    )


if __name__ == "__main__":
    main()
