"""FedDF: devices train models of different sizes, which learn from each other on public data.

Lin et al., Ensemble Distillation for Robust Model Fusion in Federated Learning, NeurIPS 2020; with
adversarial training on devices it is FedDF-AT of the FedProphet paper. There the public data are
taken from the test set; here they are some devices' that take part in no round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.fl.core.aggregation import in_order, mean_parameters
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.spans import Piece
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientUpdate
from hocket.fl.fat.baselines.family import FamilyTraining, member_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.client import Client
    from hocket.fl.core.data import Examples, Partitions
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.spans import Spans
    from hocket.fl.core.types import ClientTask


class Distil(Protocol):
    """Makes models alike in what they say to public data; ``Distiller`` does."""

    def __call__(
        self, models: Sequence[Parameters], teachers: Sequence[tuple[int, Parameters]], seed: int
    ) -> list[Parameters]:
        """Return models that say what the teachers say together.

        Args:
            models: Parameters of one model of each size.
            teachers: Number of a size, and parameters of a model of that size.
            seed: Of the order of the data.
        """
        ...


@dataclass(frozen=True)
class Distillation(FamilyTraining):
    """Averages the models of each size, and lets all sizes learn from all devices' models.

    The largest model's parameters have their own names, those of size i ``size<i>/`` before these.

    Attributes:
        smaller: What the other models begin with, in the order of ``costs``.
        distil: Lets them learn.
    """

    smaller: tuple[Parameters, ...] = ()
    distil: Distil | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.smaller) != len(self.costs) - 1:
            raise ConfigError(
                f"want parameters of {len(self.costs) - 1} smaller models, got {len(self.smaller)}"
            )

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the parameters of all models.

        Raises:
            ConfigError: One of the largest model's has a name that is kept for others.
        """
        odd = sorted(name for name in parameters if _member_and_name(name)[0])
        if odd:
            raise ConfigError(f"names such as {odd[0]!r} are kept for smaller models'")
        return ServerState(_joined([parameters, *self.smaller]))

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return the parameters of a device's model, by the names they have in the state."""
        member = member_of(task, len(self.costs))
        return {
            name: array
            for name, array in state.parameters.items()
            if _member_and_name(name)[0] == member
        }

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return the means of each size, after they have learned from all devices' models."""
        ordered = in_order(updates)
        models = _apart(state.parameters, len(self.costs))
        teachers: list[tuple[int, Parameters]] = []
        for member in range(len(models)):
            having = [each for each in ordered if _member_of_update(each) == member]
            if having:
                models[member] = _apart(mean_parameters(having), len(models))[member]
        for each in ordered:
            member = _member_of_update(each)
            teachers.append((member, _apart(each.parameters, len(models))[member]))
        if self.distil is not None:
            seed = derive_seed(self.seed, "distil", ordered[0].round)
            models = list(self.distil(models, teachers, seed))
        return ServerState(_joined(models))


@dataclass
class DistilledClient:
    """A client of any device, as ``Distillation`` wants it.

    Attributes:
        make_members: Makes a client of each size, the largest first, when it is wanted.
    """

    make_members: Sequence[Callable[[], Client]]
    _members: dict[int, Client] = field(default_factory=dict)

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Train a device's model.

        Raises:
            UpdateError: The task is for another model.
        """
        member = member_of(task, len(self.make_members))
        if member not in self._members:
            self._members[member] = self.make_members[member]()
        own = _apart(parameters, len(self.make_members))[member]
        update = self._members[member].run(task, own)
        named = {_named(member, name): array for name, array in update.parameters.items()}
        return ClientUpdate(
            update.round,
            update.device_id,
            update.kind,
            named,
            update.num_examples,
            update.metrics,
        )


@dataclass(frozen=True, eq=False)
class Distiller:
    """Lets models learn from the mean scores of others, on data that no device trains on.

    Attributes:
        models: One of each size; one thread at a time uses them.
        inputs: Public data, without their classes.
        training: Of each model; ``max_steps`` steps.
    """

    models: tuple[Spans, ...]
    inputs: NDArray[Any]
    training: LocalTraining

    def __call__(
        self, models: Sequence[Parameters], teachers: Sequence[tuple[int, Parameters]], seed: int
    ) -> list[Parameters]:
        """Return models that have taken steps towards the softmax of the teachers' mean scores."""
        count, size = self.training.max_steps, self.training.batch_size
        order = np.random.default_rng(seed)
        batches = [order.choice(len(self.inputs), size, replace=False) for _ in range(count)]
        summed: list[Any] = [0.0] * count
        for member, parameters in teachers:
            spans = self.models[member]
            spans.load_parameters(parameters)
            for number, chosen in enumerate(batches):
                summed[number] = summed[number] + spans.features("", "", self.inputs[chosen])
        wanted = [_softmax(np.asarray(each) / len(teachers)) for each in summed]
        found: list[Parameters] = []
        for spans, parameters in zip(self.models, models, strict=True):
            spans.load_parameters(parameters)
            steps = spans.train_piece(Piece(), self.training, seed)
            for chosen, targets in zip(batches, wanted, strict=True):
                steps.step(self.inputs[chosen], targets)
            found.append(spans.parameters())
        return found


@dataclass(frozen=True)
class Reserved:
    """Data of which the last devices' are the server's own, and are public.

    Attributes:
        partitions: Of all devices.
        num_public: Devices that take part in no round.

    Raises:
        ConfigError: No device would be left.
    """

    partitions: Partitions
    num_public: int

    def __post_init__(self) -> None:
        count = len(self.partitions.device_ids())
        if not 0 <= self.num_public < count:
            raise ConfigError(f"want fewer public devices than {count}, got {self.num_public}")

    def device_ids(self) -> list[str]:
        """Return every device that takes part."""
        names = self.partitions.device_ids()
        return names[: len(names) - self.num_public]

    def load(self, device_id: str) -> Examples:
        """Return what a device trains on."""
        return self.partitions.load(device_id)

    def held_out(self, device_id: str | None = None) -> Examples:
        """Return what nobody trains on."""
        return self.partitions.held_out(device_id)

    def public(self) -> NDArray[Any]:
        """Return the public devices' inputs, without their classes."""
        names = self.partitions.device_ids()[len(self.device_ids()) :]
        return np.concatenate(
            [next(iter(self.partitions.load(name).inputs.values())) for name in names]
        )


def _named(member: int, name: str) -> str:
    return f"size{member}/{name}" if member else name


def _member_and_name(name: str) -> tuple[int, str]:
    first, slash, rest = name.partition("/")
    if slash and first.startswith("size") and first[4:].isdigit():
        return int(first[4:]), rest
    return 0, name


def _member_of_update(update: ClientUpdate) -> int:
    return _member_and_name(next(iter(update.parameters)))[0]


def _joined(models: Sequence[Parameters]) -> dict[str, NDArray[Any]]:
    return {
        _named(member, name): array
        for member, parameters in enumerate(models)
        for name, array in parameters.items()
    }


def _apart(parameters: Parameters, count: int) -> list[Parameters]:
    found: list[dict[str, NDArray[Any]]] = [{} for _ in range(count)]
    for each, array in parameters.items():
        member, name = _member_and_name(each)
        found[member][name] = array
    return list(found)


def _softmax(scores: NDArray[Any]) -> NDArray[Any]:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), scores.dtype)
