"""A federation from its file: what it is made of, and the run from the first round to the last."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.federated_clients import Clients, CompiledModel
from hocket.federation_launch import launch
from hocket.fl.config import FederationConfig, load_config
from hocket.fl.core.client import ARTIFACT_DIGEST
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan, Progress
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.observers import JsonLines
from hocket.fl.core.parameters import digest_of, encode_arrays
from hocket.fl.core.store import FolderStore
from hocket.fl.data.image_partitions import ImagePartitions
from hocket.fl.data.partitioning import Partitioning
from hocket.fl.sim.engine import SimulatedClock, SimulatedEngine
from hocket.fl.sim.fleet import make_fleet
from hocket.fl.strategies.averaging import STRATEGIES
from hocket.runtime.artifact import save_artifact
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.core.backend import Backend, BackendFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.data import Partitions
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.strategy import Strategy
    from hocket.fl.core.types import RoundReport
    from hocket.fl.sim.fleet import Fleet
    from hocket.runtime.artifact import Artifact

MODEL, FINAL, METRICS, STORE, CURVES = "model.hkt", "final", "metrics.jsonl", "store", "tensorboard"
"""What a federation leaves in its folder."""

TARGETS = {"cross-entropy": "classes", "next-token": "tokens"}


@dataclass(frozen=True)
class FederationResult:
    """How a federation ended.

    Attributes:
        folder: Where all of it is.
        model: The file of the trained model, for ``hocket.InferenceSession``; of a backend of one's
            own its parameters, as safetensors.
        digest: Of the trained parameters.
        artifact_digest: Of the compiled module that was trained; empty without one.
        reports: Of all rounds.
    """

    folder: Path
    model: Path
    digest: str
    artifact_digest: str
    reports: tuple[RoundReport, ...]


@dataclass(frozen=True, eq=False)
class Federation:
    """What a federation is made of, except for where its clients run.

    Attributes:
        config: What its file says.
        clients: Makes clients, here or elsewhere.
        backend: The server's own model, with the parameters that the federation begins with.
        strategy: Its algorithm.
        artifact: What is trained; None for a backend of one's own.
        num_examples: That each device trains and evaluates on, by its name.
        fleet: The devices' classes; None where the file has none.
        fingerprint: Of all that changes what comes out.
    """

    config: FederationConfig
    clients: Clients
    backend: Backend
    strategy: Strategy
    artifact: Artifact | None
    num_examples: Mapping[str, tuple[int, int]]
    fleet: Fleet | None
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path(self.config.federation.folder)

    @property
    def attributes(self) -> dict[str, dict[str, float]]:
        """What the strategy may ask of each device, by its name."""
        return {} if self.fleet is None else self.fleet.attributes

    def run(
        self, engine: Engine, observers: Sequence[Observer] = (), *, resume: bool = False
    ) -> FederationResult:
        """Run the rounds that are left, wherever clients are, and keep the trained model.

        Args:
            engine: Has the clients; the caller closes it.
            observers: Told beside the files of metrics.
            resume: Whether to go on after the last round that is over, if one is. Else what is in
                the folder of a federation of this name is replaced.

        Raises:
            FederationError: What is to be resumed was made from something else.
        """
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self.config.engine.threads_per_client)
        try:
            progress = self._run(engine, observers, resume=resume)
        finally:
            torch.set_num_threads(num_threads)
        return FederationResult(
            folder=self.folder,
            model=self._keep_model(progress.state.parameters),
            digest=progress.digest,
            artifact_digest=self.clients.artifact_digest,
            reports=progress.reports,
        )

    def _run(self, engine: Engine, observers: Sequence[Observer], *, resume: bool) -> Progress:
        if self.artifact is not None:
            save_artifact(self.artifact, self.folder / MODEL)
        clock: Clock = WallClock()
        if self.fleet is not None and self.config.federation.clock == "simulated":
            clock = SimulatedClock()
            engine = SimulatedEngine(engine, self.fleet, clock)
        examples = self.clients.partitions.held_out()

        def evaluate(parameters: Parameters) -> Mapping[str, float]:
            self.backend.load_parameters(parameters)
            return self.backend.evaluate(examples).metrics

        section, digest = self.config.federation, self.clients.artifact_digest
        coordinator = Coordinator(
            plan=Plan(
                job=section.name,
                num_rounds=section.rounds,
                seed=section.seed,
                evaluate_every=section.evaluate_every,
                timeout_seconds=section.timeout_seconds,
                keep_states=section.keep_states,
                fingerprint=self.fingerprint,
            ),
            strategy=self.strategy,
            engine=engine,
            scheduler=FifoScheduler(),
            store=FolderStore(self.folder / STORE),
            clock=clock,
            evaluate=evaluate,
            settings={ARTIFACT_DIGEST: digest} if digest else {},
        )
        if resume and coordinator.store.keys(f"{section.name}/"):
            progress = coordinator.resume()
        else:
            progress = coordinator.begin(self.backend.parameters())
        told: list[Observer] = [JsonLines(self.folder / METRICS, progress.reports), *observers]
        if not section.tensorboard:
            return dataclasses.replace(coordinator, observers=told).run(progress)
        from hocket.fl.tensorboard import TensorBoard

        curves = TensorBoard(self.folder / CURVES, progress.round)
        try:
            return dataclasses.replace(coordinator, observers=[*told, curves]).run(progress)
        finally:
            curves.close()

    def _keep_model(self, parameters: Parameters) -> Path:
        if self.artifact is None:
            path = self.folder / f"{FINAL}.safetensors"
            with atomic_file(path) as file:
                file.write(encode_arrays(parameters))
            return path
        from hocket.fl.backends.inference import as_inference_artifact

        path = self.folder / f"{FINAL}.hkt"
        weights = {**self.artifact.weights, **parameters}
        trained = dataclasses.replace(self.artifact, weights=weights)
        save_artifact(as_inference_artifact(trained), path)
        return path


def federate(
    config: str | os.PathLike[str] | FederationConfig,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    engine: Engine | None = None,
    **parts: Any,
) -> FederationResult:
    """Run a federation and return how it ended.

    Args:
        config: Its file, or what such a file holds.
        resume: Whether to go on after the last round that is over, if one is. Else what is in the
            folder of a federation of this name is replaced.
        observers: Told of rounds as they go.
        engine: Where clients run, in place of what the configuration says; the caller closes it.
        parts: As ``prepare_federation`` takes them: ``strategy``, ``make_backend``, ``partitions``.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
        FederationError: What is to be resumed was made from something else.
    """
    federation = prepare_federation(config, **parts)

    def run(engine: Engine) -> FederationResult:
        return federation.run(engine, observers, resume=resume)

    return run(engine) if engine is not None else launch(federation, run)


def prepare_federation(
    config: str | os.PathLike[str] | FederationConfig,
    *,
    strategy: Strategy | None = None,
    make_backend: BackendFactory | None = None,
    partitions: Partitions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Federation:
    """Return what a federation is made of, with nothing written yet; compile its model.

    Args:
        config: Its file, or what such a file holds.
        strategy: In place of the one that the configuration names.
        make_backend: The same; picklable, if clients run in other processes.
        partitions: The same.
        progress: Of the compilation, as ``hocket.compile`` takes it.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
        ModelError: The model cannot be read, or a dimension has no size.
    """
    if not isinstance(config, FederationConfig):
        config = load_config(config)
    artifact = None
    if make_backend is None and config.model.backend:
        make_backend = _load_own(config, "model.backend", config.model.backend)
    with config.naming("model"):
        if make_backend is None:
            artifact = _make_artifact(config, progress)
            make_backend = _compiled_model(config, artifact)
            backend: Backend = make_backend.make(artifact)
        else:
            backend = make_backend()
    if partitions is None:
        partitions = _make_partitions(config, artifact)
    digest = "" if artifact is None else artifact.digest
    counts, data_digest = _read_data(config, partitions)
    with config.naming("device-classes"):
        classes, seed = config.device_classes, config.federation.seed
        fleet = make_fleet(classes, counts, backend, seed) if classes else None
    return Federation(
        config=config,
        clients=Clients(make_backend, partitions, digest, config.engine.threads_per_client),
        backend=backend,
        strategy=strategy or _make_strategy(config, backend),
        artifact=artifact,
        num_examples=counts,
        fleet=fleet,
        fingerprint=_fingerprint(config.essence(), digest, data_digest),
    )


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


def _make_partitions(config: FederationConfig, artifact: Artifact | None) -> Partitions:
    data = config.data
    if ":" in data.source:
        made: Partitions = _load_own(config, "data.source", data.source)(data)
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


def _make_strategy(config: FederationConfig, backend: Backend) -> Strategy:
    section = config.strategy
    settings: dict[str, Any] = {"training": config.training.as_training(), **section.settings}
    # Only models that have them; a strategy of one's own need not know of them.
    statistics: frozenset[str] = getattr(backend, "statistics", frozenset())
    if statistics:
        settings["averaged"] = statistics
    if ":" in section.name:
        make = _load_own(config, "strategy.name", section.name)
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


def _load_own(config: FederationConfig, key: str, name: str) -> Any:
    """Return what a name such as ``package.module:function`` stands for.

    Modules beside the configuration are found as if they were installed, here and in the processes
    that this one starts.
    """
    folder = str(config.folder.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        with config.naming(key):
            raise ConfigError(f"cannot load {name!r}: {error}") from error


def _read_data(
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
        return counts, _fingerprint(digests)


def _fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
