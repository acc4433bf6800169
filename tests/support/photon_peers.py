"""Runs a peer of a federation without a server, and counts what its sockets send.

``python photon_peers.py RANK WORLD FOLDER``: results of each topology go to the folder.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from support.federation import StandingClock
from support.photon_rounds import CONTEXT, OPEN, STEPS, TRAINING, Averages, Counting

from hocket.fl.core.coordinator import Plan
from hocket.fl.core.parameters import encode_arrays
from hocket.fl.core.store import MemoryStore
from hocket.fl.core.types import ClientTask, ClientUpdate
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.peers import PeerEngine
from hocket.fl.photon.recipe import Recipe
from hocket.fl.photon.server import PhotonServer, ledger_of

ROUNDS, WIDTH = 3, 50_000
RUNS = {
    "all-reduce": ("all-reduce", "float32"),
    "all-reduce in int8": ("all-reduce", "int8"),
    "ring-all-reduce": ("ring-all-reduce", "float32"),
}
# Of ``struct tcp_info`` of Linux: bytes of ours that the other side has.
_TCP_INFO_BYTES, _ACKED_AT = 136, 120


class Wide(Averages):
    """As many numbers as make headers small beside them."""

    def __init__(self) -> None:
        super().__init__()
        self._weights["w"] = np.zeros((CONTEXT, WIDTH), np.float32)


class Failing:
    """A client that fails in one round."""

    def __init__(self, client: PhotonClient) -> None:
        self._client = client

    def run(self, task: ClientTask, parameters: Any) -> ClientUpdate:
        if (task.device_id, task.round) == ("client-1", 2):
            raise RuntimeError("out of memory")
        return self._client.run(task, parameters)


def sent_bytes() -> int:
    """Return the bytes that this process has sent by TCP and that came, as the kernel counts."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            # Of a copy, since a socket closes what it was made from.
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                if found.type != socket.SOCK_STREAM or found.family == socket.AF_UNIX:
                    continue
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                total += struct.unpack_from("<Q", info, _ACKED_AT)[0]
        except OSError:
            continue  # closed meanwhile
    return total


def server(engine: Any, topology: str, scheme: str) -> PhotonServer:
    """Return a run, the same at every peer."""
    recipe = Recipe(
        TRAINING, STEPS, CONTEXT, scheme=scheme, guard=OPEN, topology=topology, quorum=0.5
    )
    plan = Plan("run", num_rounds=ROUNDS, seed=3)
    return PhotonServer(plan, recipe, engine, MemoryStore(), StandingClock())


def main(rank: int, world: int, folder: Path) -> None:
    """Run every topology."""
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    names = Counting(world).device_ids()
    for name, (topology, scheme) in RUNS.items():
        client = Failing(PhotonClient(Wide(), Counting(world), MemoryStore()))
        made = server(PeerEngine(client, names, topology), topology, scheme)
        dist.barrier()
        before = sent_bytes()
        progress = made.run(made.begin(Wide().parameters()))
        dist.barrier()
        sent = sent_bytes() - before
        # Who is done first would close connections that others still count.
        dist.barrier()
        ledger = ledger_of(progress.state)
        about = {
            "digest": progress.digest,
            "failures": [list(report.failures) for report in progress.reports],
            "sent": sent,
            "uploaded": ledger.uploaded_bytes,
            "downloaded": ledger.downloaded_bytes,
            "tokens": ledger.tokens,
        }
        (folder / f"{name}-{rank}.json").write_text(json.dumps(about))
        if rank == 0:
            content = encode_arrays(progress.state.parameters)
            (folder / f"{name}.safetensors").write_bytes(content)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
