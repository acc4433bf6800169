"""A small federation whose every number can be worked out by hand: softmax regression in numpy."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.backend import EVALUATE, INPUT_GRADIENT, TRAIN, LocalTraining, Result
from hocket.fl.core.client import BackendClient
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import CapabilityError
from hocket.fl.core.parameters import check_alike
from hocket.fl.core.seeds import generator_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, ClientUpdate

FEATURES, CLASSES = 5, 3


class SoftmaxRegression:
    """A backend of one weight and one bias."""

    capabilities = frozenset({TRAIN, EVALUATE, INPUT_GRADIENT})

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._parameters = {
            "weight": generator.standard_normal((FEATURES, CLASSES)) * 0.1,
            "bias": np.zeros(CLASSES),
        }

    def parameters(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_parameters(self, parameters: Parameters) -> None:
        check_alike(parameters, self._parameters, "parameters")
        self._parameters = {name: np.array(array) for name, array in parameters.items()}

    def train(
        self,
        training: LocalTraining,
        examples: Examples,
        seed: int,
        optimizer_state: Parameters | None = None,
    ) -> Result:
        assert not optimizer_state, "it has no optimizer that gathers anything"
        generator = np.random.default_rng(seed)
        start = self.parameters()
        steps = 0
        totals: dict[str, float] = {}
        for _ in range(training.epochs):
            totals = {"loss": 0.0, "accuracy": 0.0}
            for batch in examples.batches(training.batch_size, generator):
                if training.max_steps and steps == training.max_steps:
                    break
                found, gradients, _ = self._differentiate(batch)
                for name, value in found.items():
                    totals[name] += value * len(batch)
                for name, gradient in gradients.items():
                    drawn = training.proximal_mu * (self._parameters[name] - start[name])
                    self._parameters[name] -= training.learning_rate * (gradient + drawn)
                steps += 1
        metrics = {name: value / len(examples) for name, value in totals.items()}
        return Result(len(examples), metrics, steps)

    def evaluate(self, examples: Examples, batch_size: int = 256) -> Result:
        del batch_size
        return Result(len(examples), self._differentiate(examples)[0])

    def input_gradient(self, examples: Examples, input_name: str) -> Any:
        if input_name != "features":
            raise CapabilityError(f"no input {input_name!r}")
        return self._differentiate(examples)[2]

    def footprint(self, *_: Any) -> Any:
        raise CapabilityError("softmax regression has no footprint")

    def _differentiate(self, batch: Examples) -> tuple[dict[str, float], dict[str, Any], Any]:
        features, targets = batch.inputs["features"], batch.targets
        scores = features @ self._parameters["weight"] + self._parameters["bias"]
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        rows = np.arange(len(targets))
        loss = -np.log(probabilities[rows, targets]).mean()
        accuracy = (probabilities.argmax(axis=1) == targets).mean()
        errors = probabilities.copy()
        errors[rows, targets] -= 1
        errors /= len(targets)
        gradients = {"weight": features.T @ errors, "bias": errors.sum(axis=0)}
        metrics = {"loss": float(loss), "accuracy": float(accuracy)}
        return metrics, gradients, errors @ self._parameters["weight"].T


@dataclass(frozen=True)
class Blobs:
    """Points around one centre a class; devices have different numbers of them."""

    num_devices: int = 6

    def device_ids(self) -> list[str]:
        return [f"device-{number:02d}" for number in range(self.num_devices)]

    def load(self, device_id: str) -> Examples:
        number = self.device_ids().index(device_id)
        return self._draw(8 + 3 * number, "train", device_id)

    def held_out(self, device_id: str | None = None) -> Examples:
        return self._draw(60 if device_id is None else 10, "held out", device_id or "server")

    def _draw(self, count: int, *purpose: str) -> Examples:
        generator = generator_for(1, *purpose)
        centres = np.random.default_rng(5).standard_normal((CLASSES, FEATURES)) * 2
        targets = generator.integers(0, CLASSES, count)
        features = centres[targets] + generator.standard_normal((count, FEATURES))
        return Examples({"features": features}, targets)


@dataclass(frozen=True)
class Clients:
    """Makes clients, some of which go wrong in given ways.

    Attributes:
        partitions: Their data.
        wrong: What a device does in a round, by ``device:round``: ``raise``, ``exit`` (its process
            ends), ``nan``, ``shape``, ``sleep``.
    """

    partitions: Blobs = dataclasses.field(default_factory=Blobs)
    wrong: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def device_ids(self) -> list[str]:
        return self.partitions.device_ids()

    def __call__(self) -> WaywardClient:
        return WaywardClient(BackendClient(SoftmaxRegression(), self.partitions), self.wrong)


@dataclass
class WaywardClient:
    """A client that goes wrong where it is told to."""

    client: BackendClient
    wrong: Mapping[str, str]

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        way = self.wrong.get(f"{task.device_id}:{task.round}")
        if way == "raise":
            raise RuntimeError("out of memory, says the device")
        if way == "exit":
            os._exit(9)
        if way == "sleep":
            time.sleep(3600)  # as good as for ever: it is stopped
        update = self.client.run(task, parameters)
        if way in {"nan", "shape"}:
            bias = np.full(CLASSES, np.nan) if way == "nan" else np.zeros(CLASSES + 1)
            return dataclasses.replace(update, parameters={**update.parameters, "bias": bias})
        return update


class UnmakeableClients:
    """Makes no client. Here and not in a test, so that other processes can import it."""

    def device_ids(self) -> list[str]:
        return ["only"]

    def __call__(self) -> WaywardClient:
        raise ValueError("no such artifact")


class StandingClock:
    """A clock that goes on by itself a second each time it is asked."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 1.0
        return self._now
