"""One peer of a run of Photon without a server, on this machine or on one of many."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import FolderStore
from hocket.fl.photon.config import PhotonConfig
from hocket.photon import MODULE, photon_clients, train_photon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.observers import Observer
    from hocket.photon import PhotonResult

PEERS = "peers"
"""Folder of what all peers but the first leave, in the folder of a run."""


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


def main(path: str, rank: str, meeting: str, resume: str) -> None:
    """Be a peer that ``photon_launch.run_peers`` has started."""
    config = PhotonConfig.model_validate_json(Path(path).read_text(encoding="utf-8"))
    run_peer(config, int(rank), meeting, resume=bool(int(resume)))


if __name__ == "__main__":
    main(*sys.argv[1:])
