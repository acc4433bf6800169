"""A client of Photon: some steps on its own data, and what came of them in few bytes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.parameters import decode_arrays, digest_of, encode_arrays
from hocket.fl.core.store import Key
from hocket.fl.core.types import ClientUpdate
from hocket.fl.photon.compression import FLOAT32, compensated
from hocket.fl.photon.link import Label, pack, unpack
from hocket.fl.photon.privacy import clipped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.fl.core.backend import Backend
    from hocket.fl.core.data import Examples
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Store
    from hocket.fl.core.types import ClientTask

JOB, DIGEST, CURSOR, LAST_ROUND, SEQUENCES, SCHEME, CLIP = (
    "photon_job",
    "photon_digest",
    "photon_cursor",
    "photon_last_round",
    "photon_sequences",
    "photon_scheme",
    "photon_clip",
)
"""What a task says beside ``LocalTraining``; the last only where clients are to be private."""

KEPT = "client-state"
_log = logging.getLogger(__name__)


class Sequences(Protocol):
    """Every client's text, as sequences of tokens without end."""

    def device_ids(self) -> list[str]:
        """Return every client that has text, in a fixed order."""
        ...

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        """Return sequences of a client, from its so-manieth on; the same whenever it is asked.

        Raises:
            KeyError: There is no such client.
        """
        ...


class Sender(Protocol):
    """Puts changes into the form in which they leave a client."""

    def send(
        self, task: ClientTask, change: Mapping[str, NDArray[Any]]
    ) -> tuple[Parameters, Mapping[str, NDArray[Any]]]:
        """Return what is sent, and what is lost of the change."""
        ...


class PlainSender:
    """Sends changes in the scheme that the task names."""

    def send(
        self, task: ClientTask, change: Mapping[str, NDArray[Any]]
    ) -> tuple[Parameters, Mapping[str, NDArray[Any]]]:
        """Return what is sent, and what is lost of the change."""
        scheme = str(task.config[SCHEME])
        label = Label(str(task.config[JOB]), task.round, task.device_id)
        packed = pack(label, change, scheme)
        if scheme == FLOAT32:
            return packed, {}
        return packed, {name: change[name] - sent for name, sent in unpack(packed, label, change)}


@dataclass
class PhotonClient:
    """A client of any device.

    What it keeps from round to round, what compression has lost and perhaps an optimizer's moments,
    is in a store under the round it is of. The server says of which round it goes on: that of the
    last update that counted. So a round that is done twice, or in vain, leaves no trace.

    Attributes:
        backend: Loaded anew with every task.
        sequences: Whose it reads, the task says.
        store: What it keeps; it must be there in the next process, too.
        sender: Gets what it has learned.
    """

    backend: Backend
    sequences: Sequences
    store: Store
    sender: Sender = field(default_factory=PlainSender)

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Train, and return the change, packed; its examples are tokens.

        Raises:
            ConfigError: It is no task of Photon.
            UpdateError: The parameters are not those that the server sent.
        """
        config = task.config
        if task.kind != "train" or JOB not in config:
            raise ConfigError(f"{task}: is no task of Photon")
        if digest_of(parameters) != config[DIGEST]:
            raise UpdateError(f"{task}: the model is not the one that the server has")
        job = str(config[JOB])
        training = LocalTraining.from_config(config)
        last_round = int(config[LAST_ROUND])
        self._forget(job, task, last_round)
        residual, optimizer_state = self._recall(job, task.device_id, last_round)
        examples = self.sequences.take(task.device_id, int(config[CURSOR]), int(config[SEQUENCES]))
        self.backend.load_parameters(parameters)
        result = self.backend.train(training, examples, task.seed, optimizer_state or None)
        trained = self.backend.parameters()
        change = compensated(
            {name: array - parameters[name] for name, array in trained.items()}, residual
        )
        metrics = dict(result.metrics)
        if CLIP in config:
            # What is clipped off is not made up for, and losses would tell what noise hides.
            change, metrics = clipped(change, float(config[CLIP])), {}
        packed, lost = self.sender.send(task, change)
        self._remember(job, task, lost, result.optimizer_state)
        tokens = int(examples.targets.size)
        return ClientUpdate(task.round, task.device_id, task.kind, packed, tokens, metrics)

    def _recall(
        self, job: str, device_id: str, last_round: int
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        groups: dict[str, dict[str, NDArray[Any]]] = {"residual": {}, "optimizer": {}}
        if last_round:
            try:
                content = self.store.get(Key(job, last_round, device_id, KEPT))
            except KeyError:
                _log.warning(
                    "%s keeps nothing of round %d, its last one: it begins anew",
                    device_id,
                    last_round,
                )
            else:
                for label, array in decode_arrays(content, KEPT).items():
                    group, _, name = label.partition("/")
                    groups[group][name] = array
        return groups["residual"], groups["optimizer"]

    def _remember(
        self,
        job: str,
        task: ClientTask,
        residual: Mapping[str, NDArray[Any]],
        optimizer_state: Parameters,
    ) -> None:
        arrays = {f"residual/{name}": array for name, array in residual.items()}
        arrays |= {f"optimizer/{name}": array for name, array in optimizer_state.items()}
        self.store.put(Key(job, task.round, task.device_id, KEPT), encode_arrays(arrays))

    def _forget(self, job: str, task: ClientTask, last_round: int) -> None:
        """Delete what no round will go on from."""
        for key in self.store.keys(f"{job}/"):
            if key.device == task.device_id and key.kind == KEPT and key.round < last_round:
                self.store.delete(key)
