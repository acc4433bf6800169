"""A federation from its file: what it is made of, and the run from the first round to the last."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.federated_clients import Clients, CompiledModel
from hocket.federation_devices import device_scheduler, observers_with
from hocket.federation_launch import launch
from hocket.federation_parts import (
    MODEL,
    Parts,
    fingerprint_of,
    make_model,
    make_partitions,
    make_strategy,
    read_data,
)
from hocket.fl.config import FederationConfig, load_config
from hocket.fl.core.client import ARTIFACT_DIGEST
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan, Progress
from hocket.fl.core.observers import JsonLines
from hocket.fl.core.parameters import encode_arrays
from hocket.fl.core.store import FolderStore
from hocket.fl.sim.engine import SimulatedClock, SimulatedEngine
from hocket.fl.sim.fleet import make_fleet
from hocket.prophet_parts import make_robust
from hocket.runtime.artifact import save_artifact
from hocket.runtime.files import atomic_file
from hocket.store_recording import recorded, recorder_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from hocket.federated_clients import ClientMaker
    from hocket.fl.core.backend import Backend, BackendFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.data import Partitions
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.strategy import Strategy
    from hocket.fl.core.types import RoundReport
    from hocket.fl.sim.fleet import Fleet
    from hocket.runtime.artifact import Artifact

FINAL, METRICS, STORE, CURVES = "final", "metrics.jsonl", "store", "tensorboard"
BESIDE, CONFIG = "beside.safetensors", "config.json"
"""What a federation leaves in its folder, beside the module that it trains: in the last two the
parameters that are no part of the trained model, such as those of early exits, and what its file
said."""


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
        given: Names of parts that are not what the file says, but were handed in.
        files: Further files that clients read, by their names in the folder.
    """

    config: FederationConfig
    clients: ClientMaker
    backend: Backend
    strategy: Strategy
    artifact: Artifact | None
    num_examples: Mapping[str, tuple[int, int]]
    fleet: Fleet | None
    fingerprint: str
    given: tuple[str, ...] = ()
    files: Mapping[str, str | Artifact] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path(self.config.federation.folder)

    @property
    def model(self) -> Path:
        """Where the module is that clients load."""
        return self.folder / MODEL

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

        self.keep_module()
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self.config.engine.threads_per_client)
        try:
            with device_scheduler(self.config.devices, self.config.federation.rounds) as scheduler:
                told = observers_with(scheduler, observers)
                about = {"artifact": self.clients.artifact_digest}
                with recorder_of(self.config.store, self.config.federation.name, about) as recorder:
                    strategy = recorded(self.strategy, recorder)
                    progress = self._run(engine, scheduler, strategy, told, resume=resume)
        finally:
            torch.set_num_threads(num_threads)
        return FederationResult(
            folder=self.folder,
            model=self._keep_model(progress.state.parameters),
            digest=progress.digest,
            artifact_digest=self.clients.artifact_digest,
            reports=progress.reports,
        )

    def keep_module(self) -> None:
        """Put the module where clients look for it, and what else they read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / CONFIG).write_text(self.config.to_json(), encoding="utf-8")
        if self.artifact is not None:
            save_artifact(self.artifact, self.model)
        for name, content in self.files.items():
            if isinstance(content, str):
                (self.folder / name).write_text(content, encoding="utf-8")
            else:
                save_artifact(content, self.folder / name)

    def coordinator(
        self, engine: Engine, scheduler: DeviceScheduler, store: Store, clock: Clock
    ) -> Coordinator:
        """Return what runs its rounds, for who has an engine, a store and a clock of their own."""
        examples = self.clients.partitions.held_out()
        names = self.backend.parameters().keys()

        def evaluate(parameters: Parameters) -> Mapping[str, float]:
            # A strategy may keep other models' among them.
            self.backend.load_parameters({name: parameters[name] for name in names})
            return self.backend.evaluate(examples).metrics

        section, digest = self.config.federation, self.clients.artifact_digest
        return Coordinator(
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
            scheduler=scheduler,
            store=store,
            clock=clock,
            evaluate=evaluate,
            settings={ARTIFACT_DIGEST: digest} if digest else {},
        )

    def _run(
        self,
        engine: Engine,
        scheduler: DeviceScheduler,
        strategy: Strategy,
        observers: Sequence[Observer],
        *,
        resume: bool,
    ) -> Progress:
        clock: Clock = WallClock()
        if self.fleet is not None and self.config.federation.clock == "simulated":
            clock = SimulatedClock()
            engine = SimulatedEngine(engine, self.fleet, clock)
        coordinator = self.coordinator(engine, scheduler, FolderStore(self.folder / STORE), clock)
        coordinator = dataclasses.replace(coordinator, strategy=strategy)
        section = self.config.federation
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
        own = {name: array for name, array in parameters.items() if name in self.artifact.weights}
        weights = {**self.artifact.weights, **own}
        if len(own) < len(parameters):
            with atomic_file(self.folder / BESIDE) as file:
                beside = {name: each for name, each in parameters.items() if name not in own}
                file.write(encode_arrays(beside))
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
    if engine is not None:
        return federation.run(engine, observers, resume=resume)
    return launch(federation, observers, resume=resume)


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
    parts = {"strategy": strategy, "make_backend": make_backend, "partitions": partitions}
    given = tuple(name for name, part in parts.items() if part is not None)
    artifact = None
    if make_backend is None:
        make_backend, artifact = make_model(config, progress)
    if partitions is None:
        partitions = make_partitions(config, artifact)
    digest = "" if artifact is None else artifact.digest
    counts, data_digest = read_data(config, partitions)
    made = _make_parts(config, make_backend, artifact, partitions, strategy)
    with config.naming("device-classes"):
        classes, seed = config.device_classes, config.federation.seed
        counts = {name: counts[name] for name in made.clients.device_ids()}
        fleet = make_fleet(classes, counts, made.backend, seed) if classes else None
    return Federation(
        config=config,
        clients=made.clients,
        backend=made.backend,
        strategy=made.strategy,
        artifact=artifact,
        num_examples=counts,
        fleet=fleet,
        fingerprint=fingerprint_of(config.essence(), digest, data_digest, *_digests(made.files)),
        given=given,
        files=made.files,
    )


def _digests(files: Mapping[str, str | Artifact]) -> list[str]:
    return [each if isinstance(each, str) else each.digest for each in files.values()]


def _make_parts(
    config: FederationConfig,
    make_backend: BackendFactory,
    artifact: Artifact | None,
    partitions: Partitions,
    strategy: Strategy | None,
) -> Parts:
    if config.prophet is not None:
        made = make_robust(config, artifact, partitions)
        return made if strategy is None else dataclasses.replace(made, strategy=strategy)
    with config.naming("model"):
        backend = _make_backend(make_backend, artifact)
    digest = "" if artifact is None else artifact.digest
    clients = Clients(make_backend, partitions, digest, config.engine.threads_per_client)
    return Parts(clients, backend, strategy or make_strategy(config, backend))


def _make_backend(make_backend: BackendFactory, artifact: Artifact | None) -> Backend:
    # The module's file, which other processes read, need not be there yet.
    if isinstance(make_backend, CompiledModel) and artifact is not None:
        return make_backend.make(artifact)
    return make_backend()
