"""A federation of Photon whose every number can be worked out by hand, with replies as told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from support.federation import StandingClock

from hocket.fl.core.backend import LocalTraining, Result
from hocket.fl.core.client import run_safely
from hocket.fl.core.coordinator import Plan, Progress
from hocket.fl.core.data import Examples
from hocket.fl.core.engine import lateness
from hocket.fl.core.store import MemoryStore
from hocket.fl.core.types import ClientTask, Device, Reply
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.guard import Guard
from hocket.fl.photon.recipe import Recipe
from hocket.fl.photon.secure_client import SecureClient
from hocket.fl.photon.server import PhotonServer

CONTEXT, BATCH, STEPS = 4, 2, 3
TRAINING = LocalTraining(batch_size=BATCH, learning_rate=0.1)
OPEN = Guard(max_norm_ratio=0, min_cosine=-1)


class Averages:
    """A backend whose parameters go to the mean of the tokens it sees, a share at a step."""

    def __init__(self) -> None:
        self._weights = {"w": np.zeros((CONTEXT, 3), np.float32), "b": np.ones(5, np.float32)}
        self.seen: list[np.ndarray] = []

    def parameters(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self._weights.items()}

    def load_parameters(self, parameters: Any) -> None:
        self._weights = {name: np.array(array) for name, array in parameters.items()}

    def train(
        self, training: LocalTraining, examples: Examples, seed: int, optimizer_state: Any = None
    ) -> Result:
        momentum = np.zeros(5, np.float32) if not optimizer_state else optimizer_state["m/b"]
        self.seen.append(examples.inputs["ids"][:, 0])
        step, used = 0, 0.0
        for batch in examples.batches(training.batch_size, np.random.default_rng(seed)):
            rate = np.float32(training.learning_rate_at(step))
            wanted = batch.targets.mean(axis=0).astype(np.float32)[:, None] / 1000
            self._weights["w"] += rate * (wanted - self._weights["w"])
            momentum = np.float32(0.5) * momentum + np.float32(wanted.mean())
            self._weights["b"] -= rate * momentum
            step, used = step + 1, used + float(rate)
        kept = {"m/b": momentum} if training.keep_optimizer else {}
        return Result(len(examples), {"used": used}, step, kept)


@dataclasses.dataclass(frozen=True)
class Counting:
    """Client k's sequences say how many there were before."""

    num_devices: int = 4

    def device_ids(self) -> list[str]:
        return [f"client-{number}" for number in range(self.num_devices)]

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        number = self.device_ids().index(device_id)
        tokens = (cursor + np.arange(count))[:, None] + np.arange(CONTEXT + 1) + 100 * number
        return Examples({"ids": tokens[:, :-1]}, tokens[:, 1:])


Change = Callable[[ClientTask, Reply], Reply | list[Reply] | None]


@dataclasses.dataclass
class Scripted:
    """An engine whose replies go wrong as told, in an order as told."""

    client: PhotonClient | SecureClient
    sequences: Counting
    change: Change = lambda _, reply: reply
    order: Callable[[Sequence[ClientTask]], Sequence[ClientTask]] = lambda tasks: tasks
    timeouts: list[float | None] = dataclasses.field(default_factory=list)

    def devices(self) -> list[Device]:
        return [Device(name) for name in self.sequences.device_ids()]

    def run(
        self, tasks: Sequence[ClientTask], parameters: Any, timeout_seconds: float | None = None
    ) -> Iterator[Reply]:
        self.timeouts.append(timeout_seconds)
        for task in self.order(tasks):
            changed = self.change(task, run_safely(self.client, task, parameters))
            yield from changed if isinstance(changed, list) else [changed or lateness(task)]

    def close(self) -> None:
        pass


def server(change: Change | None = None, num_rounds: int = 4, **parts: Any) -> PhotonServer:
    store = parts.pop("store", None) or MemoryStore()
    sequences = parts.pop("sequences", Counting())
    client: PhotonClient | SecureClient = PhotonClient(Averages(), sequences, store)
    if parts.get("secure"):
        client = SecureClient(client)
    engine = Scripted(client, sequences, **({"change": change} if change else {}))
    engine.order = parts.pop("order", engine.order)
    given = {"guard": OPEN, "training": TRAINING, "local_steps": STEPS, "context": CONTEXT, **parts}
    plan = Plan("run", num_rounds=num_rounds, seed=3)
    return PhotonServer(plan, Recipe(**given), engine, store, StandingClock())


def run(made: PhotonServer) -> Progress:
    return made.run(made.begin(Averages().parameters()))


def engine_of(made: PhotonServer) -> Scripted:
    assert isinstance(made.engine, Scripted)
    return made.engine
