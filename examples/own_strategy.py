"""A strategy and a backend of one's own, each one small class, on scikit-learn's digits.

The strategy takes the median of what devices send, which no single device can carry away (Yin et
al. 2018). The backend is softmax regression in numpy: no compiler, no torch. `own_strategy.toml`
names both, so `hocket federate run examples/own_strategy.toml` runs them on any engine.

It needs the extras ``fl`` and ``data``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hocket
from hocket.fl.config import load_config
from hocket.fl.core.backend import EVALUATE, TRAIN, LocalTraining, Result
from hocket.fl.core.observers import Silent
from hocket.fl.core.parameters import check_alike
from hocket.fl.core.strategy import ServerState
from hocket.fl.strategies.averaging import FederatedAveraging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.data import Examples
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate, RoundReport


class MedianOfDevices(FederatedAveraging):
    """Whom to ask is FedAvg's; each number of the model becomes the median of the devices'."""

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return the state after a round; medians do not depend on the order of updates."""
        median = {
            name: np.median([each.parameters[name] for each in updates], axis=0).astype(array.dtype)
            for name, array in state.parameters.items()
        }
        return ServerState(median, state.kept)


class SoftmaxRegression:
    """Images of 8 x 8 to ten digits. It says what it can do, and is asked for nothing else."""

    capabilities = frozenset({TRAIN, EVALUATE})

    def __init__(self) -> None:
        self._arrays = {"weight": np.zeros((64, 10)), "bias": np.zeros(10)}

    def parameters(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_parameters(self, parameters: Parameters) -> None:
        """Take on parameters."""
        check_alike(parameters, self._arrays, "parameters")
        self._arrays = {name: array.copy() for name, array in parameters.items()}

    def train(self, training: LocalTraining, examples: Examples, seed: int) -> Result:
        """Train with plain SGD; everything random comes from the seed."""
        generator = np.random.default_rng(seed)
        for _ in range(training.epochs):
            for batch in examples.batches(training.batch_size, generator):
                pixels, errors, _ = self._measure(batch)
                self._arrays["weight"] -= training.learning_rate * pixels.T @ errors / len(batch)
                self._arrays["bias"] -= training.learning_rate * errors.mean(axis=0)
        return Result(len(examples), self.evaluate(examples).metrics)

    def evaluate(self, examples: Examples, batch_size: int = 256) -> Result:
        """Measure the model it has."""
        del batch_size
        _, _, metrics = self._measure(examples)
        return Result(len(examples), metrics)

    def _measure(self, batch: Examples) -> tuple[Any, Any, dict[str, float]]:
        pixels = batch.inputs["pixels"].reshape(len(batch), -1)
        scores = pixels @ self._arrays["weight"] + self._arrays["bias"]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        rows = np.arange(len(batch))
        right = shares.argmax(axis=1) == batch.targets
        loss = -np.log(shares[rows, batch.targets])
        errors = shares.copy()
        errors[rows, batch.targets] -= 1
        return pixels, errors, {"loss": float(loss.mean()), "accuracy": float(right.mean())}


class Told(Silent):
    """Prints every fifth round."""

    def finished(self, report: RoundReport) -> None:
        """Print what a round came to."""
        if report.round % 5 == 0:
            accuracy = report.evaluate_metrics["server_accuracy"]
            print(f"round {report.round}: accuracy {accuracy:.3f}")


def main() -> None:
    """Run the federation that the file beside this one describes."""
    path = Path(__file__).with_suffix(".toml")
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(path, {"federation.folder": folder})
        result = hocket.federate(config, observers=[Told()])
    print(f"digest {result.digest[:16]}")


if __name__ == "__main__":
    main()
