"""How robust a classifier is: accuracies under attacks that see all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.seeds import generator_for
from hocket.fl.core.spans import Exit, Piece
from hocket.fl.fat.attack import perturb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples
    from hocket.fl.core.spans import Spans
    from hocket.fl.fat.attack import Attack, Ball


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


def accuracy_under(
    spans: Spans,
    examples: Examples,
    ball: Ball,
    attack: Attack | None,
    seed: int,
    *,
    exits: Sequence[Exit] = (Exit(),),
    batch_size: int = 64,
) -> Robustness:
    """Return how often a model is right, and how often still when it is attacked at its input.

    The attack is on the whole of it, from the input to the last of the exits: with the default on
    the composed model with its own scores. An example is broken if one of the searches breaks it.

    Args:
        spans: The model.
        examples: What it is measured on.
        ball: What the attacker may do.
        attack: How it searches; None to measure clean accuracy alone, which is then both.
        seed: Draws where searches start.
        exits: What the attacker sees and the accuracy is of, the last one.
        batch_size: Examples at a time.
    """
    (inputs,) = examples.inputs.values()
    piece, generator = Piece("", tuple(exits)), generator_for(seed, "evaluation")
    searches = [] if attack is None else [replace(attack, restarts=1)] * attack.restarts
    num_right = num_robust = 0
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        origin, targets = inputs[part], examples.targets[part]
        is_right = _is_right(spans, piece, origin, targets)
        num_right += int(is_right.sum())
        # The greatest loss of several searches need not be the one that is wrong.
        for search in searches:
            moved = attack_piece(spans, piece, search, ball, origin, targets, generator)
            is_right &= _is_right(spans, piece, moved, targets)
        num_robust += int(is_right.sum())
    count = len(examples)
    return Robustness(num_right / count, num_robust / count, count)


def attack_piece(
    spans: Spans,
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
    spans: Spans, piece: Piece, inputs: NDArray[Any], targets: NDArray[Any]
) -> NDArray[np.bool_]:
    scores = spans.losses(piece, inputs, targets)[1]
    return np.asarray(scores.argmax(axis=1) == targets)
