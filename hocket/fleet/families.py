"""What jobs of each family are made of: federations, robust ones among them, and runs of Photon."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hocket.federated_clients import Clients, CompiledModel
from hocket.federation import prepare_federation
from hocket.federation_parts import fingerprint_of
from hocket.fl.config import load_config
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.strategy import ServerState
from hocket.fl.core.types import ClientTask, Device
from hocket.fl.fat.cascade import StageTask
from hocket.fl.fat.strategy import FedProphet
from hocket.fl.photon.config import load_photon_config
from hocket.fl.photon.link import Label, pack, wire_bytes
from hocket.fl.photon.shards import write_shards
from hocket.fl.store.access import EXAMPLES, MODULE
from hocket.fl.store.layout import encode
from hocket.fl.store.workloads.models import TARGETS
from hocket.fleet.costs import ClassModel, Modules, WholeModel
from hocket.photon import photon_clients, photon_server
from hocket.photon_parts import make_backend
from hocket.robust_clients import CascadeClients
from hocket.robust_families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.federation import Federation
    from hocket.fl.backends.compiled import CompiledBackend
    from hocket.fl.config import DeviceClass
    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.core.client import ClientFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.data import Examples
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.photon.config import PhotonConfig
    from hocket.fl.photon.recipe import Recipe
    from hocket.fleet.config import FleetConfig, JobSection
    from hocket.fleet.costs import Workloads
    from hocket.fleet.jobs import Server, Tasks
    from hocket.photon_parts import PhotonClients
    from hocket.runtime.artifact import Artifact

    MakeBackend = Callable[[Artifact], CompiledBackend]
    MakeServer = Callable[[Engine, DeviceScheduler, Store, Clock], Server]
    Progressing = Callable[[str, int, int], None]

MOST_HELD_OUT = 256
"""Examples of a federation that the store keeps to run its models on."""

_BYTES, _END_OF_TEXT = 257, 256
"""Tokens of text that is read byte by byte, and the one that ends a document."""


@dataclass(frozen=True, eq=False)
class Family:
    """A job, except for where it runs and who its devices are.

    Attributes:
        name: Of the job.
        num_rounds: That it has at most.
        folder: Where its results go.
        clients: Makes its clients.
        make_server: Makes what runs its rounds.
        begins_with: The parameters before its first round.
        first: The state then, as far as costs follow from it.
        fingerprint: Of all that changes what comes out.
        tasks: What it has its clients do.
        workloads: What that comes to.
        models: Its model for each class of devices, by its name.
        num_examples: That each client trains and evaluates on.
        training: Of the hardest task.
        hardest: That task.
        module: File of the compiled module that is trained.
        held_out: Some of the server's examples, which the store's requests run the module on.
    """

    name: str
    num_rounds: int
    folder: Path
    clients: ClientFactory
    make_server: MakeServer
    begins_with: Parameters
    first: ServerState
    fingerprint: str
    tasks: Tasks
    workloads: Workloads
    models: Mapping[str, ClassModel]
    num_examples: Mapping[str, tuple[int, int]]
    training: LocalTraining
    hardest: ClientTask
    module: Path
    held_out: Examples

    def aids(self) -> dict[str, bytes]:
        """Return what the store's work that runs models reads: entries by their kinds."""
        arrays = {**self.held_out.inputs, TARGETS: self.held_out.targets}
        return {MODULE: self.module.read_bytes(), EXAMPLES: encode(arrays)}


def make_family(
    config: FleetConfig, job: JobSection, progress: Progressing | None = None
) -> Family:
    """Return what a job is made of, with its model compiled for each class of devices.

    Args:
        config: The fleet's file.
        job: Of it.
        progress: Of compilations, as ``hocket.compile`` takes it.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
    """
    if job.federation:
        return _make_federation(config, job, progress)
    return _make_photon(config, job, progress)


