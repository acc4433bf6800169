"""Attacks of libraries that others keep: AutoAttack, Square, and one that sees classes alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Scores = Callable[[torch.Tensor], torch.Tensor]
"""Scores ``[batch, classes]`` of examples; torch can differentiate them."""

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of AutoAttack's standard version, in their order (Croce and Hein 2020)."""

SQUARE = "square"
_MOST_TARGETS = 9
_SQUARE_GAIN = 0.002
_LOGGER = "auto-attack"


@dataclass(frozen=True, eq=False)
class AutoAttacked:
    """What AutoAttack came to.

    Attributes:
        accuracies: After each of its attacks, those before it counted.
        is_robust: Examples that none has broken, ``[examples]``.
        flags: What makes the figure doubtful, in its own words, and where Square, which sees no
            gradients, breaks more than 0.2 % of the examples that the others have not.
    """

    accuracies: Mapping[str, float]
    is_robust: NDArray[np.bool_]
    flags: tuple[str, ...]


def auto_attack(
    scores: Scores,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    radius: float,
    seed: int,
    *,
    attacks: Sequence[str] = STANDARD,
    batch_size: int = 64,
    queries: int = 5000,
) -> AutoAttacked:
    """Return what AutoAttack leaves of a model, within a largest change of each pixel.

    Args:
        scores: Of the model.
        inputs: Examples from 0 to 1, ``[examples, channels, height, width]``.
        targets: Classes.
        radius: The largest change.
        seed: Of its searches.
        attacks: Of the standard version, in an order.
        batch_size: Examples at a time.
        queries: That Square makes at most; 5000 are standard.

    Raises:
        ConfigError: The library is not installed.
    """
    with _needing():
        from pyautoattack import AutoAttack
    robust = np.ones(len(targets), bool)
    accuracies: dict[str, float] = {}
    with _warnings() as flags, torch.random.fork_rng():
        torch.manual_seed(seed)
        whole = AutoAttack(_Module(scores), eps=radius, seed=seed, version="standard")
        whole.square.n_queries = queries
        with torch.no_grad():
            first = scores(torch.from_numpy(inputs[:batch_size]))
        others = min(_MOST_TARGETS, first.shape[1] - 1)
        whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = others
        robust &= _is_right(scores, inputs, targets, batch_size)
        for name in attacks:
            left = np.flatnonzero(robust)
            if len(left):
                whole.attacks_to_run = [name]
                moved, _ = whole.run_standard_evaluation(
                    torch.from_numpy(inputs[left]),
                    torch.from_numpy(targets[left].astype(np.int64)),
                    batch_size=batch_size,
                )
                moved = _within(moved.numpy(), inputs[left], radius)
                robust[left] = _is_right(scores, moved, targets[left], batch_size)
            before = min(accuracies.values(), default=1.0)
            accuracies[name] = float(robust.mean())
            if name == SQUARE and len(accuracies) > 1 and before - robust.mean() > _SQUARE_GAIN:
                flags.append(
                    f"Square, which sees no gradients, broke {before - robust.mean():.1%} more"
                )
    return AutoAttacked(accuracies, robust, tuple(dict.fromkeys(flags)))


def decision_attack(
    scores: Scores,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    others: NDArray[Any],
    radius: float,
    seed: int,
    *,
    steps: int = 20,
    batch_size: int = 64,
) -> NDArray[np.bool_]:
    """Return which examples HopSkipJump does not break; it sees nothing but classes.

    It makes the way to an example of another class shorter (Chen et al. 2020).

    Args:
        scores: Of the model.
        inputs: Examples from 0 to 1.
        targets: Classes.
        others: Examples to begin at; for each the first that the model takes for another class.
        radius: The largest change of a pixel that counts.
        seed: Of its searches.
        steps: It takes.
        batch_size: Examples at a time.

    Raises:
        ConfigError: The library is not installed.
    """
    with _needing():
        from foolbox.attacks.hop_skip_jump import HopSkipJumpAttack
        from foolbox.models.pytorch import PyTorchModel
    robust = _is_right(scores, inputs, targets, batch_size)
    said = _classes(scores, others, batch_size)
    model = PyTorchModel(_Module(scores).eval(), bounds=(0, 1), device="cpu")
    attack = HopSkipJumpAttack(steps=steps, constraint="linf", initial_gradient_eval_steps=50)
    beginnings = {
        each: np.flatnonzero(said != each)[:1] for each in np.unique(targets[robust]).tolist()
    }
    left = np.array([i for i in np.flatnonzero(robust) if len(beginnings[int(targets[i])])], int)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(left), batch_size):
            part = left[start : start + batch_size]
            begun = others[[beginnings[int(targets[i])][0] for i in part]]
            moved = attack.run(
                model,
                torch.from_numpy(inputs[part]),
                torch.from_numpy(targets[part].astype(np.int64)),
                starting_points=torch.from_numpy(begun),
            ).numpy()
            far = np.abs(moved - inputs[part]).reshape(len(part), -1).max(axis=1)
            wrong = ~_is_right(scores, moved, targets[part], batch_size)
            robust[part[wrong & (far <= radius)]] = False
    return robust


def _is_right(
    scores: Scores, inputs: NDArray[Any], targets: NDArray[Any], batch_size: int
) -> NDArray[np.bool_]:
    return np.asarray(_classes(scores, inputs, batch_size) == targets)


def _classes(scores: Scores, inputs: NDArray[Any], batch_size: int) -> NDArray[Any]:
    with torch.no_grad():
        found = [
            scores(torch.from_numpy(inputs[start : start + batch_size])).argmax(dim=1).numpy()
            for start in range(0, len(inputs), batch_size)
        ]
    return np.concatenate(found)


def _within(moved: NDArray[Any], origin: NDArray[Any], radius: float) -> NDArray[Any]:
    """Return points in the ball: what a library rounds beyond its border does not count."""
    near = np.clip(moved, origin - origin.dtype.type(radius), origin + origin.dtype.type(radius))
    return np.asarray(np.clip(near, 0, 1))


class _Module(torch.nn.Module):
    """Scores as libraries take them."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self._scores = scores

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # A copy: Square writes into what it is given.
        return self._scores(inputs).clone()


class _Collected(logging.Handler):
    """Keeps what a library warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().partition(" See ")[0])


@contextlib.contextmanager
def _needing() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; pip install 'hocket[robustness]'") from error


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Keep what AutoAttack warns of, instead of showing it."""
    logger, handler = logging.getLogger(_LOGGER), _Collected()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
