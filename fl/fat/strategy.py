"""FedProphet's server: stages, what devices train in them, and when a stage ends.

Tang et al., FedProphet, MLSys 2025. Where we differ:

- Accuracies that steer alpha, stopping and the choice of the best model, and how far features
  move, come from the devices of a round, of the model they were given, on what they hold out. The
  authors ask all devices in each round, as ``steering="all"`` does. No figure of the server's own
  test set is used.
- Gradients of early exits are zeroed between steps (``keeps_exit_gradients``).
- With ``attack="input"`` later modules, too, are attacked at the model's input, through the frozen
  modules, of which one at a time is in memory. There is no radius of features to be measured or
  adjusted then.
- An early exit that has no weight in a device's loss is neither trained nor sent back.
- A device without the memory for the stage's own module gets no task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from hocket.fl.core.aggregation import mean_metrics
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import derive_seed, generator_for
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientTask
from hocket.fl.fat.aggregation import mean_of_parts
from hocket.fl.fat.assignment import Resources, assign, fitting
from hocket.fl.fat.cascade import ADVERSARIAL, CLEAN, DISPLACEMENT, Attacked, StageTask
from hocket.fl.fat.perturbation import Adjustment
from hocket.fl.fat.stage import Phase, StageState, ratio_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate, Device, Kind
    from hocket.fl.fat.assignment import SpanCost
    from hocket.fl.fat.partition import Cascade

    Availability = Callable[[int, int, Sequence[Device]], Mapping[str, Resources]]
    """Returns what devices have in a round, from the federation's seed and the round's number."""


@dataclass(frozen=True)
class CascadeSettings:
    """How a cascade is trained; defaults are the authors' for CIFAR-10.

    Attributes:
        rounds_per_stage: Most rounds that a module is trained.
        later_rounds: The same for all modules but the first; 0 for as many.
        warm_up: Rounds at the start of each stage that train on clean examples.
        patience: Rounds without a better model after which a stage ends.
        settle: Rounds after the warm-up that no model of is kept as the best, nor alpha changed.
        adjust_every: Rounds from one look at alpha to the next; 0 to leave alpha alone.
        input_radius: Of the ball around inputs, by the largest change of a number.
        steps: Of the attack in training.
        measure_steps: Of the attack on what devices hold out.
        attack: What attacks in training change: the ``features`` that a module is given, or the
            model's ``input``.
        convexity: Of early exits' losses (mu).
        prophet: How much the exit of a prophet's last module counts (psi); at 0 there are none.
        learning_rate_decay: Factor of the learning rate from round to round within a stage.
        stage_learning_rate_decay: From the first round of a stage to that of the next.
        fraction_train: Share of all devices that take part in a round.
        fraction_evaluate: Share of all devices that measure the composed model when the plan
            evaluates; nothing follows from it.
        steering: Who measures what alpha, stopping and the next stage's radius follow from: the
            devices of a ``round``, or ``all``.
        measured_radius: Of the attack that a stage's displacement is measured by: ``whole``, the
            stage's base radius, or ``alpha``, the part of it that the stage was trained in, as the
            authors do. Then radii shrink by alpha with each stage.
        keeps_exit_gradients: Whether gradients of early exits add up from step to step, as in the
            authors' code.

    Raises:
        ConfigError: A number is out of range.
    """

    rounds_per_stage: int = 500
    later_rounds: int = 0
    warm_up: int = 100
    patience: int = 50
    settle: int = 25
    adjust_every: int = 50
    input_radius: float = 8 / 255
    steps: int = 10
    measure_steps: int = 20
    attack: Attacked = "features"
    convexity: float = 1e-5
    prophet: float = 1.0
    learning_rate_decay: float = 0.994
    stage_learning_rate_decay: float = 1.0
    fraction_train: float = 0.1
    fraction_evaluate: float = 0.0
    steering: Literal["round", "all"] = "round"
    measured_radius: Literal["whole", "alpha"] = "whole"
    keeps_exit_gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("rounds_per_stage", "patience", "steps", "measure_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in (
            "later_rounds", "warm_up", "settle", "adjust_every", "input_radius", "convexity"
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("prophet", "fraction_train", "fraction_evaluate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.attack not in ("features", "input"):
            raise ConfigError(f"attack must be 'features' or 'input', got {self.attack!r}")
        if self.steering not in ("round", "all"):
            raise ConfigError(f"steering must be 'round' or 'all', got {self.steering!r}")
        if self.measured_radius not in ("whole", "alpha"):
            raise ConfigError(
                f"measured_radius must be 'whole' or 'alpha', got {self.measured_radius!r}"
            )
        for name in ("learning_rate_decay", "stage_learning_rate_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} must be above 0 and at most 1, got {getattr(self, name)}"
                )


_WORK: dict[Phase, Literal["train", "score", "measure"]] = {
    Phase.TRAIN: "train",
    Phase.SCORE: "score",
    Phase.MEASURE: "measure",
}


@dataclass(frozen=True)
class FedProphet:
    """Trains a model to be robust, module by module, each after the ones before it.

    With a cascade of one module this is joint federated adversarial training (jFAT).

    Attributes:
        cascade: The model's modules.
        costs: What it takes to train the modules from one to another, by their numbers.
        available: What devices have in a round. Without it all devices train the stage's module.
        settings: How the cascade is trained.
        training: What devices are told; the learning rate is that of the first round of a stage.
        adjustment: Of how strong features are attacked.
        budget_bytes: That a task may take on each device, where ``available`` does not say; 0 for
            as much as it takes. Devices count it, and stop where training takes more.
    """

    cascade: Cascade
    costs: Mapping[tuple[int, int], SpanCost] = field(default_factory=dict)
    available: Availability | None = None
    settings: CascadeSettings = field(default_factory=CascadeSettings)
    training: LocalTraining = field(
        default_factory=lambda: LocalTraining(
            epochs=1000,
            max_steps=30,
            batch_size=64,
            learning_rate=0.005,
            momentum=0.9,
            weight_decay=1e-4,
        )
    )
    adjustment: Adjustment = field(default_factory=Adjustment)
    budget_bytes: int = 0

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the parameters at the start of the first stage.

        Raises:
            ConfigError: They are not those of the cascade.
        """
        owned = frozenset().union(*(each.owned | each.exit_owned for each in self.cascade.modules))
        if owned != parameters.keys():
            raise ConfigError(
                f"modules own {sorted(owned - parameters.keys())}, which the model has not, and "
                f"not {sorted(parameters.keys() - owned)}, which it has"
            )
        return ServerState(parameters, StageState().to_arrays())

    def request(self, job: str, round_number: int, num_devices: int) -> DeviceRequest:
        """Return a request for a share of the devices, the same in every round, or for all."""
        del round_number
        is_all = self.settings.steering == "all"
        return DeviceRequest(job, num_devices if is_all else self._num_training(num_devices))

    def configure(
        self,
        state: ServerState,
        round_number: int,
        devices: Sequence[Device],
        seed: int,
        kind: Kind,
    ) -> list[ClientTask]:
        """Return a task for each device that has the memory for it, or for a share to evaluate."""
        now = StageState.from_arrays(state.kept)
        if kind == "evaluate":
            count = round(self.settings.fraction_evaluate * len(devices))
            chosen = _draw(devices, count, seed, "evaluate", round_number)
            wanted = dict.fromkeys(chosen, self._composed_task())
        elif now.number == len(self.cascade):
            wanted = {}
        else:
            wanted = self._train_tasks(now, round_number, devices, seed)
        wanted = self._within_budgets(wanted, round_number, devices, seed)
        decayed = self.settings.learning_rate_decay**now.round
        decayed *= self.settings.stage_learning_rate_decay**now.number
        training = replace(self.training, learning_rate=self.training.learning_rate * decayed)
        return [
            ClientTask(
                round=round_number,
                device_id=device_id,
                kind=kind,
                seed=derive_seed(seed, kind, round_number, device_id),
                config={**training.to_config(), **wanted[device_id].to_config()},
            )
            for device_id in sorted(wanted)
        ]

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return the parameters that a device's modules own; none if it only measures."""
        wanted = StageTask.from_config(task.config)
        if wanted.work != "train":
            return {}
        owned = self.cascade.owned(wanted.stage, wanted.last, prophet=wanted.prophet)
        return {name: state.parameters[name] for name in owned}

    def num_updates_needed(self, num_tasks: int) -> int:
        """Return one: a round counts whoever is left."""
        del num_tasks
        return 1

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return the means of what devices trained, and whether the stage goes on."""
        now = StageState.from_arrays(state.kept)
        metrics = mean_metrics(updates)
        if now.phase is Phase.MEASURE:
            now = self._next_stage(now, metrics[DISPLACEMENT])
            return ServerState(state.parameters, now.to_arrays())
        now = self._judged(now, state.parameters, metrics)
        if now.phase is Phase.SCORE:
            best = now.best or state.parameters
            if now.number == len(self.cascade) - 1:
                now = replace(now, number=len(self.cascade), phase=Phase.TRAIN, best=None)
            elif self.settings.attack == "input":
                now = self._next_stage(now, 0.0)
            else:
                now = replace(now, phase=Phase.MEASURE, alpha=now.best_alpha, best=None)
            return ServerState(best, now.to_arrays())
        now = replace(now, round=now.round + 1)
        if self._is_over(now):
            now = replace(now, phase=Phase.SCORE)
        return ServerState(mean_of_parts(state.parameters, updates), now.to_arrays())

    def is_finished(self, state: ServerState) -> bool:
        """Return whether the last module's stage is over."""
        return StageState.from_arrays(state.kept).number == len(self.cascade)

    def _next_stage(self, now: StageState, base_radius: float) -> StageState:
        return StageState(
            number=now.number + 1,
            base_radius=base_radius,
            alpha=self.adjustment.least,
            best_alpha=self.adjustment.least,
            wanted_ratio=now.best_ratio,
        )

    def _num_training(self, num_devices: int) -> int:
        return max(1, int(self.settings.fraction_train * num_devices))

    def _train_tasks(
        self, now: StageState, round_number: int, devices: Sequence[Device], seed: int
    ) -> dict[str, StageTask]:
        """Return what each device that takes part is to do."""
        if now.phase is not Phase.TRAIN:
            last = self._assign(now, round_number, devices, seed)
            return {name: self._task(now, last[name]) for name in last}
        training = devices
        if self.settings.steering == "all":
            count = self._num_training(len(devices))
            chosen = _draw(devices, count, seed, "chosen", round_number)
            training = [device for device in devices if device.device_id in chosen]
        last = self._assign(now, round_number, training, seed)
        wanted = {name: self._task(now, last[name]) for name in last}
        if wanted and len(training) < len(devices) and self._is_adversarial(now):
            score = replace(self._task(now, now.number), work="score")
            wanted = {device.device_id: score for device in devices} | wanted
        return wanted

    def _assign(
        self, now: StageState, round_number: int, devices: Sequence[Device], seed: int
    ) -> dict[str, int]:
        """Return the last module of each device that takes part."""
        if self.available is None:
            return {device.device_id: now.number for device in devices}
        has = self.available(seed, round_number, devices)
        able = {name: has[name] for name in fitting(now.number, has, self._cost)}
        if now.phase is not Phase.TRAIN or self.settings.prophet == 0:
            return dict.fromkeys(able, now.number)
        return assign(now.number, len(self.cascade), able, self._cost)

    def _within_budgets(
        self,
        wanted: Mapping[str, StageTask],
        round_number: int,
        devices: Sequence[Device],
        seed: int,
    ) -> dict[str, StageTask]:
        """Return tasks that say what they may take on each device."""
        budgets = dict.fromkeys(wanted, self.budget_bytes)
        if self.available is not None:
            has = self.available(seed, round_number, devices)
            budgets = {name: int(has[name].memory_bytes) for name in wanted}
        return {name: replace(task, budget_bytes=budgets[name]) for name, task in wanted.items()}

    def _cost(self, first: int, last: int) -> SpanCost:
        return self.costs[first, last]

    def _task(self, now: StageState, last: int) -> StageTask:
        settings = self.settings
        is_adversarial = self._is_adversarial(now)
        is_whole = now.phase is Phase.MEASURE and settings.measured_radius == "whole"
        alpha = 1.0 if is_whole else now.alpha
        is_at_input = now.number == 0 or settings.attack == "input"
        radius = settings.input_radius if is_at_input else alpha * now.base_radius
        return StageTask(
            work=_WORK[now.phase],
            stage=now.number,
            last=last,
            attack=settings.attack,
            radius=float(radius),
            input_radius=float(settings.input_radius),
            steps=settings.steps,
            measure_steps=settings.measure_steps if is_adversarial else 0,
            convexity=float(settings.convexity),
            prophet=float(settings.prophet),
            is_adversarial=is_adversarial,
            keeps_exit_gradients=settings.keeps_exit_gradients,
        )

    def _composed_task(self) -> StageTask:
        """Return what a device is to do that measures all modules together."""
        end = StageState(number=len(self.cascade) - 1, round=self.settings.rounds_per_stage)
        return replace(self._task(end, end.number), work="score")

    def _is_adversarial(self, now: StageState) -> bool:
        return now.phase is not Phase.TRAIN or now.round >= self.settings.warm_up

    def _judged(
        self, now: StageState, parameters: Parameters, metrics: Mapping[str, float]
    ) -> StageState:
        """Return what the accuracies of the model that devices were given say about it."""
        if CLEAN not in metrics or ADVERSARIAL not in metrics:
            return now
        clean, adversarial = metrics[CLEAN], metrics[ADVERSARIAL]
        now = replace(now, ratios=(*now.ratios, ratio_of(clean, adversarial)))
        since = now.round - self.settings.warm_up
        if since < self.settings.settle and now.phase is Phase.TRAIN:
            return now
        score = clean + now.wanted_ratio * adversarial
        if score > now.best_score:
            now = replace(
                now,
                best_score=score,
                best_ratio=ratio_of(clean, adversarial),
                best_alpha=now.alpha,
                best_round=now.round,
                best=dict(parameters),
            )
        every = self.settings.adjust_every
        is_fixed = now.number == 0 or self.settings.attack == "input"
        if every and now.round % every == 0 and not is_fixed:
            alpha = self.adjustment.adjust(now.alpha, now.ratios, now.wanted_ratio)
            now = replace(now, alpha=alpha)
        return now

    def _is_over(self, now: StageState) -> bool:
        is_stale = math.isfinite(now.best_score) and (
            now.round - 1 - now.best_round >= self.settings.patience
        )
        later = self.settings.later_rounds if now.number else 0
        return is_stale or now.round >= (later or self.settings.rounds_per_stage)


def _draw(
    devices: Sequence[Device], count: int, seed: int, purpose: str, round_number: int
) -> list[str]:
    """Return the names of so many devices, drawn."""
    order = generator_for(seed, purpose, round_number).permutation(len(devices))
    return sorted(devices[index].device_id for index in order[:count])
