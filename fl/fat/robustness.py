"""What a model withstands, as the field reports it, with checks that the figures can be trusted.

Carlini et al., On Evaluating Adversarial Robustness, 2019: attacks on the whole model by who knows
all of it, more steps and restarts, attacks without gradients, strength swept until nothing is left.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.spans import Exit, Piece
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import survivors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples
    from hocket.fl.core.spans import Spans
    from hocket.fl.fat.libraries import Scores

PGD20, PGD100 = "pgd-20", "pgd-100"
AUTOATTACK, SQUARE, DECISION = "autoattack", "square", "decision"
EXITS, SWEEP = "exits", "sweep"
ATTACKS = (PGD20, PGD100, AUTOATTACK, SQUARE, DECISION, EXITS, SWEEP)
"""Names of attacks: gradients, a library's ensemble, its search without gradients, one that sees
classes alone, gradients of early exits, gradients within balls of all sizes."""

SWEPT = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Radii of a sweep, as shares of the radius; the last is 1, the largest change there can be."""

_STEPS = {PGD20: 20, PGD100: 100}
_NOTHING_LEFT = 0.01


@dataclass(frozen=True)
class Evaluation:
    """How a model is attacked.

    Attributes:
        radius: The largest change of a number of the input.
        attacks: Which of ``ATTACKS``.
        restarts: Of attacks by gradients.
        tolerance: Share of examples by which an attack may do better than one it should not beat,
            and the figures still be trusted; one example always may.
        queries: Of the search without gradients.
        decision_steps: Of the attack that sees classes alone.
        batch_size: Examples at a time.

    Raises:
        ConfigError: A number is out of range, or there is no such attack.
    """

    radius: float
    attacks: tuple[str, ...] = ATTACKS
    restarts: int = 3
    tolerance: float = 0.01
    queries: int = 5000
    decision_steps: int = 20
    batch_size: int = 64

    def __post_init__(self) -> None:
        odd = [name for name in self.attacks if name not in ATTACKS]
        if odd:
            raise ConfigError(f"no attack {odd[0]!r}; there are {', '.join(ATTACKS)}")
        if not 0 < self.radius <= 1:
            raise ConfigError(f"radius must be above 0 and at most 1, got {self.radius}")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance must be from 0 to 1, got {self.tolerance}")


@dataclass(frozen=True)
class Check:
    """One reason to trust figures, or not to.

    Attributes:
        name: What has to hold.
        is_passed: Whether it does.
        detail: The figures.
    """

    name: str
    is_passed: bool
    detail: str


