"""Rounds without a server: clients exchange what they have learned among themselves.

Every peer runs the rounds of ``PhotonServer`` on a copy of the state, and trains one of the
clients. What a server would be sent goes round instead, by torch's collectives over Gloo: all
updates to all peers (all-reduce), or sums of pieces around a ring (ring all-reduce). As all peers
then do the same with the same bits, all have the same model, and the digest that every task names
proves it.

A collective waits for everyone: a peer that is lost ends the run, which goes on from the last
round's checkpoint once all are there. What costs a round behind a server costs a restart here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from hocket.fl.core.client import run_safely
from hocket.fl.core.coordinator import REPORT, SERVER, STATE
from hocket.fl.core.errors import ConfigError, FederationError, UpdateError
from hocket.fl.core.parameters import decode_arrays, digest_of, encode_arrays
from hocket.fl.core.types import ClientFailure, ClientUpdate, Device
from hocket.fl.photon.client import JOB
from hocket.fl.photon.compression import FLOAT32
from hocket.fl.photon.link import Label, pack, unpack
from hocket.fl.photon.wall_time import ALL_REDUCE, RING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.client import Client
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.types import ClientTask, Reply

TOPOLOGIES = (ALL_REDUCE, RING)
"""How peers exchange."""

_ABOUT, _ARRAYS = "about", "arrays/"


class PeerEngine:
    """Runs one client's task here, and yields all clients' replies, the same at every peer.

    Around a ring nobody sees an update but the sum, so each reply says the mean: what the guard
    looks at is that. Its numbers are float32, in the order of the ring.

    Args:
        client: Of this peer.
        names: Of all clients; the n-th is the peer of rank n.
        topology: One of ``TOPOLOGIES``.
        attributes: Of each device, by its name; devices not named have none.

    Raises:
        ConfigError: There is no such topology, or not one peer for each client.
    """

    def __init__(
        self,
        client: Client,
        names: Sequence[str],
        topology: str = RING,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if topology not in TOPOLOGIES:
            raise ConfigError(f"peers exchange by one of {TOPOLOGIES}, got {topology!r}")
        if dist.get_world_size() != len(names):
            raise ConfigError(
                f"want one peer for each of {len(names)} clients, got {dist.get_world_size()}"
            )
        self._client = client
        self._names = list(names)
        self._name = self._names[dist.get_rank()]
        self._topology = topology
        self._attributes = attributes or {}

    def devices(self) -> list[Device]:
        """Return all clients."""
        return [Device(name, dict(self._attributes.get(name, {}))) for name in self._names]

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield all replies, in the order of the tasks.

        Args:
            tasks: The same at all peers.
            parameters: The same at all peers.
            timeout_seconds: Not looked at: nobody can go on without the others.

        Raises:
            FederationError: A peer is lost, or has another model.
        """
        del timeout_seconds
        try:
            self._check_same(tasks, parameters)
            mine = next((task for task in tasks if task.device_id == self._name), None)
            reply = None if mine is None else run_safely(self._client, mine, parameters)
            exchange = self._to_all if self._topology == ALL_REDUCE else self._around
            replies = exchange(tasks, reply, parameters)
        except RuntimeError as error:
            # Gloo's own errors have no other type.
            raise FederationError(f"{self._name}: peers cannot exchange: {error}") from error
        yield from replies

    def close(self) -> None:
        """Do nothing: whoever has made the group of peers ends it."""

    def _check_same(self, tasks: Sequence[ClientTask], parameters: Parameters) -> None:
        about = json.dumps([digest_of(parameters), [str(task) for task in tasks]])
        for name, other in zip(self._names, _gather(about.encode()), strict=True):
            if other != about.encode():
                raise FederationError(
                    f"{name} has another model or another round than {self._name}; resume all "
                    "peers from one checkpoint"
                )

    def _to_all(
        self, tasks: Sequence[ClientTask], reply: Reply | None, parameters: Parameters
    ) -> list[Reply]:
        del parameters
        arrays = reply.parameters if isinstance(reply, ClientUpdate) else {}
        contents = _gather(_encode(reply, arrays))
        return [_decode(contents[self._names.index(task.device_id)], task) for task in tasks]

    def _around(
        self, tasks: Sequence[ClientTask], reply: Reply | None, parameters: Parameters
    ) -> list[Reply]:
        change: Mapping[str, NDArray[Any]] = {}
        if isinstance(reply, ClientUpdate):
            task = next(task for task in tasks if task.device_id == self._name)
            change = dict(unpack(reply.parameters, _label(task), parameters, FLOAT32))
        contents = _gather(_encode(reply, {}))
        replies = [_decode(contents[self._names.index(task.device_id)], task) for task in tasks]
        total = sum(each.num_examples for each in replies if isinstance(each, ClientUpdate))
        weight = reply.num_examples if isinstance(reply, ClientUpdate) else 0
        mean = _sum_around(change, weight / max(total, 1), parameters)
        return [
            replace(each, parameters=pack(_label(task), mean, FLOAT32))
            if isinstance(each, ClientUpdate)
            else each
            for task, each in zip(tasks, replies, strict=True)
        ]


