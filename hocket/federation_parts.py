"""The parts of a federation, each made from what its file says."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.federated_clients import CompiledModel
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import digest_of
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.strategies.averaging import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.federated_clients import ClientMaker
    from hocket.fl.config import FederationConfig
    from hocket.fl.core.backend import Backend, BackendFactory
    from hocket.fl.core.data import Partitions
    from hocket.fl.core.strategy import Strategy
    from hocket.runtime.artifact import Artifact

MODEL = "model.hkt"
"""The compiled module, in the folder of a federation: what its clients load."""

TARGETS = {"cross-entropy": "classes", "next-token": "tokens"}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a federation is made of, beside its data.

    Attributes:
        clients: Makes clients.
        backend: The server's own model, with the parameters that the federation begins with.
        strategy: Its algorithm.
        files: Further files that clients read, by their names in the federation's folder: modules,
            and text.
    """

    clients: ClientMaker
    backend: Backend
    strategy: Strategy
    files: Mapping[str, str | Artifact] = field(default_factory=dict)


def make_model(
    config: FederationConfig, progress: Callable[[str, int, int], None] | None = None
) -> tuple[BackendFactory, Artifact | None]:
    """Return what makes the model, and the module it is made from; None for one's own backend.

    Args:
        config: Of the federation.
        progress: Of the compilation, as ``hocket.compile`` takes it.

    Raises:
        ConfigError: There is no such backend, or batches are too large for the module.
        ModelError: The model cannot be read, or a dimension has no size.
    """
    from hocket.fl.backends.batching import find_batch_sizes

    if config.model.backend:
        return load_own(config, "model.backend", config.model.backend), None
    artifact = _make_artifact(config, progress)
    # Now, and not as a failure of each device in each round.
    with config.naming("training"):
        find_batch_sizes(artifact).check(config.training.batch_size)
    return _compiled_model(config, artifact), artifact


def _make_artifact(
    config: FederationConfig, progress: Callable[[str, int, int], None] | None
) -> Artifact:
    from hocket.module import compile, load  # noqa: A004

    model = config.model
    if model.artifact:
        module = load(model.artifact)
    else:
        module = compile(
            model.onnx,
            model.target,
            model.sizes,
            num_threads=config.engine.threads_per_client,
            progress=progress,
        )
    return module.artifact


def _compiled_model(config: FederationConfig, artifact: Artifact) -> CompiledModel:
    from hocket.fl.backends.task import Task

    return CompiledModel(
        path=str(Path(config.federation.folder) / MODEL),
        digest=artifact.digest,
        task=Task(TARGETS[config.model.loss], config.model.output),  # type: ignore[arg-type]
        frozen=config.model.frozen,
        num_threads=config.engine.threads_per_client,
    )


def make_partitions(config: FederationConfig, artifact: Artifact | None) -> Partitions:
    """Return everyone's data.

    Args:
        config: Of the federation.
        artifact: Whose input takes the data; None for a backend of one's own.

    Raises:
        ConfigError: There is no such data, or it does not go with the model.
    """
    data = config.data
    if ":" in data.source:
        made: Partitions = load_own(config, "data.source", data.source)(data)
        return made
    name = data.input
    inputs = [] if artifact is None else [spec.name for spec in artifact.signature.inputs]
    with config.naming("data"):
        if not name and not inputs:
            raise ConfigError("input: want the name of the model's input that takes the images")
        if name and inputs and name not in inputs:
            raise ConfigError(f"input: the model has no input {name!r}; it has {inputs}")
        how = Partitioning(
            kind=data.partitioning,
            num_devices=data.devices,
            alpha=data.alpha,
            shards_per_device=data.shards_per_device,
            min_examples=data.min_examples,
            seed=data.seed,
        )
        return ImagePartitions(data.source, how, name or inputs[0], data.held_out_share)


def make_strategy(config: FederationConfig, backend: Backend) -> Strategy:
    """Return the algorithm.

    Raises:
        ConfigError: There is none of this name, or it does not take the settings.
    """
    section = config.strategy
    settings: dict[str, Any] = {"training": config.training.as_training(), **section.settings}
    # Only models that have them; a strategy of one's own need not know of them.
    statistics: frozenset[str] = getattr(backend, "statistics", frozenset())
    if statistics:
        settings["averaged"] = statistics
    if ":" in section.name:
        make = load_own(config, "strategy.name", section.name)
    elif section.name in STRATEGIES:
        make = STRATEGIES[section.name]
    else:
        with config.naming("strategy"):
            raise ConfigError(
                f"name: no strategy {section.name!r}; there are {', '.join(STRATEGIES)}, and "
                "package.module:function for one of your own"
            )
    with config.naming("strategy"):
        try:
            made: Strategy = make(**settings)
        except TypeError as error:
            raise ConfigError(f"{section.name} does not take these settings: {error}") from error
    return made


def load_own(config: FederationConfig, key: str, name: str) -> Any:
    """Return what a name such as ``package.module:function`` stands for.

    Modules beside the configuration are found as if they were installed, here and in the processes
    that this one starts.

    Raises:
        ConfigError: Names the key, and why it stands for nothing.
    """
    folder = str(config.folder.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        with config.naming(key):
            raise ConfigError(
                f"cannot load {name!r}: {error}; want 'module:name', the module installed or in "
                f"{folder}"
            ) from error


def read_data(
    config: FederationConfig, partitions: Partitions
) -> tuple[dict[str, tuple[int, int]], str]:
    """Return how many examples each device trains and evaluates on, and a digest of all data."""
    with config.naming("data"):
        if isinstance(partitions, ImagePartitions):
            names = partitions.device_ids()
            return {name: partitions.num_examples(name) for name in names}, partitions.digest()
        counts, digests = {}, []
        for name in partitions.device_ids():
            examples, num_held_out = partitions.load(name), 0
            if config.data.held_out_share:
                num_held_out = len(partitions.held_out(name))
            counts[name] = len(examples), num_held_out
            digests.append((name, digest_of({**examples.inputs, "targets/": examples.targets})))
        return counts, fingerprint_of(digests)


def fingerprint_of(*parts: Any) -> str:
    """Return the SHA-256 of values of JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
