"""What methods share that train models to withstand attacks, and those that train several sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.federation_parts import MODEL, TARGETS, Parts
from hocket.fl.core.backend import Span
from hocket.fl.core.errors import ConfigError
from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.baselines.distillation import Distillation, Distiller, Reserved
from hocket.fl.fat.baselines.partial import PartialTraining
from hocket.fl.fat.baselines.widths import Widths
from hocket.fl.fat.partition import whole_model
from hocket.fl.fat.pool import load_pool
from hocket.fl.fat.strategy import CascadeSettings
from hocket.prophet_plan import compile_open, footprint_of
from hocket.robust_clients import CascadeClients, CompiledPieces, DistilledClients, PartialClients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.backends.task import Task
    from hocket.fl.config import FederationConfig, ProphetSection
    from hocket.fl.core.data import Partitions
    from hocket.fl.fat.partition import Cascade
    from hocket.fl.fat.pool import Pool
    from hocket.runtime.artifact import Artifact

CHOICE_OF = {"heterofl": "first", "fedrolex": "rolling", "feddrop": "random"}
"""Which units narrow copies have, by the methods that train these."""

FEDDF = "feddf"
FAMILIES = (*CHOICE_OF, FEDDF)
"""Methods whose devices train models of several sizes."""

_DISTILLATION = "distillation_"


def make_family(
    config: FederationConfig, section: ProphetSection, artifact: Artifact, partitions: Partitions
) -> Parts:
    """Return the parts of a federation whose devices train models of several sizes.

    Raises:
        ConfigError: The models are not of one family, or the method does not take the settings.
    """
    name = config.strategy.name
    with config.naming("prophet"):
        if not section.smaller:
            raise ConfigError(f"smaller: {name} wants smaller models than the one that is trained")
        artifacts = [artifact, *(_load(config, Path(each)) for each in section.smaller)]
        if name == FEDDF and not section.public_devices:
            raise ConfigError("public-devices: feddf wants 1 or more")
        partitions = Reserved(partitions, section.public_devices)
    files = {smaller_name(number): artifacts[number] for number in range(1, len(artifacts))}
    members, models, costs = [], [], []
    training = config.training.as_training()
    for path, each in zip([MODEL, *files], artifacts, strict=True):
        pieces = pieces_of(config, each, path=path)
        models.append(pieces.make(each))
        cascade = whole_model(models[-1].owned)
        members.append(_clients(config, pieces, cascade, partitions, artifact.digest))
        cost = footprint_of(models[-1], training, Span(is_attacked=True))
        costs.append(SpanCost(cost.peak_bytes, cost.flops))
    shared = {
        "costs": tuple(costs),
        "available": pool_of(section).available if section.pool else None,
        "memory_bytes": section.memory_bytes,
        "training": training,
        "seed": config.federation.seed,
    }
    if name == FEDDF:
        made = _make_distillation(config, models, members, shared, partitions)
    else:
        made = _make_partial(config, section, models, members, shared)
    return replace(made, files=files)


def smaller_name(number: int) -> str:
    """Return the name of a smaller model's module in a federation's folder."""
    return f"smaller-{number}.hkt"


def cascade_clients(
    config: FederationConfig, artifact: Artifact, cascade: Cascade, partitions: Partitions
) -> CascadeClients:
    """Return what makes clients of a cascade."""
    pieces = pieces_of(config, artifact, cascade.exits)
    return _clients(config, pieces, cascade, partitions, artifact.digest)


def pieces_of(
    config: FederationConfig, artifact: Artifact, exits: tuple[str, ...] = (), path: str = MODEL
) -> CompiledPieces:
    """Return what makes a model in pieces, from a module in a federation's folder."""
    return CompiledPieces(
        path=str(Path(config.federation.folder) / path),
        digest=artifact.digest,
        task=task_of(config),
        exits=exits,
        exit_features=1 if config.prophet is None else config.prophet.exit_features,
        frozen=config.model.frozen,
        num_threads=config.engine.threads_per_client,
    )


def task_of(config: FederationConfig) -> Task:
    """Return what a model is trained to do."""
    from hocket.fl.backends.task import Task

    return Task(TARGETS[config.model.loss], config.model.output)  # type: ignore[arg-type]


def pool_of(section: ProphetSection) -> Pool:
    """Return the pool of devices; each has the memory of all at least."""
    return load_pool(section.pool, float(section.memory_bytes), section.scaling)


def made_of(kind: Any, settings: Mapping[str, Any]) -> Any:
    """Return settings as what takes them.

    Raises:
        ConfigError: It does not.
    """
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__} does not take these settings: {error}") from error


def _load(config: FederationConfig, path: Path) -> Artifact:
    return compile_open(path, config.model.sizes, config.training.batch_size)


def _clients(
    config: FederationConfig,
    pieces: CompiledPieces,
    cascade: Cascade,
    partitions: Partitions,
    digest: str,
) -> CascadeClients:
    return CascadeClients(pieces, cascade, partitions, digest, config.engine.threads_per_client)


def _make_partial(
    config: FederationConfig,
    section: ProphetSection,
    models: list[CompiledSpans],
    members: list[CascadeClients],
    shared: dict[str, Any],
) -> Parts:
    whole = models[0].parameters()
    with config.naming("prophet"):
        widths = Widths.parse(section.groups, whole)
        for each in models:
            widths.check_copy(each.parameters(), whole)
        counts = tuple(widths.counts(each.parameters()) for each in models)
    with config.naming("strategy"):
        settings = made_of(CascadeSettings, config.strategy.settings)
    strategy = PartialTraining(
        **shared,
        settings=settings,
        widths=widths,
        counts=counts,
        choice=CHOICE_OF[config.strategy.name],  # type: ignore[arg-type]
    )
    return Parts(PartialClients(tuple(members), widths, counts), models[0], strategy)


def _make_distillation(
    config: FederationConfig,
    models: list[CompiledSpans],
    members: list[CascadeClients],
    shared: dict[str, Any],
    partitions: Reserved,
) -> Parts:
    settings = dict(config.strategy.settings)
    own = {
        name.removeprefix(_DISTILLATION): settings.pop(name)
        for name in list(settings)
        if name.startswith(_DISTILLATION)
    }
    training = replace(
        shared["training"],
        max_steps=own.pop("steps", 128),
        learning_rate=own.pop("learning_rate", shared["training"].learning_rate),
    )
    with config.naming("strategy"):
        if own:
            raise ConfigError(f"there is no distillation-{next(iter(own)).replace('_', '-')}")
        cascade_settings = made_of(CascadeSettings, settings)
    strategy = Distillation(
        **shared,
        settings=cascade_settings,
        smaller=tuple(each.parameters() for each in models[1:]),
        distil=Distiller(tuple(models), partitions.public(), training),
    )
    return Parts(DistilledClients(tuple(members)), models[0], strategy)