@dataclass(frozen=True)
class RobustnessReport:
    """What a model withstands.

    Attributes:
        num_examples: It was attacked on.
        radius: Within which.
        clean: Accuracy without an attack.
        accuracies: Under each attack, by its name.
        worst: Under all of them: an example that any of them breaks is broken.
        sweep: Accuracy by radius, where it was swept.
        flags: AutoAttack's warnings.
        checks: Whether the figures can be trusted.
    """

    num_examples: int
    radius: float
    clean: float
    accuracies: Mapping[str, float]
    worst: float
    sweep: Mapping[float, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


def evaluate_robustness(
    spans: Spans,
    scores: Scores,
    examples: Examples,
    how: Evaluation,
    seed: int,
    *,
    exits: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> RobustnessReport:
    """Return what a composed model with its final head withstands.

    Args:
        spans: The model.
        scores: Of the same model, for attacks of libraries.
        examples: That nobody has trained on, numbers from 0 to 1.
        how: It is attacked.
        seed: Of all searches.
        exits: Borders that have an early exit.
        progress: Told what is being done, how much of it is, and of how much.
    """
    found = _Figures(spans, scores, examples, how, seed, tuple(exits))
    for number, name in enumerate(how.attacks):
        if progress is not None:
            progress(name, number, len(how.attacks))
        found.run(name)
    return found.report()


class _Figures:
    """Which examples survive which attack, as far as attacks have run."""

    def __init__(
        self,
        spans: Spans,
        scores: Scores,
        examples: Examples,
        how: Evaluation,
        seed: int,
        exits: tuple[str, ...],
    ) -> None:
        self._spans, self._scores, self._examples = spans, scores, examples
        self._how, self._seed, self._exits = how, seed, exits
        (self._inputs,) = examples.inputs.values()
        self._robust: dict[str, NDArray[np.bool_]] = {}
        self._sweep: dict[float, float] = {}
        self._flags: tuple[str, ...] = ()
        self._clean = self._survive(None)
        self._tolerance = max(how.tolerance, 1.5 / len(self._clean))

    def run(self, name: str) -> None:
        """Attack the model in one way."""
        how = self._how
        if name in _STEPS:
            self._robust[name] = self._survive(Attack(_STEPS[name], restarts=how.restarts))
        elif name == EXITS and self._exits:
            attack, alive = Attack(_STEPS[PGD20], restarts=how.restarts), self._clean.copy()
            for border in self._exits:
                alive &= self._survive(attack, Exit(border))
            self._robust[name] = alive
        elif name == SWEEP:
            self._sweep_radii()
        elif name in (AUTOATTACK, SQUARE, DECISION):
            self._run_library(name)

    def _survive(self, attack: Attack | None, attacked: Exit | None = None) -> NDArray[np.bool_]:
        return self._within(self._how.radius, attack, attacked)

    def _within(
        self, radius: float, attack: Attack | None, attacked: Exit | None = None
    ) -> NDArray[np.bool_]:
        return survivors(
            self._spans,
            self._examples,
            Linf(radius),
            attack,
            self._seed,
            exits=(attacked or Exit(),),
            judged=Exit(),
            batch_size=self._how.batch_size,
        ).attacked

    def _sweep_radii(self) -> None:
        radii = [min(share * self._how.radius, 1.0) for share in SWEPT]
        for radius in dict.fromkeys([*radii, 1.0]):
            attack = Attack(_STEPS[PGD100]) if radius else None
            self._sweep[radius] = float(self._within(radius, attack).mean())

    def _run_library(self, name: str) -> None:
        from hocket.fl.fat.libraries import auto_attack, decision_attack

        how, targets = self._how, self._examples.targets
        if name == DECISION:
            self._robust[name] = decision_attack(
                self._scores,
                self._inputs,
                targets,
                self._inputs,
                how.radius,
                self._seed,
                steps=how.decision_steps,
                batch_size=how.batch_size,
            )
            return
        only: dict[str, Any] = {"attacks": (SQUARE,)} if name == SQUARE else {}
        found = auto_attack(
            self._scores,
            self._inputs,
            targets,
            how.radius,
            self._seed,
            batch_size=how.batch_size,
            queries=how.queries,
            **only,
        )
        self._robust[name] = found.is_robust
        self._flags = tuple(dict.fromkeys((*self._flags, *found.flags)))

    def report(self) -> RobustnessReport:
        """Return all figures, and what they say about each other."""
        worst = self._clean.copy()
        for alive in self._robust.values():
            worst &= alive
        return RobustnessReport(
            num_examples=len(self._clean),
            radius=self._how.radius,
            clean=float(self._clean.mean()),
            accuracies={name: float(alive.mean()) for name, alive in self._robust.items()},
            worst=float(worst.mean()),
            sweep=dict(self._sweep),
            flags=self._flags,
            checks=tuple(self._checks()),
        )

    def _checks(self) -> list[Check]:
        checks = self._model_checks()
        if PGD20 in self._robust:
            one = float((self._survive(Attack(1)) & self._clean).mean())
            many = float(self._robust[PGD20].mean())
            checks.append(
                Check(
                    "many steps break as much as one",
                    many <= one + self._tolerance,
                    f"{one:.1%} after one step, {many:.1%} after {_STEPS[PGD20]}",
                )
            )
        if PGD20 in self._robust and PGD100 in self._robust:
            checks.append(self._more(PGD100, PGD20, "more steps break no more"))
        white = self._white_box()
        if white is not None:
            without = "no gradients break no more than gradients"
            classes = "classes alone break no more than gradients"
            early = "early exits' gradients break no more than the final head's"
            for name, text in ((SQUARE, without), (DECISION, classes), (EXITS, early)):
                if name in self._robust:
                    checks.append(self._beyond(name, white, text))
        if self._sweep:
            checks += self._sweep_checks()
        if self._flags:
            checks.append(Check("AutoAttack has no doubts", False, "; ".join(self._flags)))
        elif AUTOATTACK in self._robust:
            checks.append(Check("AutoAttack has no doubts", True, "no flags"))
        return checks

    def _model_checks(self) -> list[Check]:
        """Return whether attacks by gradients have something to go by, with the same each time."""
        targets, size = self._examples.targets, self._how.batch_size
        num_zero, is_same = 0, True
        for start in range(0, len(targets), size):
            part = self._inputs[start : start + size], targets[start : start + size]
            losses, gradient = self._spans.gradient(Piece(), *part)
            num_zero += int((np.abs(gradient).reshape(len(losses), -1).max(axis=1) == 0).sum())
            again = self._spans.losses(Piece(), *part)[0]
            is_same &= bool(np.allclose(losses, again, rtol=1e-4, atol=1e-5))
        detail = f"{num_zero} of {len(targets)} examples have none"
        return [
            Check("there are gradients", num_zero <= self._tolerance * len(targets), detail),
            Check("the same input has the same loss", is_same, "each measured twice"),
        ]

    def _white_box(self) -> NDArray[np.bool_] | None:
        """Return what attacks by the gradients of the final head have left."""
        having = [self._robust[n] for n in (PGD20, PGD100, AUTOATTACK) if n in self._robust]
        return np.logical_and.reduce(having) if having else None

    def _more(self, name: str, like: str, text: str) -> Check:
        lost = float(self._robust[like].mean() - self._robust[name].mean())
        return Check(text, lost <= self._tolerance, f"{name} breaks {lost:+.1%} beyond {like}")

    def _beyond(self, name: str, white: NDArray[np.bool_], text: str) -> Check:
        extra = float((white & ~self._robust[name]).mean())
        detail = f"{name} breaks {extra:.1%} that gradients of the final head do not"
        return Check(text, extra <= self._tolerance, detail)

    def _sweep_checks(self) -> list[Check]:
        radii = sorted(self._sweep)
        values = [self._sweep[radius] for radius in radii]
        rise = max((b - a for a, b in itertools.pairwise(values)), default=0.0)
        return [
            Check(
                "a larger ball leaves less",
                rise <= self._tolerance,
                f"the largest rise is {max(rise, 0.0):.1%}",
            ),
            Check(
                "nothing is left in the largest ball",
                values[-1] <= _NOTHING_LEFT,
                f"{values[-1]:.1%} at radius {radii[-1]:g}",
            ),
        ]
