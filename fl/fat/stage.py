"""How far FedProphet has come: which module is being trained, and what was best so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Phase(IntEnum):
    """What the next round of a stage is for.

    ``TRAIN``: its modules are trained, and the model that devices were given is scored. ``SCORE``:
    the last of these models is, as well. ``MEASURE``: how far the attack moves the best one's
    features.
    """

    TRAIN = 0
    SCORE = 1
    MEASURE = 2


_STAGE, _RATIOS, _BEST = "stage.", "ratios", "best."
_LEAST_ACCURACY = 1e-3  # a ratio to no accuracy at all would have no mean


@dataclass(frozen=True, eq=False)
class StageState:
    """What a server knows of the stage it is in.

    Attributes:
        number: Of the module that is trained; as many as there are modules once all are done.
        round: Rounds of this stage that have trained.
        phase: What the next round is for.
        base_radius: How far the attack on the module before moves its features.
        alpha: Share of it that features are attacked by.
        wanted_ratio: Clean over adversarial accuracy of the best model of the stage before.
        best_score, best_ratio, best_alpha, best_round: Of the best model of this stage; a score of
            minus infinity before there is one.
        ratios: Of this stage's rounds so far.
        best: That model's parameters.
    """

    number: int = 0
    round: int = 0
    phase: Phase = Phase.TRAIN
    base_radius: float = 0.0
    alpha: float = 1.0
    wanted_ratio: float = 1.0
    best_score: float = -math.inf
    best_ratio: float = 1.0
    best_alpha: float = 1.0
    best_round: int = 0
    ratios: tuple[float, ...] = ()
    best: Mapping[str, NDArray[Any]] | None = None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return it as arrays, which ``from_arrays`` reads."""
        found: dict[str, NDArray[Any]] = {
            f"{_STAGE}{name}": np.array(float(getattr(self, name))) for name in _SCALARS
        }
        found[_RATIOS] = np.array(self.ratios, np.float64)
        return found | {f"{_BEST}{name}": array for name, array in (self.best or {}).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> StageState:
        """Return what ``to_arrays`` made arrays of."""
        scalars = {name: kind(arrays[f"{_STAGE}{name}"].item()) for name, kind in _SCALARS.items()}
        best = {
            name.removeprefix(_BEST): array
            for name, array in arrays.items()
            if name.startswith(_BEST)
        }
        return cls(**scalars, ratios=tuple(arrays[_RATIOS].tolist()), best=best or None)


_SCALARS: dict[str, Any] = {
    each.name: type(each.default)
    for each in fields(StageState)
    if each.name not in ("ratios", "best")
}


def ratio_of(clean: float, adversarial: float) -> float:
    """Return clean over adversarial accuracy."""
    return clean / max(adversarial, _LEAST_ACCURACY)
