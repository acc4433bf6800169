"""Runs of Photon from one file: language models trained from scratch by clients far apart."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hocket.federation_devices import device_scheduler, observers_with
from hocket.fl.config import DevicesSection
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Plan
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.observers import JsonLines
from hocket.fl.core.store import FolderStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.config import METRICS, PhotonConfig, load_photon_config
from hocket.fl.photon.corpora import fetch, read_documents
from hocket.fl.photon.server import PhotonServer, ledger_of
from hocket.fl.photon.shards import ShardClients, TokenShards, write_shards
from hocket.photon_launch import check_packages, make_engine, run_deployed, run_peers
from hocket.photon_parts import PhotonClients, compile_gpt, make_backend
from hocket.runtime.artifact import load_artifact, save_artifact
from hocket.store_recording import recorder_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.backend import Backend
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.types import RoundReport
    from hocket.fl.photon.ledger import Ledger
    from hocket.runtime.artifact import Artifact

MODULE, FINAL, STORE, CURVES = "model.hkt", "final.hkt", "store", "tensorboard"
"""What a run leaves in its folder: the module that is trained, as it was and as it is in the end,
a line of JSON a round, and checkpoints."""

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class PhotonResult:
    """How a run ended.

    Attributes:
        folder: Where all of it is.
        model: File of the trained model, for ``hocket.InferenceSession``.
        digest: Of its parameters.
        reports: Of all rounds.
        ledger: What each client has trained on, and bytes on the wire.
    """

    folder: Path
    model: Path
    digest: str
    reports: tuple[RoundReport, ...]
    ledger: Ledger


def train_photon(
    config: str | os.PathLike[str] | PhotonConfig,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    engine: Engine | None = None,
    devices: DevicesSection | None = None,
) -> PhotonResult:
    """Train a model, and return how it went.

    Args:
        config: Its file, or what such a file holds.
        resume: Whether to go on after the last round that is over, if one is. Else what is in the
            folder of a run of this name is replaced.
        observers: Told of rounds as they go.
        engine: Where clients run, in place of what the file says; the caller closes it. Its clients
            must be those that ``photon_clients`` makes.
        devices: Who shares clients among several runs and federations, if they do.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
        FederationError: What is to be resumed was made from something else.
    """
    import torch

    if not isinstance(config, PhotonConfig):
        config = load_photon_config(config)
    check_packages(config)
    artifact, clients = photon_clients(config)
    if engine is None and (config.engine.address or config.engine.name == "peers"):
        config.recipe(clients.data.context)
        if devices is not None and devices.service:
            raise ConfigError("clients are shared where this process is the run's server")
        if config.engine.name == "peers":
            run_peers(config, observers, resume=resume)
        else:
            run_deployed(config, observers, resume=resume)
        # No round is left: this reads how it ended.
        engine = InProcessEngine(clients, WallClock())
        return train_photon(config, resume=True, engine=engine)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(clients.num_threads)
    folder, section = Path(config.run.folder), config.run
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, num_threads)
        if engine is None:
            engine = stack.enter_context(contextlib.closing(make_engine(config, clients)))
        scheduler = stack.enter_context(
            device_scheduler(devices or DevicesSection(), config.run.rounds)
        )
        recorder = stack.enter_context(
            recorder_of(config.store, section.name, {"artifact": artifact.digest})
        )
        store = FolderStore(folder / STORE)
        server = photon_server(config, artifact, clients, engine, scheduler, store, WallClock())
        server = dataclasses.replace(server, recording=recorder)
        if resume and server.store.keys(f"{section.name}/"):
            progress = server.resume()
        else:
            parameters = make_backend(artifact).parameters()
            progress = server.begin(parameters)
            if recorder is not None:
                recorder.model(0, parameters, {})
        told: list[Observer] = [JsonLines(folder / METRICS, progress.reports), *observers]
        if section.tensorboard:
            from hocket.fl.tensorboard import TensorBoard

            curves = TensorBoard(folder / CURVES, progress.round)
            told.append(stack.enter_context(contextlib.closing(curves)))
        told = list(observers_with(scheduler, told))
        progress = dataclasses.replace(server, observers=told).run(progress)
    return PhotonResult(
        folder=folder,
        model=_keep_model(artifact, progress.state.parameters, folder / FINAL),
        digest=progress.digest,
        reports=progress.reports,
        ledger=ledger_of(progress.state),
    )


def photon_server(
    config: PhotonConfig,
    artifact: Artifact,
    clients: PhotonClients,
    engine: Engine,
    scheduler: DeviceScheduler,
    store: Store,
    clock: Clock,
) -> PhotonServer:
    """Return what runs a run's rounds, for who has an engine, a store and a clock of their own.

    Args:
        config: What its file holds.
        artifact, clients: As ``photon_clients`` returns them.
        engine: Where clients run.
        scheduler: Gives clients.
        store: Of checkpoints.
        clock: Of rounds.

    Raises:
        ConfigError: Its settings do not go together.
    """
    backend, section = make_backend(artifact), config.run

    def evaluate(parameters: Parameters) -> Mapping[str, float]:
        backend.load_parameters(parameters)
        return _held_out_losses(backend, clients.data, config.data.held_out)

    return PhotonServer(
        plan=Plan(
            job=section.name,
            num_rounds=section.rounds,
            seed=section.seed,
            evaluate_every=section.evaluate_every,
            keep_states=section.keep_states,
            fingerprint=_fingerprint(config, artifact, clients.data.shards),
        ),
        recipe=config.recipe(clients.data.context),
        engine=engine,
        store=store,
        clock=clock,
        evaluate=evaluate,
        scheduler=scheduler,
    )


def photon_clients(config: PhotonConfig) -> tuple[Artifact, PhotonClients]:
    """Return the decoder of a run, compiled once and kept in its folder, and its clients."""
    shards = TokenShards(config.data.folder)
    size = config.size(shards.vocabulary)
    folder = Path(config.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, label = folder / MODULE, folder / f"{MODULE}.json"
    made_from = json.dumps(
        [dataclasses.asdict(size), config.run.seed, config.training.local_batch], sort_keys=True
    )
    if path.exists() and label.exists() and label.read_text(encoding="utf-8") == made_from:
        artifact = load_artifact(path)
    else:
        artifact = compile_gpt(size, config.run.seed, config.training.local_batch)
        save_artifact(artifact, path)
        label.write_text(made_from, encoding="utf-8")
    data = ShardClients(
        shards,
        size.context,
        config.data.clients,
        by_source=config.data.partition == "by-source",
        seed=config.data.seed,
    )
    return artifact, PhotonClients(
        module=str(path),
        digest=artifact.digest,
        data=data,
        store=str(folder / STORE),
        is_secure=config.secure is not None,
        num_machines=config.node.machines,
        machine_scheme=config.node.scheme,
    )


def prepare_shards(
    folder: str | os.PathLike[str],
    sources: Sequence[str],
    vocabulary: int,
    *,
    cache: str | os.PathLike[str],
    most_characters: int | None = None,
) -> TokenShards:
    """Get real text, learn a tokenizer from it, and write it as shards.

    Args:
        folder: Of the shards; the tokenizer is put there, too.
        sources: Names of ``corpora.CORPORA``.
        vocabulary: Tokens at most.
        cache: Folder where packages' files are kept.
        most_characters: Of each source, at most.

    Raises:
        ConfigError: A source is unknown, or cannot be had here.
    """
    from hocket.fl.photon.tokenizer import train_tokenizer

    documents = {}
    for source in sources:
        room = math.inf if most_characters is None else most_characters
        taken = []
        for document in read_documents(source, fetch(source, cache)):
            if room <= 0:
                break
            taken.append(document)
            room -= len(document)
        documents[source] = taken
    tokenizer = train_tokenizer(
        (document for texts in documents.values() for document in texts), vocabulary
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save(Path(folder) / TOKENIZER)
    return write_shards(
        folder,
        documents,
        tokenizer.encode,
        tokenizer.vocabulary,
        end_of_text=tokenizer.end_of_text,
    )


def _held_out_losses(backend: Backend, data: ShardClients, most: int) -> dict[str, float]:
    found = {}
    for source in data.shards.sources:
        result = backend.evaluate(data.held_out(source, most))
        found[f"loss_{source}"] = result.metrics["loss"]
    loss = float(np.mean(list(found.values())))
    return {"loss": loss, "perplexity": math.exp(loss), **found}


def _fingerprint(config: PhotonConfig, artifact: Artifact, shards: TokenShards) -> str:
    parts = [config.essence(), artifact.digest, shards.digest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _keep_model(artifact: Artifact, parameters: Parameters, path: Path) -> Path:
    from hocket.fl.backends.inference import as_inference_artifact

    weights = {**artifact.weights, **parameters}
    trained = dataclasses.replace(artifact, weights=weights)
    save_artifact(as_inference_artifact(trained), path)
    return path
