"""How robust a classifier is: accuracies under attacks that see all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.fl.core.seeds import generator_for
from hocket.fl.core.spans import Exit, Piece
from hocket.fl.fat.attack import perturb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples, Partitions
    from hocket.fl.fat.attack import Attack, Ball

_DECILE = 10


class Attackable(Protocol):
    """What can be attacked: a model in pieces, or ``FrozenModules`` and a piece behind them."""

    def losses(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example, and the scores of the piece's last exit."""
        ...

    def gradient(
        self, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the loss of each example and its gradient by the input."""
        ...


@dataclass(frozen=True)
class Robustness:
    """Accuracies on the same examples.

    Attributes:
        clean: As they are.
        attacked: As the attacker leaves them; an example that is wrong as it is counts as wrong.
        num_examples: How many there are.
    """

    clean: float
    attacked: float
    num_examples: int


@dataclass(frozen=True, eq=False)
class Survivors:
    """Which examples a model is right about.

    Attributes:
        clean: As they are, ``[examples]``.
        attacked: As the attacker leaves them, too.
    """

    clean: NDArray[np.bool_]
    attacked: NDArray[np.bool_]

    @property
    def robustness(self) -> Robustness:
        """The accuracies."""
        count = len(self.clean)
        return Robustness(int(self.clean.sum()) / count, int(self.attacked.sum()) / count, count)


@dataclass(frozen=True)
class ClientRobustness:
    """Accuracies on what each device holds out.

    Attributes:
        devices: Of each, by its name.
    """

    devices: dict[str, Robustness]

    def mean(self, figure: str) -> float:
        """Return the mean over devices of ``clean`` or ``attacked``, each counting alike."""
        return float(np.mean([getattr(each, figure) for each in self.devices.values()]))

    def worst_decile(self, figure: str) -> float:
        """Return the mean over the tenth of the devices, one at least, that have the lowest."""
        values = sorted(getattr(each, figure) for each in self.devices.values())
        return float(np.mean(values[: max(1, len(values) // _DECILE)]))


def accuracy_under(
    spans: Attackable,
    examples: Examples,
    ball: Ball,
    attack: Attack | None,
    seed: int,
    *,
    start: str = "",
    exits: Sequence[Exit] = (Exit(),),
    batch_size: int = 64,
) -> Robustness:
    """Return how often a model is right, and how often still when it is attacked at its input.

    Arguments are those of ``survivors``; accuracies are of the last of the exits.
    """
    found = survivors(
        spans, examples, ball, attack, seed, start=start, exits=exits, batch_size=batch_size
    )
    return found.robustness


def survivors(
    spans: Attackable,
    examples: Examples,
    ball: Ball,
    attack: Attack | None,
    seed: int,
    *,
    start: str = "",
    exits: Sequence[Exit] = (Exit(),),
    judged: Exit | None = None,
    batch_size: int = 64,
) -> Survivors:
    """Return which examples a model is right about, before and after it is attacked at its input.

    The attack is on the whole of it, from the input to the last of the exits: with the default on
    the composed model with its own scores. An example is broken if one of the searches breaks it.

    Args:
        spans: The model.
        examples: What it is measured on.
        ball: What the attacker may do.
        attack: How it searches; None to measure clean accuracy alone, which is then both.
        seed: Draws where searches start.
        start: Name of the border that the exits' piece begins behind, where ``spans`` has what is
            before it.
        exits: What the attacker makes greater the loss of.
        judged: What says the class; None for the last of these exits.
        batch_size: Examples at a time.
    """
    (inputs,) = examples.inputs.values()
    piece, generator = Piece(start, tuple(exits)), generator_for(seed, "evaluation")
    judge = piece if judged is None else Piece(start, (judged,))
    searches = [] if attack is None else [replace(attack, restarts=1)] * attack.restarts
    clean, attacked = [], []
    for first in range(0, len(examples), batch_size):
        part = slice(first, first + batch_size)
        origin, targets = inputs[part], examples.targets[part]
        is_right = _is_right(spans, judge, origin, targets)
        clean.append(is_right.copy())
        # The greatest loss of several searches need not be the one that is wrong.
        for search in searches:
            moved = attack_piece(spans, piece, search, ball, origin, targets, generator)
            is_right &= _is_right(spans, judge, moved, targets)
        attacked.append(is_right)
    return Survivors(np.concatenate(clean), np.concatenate(attacked))


def accuracy_of_clients(
    spans: Attackable,
    partitions: Partitions,
    ball: Ball,
    attack: Attack | None,
    seed: int,
    batch_size: int = 64,
) -> ClientRobustness:
    """Return how robust a model is on what each device holds out.

    Args:
        spans: The model.
        partitions: Everyone's data.
        ball, attack, seed, batch_size: As ``survivors`` takes them.
    """
    return ClientRobustness(
        {
            name: accuracy_under(
                spans, partitions.held_out(name), ball, attack, seed, batch_size=batch_size
            )
            for name in partitions.device_ids()
        }
    )


def attack_piece(
    spans: Attackable,
    piece: Piece,
    attack: Attack,
    ball: Ball,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    generator: np.random.Generator,
) -> NDArray[Any]:
    """Return what an attack on a piece of a model makes of what the piece is given.

    Args:
        spans: The model.
        piece: Its loss is what the attack makes greater.
        attack, ball, generator: As ``perturb`` takes them.
        inputs: What the piece is given, ``[batch, ...]``.
        targets: Classes, ``[batch]``.
    """
    return perturb(
        attack,
        ball,
        inputs,
        lambda point: spans.gradient(piece, point, targets),
        lambda point: spans.losses(piece, point, targets)[0],
        generator,
    )


def _is_right(
    spans: Attackable, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
) -> NDArray[np.bool_]:
    scores = spans.losses(piece, inputs, targets)[1]
    return np.asarray(scores.argmax(axis=1) == targets)