@dataclass(frozen=True)
class _FederationTasks:
    """Tasks of a strategy."""

    federation: Federation

    def configure(
        self, state: ServerState, round_number: int, clients: Sequence[str]
    ) -> list[ClientTask]:
        """Return a round's tasks."""
        devices = [Device(name) for name in sorted(clients)]
        seed = self.federation.config.federation.seed
        return self.federation.strategy.configure(state, round_number, devices, seed, "train")

    def upload_bytes(self, state: ServerState, task: ClientTask) -> int:
        """Return what a client sends back."""
        return num_bytes(self.federation.strategy.returned(state, task))

    def is_finished(self, state: ServerState) -> bool:
        """Return whether more rounds would change nothing."""
        return self.federation.strategy.is_finished(state)


@dataclass(frozen=True)
class _PhotonTasks:
    """Tasks of a recipe, as far as they are alike for all clients."""

    recipe: Recipe
    sent_bytes: int

    def configure(
        self, state: ServerState, round_number: int, clients: Sequence[str]
    ) -> list[ClientTask]:
        """Return a round's tasks, without what they say of the model."""
        del state
        config = self.recipe.training.to_config()
        return [ClientTask(round_number, name, "train", 0, config) for name in sorted(clients)]

    def upload_bytes(self, state: ServerState, task: ClientTask) -> int:
        """Return what a client sends back."""
        del state, task
        return self.sent_bytes

    def is_finished(self, state: ServerState) -> bool:
        """Return that it is not, before its last round."""
        del state
        return False


def _make_federation(config: FleetConfig, job: JobSection, progress: Progressing | None) -> Family:
    path = config.home / job.federation
    loaded = load_config(path, {**job.settings, "data.devices": config.population.devices})
    with loaded.naming("model"):
        if not loaded.model.onnx:
            raise ConfigError("want onnx, which is compiled for each class of devices")
    if loaded.strategy.name in FAMILIES:
        with loaded.naming("strategy"):
            raise ConfigError(f"{loaded.strategy.name} trains models of several sizes: no fleet's")
    name = job.name or loaded.federation.name
    folder = config.folder / name
    section = loaded.federation.model_copy(
        update={"name": name, "folder": str(folder), "clock": "wall", "timeout_seconds": None}
    )
    loaded = loaded.model_copy(update={"federation": section, "device_classes": ()})
    federation = prepare_federation(loaded, progress=progress)
    clients, sizes = federation.clients, loaded.model.sizes

    def compile_for(target: str) -> Artifact:
        return _compile(loaded.model.onnx, target, sizes, config.fleet.dataflow)

    models = _models(config.classes, compile_for, _maker_of(clients))
    training = loaded.training.as_training()
    workloads: Workloads = WholeModel()
    hardest = ClientTask(1, "any", "train", 0, training.to_config())
    strategy = federation.strategy
    if isinstance(strategy, FedProphet) and isinstance(clients, CascadeClients):
        workloads = Modules(clients.cascade)
        with loaded.naming("strategy"):
            if strategy.settings.steering == "all" or strategy.available is not None:
                raise ConfigError("a fleet's devices begin at once: want steering 'round', no pool")
        hardest = dataclasses.replace(
            hardest, config={**hardest.config, **_hardest_stage(strategy).to_config()}
        )
    federation.keep_module()
    begins_with = federation.backend.parameters()
    return Family(
        name=name,
        num_rounds=section.rounds,
        folder=folder,
        clients=clients,
        make_server=federation.coordinator,
        begins_with=begins_with,
        first=federation.strategy.initialize(begins_with),
        fingerprint=federation.fingerprint,
        tasks=_FederationTasks(federation),
        workloads=workloads,
        models=models,
        num_examples=federation.num_examples,
        training=training,
        hardest=hardest,
        module=federation.model,
        held_out=_some(clients.partitions.held_out()),
    )