def _label(task: ClientTask) -> Label:
    return Label(str(task.config[JOB]), task.round, task.device_id)


def _sum_around(
    change: Mapping[str, NDArray[Any]], share: float, like: Parameters
) -> dict[str, NDArray[np.float32]]:
    """Return the sum of all peers' changes, each times its share; who has none adds nothing."""
    names = sorted(like)
    flat = np.zeros(sum(like[name].size for name in names), np.float32)
    if change:
        parts = [np.asarray(change[name], np.float32).reshape(-1) for name in names]
        flat = np.concatenate(parts) * np.float32(share)
    dist.all_reduce(torch.from_numpy(flat))
    found, start = {}, 0
    for name in names:
        size = like[name].size
        found[name] = flat[start : start + size].reshape(like[name].shape)
        start += size
    return found


def _gather(content: bytes) -> list[bytes]:
    """Return what each peer has given, by rank."""
    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    longest = max(int(size) for size in sizes)
    padded = np.zeros(longest, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    found = [torch.empty(longest, dtype=torch.uint8) for _ in range(world)]
    dist.all_gather(found, torch.from_numpy(padded))
    return [each.numpy()[: int(size)].tobytes() for each, size in zip(found, sizes, strict=True)]


def _encode(reply: Reply | None, arrays: Parameters) -> bytes:
    about: dict[str, Any] = {}
    if isinstance(reply, ClientFailure):
        about = {"failure": reply.reason}
    elif reply is not None:
        about = {"num_examples": reply.num_examples, "metrics": dict(reply.metrics)}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    return encode_arrays({_ABOUT: text, **{_ARRAYS + name: arrays[name] for name in arrays}})


def _decode(content: bytes, task: ClientTask) -> Reply:
    try:
        arrays = decode_arrays(content, f"reply of {task.device_id!r}")
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        if "failure" in about:
            return ClientFailure(task.round, task.device_id, task.kind, about["failure"])
        return ClientUpdate(
            task.round,
            task.device_id,
            task.kind,
            {name.removeprefix(_ARRAYS): array for name, array in arrays.items()},
            int(about["num_examples"]),
            {name: float(value) for name, value in about["metrics"].items()},
        )
    except (UpdateError, KeyError, ValueError, TypeError) as error:
        return ClientFailure(task.round, task.device_id, task.kind, f"unreadable reply: {error}")


def agree_on_round(store: Store, job: str) -> bool:
    """Go back to the last round that every peer has, and return whether there is one.

    One that was faster when another was lost has a round more; it is deleted.

    Args:
        store: This peer's.
        job: Name of the run.

    Raises:
        FederationError: This peer keeps no state of that round any more.
    """
    states = [key for key in store.keys(f"{job}/") if key.kind == STATE and key.device == SERVER]
    mine = max((key.round for key in states), default=-1)
    last = min(int(content) for content in _gather(str(mine).encode()))
    for key in store.keys(f"{job}/"):
        if key.device == SERVER and key.kind in (STATE, REPORT) and key.round > last:
            store.delete(key)
    if last >= 0 and last not in {key.round for key in states}:
        raise FederationError(
            f"job {job!r}: other peers are at round {last}, of which nothing is kept here; begin "
            "anew, and keep more states"
        )
    return last >= 0
