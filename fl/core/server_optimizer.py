"""Optimizers of the server, which take the mean change of a round for a negative gradient.

All are of Reddi et al., "Adaptive Federated Optimization" (2021), algorithm 2, but for Nesterov's
momentum, which is as torch's SGD has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]


class ServerOptimizer(Protocol):
    """Turns a mean change into the step that the server's model takes."""

    def start(self, change: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return what is kept between rounds before the first, for changes of these shapes."""
        ...

    def step(self, change: Mapping[str, NDArray[Any]], kept: Arrays) -> tuple[Arrays, Arrays]:
        """Return the step, to be added to the model, and what is kept for the next round.

        Args:
            change: By array, float64: mean of the clients' models minus the server's.
            kept: What the round before kept.
        """
        ...


@dataclass(frozen=True)
class Sgd:
    """Gradient descent; with a learning rate of 1 and no momentum, plain averaging.

    Attributes:
        learning_rate: Factor on the change.
        momentum: How much of the last step's direction is kept (FedAvgM, Hsu et al. 2019).
        nesterov: Whether to look ahead along the momentum.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_positive("server learning rate", self.learning_rate)
        _check_fraction("server momentum", self.momentum)
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a server momentum above 0")

    def start(self, change: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return a momentum of zero, none where there is no momentum."""
        return _zeros("momentum", change) if self.momentum else {}

    def step(self, change: Mapping[str, NDArray[Any]], kept: Arrays) -> tuple[Arrays, Arrays]:
        """Return the step and the new momentum."""
        if not self.momentum:
            return {name: self.learning_rate * array for name, array in change.items()}, {}
        steps: Arrays = {}
        momenta: Arrays = {}
        for name, array in change.items():
            momentum = self.momentum * kept[f"momentum/{name}"] + array
            direction = array + self.momentum * momentum if self.nesterov else momentum
            momenta[f"momentum/{name}"] = momentum
            steps[name] = self.learning_rate * direction
        return steps, momenta


@dataclass(frozen=True)
class Adaptive:
    """FedAdagrad, FedAdam and FedYogi: steps shortened where changes were large.

    Attributes:
        rule: How squares of changes are gathered.
        learning_rate, beta_1, beta_2, tau: As the paper has them; tau is how adaptive it is, and
            squares begin at its square. There is no correction of bias, as there is none there.
    """

    rule: Literal["adagrad", "adam", "yogi"]
    learning_rate: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.rule not in ("adagrad", "adam", "yogi"):
            raise ConfigError(f"rule must be adagrad, adam or yogi, got {self.rule!r}")
        _check_positive("server learning rate", self.learning_rate)
        _check_positive("tau", self.tau)
        _check_fraction("beta_1", self.beta_1)
        _check_fraction("beta_2", self.beta_2)

    def start(self, change: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return a momentum of zero and squares of tau squared."""
        squares = {f"squares/{name}": np.full(a.shape, self.tau**2) for name, a in change.items()}
        return _zeros("momentum", change) | squares

    def step(self, change: Mapping[str, NDArray[Any]], kept: Arrays) -> tuple[Arrays, Arrays]:
        """Return the step, and momentum and squares for the next round."""
        steps: Arrays = {}
        keeping: Arrays = {}
        for name, array in change.items():
            momentum = self.beta_1 * kept[f"momentum/{name}"] + (1 - self.beta_1) * array
            squares = self._gather(kept[f"squares/{name}"], array**2)
            keeping |= {f"momentum/{name}": momentum, f"squares/{name}": squares}
            steps[name] = self.learning_rate * momentum / (np.sqrt(squares) + self.tau)
        return steps, keeping

    def _gather(self, squares: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
        if self.rule == "adagrad":
            gathered: NDArray[Any] = squares + found
        elif self.rule == "adam":
            gathered = self.beta_2 * squares + (1 - self.beta_2) * found
        else:
            gathered = squares - (1 - self.beta_2) * found * np.sign(squares - found)
        return gathered


def _zeros(kind: str, like: Mapping[str, NDArray[Any]]) -> Arrays:
    return {f"{kind}/{name}": np.zeros(array.shape) for name, array in like.items()}


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} must be above 0, got {value}")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must be 0 or more and below 1, got {value}")
