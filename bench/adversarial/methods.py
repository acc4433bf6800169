"""Methods that train a model to be robust, ready to be run on the same devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adversarial.models import (
    ARCHITECTURES,
    EXIT_FEATURES,
    Model,
    compile_architecture,
)
from adversarial.times import CascadeWorks, SizeWorks
from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.baselines.distillation import (
    Distillation,
    DistilledClient,
    Distiller,
    Reserved,
)
from hocket.fl.fat.baselines.partial import PartialClient, PartialTraining
from hocket.fl.fat.baselines.widths import Widths
from hocket.fl.fat.cascade import CascadeClient
from hocket.fl.fat.frozen import peak_at_input
from hocket.fl.fat.strategy import CascadeSettings, FedProphet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adversarial.times import Works
    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.core.client import Client
    from hocket.fl.core.data import Partitions
    from hocket.fl.core.strategy import Strategy
    from hocket.fl.fat.partition import Cascade
    from hocket.fl.fat.pool import Pool

JOINT = "jfat"
FORMS: dict[str, dict[str, Any]] = {
    "fedprophet": {},
    "fedprophet-input": {"attack": "input"},
    "fedprophet, no prophets": {"prophet": 0.0},
    "fedprophet, psi as published": {"prophet": 1.0},
    "fedprophet, exits as published": {},
    "fedprophet, radii as published": {"measured_radius": "alpha"},
    "fedprophet, exits' gradients kept": {"keeps_exit_gradients": True},
    "fedprophet, steered by all": {"steering": "all"},
}
"""FedProphet, and what differs from the bench's settings: one thing each as the authors have it."""

CHOICES = {"heterofl-at": "first", "fedrolex-at": "rolling", "feddrop-at": "random"}
FEDDF = "feddf-at"
MAIN = (JOINT, "fedprophet", "fedprophet-input", *CHOICES, FEDDF)
METHODS = (*MAIN, *list(FORMS)[2:])
_NUM_PUBLIC = 5
_DISTILLATION_STEPS = 16


@dataclass(frozen=True)
class Setting:
    """What methods are told alike.

    Attributes:
        architecture: Name of the model.
        budget_bytes: That every device has at least.
        pool: Of devices.
        settings: Of FedProphet.
        rounds: Of all others.
        max_steps: Of a device in a round.
        partitions: Everyone's images.
        seed: Of the federation.
    """

    architecture: str
    budget_bytes: int
    pool: Pool
    settings: CascadeSettings
    rounds: int
    max_steps: int
    partitions: Partitions
    seed: int


@dataclass(frozen=True)
class Clients:
    """Makes clients.

    Attributes:
        partitions: Everyone's images.
        make: Makes one.
    """

    partitions: Partitions
    make: Callable[[], Client]

    def device_ids(self) -> list[str]:
        """Return all devices."""
        return self.partitions.device_ids()

    def __call__(self) -> Client:
        """Return a client."""
        return self.make()


@dataclass(frozen=True)
class Method:
    """A method that is ready to be run.

    Attributes:
        strategy, clients: Of its federation.
        works: What its devices do.
        spans: The model that is measured in the end.
        rounds: At most.
        peaks: Bytes that each module takes; of other methods what the smallest model takes.
        measured: Arguments of ``measured_bytes``.
    """

    strategy: Strategy
    clients: Clients
    works: Works
    spans: CompiledSpans
    rounds: int
    peaks: tuple[int, ...]
    measured: Mapping[str, Any]


def make_method(name: str, setting: Setting) -> Method:
    """Return a method by its name."""
    if name == JOINT or name in FORMS:
        return _cascade(name, setting)
    return _sizes(name, setting)


