"""A client that is a federation itself: a node of several machines with weak links between them.

Each machine trains on a share of the node's text, and the node answers with their mean: one update,
that counts as many tokens as all of them were trained on. So the model is the one that a federation
has whose clients are the machines; only that each node's link is passed once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.types import ClientFailure, ClientUpdate
from hocket.fl.photon.aggregation import StreamingMean
from hocket.fl.photon.client import (
    CLIP,
    CURSOR,
    JOB,
    SCHEME,
    SECONDS,
    SEQUENCES,
    Learned,
    PlainSender,
    answer,
)
from hocket.fl.photon.compression import FLOAT32
from hocket.fl.photon.link import Label, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.data import Examples
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.types import ClientTask
    from hocket.fl.photon.client import Sender, Sequences

MACHINES = "machines"
"""Attribute of a device: of how many machines it is."""

_TRIES = 2


@dataclass(frozen=True)
class MachineSequences:
    """The text of nodes, as their machines read it.

    Attributes:
        sequences: Of nodes.
        num_machines: Of each node.
    """

    sequences: Sequences
    num_machines: int

    def device_ids(self) -> list[str]:
        """Return every machine of every node."""
        nodes = self.sequences.device_ids()
        return [_machine(node, at) for node in nodes for at in range(self.num_machines)]

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        """Return sequences of a machine's node."""
        return self.sequences.take(device_id.rpartition(".")[0], cursor, count)


@dataclass
class SubFederation:
    """A client of Photon whose training is that of its machines.

    Attributes:
        engine: Has the machines: clients of Photon that read ``MachineSequences``.
        num_machines: Of the node.
        store: What the node keeps of its own link.
        scheme: How machines send updates to the node.
        sender: Gets the node's change.
    """

    engine: Engine
    num_machines: int
    store: Store
    scheme: str = FLOAT32
    sender: Sender = field(default_factory=PlainSender)

    def __post_init__(self) -> None:
        if self.num_machines < 1:
            raise ConfigError(f"num_machines must be 1 or more, got {self.num_machines}")

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Let all machines train, and return the mean of their changes, packed.

        Raises:
            ConfigError: It is no task of Photon, or its sequences cannot be shared evenly.
            UpdateError: The parameters are not those that the server sent, or a machine failed
                twice.
        """
        return answer(task, parameters, self.store, self.sender, self._learn)

    def _learn(
        self, task: ClientTask, parameters: Parameters, optimizer_state: Parameters
    ) -> Learned:
        del optimizer_state  # machines keep their own
        tasks = self._tasks(task)
        updates = self._run(tasks, parameters)
        total = sum(update.num_examples for update in updates)
        mean = StreamingMean(parameters, total)
        for update in updates:
            label = Label(str(task.config[JOB]), task.round, update.device_id)
            change = dict(unpack(update.parameters, label, parameters, self.scheme))
            mean.add(change, update.num_examples)
        names = set.intersection(*(set(update.metrics) for update in updates)) - {SECONDS}
        return Learned(
            {name: array.astype(np.float32) for name, array in mean.mean().items()},
            total,
            {
                name: sum(each.metrics[name] * each.num_examples for each in updates) / total
                for name in sorted(names)
            },
        )

    def _tasks(self, task: ClientTask) -> list[ClientTask]:
        count, rest = divmod(int(task.config[SEQUENCES]), self.num_machines)
        if rest:
            raise ConfigError(
                f"{task}: {self.num_machines} machines cannot share {task.config[SEQUENCES]} "
                "sequences evenly; the server must know of them"
            )
        cursor = int(task.config[CURSOR])
        # Clipping is of the node's change, which is what the server may not learn.
        shared = {name: value for name, value in task.config.items() if name != CLIP}
        shared |= {SEQUENCES: count, SCHEME: self.scheme}
        return [
            dataclasses.replace(
                task,
                device_id=_machine(task.device_id, at),
                seed=derive_seed(task.seed, MACHINES, at),
                config={**shared, CURSOR: cursor + at * count},
            )
            for at in range(self.num_machines)
        ]

    def _run(self, tasks: Sequence[ClientTask], parameters: Parameters) -> list[ClientUpdate]:
        """Return each machine's update; what failed is done again once."""
        updates: dict[str, ClientUpdate] = {}
        failures: dict[str, ClientFailure] = {}
        for _ in range(_TRIES):
            left = [task for task in tasks if task.device_id not in updates]
            for reply in self.engine.run(left, parameters) if left else ():
                if isinstance(reply, ClientFailure):
                    failures[reply.device_id] = reply
                else:
                    updates[reply.device_id] = reply
        if len(updates) < len(tasks):
            lost = [str(failures[name]) for name in sorted(failures.keys() - updates.keys())]
            raise UpdateError(f"{len(lost)} of its machines failed: {'; '.join(lost)}")
        return [updates[task.device_id] for task in tasks]


def _machine(node: str, at: int) -> str:
    return f"{node}.{at}"
