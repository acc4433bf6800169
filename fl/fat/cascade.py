"""What a device does for FedProphet: it trains its modules on what attackers make of its examples.

Adversarial cascade learning: modules before those it trains are frozen and only run, once; the
first module is attacked at its input, a later one in the features it is given.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.client import check_artifact
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.seeds import derive_seed, generator_for
from hocket.fl.core.types import ClientUpdate
from hocket.fl.fat.attack import L2, Attack, Linf, perturb
from hocket.fl.fat.evaluation import accuracy_under, attack_piece

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.data import Examples, Partitions
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.spans import Spans
    from hocket.fl.core.types import ClientTask, Setting
    from hocket.fl.fat.attack import Ball
    from hocket.fl.fat.partition import Cascade

_PREFIX = "cascade."
CLEAN, ADVERSARIAL, DISPLACEMENT = "clean_accuracy", "adversarial_accuracy", "displacement"
"""Metrics that devices report: of the model they were given, on what they hold out; and how far
the attack moves what their module makes of an example, in the mean."""


@dataclass(frozen=True)
class StageTask:
    """What a device is to do in a round.

    Attributes:
        work: ``train`` its modules, or ``measure`` how far the stage's attack moves features.
        stage: Number of the module that is being trained.
        last: Number of the last module that this device trains; beyond the stage's for a prophet.
        radius: Of the ball that inputs (stage 0, any number) or features (their length) are
            attacked in.
        input_radius: Of the ball around inputs, whatever the stage, for accuracies.
        steps: Of the attack in training.
        measure_steps: Of the attack that accuracies are measured by; 0 to measure none.
        convexity: Of early exits' losses (mu).
        prophet: How much the last exit of a prophet counts (psi).
        is_adversarial: Whether it trains on attacked examples, or on clean ones to warm up.
    """

    work: Literal["train", "measure"] = "train"
    stage: int = 0
    last: int = 0
    radius: float = 0.0
    input_radius: float = 0.0
    steps: int = 10
    measure_steps: int = 10
    convexity: float = 0.0
    prophet: float = 1.0
    is_adversarial: bool = True

    def __post_init__(self) -> None:
        if self.work not in ("train", "measure"):
            raise ConfigError(f"work must be 'train' or 'measure', got {self.work!r}")
        if not 0 <= self.stage <= self.last:
            raise ConfigError(f"want modules 0 <= stage <= last, got {self.stage}, {self.last}")

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
        batch_size: Of passes that train nothing.
        artifact_digest: Of the artifact that the model is made from, if it is from one.
    """

    spans: Spans
    partitions: Partitions
    cascade: Cascade
    cache: FeatureCache = field(default_factory=lambda: FeatureCache(256 * 2**20))
    batch_size: int = 64
    artifact_digest: str = ""

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Train modules, measure displacements, or (``evaluate``) measure accuracies alone.

        Raises:
            UpdateError: The task is for another artifact, or the parameters for another model.
        """
        check_artifact(task, self.artifact_digest)
        self.spans.load_parameters(parameters)
        wanted = StageTask.from_config(task.config)
        if task.kind == "evaluate":
            held_out = self.partitions.held_out(task.device_id)
            metrics = self._accuracies(wanted, held_out, task.seed)
            return self._update(task, {}, len(held_out), metrics)
        examples = self.partitions.load(task.device_id)
        features = self._features(wanted.stage, task.device_id, examples, parameters)
        if wanted.work == "measure":
            distance = self._displacement(wanted, features, task.seed)
            return self._update(task, {}, len(examples), {DISPLACEMENT: distance})
        metrics = {}
        if wanted.measure_steps:
            held_out = self.partitions.held_out(task.device_id)
            metrics = self._accuracies(wanted, held_out, task.seed)
        training = LocalTraining.from_config(task.config)
        metrics["loss"] = self._train(wanted, training, features, examples.targets, task.seed)
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
        self, stage: int, device_id: str, examples: Examples, parameters: Parameters
    ) -> NDArray[Any]:
        """Return what a stage's module is given of clean examples."""
        (inputs,) = examples.inputs.values()
        if stage == 0:
            return inputs
        frozen = frozenset().union(*(each.owned for each in self.cascade.modules[:stage]))
        digest = digest_of({name: parameters[name] for name in frozen})
        kept = self.cache.get(device_id, digest)
        if kept is None:
            start = self.cascade.modules[stage].start
            kept = np.concatenate(
                [self.spans.features("", start, each) for each in self._parts(inputs)]
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
    ) -> float:
        """Take the steps of a round; return the mean loss, each batch's before its step."""
        piece = self.cascade.piece(
            wanted.stage, wanted.last, prophet=wanted.prophet, convexity=wanted.convexity
        )
        attack, ball = Attack(wanted.steps, keep="last"), _ball(wanted, features)
        steps = self.spans.train_piece(piece, training, seed)
        order, noise = np.random.default_rng(seed), generator_for(seed, "attack")
        losses: list[float] = []
        for _ in range(training.epochs):
            shuffled = order.permutation(len(targets))
            for start in range(0, len(targets), training.batch_size):
                if training.max_steps and len(losses) == training.max_steps:
                    break
                chosen = shuffled[start : start + training.batch_size]
                inputs, wanted_classes = features[chosen], targets[chosen]
                if wanted.is_adversarial:
                    inputs = attack_piece(
                        self.spans, piece, attack, ball, inputs, wanted_classes, noise
                    )
                losses.append(steps.step(inputs, wanted_classes))
        return float(np.mean(losses))

    def _displacement(self, wanted: StageTask, features: NDArray[Any], seed: int) -> float:
        """Return how far an attack moves what the stage's module makes, in the mean."""
        module = self.cascade.modules[wanted.stage]
        attack, ball = Attack(wanted.steps), _ball(wanted, features)
        noise, total = generator_for(seed, "displacement"), 0.0
        for inputs in self._parts(features):
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
        exits = self.cascade.piece(wanted.stage, wanted.stage).exits
        attack = Attack(wanted.measure_steps) if wanted.measure_steps else None
        found = accuracy_under(
            self.spans,
            examples,
            Linf(wanted.input_radius),
            attack,
            derive_seed(seed, "accuracy"),
            exits=exits,
            batch_size=self.batch_size,
        )
        return {CLEAN: found.clean} | ({} if attack is None else {ADVERSARIAL: found.attacked})

    def _parts(self, arrays: NDArray[Any]) -> list[NDArray[Any]]:
        return [
            arrays[start : start + self.batch_size]
            for start in range(0, len(arrays), self.batch_size)
        ]


def _ball(wanted: StageTask, features: NDArray[Any]) -> Ball:
    if wanted.stage == 0:
        return Linf(wanted.radius)
    return L2(wanted.radius, is_positive=bool(features.min() >= 0))