def _some(examples: Examples) -> Examples:
    """Return examples spread evenly over all there are."""
    wanted = min(MOST_HELD_OUT, len(examples))
    return examples.take(np.arange(wanted, dtype=np.int64) * len(examples) // max(wanted, 1))


def _maker_of(clients: ClientFactory) -> MakeBackend:
    """Return what makes a job's model of a module, as its clients do."""
    if isinstance(clients, CascadeClients):
        return clients.pieces.make
    if isinstance(clients, Clients) and isinstance(clients.make_backend, CompiledModel):
        return clients.make_backend.make
    raise ConfigError("a fleet's jobs train compiled models")


def _hardest_stage(strategy: FedProphet) -> StageTask:
    last, settings = len(strategy.cascade) - 1, strategy.settings
    return StageTask(
        stage=last, last=last, steps=settings.steps, measure_steps=settings.measure_steps
    )


def _make_photon(config: FleetConfig, job: JobSection, progress: Progressing | None) -> Family:
    from hocket.fl.photon.gpt import BATCH, Gpt, export_gpt

    path = config.home / job.photon
    loaded = load_photon_config(path, {**job.settings, "data.clients": config.population.devices})
    if loaded.secure is not None or loaded.privacy is not None or loaded.node.machines > 1:
        raise ConfigError(f"{path}: a fleet's store sees updates: want no secure, privacy or node")
    name = job.name or loaded.run.name
    folder = config.folder / name
    run = loaded.run.model_copy(update={"name": name, "folder": str(folder)})
    data = loaded.data
    if job.texts:
        data = data.model_copy(update={"folder": str(folder / "shards")})
        _write_texts(config, job, Path(data.folder))
    loaded = loaded.model_copy(update={"run": run, "data": data})
    artifact, clients = photon_clients(loaded)
    recipe = loaded.recipe(clients.data.context)
    size = loaded.size(clients.data.shards.vocabulary)
    file = export_gpt(Gpt(size, run.seed), size)
    dims = {BATCH: (1, loaded.training.local_batch)}

    def compile_for(target: str) -> Artifact:
        return _compile(file, target, dims, config.fleet.dataflow, progress)

    models = _models(config.classes, compile_for, make_backend)
    begins_with = make_backend(artifact).parameters()
    sent = wire_bytes(pack(Label(name, 1, clients.device_ids()[0]), begins_with, recipe.scheme))
    make_server = functools.partial(photon_server, loaded, artifact, clients)
    return Family(
        name=name,
        num_rounds=run.rounds,
        folder=folder,
        clients=clients,
        make_server=make_server,
        begins_with=begins_with,
        first=ServerState(begins_with),
        fingerprint=_photon_fingerprint(loaded, clients),
        tasks=_PhotonTasks(recipe, sent),
        workloads=WholeModel(recipe.local_steps),
        models=models,
        num_examples=dict.fromkeys(clients.device_ids(), (recipe.sequences, 0)),
        training=recipe.training,
        hardest=ClientTask(1, "any", "train", 0, recipe.training.to_config()),
        module=Path(clients.module),
        held_out=clients.data.held_out(clients.data.shards.sources[0], data.held_out),
    )


def _photon_fingerprint(loaded: PhotonConfig, clients: PhotonClients) -> str:
    return fingerprint_of(loaded.essence(), clients.digest, clients.data.shards.digest)


def _write_texts(config: FleetConfig, job: JobSection, folder: Path) -> None:
    """Write files as shards, a byte a token; paragraphs are documents, a pattern is a source."""
    documents = {}
    for number, pattern in enumerate(job.texts):
        paths = sorted(config.home.glob(pattern))
        if not paths:
            raise ConfigError(f"{config.origin}: jobs: texts: no file is like {pattern!r}")
        documents[f"text-{number}"] = [
            part for path in paths for part in path.read_text(encoding="utf-8").split("\n\n")
        ]
    write_shards(
        folder, documents, lambda text: list(text.encode()), _BYTES, end_of_text=_END_OF_TEXT
    )


def _compile(
    model: str | bytes,
    target: str,
    sizes: Mapping[str, int | str | tuple[int, int]],
    dataflow: str,
    progress: Progressing | None = None,
) -> Artifact:
    from hocket.compiler.options import CompileOptions
    from hocket.module import compile  # noqa: A004

    options = CompileOptions(num_threads=1, dataflow=dataflow)
    return compile(model, target, sizes, options=options, progress=progress).artifact


def _models(
    classes: Sequence[DeviceClass], compile_for: Callable[[str], Artifact], make: MakeBackend
) -> dict[str, ClassModel]:
    """Return a model for each class; classes of one machine share what is compiled."""
    backends: dict[str, CompiledBackend] = {}
    for each in classes:
        if each.target not in backends:
            backends[each.target] = make(compile_for(each.target))
    return {each.name: ClassModel(each, backends[each.target]) for each in classes}
