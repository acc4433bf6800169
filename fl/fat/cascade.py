"""What a device does for FedProphet: it trains its modules on what attackers make of its examples.

Adversarial cascade learning: modules before those it trains are frozen and only run, once; the
first module is attacked at its input, a later one in the features it is given.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.client import check_artifact
from hocket.fl.core.errors import BudgetError, ConfigError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.seeds import derive_seed, generator_for
from hocket.fl.core.types import ClientUpdate
from hocket.fl.fat.attack import L2, Attack, Linf, perturb
from hocket.fl.fat.evaluation import accuracy_under, attack_piece
from hocket.fl.fat.frozen import FrozenModules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples, Partitions
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.spans import Piece, Spans
    from hocket.fl.core.types import ClientTask, Setting
    from hocket.fl.fat.attack import Ball
    from hocket.fl.fat.partition import Cascade

Attacked = Literal["features", "input"]

_PREFIX = "cascade."
CLEAN, ADVERSARIAL, DISPLACEMENT = "clean_accuracy", "adversarial_accuracy", "displacement"
HELD = "held_bytes"
"""Metrics that devices report: of the model they were given, on what they hold out; how far the
attack moves what their module makes of an example, in the mean; and what training was measured to
hold in memory, where there is a budget."""

_COUNTED_STEPS = 2
SLACK = 1.002
"""Of budgets, for losses of single examples, which footprints leave out."""


@dataclass(frozen=True)
class StageTask:
    """What a device is to do in a round.

    Attributes:
        work: ``train`` its modules; ``score`` the model that it is given; ``measure`` how far the
            stage's attack moves features.
        stage: Number of the module that is being trained.
        last: Number of the last module that this device trains; beyond the stage's for a prophet.
        attack: On what: the ``features`` that the stage's module is given, or the model's
            ``input``, through the frozen modules, one at a time. For the first module all the same.
        radius: Of the ball that inputs (any number) or features (their length) are attacked in.
        input_radius: Of the ball around inputs, whatever the stage, for accuracies.
        steps: Of the attack in training.
        measure_steps: Of the attack that accuracies are measured by; 0 to measure none.
        convexity: Of early exits' losses (mu).
        prophet: How much the last exit of a prophet counts (psi).
        is_adversarial: Whether it trains on attacked examples, or on clean ones to warm up.
        keeps_exit_gradients: Whether gradients of early exits add up from step to step.
        budget_bytes: That its training and its attacks may take; 0 for as much as they do.
    """

    work: Literal["train", "score", "measure"] = "train"
    stage: int = 0
    last: int = 0
    attack: Attacked = "features"
    radius: float = 0.0
    input_radius: float = 0.0
    steps: int = 10
    measure_steps: int = 10
    convexity: float = 0.0
    prophet: float = 1.0
    is_adversarial: bool = True
    keeps_exit_gradients: bool = False
    budget_bytes: int = 0

    def __post_init__(self) -> None:
        if self.work not in ("train", "score", "measure"):
            raise ConfigError(f"work must be 'train', 'score' or 'measure', got {self.work!r}")
        if self.attack not in ("features", "input"):
            raise ConfigError(f"attack must be 'features' or 'input', got {self.attack!r}")
        if not 0 <= self.stage <= self.last:
            raise ConfigError(f"want modules 0 <= stage <= last, got {self.stage}, {self.last}")

    @property
    def begins(self) -> int:
        """Number of the module whose input attacks in training change."""
        return 0 if self.attack == "input" and self.is_adversarial else self.stage

    def to_config(self) -> dict[str, Setting]:
        """Return it as settings of a task."""
        return {f"{_PREFIX}{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Setting]) -> StageTask:
        """Build it from settings of a task.

        Raises:
            ConfigError: A setting is missing or of the wrong type.
        """
        found: dict[str, Any] = {}
        for each in fields(cls):
            value = config.get(f"{_PREFIX}{each.name}")
            if type(value) is not type(each.default):
                raise ConfigError(f"{_PREFIX}{each.name}: got {value!r}, a task has it otherwise")
            found[each.name] = value
        return cls(**found)


class FeatureCache:
    """What frozen modules made of devices' examples, as far as there is room.

    Args:
        limit_bytes: Most that is kept; the one that was not used for longest goes first.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[tuple[str, str], NDArray[Any]] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes that are kept."""
        return sum(array.nbytes for array in self._entries.values())

    def get(self, device_id: str, digest: str) -> NDArray[Any] | None:
        """Return a device's features, None if they are not kept.

        Args:
            device_id: Whose they are.
            digest: Of the parameters that made them.
        """
        found = self._entries.get((device_id, digest))
        if found is not None:
            self._entries.move_to_end((device_id, digest))
        return found

    def put(self, device_id: str, digest: str, features: NDArray[Any]) -> None:
        """Keep features if they are not too large, and forget those that others made of it."""
        for key in [key for key in self._entries if key[0] == device_id]:
            del self._entries[key]
        if features.nbytes > self._limit_bytes:
            return
        self._entries[device_id, digest] = features
        while self.num_bytes > self._limit_bytes:
            self._entries.popitem(last=False)


@dataclass
class CascadeClient:
    """A client of any device, as ``FedProphet`` wants it.

    Attributes:
        spans: The model, with an early exit at the end of each module but the last.
        partitions: Whose part it reads, the task says. Accuracies are measured on what a device
            holds out, never on what it trains on nor on the server's.
        cascade: The model's modules.
        cache: Of features of frozen modules.
        batch_size: Of passes that train nothing, at most.
        artifact_digest: Of the artifact that the model is made from, if it is from one.
    """

    spans: Spans
    partitions: Partitions
    cascade: Cascade
    cache: FeatureCache = field(default_factory=lambda: FeatureCache(256 * 2**20))
    batch_size: int = 64
    artifact_digest: str = ""

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Train modules, measure displacements, or measure accuracies alone.

        Raises:
            UpdateError: The task is for another artifact, or the parameters for another model.
            BudgetError: Training takes more memory than the task allows.
        """
        check_artifact(task, self.artifact_digest)
        self.spans.load_parameters(parameters)
        wanted = StageTask.from_config(task.config)
        if task.kind == "evaluate" or wanted.work == "score":
            held_out = self.partitions.held_out(task.device_id)
            metrics = self._accuracies(wanted, held_out, task.seed)
            return self._update(task, {}, len(held_out), metrics)
        examples = self.partitions.load(task.device_id)
        features = self._features(wanted.begins, task.device_id, examples, parameters)
        training = LocalTraining.from_config(task.config)
        if wanted.work == "measure":
            distance = self._displacement(wanted, features, training.batch_size, task.seed)
            return self._update(task, {}, len(examples), {DISPLACEMENT: distance})
        metrics = {}
        if wanted.measure_steps:
            held_out = self.partitions.held_out(task.device_id)
            metrics = self._accuracies(wanted, held_out, task.seed)
        try:
            metrics |= self._train(wanted, training, features, examples.targets, task.seed)
        except BudgetError as error:
            modules = self.cascade.modules[wanted.stage : wanted.last + 1]
            what = f"{' and '.join(map(str, modules))} in batches of {training.batch_size}"
            raise BudgetError(error.measured_bytes, error.budget_bytes, what) from error
        owned = self.cascade.owned(wanted.stage, wanted.last, prophet=wanted.prophet)
        trained = self.spans.parameters()
        return self._update(task, {name: trained[name] for name in owned}, len(examples), metrics)

    def _update(
        self,
        task: ClientTask,
        parameters: Parameters,
        num_examples: int,
        metrics: Mapping[str, float],
    ) -> ClientUpdate:
        return ClientUpdate(
            task.round, task.device_id, task.kind, parameters, num_examples, metrics
        )

    def _features(
        self, number: int, device_id: str, examples: Examples, parameters: Parameters
    ) -> NDArray[Any]:
        """Return what a module is given of clean examples."""
        (inputs,) = examples.inputs.values()
        if number == 0:
            return inputs
        frozen = frozenset().union(*(each.owned for each in self.cascade.modules[:number]))
        digest = digest_of({name: parameters[name] for name in frozen})
        kept = self.cache.get(device_id, digest)
        if kept is None:
            start = self.cascade.modules[number].start
            kept = np.concatenate(
                [self.spans.features("", start, each) for each in _parts(inputs, self.batch_size)]
            )
            self.cache.put(device_id, digest, kept)
        return kept

    def _train(
        self,
        wanted: StageTask,
        training: LocalTraining,
        features: NDArray[Any],
        targets: NDArray[Any],
        seed: int,
    ) -> dict[str, float]:
        """Take the steps of a round; return the mean loss, each batch's before its step.

        Where there is a budget, what is held is counted in the first two steps: in the second all
        of the optimizer is there, and those that follow are like it.

        Raises:
            BudgetError: More is held than the budget allows.
        """
        piece = self.cascade.piece(
            wanted.stage, wanted.last, prophet=wanted.prophet, convexity=wanted.convexity
        )
        attack, ball = Attack(wanted.steps, keep="last"), _ball(wanted, features)
        steps = self.spans.train_piece(
            piece, training, seed, keeps_exit_gradients=wanted.keeps_exit_gradients
        )
        frozen = FrozenModules(self.spans, self.cascade.modules[wanted.begins : wanted.stage])
        order, noise = np.random.default_rng(seed), generator_for(seed, "attack")
        losses: list[float] = []
        limit_bytes = int(SLACK * wanted.budget_bytes)
        meter = self.spans.meter(piece, training.batch_size, limit_bytes, frozen.spans)
        with contextlib.ExitStack() as counting:
            if wanted.budget_bytes:
                counting.enter_context(meter)
            for chosen in _batches(len(targets), training, order):
                inputs, wanted_classes = features[chosen], targets[chosen]
                if wanted.is_adversarial:
                    inputs = attack_piece(
                        frozen, piece, attack, ball, inputs, wanted_classes, noise
                    )
                losses.append(steps.step(frozen.features(inputs), wanted_classes))
                if len(losses) == _COUNTED_STEPS:
                    counting.close()
        held = {HELD: float(meter.peak_bytes)} if wanted.budget_bytes else {}
        return {"loss": float(np.mean(losses)), **held}

    def _displacement(
        self, wanted: StageTask, features: NDArray[Any], batch_size: int, seed: int
    ) -> float:
        """Return how far an attack moves what the stage's module makes, in the mean.

        It takes as many examples at a time as training does, and so no more memory.
        """
        module = self.cascade.modules[wanted.stage]
        attack, ball = Attack(wanted.steps), _ball(wanted, features)
        noise, total = generator_for(seed, "displacement"), 0.0
        for inputs in _parts(features, batch_size):
            origin = self.spans.features(module.start, module.stop, inputs)
            moved = self._displace(wanted, attack, ball, inputs, origin, noise)
            distances = np.linalg.norm((moved - origin).reshape(len(origin), -1), axis=1)
            total += float(distances.sum())
        return total / len(features)

    def _displace(
        self,
        wanted: StageTask,
        attack: Attack,
        ball: Ball,
        inputs: NDArray[Any],
        origin: NDArray[Any],
        noise: np.random.Generator,
    ) -> NDArray[Any]:
        """Return where an attack moves what the stage's module makes of examples to."""
        module = self.cascade.modules[wanted.stage]

        def gradient(point: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            return self.spans.displacement(module.start, module.stop, point, origin)

        moved = perturb(attack, ball, inputs, gradient, lambda point: gradient(point)[0], noise)
        return self.spans.features(module.start, module.stop, moved)

    def _accuracies(self, wanted: StageTask, examples: Examples, seed: int) -> dict[str, float]:
        """Return accuracies of the model up to the stage's exit, attacked at its input."""
        piece = self.cascade.piece(wanted.stage, wanted.stage)
        frozen = FrozenModules(self.spans, self.cascade.modules[: wanted.stage])
        attack = Attack(wanted.measure_steps) if wanted.measure_steps else None
        (inputs,) = examples.inputs.values()
        self._fit(wanted, frozen, piece, inputs[: self.batch_size])
        found = accuracy_under(
            frozen,
            examples,
            Linf(wanted.input_radius),
            attack,
            derive_seed(seed, "accuracy"),
            start=piece.start,
            exits=piece.exits,
            batch_size=self.batch_size,
        )
        return {CLEAN: found.clean} | ({} if attack is None else {ADVERSARIAL: found.attacked})

    def _fit(
        self, wanted: StageTask, frozen: FrozenModules, piece: Piece, inputs: NDArray[Any]
    ) -> None:
        """Let each module be given as many examples at a time as the budget has room for."""
        if wanted.budget_bytes:
            limit_bytes = int(SLACK * wanted.budget_bytes)
            with self.spans.meter(piece, len(inputs), limit_bytes, frozen.spans):
                frozen.gradient(piece, inputs, np.zeros(len(inputs), np.int64))


def _parts(arrays: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Return examples in batches."""
    return [arrays[start : start + count] for start in range(0, len(arrays), count)]


def _ball(wanted: StageTask, features: NDArray[Any]) -> Ball:
    if wanted.begins == 0:
        return Linf(wanted.radius)
    return L2(wanted.radius, is_positive=bool(features.min() >= 0))


def _batches(
    count: int, training: LocalTraining, order: np.random.Generator
) -> Iterator[NDArray[Any]]:
    """Yield the examples of each step."""
    num_steps = 0
    for _ in range(training.epochs):
        shuffled = order.permutation(count)
        for start in range(0, count, training.batch_size):
            if training.max_steps and num_steps == training.max_steps:
                return
            num_steps += 1
            yield shuffled[start : start + training.batch_size]
