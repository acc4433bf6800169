"""Projected gradient descent (Madry et al. 2018), on inputs and on features inside a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Gradient = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
    Losses = Callable[[NDArray[Any]], NDArray[Any]]

_TINY = 1e-12


class Ball(Protocol):
    """What an attacker may make of an example. Arrays are ``[batch, ...]``."""

    @property
    def radius(self) -> float:
        """How far from the example it may go."""
        ...

    def start(self, origin: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Return a point of the ball around each example, drawn at random."""
        ...

    def step(self, point: NDArray[Any], gradient: NDArray[Any], size: float) -> NDArray[Any]:
        """Return where a step of some size up a gradient leads, in the ball or not."""
        ...

    def project(self, point: NDArray[Any], origin: NDArray[Any]) -> NDArray[Any]:
        """Return points of the ball around each example that are near others."""
        ...


@dataclass(frozen=True)
class Linf:
    """No number of an example may change by more than a radius.

    Attributes:
        radius: The most.
        low, high: What numbers may be; pixels are from 0 to 1.
    """

    radius: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.radius < 0 or self.low >= self.high:
            raise ConfigError(f"want a radius of 0 or more and low < high, got {self}")

    def start(self, origin: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Return a point of the ball around each example, all as likely."""
        noise = generator.uniform(-self.radius, self.radius, origin.shape)
        return self.project(origin + noise.astype(origin.dtype), origin)

    def step(self, point: NDArray[Any], gradient: NDArray[Any], size: float) -> NDArray[Any]:
        """Return where a step by the gradient's signs leads."""
        return np.asarray(point + point.dtype.type(size) * np.sign(gradient))

    def project(self, point: NDArray[Any], origin: NDArray[Any]) -> NDArray[Any]:
        """Return the nearest points of the ball around each example."""
        radius = origin.dtype.type(self.radius)
        near = np.clip(point, origin - radius, origin + radius)
        return np.asarray(np.clip(near, self.low, self.high))


@dataclass(frozen=True)
class L2:
    """An example may move no farther than a radius, by the Euclidean length of all its numbers.

    Attributes:
        radius: The most.
        is_positive: Whether numbers stay 0 or more, as those behind a rectifier are.
    """

    radius: float
    is_positive: bool = False

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ConfigError(f"want a radius of 0 or more, got {self.radius}")

    def start(self, origin: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Return a point in a random direction from each example, at any distance as likely."""
        noise = generator.standard_normal(origin.shape).astype(origin.dtype)
        reach = generator.uniform(0, self.radius, _column(origin).shape).astype(origin.dtype)
        return self.project(origin + noise * (reach / (lengths(noise) + _TINY)), origin)

    def step(self, point: NDArray[Any], gradient: NDArray[Any], size: float) -> NDArray[Any]:
        """Return where a step along the gradient leads."""
        factor = point.dtype.type(size) / (lengths(gradient) + _TINY)
        return np.asarray(point + factor * gradient)

    def project(self, point: NDArray[Any], origin: NDArray[Any]) -> NDArray[Any]:
        """Return points of the ball around each example, towards which the others are."""
        change = point - origin
        factor = np.minimum(1, self.radius / (lengths(change) + _TINY)).astype(origin.dtype)
        near = origin + change * factor
        # Examples are in the positive part themselves, so this brings points nearer to them.
        return np.asarray(np.maximum(near, 0) if self.is_positive else near)


@dataclass(frozen=True)
class Attack:
    """How an attacker searches a ball.

    Attributes:
        steps: Gradients it sees.
        step_size: How far it goes by each; 0 for 2.5 times the radius over the number of steps,
            which reaches the border from anywhere.
        restarts: Searches, each from a point of its own.
        keep: ``last``: where the last step led, as training does; ``best``: the point of all that
            were seen with the greatest loss, example for example, as measuring has to.

    Raises:
        ConfigError: A number is out of range.
    """

    steps: int = 10
    step_size: float = 0.0
    restarts: int = 1
    keep: Literal["last", "best"] = "best"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.step_size < 0:
            raise ConfigError(f"want 1 step and restart or more, and no step below 0, got {self}")
        if self.keep not in ("last", "best"):
            raise ConfigError(f"keep must be 'last' or 'best', got {self.keep!r}")
        if self.keep == "last" and self.restarts > 1:
            raise ConfigError("of several restarts the best is kept, never the last")


def perturb(
    attack: Attack,
    ball: Ball,
    origin: NDArray[Any],
    gradient: Gradient,
    losses: Losses,
    generator: np.random.Generator,
) -> NDArray[Any]:
    """Return examples that a model finds harder.

    Args:
        attack: How they are searched.
        ball: Where.
        origin: The examples, ``[batch, ...]``.
        gradient: Returns the loss of each example ``[batch]``, and its gradient by the example.
        losses: Returns the loss of each example alone.
        generator: Draws where searches start.
    """
    best, most = origin, np.full(len(origin), -np.inf)
    for _ in range(attack.restarts):
        point = ball.start(origin, generator)
        size = attack.step_size or 2.5 * ball.radius / attack.steps
        for _ in range(attack.steps):
            found, slope = gradient(point)
            if attack.keep == "best":
                best, most = _better(point, found, best, most)
            point = ball.project(ball.step(point, slope, size), origin)
        if attack.keep == "last":
            return point
        best, most = _better(point, losses(point), best, most)
    return best


def lengths(arrays: NDArray[Any]) -> NDArray[Any]:
    """Return the Euclidean length of each example, ``[batch, 1, ...]``."""
    flat = arrays.reshape(len(arrays), -1)
    return np.asarray(np.linalg.norm(flat, axis=1)).reshape(_column(arrays).shape)


def _column(arrays: NDArray[Any]) -> NDArray[Any]:
    return np.empty((len(arrays), *[1] * (arrays.ndim - 1)), arrays.dtype)


def _better(
    point: NDArray[Any], found: NDArray[Any], best: NDArray[Any], most: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    is_better = found > most
    column = is_better.reshape(_column(point).shape)
    return np.where(column, point, best), np.where(is_better, found, most)
