"""Runs of Photon without a server: a process for each client, on this machine or on many."""

from __future__ import annotations

import shutil
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.store import FolderStore
from hocket.fl.photon.config import METRICS, PhotonConfig
from hocket.photon import MODULE, photon_clients, train_photon
from hocket.photon_launch import Follower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.observers import Observer
    from hocket.photon import PhotonResult

PEERS = "peers"
"""Folder of what all peers but the first leave, in the folder of a run."""

_POLL_SECONDS = 0.5


def run_peers(
    config: PhotonConfig, observers: Sequence[Observer] = (), *, resume: bool = False
) -> None:
    """Run a file with a process of this machine for each client; results are in its folder.

    Args:
        config: What the file holds; its module has been compiled.
        observers: Told of rounds that are over.
        resume: Whether to go on after the last round that all peers have, if there is one.

    Raises:
        FederationError: A peer was lost; the others were stopped.
    """
    follower = Follower(Path(config.run.folder) / METRICS, observers, resume=resume)
    text, spawn = config.model_dump_json(by_alias=True, exclude_none=True), get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="hocket-peers-") as folder:
        meeting = f"file://{folder}/meeting"
        peers = [
            spawn.Process(target=_run, args=(text, rank, meeting, resume), name=f"peer {rank}")
            for rank in range(config.data.clients)
        ]
        for peer in peers:
            peer.start()
        try:
            while any(peer.is_alive() for peer in peers) and not any(p.exitcode for p in peers):
                for peer in peers:
                    peer.join(_POLL_SECONDS / len(peers))
                follower("")
            lost = [
                f"{peer.name} ended with code {peer.exitcode}" for peer in peers if peer.exitcode
            ]
        finally:
            for peer in peers:
                peer.kill()
                peer.join()
    if lost:
        raise FederationError(f"{'; '.join(lost)}: all have been stopped; go on with --resume")
    follower("")


def run_peer(
    config: PhotonConfig,
    rank: int,
    meeting: str,
    observers: Sequence[Observer] = (),
    *,
    resume: bool = False,
) -> PhotonResult:
    """Be one peer of a run, and return how it ended.

    Args:
        config: What the file holds.
        rank: Of this peer, from 0; the first one's results are in the run's own folder.
        meeting: Where peers find each other, ``tcp://HOST:PORT`` of the first one, or
            ``file://PATH`` that all of them see.
        observers: Told of rounds as they go.
        resume: Whether to go on after the last round that all peers have, if there is one.

    Raises:
        ConfigError: There is no such client.
        FederationError: A peer is lost, or has another model.
    """
    import torch.distributed as dist

    from hocket.fl.photon.peers import PeerEngine, agree_on_round

    if not 0 <= rank < config.data.clients:
        raise ConfigError(f"rank must be from 0 to {config.data.clients - 1}, got {rank}")
    config = _of_rank(config, rank)
    _, clients = photon_clients(config)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.data.clients)
    try:
        engine = PeerEngine(
            clients(), clients.device_ids(), config.engine.topology, clients.attributes()
        )
        if resume:
            resume = agree_on_round(FolderStore(clients.store), config.run.name)
        return train_photon(config, resume=resume, engine=engine, observers=observers)
    finally:
        dist.destroy_process_group()


def _run(text: str, rank: int, meeting: str, resume: bool) -> None:
    run_peer(PhotonConfig.model_validate_json(text), rank, meeting, resume=resume)


def _of_rank(config: PhotonConfig, rank: int) -> PhotonConfig:
    """Return a run in a peer's own folder, with the module in it that all start with."""
    if not rank:
        return config
    home = Path(config.run.folder)
    folder = home / PEERS / str(rank)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODULE, f"{MODULE}.json"):
        if (home / name).exists():
            shutil.copyfile(home / name, folder / name)
    # One evaluation says what the model is worth; the others' would say the same.
    section = config.run.model_copy(
        update={"folder": str(folder), "evaluate_every": config.run.rounds}
    )
    return config.model_copy(update={"run": section})