def _cascade(name: str, setting: Setting) -> Method:
    is_joint = name == JOINT
    features = 1 if name == "fedprophet, exits as published" else EXIT_FEATURES
    model = compile_architecture(
        setting.architecture,
        exit_features=features,
        max_steps=setting.max_steps,
        seed=setting.seed,
    )
    cascade = model.whole() if is_joint else model.cascade(setting.budget_bytes)
    spans = model.spans(cascade.exits)
    settings = replace(setting.settings, **FORMS.get(name, {}))
    footprints = {
        (one, last): model.footprint(spans, cascade.piece(one, last, prophet=settings.prophet).span)
        for last in range(len(cascade))
        for one in range(last + 1)
    }
    costs = {pair: SpanCost(each.peak_bytes, each.flops) for pair, each in footprints.items()}
    if is_joint:
        settings = replace(settings, rounds_per_stage=setting.rounds, patience=setting.rounds)
    strategy = FedProphet(
        cascade,
        costs=costs,
        # Who lacks the memory swaps in joint training, and has no less to do.
        available=None if is_joint else setting.pool.available,
        settings=settings,
        training=model.training,
    )
    return Method(
        strategy,
        Clients(setting.partitions, lambda: _client(model, cascade, setting.partitions)),
        CascadeWorks(footprints, costs, model.training),
        spans,
        rounds=10_000,
        peaks=tuple(
            peak_at_input(
                spans.borders(),
                lambda span, count: model.footprint(spans, span, count),
                cascade.modules[:number] if settings.attack == "input" else (),
                cascade.piece(number, number),
                model.training.batch_size,
                setting.budget_bytes,
            )
            for number in range(len(cascade))
        ),
        measured={
            "budget_bytes": 0 if is_joint else setting.budget_bytes,
            "attack": settings.attack,
        },
    )


def _sizes(name: str, setting: Setting) -> Method:
    """Return a method whose devices train the largest of several models that fits."""
    models, footprints = [], []
    shares = (1.0, *ARCHITECTURES[setting.architecture].narrow)
    for share in shares:
        model = compile_architecture(
            setting.architecture, share=share, max_steps=setting.max_steps, seed=setting.seed
        )
        models.append(model)
        footprints.append(model.whole_footprint())
        if footprints[-1].peak_bytes <= setting.budget_bytes:
            break
    partitions = setting.partitions
    if name == FEDDF:
        partitions = Reserved(partitions, _NUM_PUBLIC)
    makes = tuple(_maker(model, partitions) for model in models)
    shared: dict[str, Any] = {
        "costs": tuple(SpanCost(each.peak_bytes, each.flops) for each in footprints),
        "available": setting.pool.available,
        "settings": setting.settings,
        "training": models[0].training,
        "seed": setting.seed,
    }
    all_spans = tuple(model.spans() for model in models)
    strategy: Strategy
    if name == FEDDF:
        parameters = tuple(each.parameters() for each in all_spans[1:])
        learning = replace(models[0].training, max_steps=_DISTILLATION_STEPS)
        distil = Distiller(tuple(model.spans() for model in models), partitions.public(), learning)
        strategy = Distillation(**shared, smaller=parameters, distil=distil)
        clients = Clients(partitions, lambda: DistilledClient(makes))
    else:
        groups = ARCHITECTURES[setting.architecture].groups(all_spans[0].parameters())
        widths = Widths.parse(groups, all_spans[0].parameters())
        counts = tuple(widths.counts(each.parameters()) for each in all_spans)
        strategy = PartialTraining(**shared, widths=widths, counts=counts, choice=CHOICES[name])
        clients = Clients(partitions, lambda: PartialClient(makes, widths, counts))
    return Method(
        strategy,
        clients,
        SizeWorks(tuple(footprints), models[0].training),
        all_spans[0],
        rounds=setting.rounds,
        peaks=(footprints[-1].peak_bytes,),
        measured={"budget_bytes": 0, "share": shares[len(models) - 1]},
    )


def _maker(model: Model, partitions: Partitions) -> Callable[[], Client]:
    return lambda: _client(model, model.whole(), partitions)


def _client(model: Model, cascade: Cascade, partitions: Partitions) -> CascadeClient:
    return CascadeClient(model.spans(cascade.exits), partitions, cascade)
