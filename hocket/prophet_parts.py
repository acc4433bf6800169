"""The parts of a federation that trains a model to withstand attacks, made from its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.federation_parts import Parts
from hocket.fl.core.errors import ConfigError
from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.frozen import peak_at_input
from hocket.fl.fat.layout import cascade_from_json, cascade_to_json
from hocket.fl.fat.partition import Cascade, whole_model
from hocket.fl.fat.perturbation import Adjustment
from hocket.fl.fat.strategy import CascadeSettings, FedProphet
from hocket.prophet_plan import cascade_under, footprint_of, spans_with_exits
from hocket.robust_families import (
    FAMILIES,
    cascade_clients,
    made_of,
    make_family,
    pool_of,
    task_of,
)

if TYPE_CHECKING:
    from hocket.federated_clients import ClientMaker
    from hocket.fl.backends.spans import CompiledSpans
    from hocket.fl.config import FederationConfig, ProphetSection
    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.data import Partitions
    from hocket.runtime.artifact import Artifact

LAYOUT = "prophet.json"
"""What is trained, in the folder of a federation: its clients read it, and those who evaluate."""

FEDPROPHET, JFAT = "fedprophet", "jfat"
_ALPHA = "alpha_"


def make_robust(
    config: FederationConfig, artifact: Artifact | None, partitions: Partitions
) -> Parts:
    """Return the parts of a federation that trains a model to withstand attacks.

    Raises:
        ConfigError: There is no such method, or it does not take the settings; or an atom of the
            model does not fit into the memory that devices have.
        CapabilityError: The model cannot be cut.
    """
    artifact, section = _checked(config, artifact)
    if config.strategy.name in FAMILIES:
        return make_family(config, section, artifact, partitions)
    cascade, planner = _make_cascade(config, section, artifact)
    clients = cascade_clients(config, artifact, cascade, partitions)
    with config.naming("strategy"):
        strategy = _make_prophet(config, section, cascade, planner)
    layout = {"modules": cascade_to_json(cascade)}
    return Parts(
        clients=clients,
        backend=clients.pieces.make(artifact),
        strategy=strategy,
        files={LAYOUT: json.dumps(layout, indent=1)},
    )


def robust_clients(
    config: FederationConfig, artifact: Artifact | None, partitions: Partitions
) -> ClientMaker:
    """Return what makes clients where the server has put its files; no module is planned again.

    Raises:
        ConfigError: They are not there.
    """
    artifact, section = _checked(config, artifact)
    if config.strategy.name in FAMILIES:
        return make_family(config, section, artifact, partitions).clients
    cascade = read_layout(Path(config.federation.folder))
    return cascade_clients(config, artifact, cascade, partitions)


def read_layout(folder: Path) -> Cascade:
    """Return the modules that are trained in a federation's folder.

    Raises:
        ConfigError: There is no such file, or it holds none.
    """
    path = folder / LAYOUT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; is it the folder of hocket prophet?") from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return cascade_from_json(content["modules"])


def _checked(
    config: FederationConfig, artifact: Artifact | None
) -> tuple[Artifact, ProphetSection]:
    if artifact is None or config.prophet is None:
        with config.naming("model"):
            raise ConfigError("want an onnx or artifact; a backend of one's own is not cut")
    return artifact, config.prophet


def _make_cascade(
    config: FederationConfig, section: ProphetSection, artifact: Artifact
) -> tuple[Cascade, CompiledSpans]:
    planner = spans_with_exits(
        artifact, task_of(config), config.model.frozen, section.exit_features
    )
    if config.strategy.name == JFAT:
        return whole_model(planner.owned), planner
    with config.naming("prophet"):
        return cascade_under(planner, config.training.as_training(), section.memory_bytes), planner


def _make_prophet(
    config: FederationConfig, section: ProphetSection, cascade: Cascade, planner: CompiledSpans
) -> FedProphet:
    name, training = config.strategy.name, config.training.as_training()
    if name not in (FEDPROPHET, JFAT):
        raise ConfigError(f"name: no method {name!r} to withstand attacks; there are {METHODS}")
    given = dict(config.strategy.settings)
    if name == JFAT:  # one stage, as long as all of it
        rounds = config.federation.rounds
        given = {"rounds_per_stage": rounds, "patience": rounds, **given}
    alpha = {key.removeprefix(_ALPHA): given.pop(key) for key in list(given)
             if key.startswith(_ALPHA)}  # fmt: skip
    settings = made_of(CascadeSettings, given)
    if settings.attack == "input" and section.memory_bytes:
        _check_at_input(cascade, planner, training, section.memory_bytes)
    available, costs = None, {}
    if section.pool and len(cascade) > 1:
        available = pool_of(section).available
        for last in range(len(cascade)):
            for first in range(last + 1):
                cost = footprint_of(planner, training, cascade.piece(first, last).span)
                costs[first, last] = SpanCost(cost.peak_bytes, cost.flops)
    return FedProphet(
        cascade,
        costs=costs,
        available=available,
        settings=settings,
        training=training,
        adjustment=made_of(Adjustment, alpha),
        budget_bytes=section.memory_bytes if name == FEDPROPHET else 0,
    )


def _check_at_input(
    cascade: Cascade, planner: CompiledSpans, training: LocalTraining, budget_bytes: int
) -> None:
    """Check that each module can be attacked at the model's input, through those before it."""
    for number, module in enumerate(cascade.modules):
        before, piece = cascade.modules[:number], cascade.piece(number, number)
        peak = peak_at_input(
            planner.borders(),
            lambda span, count: footprint_of(planner, replace(training, batch_size=count), span),
            before,
            piece,
            training.batch_size,
            budget_bytes,
        )
        if peak > budget_bytes:
            raise ConfigError(
                f"attack: {module} takes {peak:,} bytes when it is attacked at the input, an "
                f"example at a time, and devices have {budget_bytes:,}; give more memory, train "
                f"smaller batches or attack 'features'"
            )


METHODS = (FEDPROPHET, JFAT, *FAMILIES)
"""Methods that train a model to withstand attacks, by the names that a file gives."""
