"""What does a round of a federation take beside the training in it?

Ours is `examples/federation`'s CNN on Fashion-MNIST. Overhead is the part of a round in which no
client trains: choosing devices, reading their images, copying parameters,
checking and averaging updates, keeping the round on disk. Rounds of a loop in plain torch that does
the same training take turns with those of the local engine. Other engines run the same rounds;
theirs hold what it takes to reach their processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from federated_accuracy import Visits
from harness import PACKAGES, Choices, parse_choices, report, stamp
from training.federations import Case
from training.plain_fedavg import PlainFederation

from hocket.federation_launch import launch
from hocket.fl.core.clock import WallClock
from hocket.fl.core.parameters import num_bytes
from hocket.fl.engines.local import InProcessEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.federation import Federation, FederationResult
    from hocket.fl.core.types import RoundReport

COLUMNS = {
    "engine": "s",
    "clients": "d",
    "clients_a_round": "d",
    "round_ms": ".0f",
    "training_ms": ".0f",
    "overhead_ms": ".1f",
    "overhead_percent": ".1f",
    "torch_ms": ".0f",
    "megabytes_a_round": ".1f",
    "first_round_seconds": ".1f",
    "memory_growth_mib": ".0f",
}
OTHERS: dict[str, dict[str, Any]] = {
    "processes": {},
    "ray": {"engine__name": "ray"},
    "flower simulation": {"engine__name": "flower"},
    "flower deployment": {"engine__name": "flower", "engine__address": "loopback"},
}
_WORKERS = 2


@dataclass(frozen=True)
class Scale:
    """How many clients there are, how many train in a round, and how many rounds are measured."""

    clients: int
    clients_a_round: int
    rounds: int


class Stopwatch:
    """Adds up the time that a backend takes to train."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def on(self, backend: Any) -> Iterator[None]:
        """Time this backend."""
        backend.train = self._timed(backend.train)
        try:
            yield
        finally:
            del backend.train

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


class Turns(Visits):
    """After each round, takes its times and lets plain torch do the same round.

    Args:
        watch: Of our training.
        plain: Does each round again.
    """

    def __init__(self, watch: Stopwatch, plain: PlainFederation) -> None:
        super().__init__()
        self.times: list[tuple[float, float, float]] = []
        self._watch, self._plain = watch, plain
        self._started = time.perf_counter()

    def finished(self, report: RoundReport) -> None:
        """Take times: of the whole round, of the training in it, and of plain torch's."""
        del report
        now = time.perf_counter()
        ours, training = now - self._started, self._watch.seconds
        self._plain.run_round(self.rounds[-1])
        self.times.append((ours, training, time.perf_counter() - now))
        self._watch.seconds, self._started = 0.0, time.perf_counter()


class LocalClients:
    """Clients whose one backend is made, so that it can be timed."""

    def __init__(self, federation: Federation) -> None:
        self._made = federation.clients()
        self._clients = federation.clients
        self.backend = self._made.backend

    def device_ids(self) -> list[str]:
        """Return the devices that have data."""
        return self._clients.device_ids()

    def __call__(self) -> Any:
        """Return the client."""
        return self._made


def measure_local(case: Case, scale: Scale) -> dict[str, Any]:
    """Return a row: the local engine in turns with plain torch, medians after the first round."""
    with tempfile.TemporaryDirectory() as name:
        before = _peak_mib()
        federation = _prepare(case, Path(name), scale)
        federation.keep_module()
        partitions = federation.clients.partitions
        clients, watch = LocalClients(federation), Stopwatch()
        torch.set_num_threads(1)
        training = federation.config.training.as_training()
        plain = PlainFederation(case.module(), partitions, training)
        turns = Turns(watch, plain)
        with watch.on(clients.backend):
            result = federation.run(InProcessEngine(clients, WallClock()), [turns])
        growth = _peak_mib() - before
    # Not the first, which has caches to fill, nor the last, which evaluates.
    rest = turns.times[1:-1]
    training = statistics.median(each for _, each, _ in rest)
    overhead = statistics.median(total - each for total, each, _ in rest)
    return _row("local", federation, result) | {
        "round_ms": 1e3 * statistics.median(total for total, _, _ in rest),
        "training_ms": 1e3 * training,
        "overhead_ms": 1e3 * overhead,
        "overhead_percent": statistics.median(100 * (1 - each / total) for total, each, _ in rest),
        "torch_ms": 1e3 * statistics.median(theirs for _, _, theirs in rest),
        "first_round_seconds": turns.times[0][0],
        "memory_growth_mib": growth,
    }


def measure_other(engine: str, case: Case, scale: Scale, digest: str) -> dict[str, Any]:
    """Return a row of another engine, which must end with the model of this digest."""
    with tempfile.TemporaryDirectory() as name:
        settings = OTHERS[engine] | {"engine__workers": _WORKERS}
        federation = _prepare(case, Path(name), scale, **settings)
        result = launch(federation)
    if result.digest != digest:
        raise RuntimeError(f"{engine} ended with another model than the local engine")
    seconds = [each.seconds for each in result.reports]
    return _row(engine, federation, result) | {
        "round_ms": 1e3 * statistics.median(seconds[1:-1]),
        "first_round_seconds": seconds[0],
    }


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return a row for each number of clients, and for each engine with the least of them."""
    if choices.quick:
        case, scales, engines = Case("cnn", is_small=True), (Scale(10, 5, 5),), ("processes",)
    else:
        case, engines = Case("cnn"), tuple(OTHERS)
        scales = (Scale(100, 10, 12), Scale(300, 10, 12), Scale(1000, 10, 12))
    rows = [measure_local(case, scale) for scale in scales]
    few = dataclasses.replace(scales[0], rounds=4)
    wanted = measure_local(case, few)["digest"]
    return rows + [measure_other(engine, case, few, wanted) for engine in engines]


def _prepare(case: Case, folder: Path, scale: Scale, **overrides: Any) -> Federation:
    changes = {
        "data__partitioning": "iid",  # rounds are alike then
        "data__devices": scale.clients,
        "strategy__fraction-train": scale.clients_a_round / scale.clients,
        "federation__rounds": scale.rounds,
        "federation__evaluate_every": scale.rounds,
    }
    return case.prepare(folder, **changes, **overrides)


def _row(engine: str, federation: Federation, result: FederationResult) -> dict[str, Any]:
    size = num_bytes(federation.backend.parameters())
    tasks = result.reports[-1].num_tasks
    return dict.fromkeys(COLUMNS, math.nan) | {
        "engine": engine,
        "clients": len(federation.num_examples),
        "clients_a_round": tasks,
        "megabytes_a_round": 2 * tasks * size / 1e6,  # to each device, and back
        "digest": result.digest,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


QUESTION = "a round of a federation beside the training in it"

if __name__ == "__main__":
    chosen, _ = parse_choices(QUESTION)
    report(
        QUESTION,
        measure(chosen),
        COLUMNS,
        chosen,
        notes=(
            "overhead: all of a round of the local engine that is not a client's training",
            "memory growth: what a row adds to the peak of this process, data and model with it",
        ),
        about=stamp((*PACKAGES, "torch")),
    )
