"""Does a federation that trains compiled modules learn what the same one in plain torch learns?

FedAvg on Fashion-MNIST: 100 devices with Dirichlet shares of the classes (alpha 0.3), 10 a round,
an epoch of SGD with momentum each. Ours is `examples/federation` on the local engine. Plain torch
is a loop over ``nn.Module`` and ``torch.optim`` that begins with the same weights and visits the
same devices with batches in the same order, as its own arithmetic rounds it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from harness import PACKAGES, Choices, parse_choices, report, stamp
from training.federations import Case
from training.plain_fedavg import PlainFederation, Visit

from hocket.fl.core.clock import WallClock
from hocket.fl.core.observers import Silent
from hocket.fl.engines.local import InProcessEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from hocket.federation import Federation, FederationResult
    from hocket.fl.core.types import ClientTask

ROUNDS = {"cnn": 60, "vit": 60}
EVERY, QUICK_ROUNDS = 3, 4
LAST = 5
"""Evaluations, the last ones, of which means are taken: single ones go up and down."""
NUDGE = 1e-7
"""What is added to the weights, times normal numbers, to see what rounding alone can do."""
COLUMNS = {
    "model": "s",
    "data": "s",
    "devices": "d",
    "rounds": "d",
    "ours_accuracy": ".4f",
    "torch_accuracy": ".4f",
    "difference_points": "+.2f",
    "mean_difference_points": "+.2f",
    "torch_nudged_points": "+.2f",
    "ours_seconds": ".1f",
    "torch_seconds": ".1f",
}


class Visits(Silent):
    """Keeps which devices trained in each round, with which seed."""

    def __init__(self) -> None:
        self.rounds: list[list[Visit]] = []

    def started(self, round_number: int, tasks: Sequence[ClientTask]) -> None:
        """Keep a round's devices."""
        del round_number
        self.rounds.append([Visit(task.device_id, task.seed) for task in tasks])


def compare(case: Case, rounds: int, every: int) -> dict[str, Any]:
    """Return a row: the same federation twice."""
    with tempfile.TemporaryDirectory() as name:
        federation = case.prepare(
            Path(name), federation__rounds=rounds, federation__evaluate_every=every
        )
        visits, started = Visits(), time.perf_counter()
        engine = InProcessEngine(federation.clients, WallClock(), federation.attributes)
        result = federation.run(engine, [visits])
        ours_seconds = time.perf_counter() - started
    ours = _accuracies(result)
    started = time.perf_counter()
    theirs = run_plain(federation, case.module(), visits, ours)
    torch_seconds = time.perf_counter() - started
    nudged = case.module()
    with torch.no_grad():
        for parameter in nudged.parameters():
            parameter.add_(NUDGE * torch.randn_like(parameter))
    again = run_plain(federation, nudged, visits, ours)
    return {
        "model": case.model,
        "data": case.source,
        "devices": len(federation.num_examples),
        "rounds": rounds,
        "ours_accuracy": ours[rounds],
        "torch_accuracy": theirs[rounds],
        "difference_points": _points(ours, theirs)[-1],
        "mean_difference_points": statistics.mean(_points(ours, theirs)[-LAST:]),
        "torch_nudged_points": statistics.mean(_points(again, theirs)[-LAST:]),
        "ours_seconds": ours_seconds,
        "torch_seconds": torch_seconds,
        "digest": result.digest,
        "ours_by_round": ours,
        "torch_by_round": theirs,
        "nudged_by_round": again,
    }


def run_plain(
    federation: Federation, module: nn.Module, visits: Visits, evaluated: Mapping[int, float]
) -> dict[int, float]:
    """Return accuracies of plain torch after the rounds that are evaluated."""
    torch.set_num_threads(federation.config.engine.threads_per_client)
    partitions = federation.clients.partitions
    plain = PlainFederation(module, partitions, federation.config.training.as_training())
    held_out, found = partitions.held_out(), {}
    for number, visited in enumerate(visits.rounds, 1):
        plain.run_round(visited)
        if number in evaluated:
            found[number] = plain.accuracy(held_out)
    return found


def _points(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    return [100 * (one[number] - other[number]) for number in sorted(one)]


def _accuracies(result: FederationResult) -> dict[int, float]:
    return {
        each.round: each.evaluate_metrics["server_accuracy"]
        for each in result.reports
        if each.evaluate_metrics
    }


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return a row for each model."""
    if choices.quick:
        return [compare(Case(model, is_small=True), QUICK_ROUNDS, 1) for model in ROUNDS]
    return [compare(Case(model), rounds, EVERY) for model, rounds in ROUNDS.items()]


QUESTION = "accuracy of FedAvg from compiled modules beside the same in plain torch"

if __name__ == "__main__":
    chosen, _ = parse_choices(QUESTION)
    report(
        QUESTION,
        measure(chosen),
        COLUMNS,
        chosen,
        notes=(
            f"mean difference: of the last {LAST} evaluations",
            f"torch nudged: the same of plain torch from weights {NUDGE} away, less plain torch",
        ),
        about=stamp((*PACKAGES, "torch")),
    )
