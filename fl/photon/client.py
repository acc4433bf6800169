"""A client of Photon: some steps on its own data, and what came of them in few bytes."""

from __future__ import annotations

import logging
import time
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
    from collections.abc import Callable, Mapping

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

SECONDS = "seconds"
"""Metric of an update: how long the client was at it."""

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


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of a client's training.

    Attributes:
        change: Of the parameters, by name.
        num_tokens: It was trained on.
        metrics: Numbers by name.
        optimizer_state: What the optimizer keeps for the next round, if it does.
    """

    change: Mapping[str, NDArray[Any]]
    num_tokens: int
    metrics: Mapping[str, float]
    optimizer_state: Parameters = field(default_factory=dict)


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
        return answer(task, parameters, self.store, self.sender, self._learn)

    def _learn(
        self, task: ClientTask, parameters: Parameters, optimizer_state: Parameters
    ) -> Learned:
        config = task.config
        examples = self.sequences.take(task.device_id, int(config[CURSOR]), int(config[SEQUENCES]))
        self.backend.load_parameters(parameters)
        training = LocalTraining.from_config(config)
        result = self.backend.train(training, examples, task.seed, optimizer_state or None)
        trained = self.backend.parameters()
        change = {name: array - parameters[name] for name, array in trained.items()}
        tokens = int(examples.targets.size)
        return Learned(change, tokens, result.metrics, result.optimizer_state)


def answer(
    task: ClientTask,
    parameters: Parameters,
    store: Store,
    sender: Sender,
    learn: Callable[[ClientTask, Parameters, Parameters], Learned],
) -> ClientUpdate:
    """Return what a client sends: what it has learned, and what earlier rounds have lost.

    Args:
        task: Of Photon.
        parameters: That it begins with.
        store: What the client keeps.
        sender: Gets the change.
        learn: Called with the task, the parameters and what the optimizer has kept.

    Raises:
        ConfigError: It is no task of Photon.
        UpdateError: The parameters are not those that the server sent.
    """
    config = task.config
    if task.kind != "train" or JOB not in config:
        raise ConfigError(f"{task}: is no task of Photon")
    if digest_of(parameters) != config[DIGEST]:
        raise UpdateError(f"{task}: the model is not the one that the server has")
    started = time.monotonic()
    job, last_round = str(config[JOB]), int(config[LAST_ROUND])
    _forget(store, job, task, last_round)
    residual, optimizer_state = _recall(store, job, task.device_id, last_round)
    learned = learn(task, parameters, optimizer_state)
    change, metrics = compensated(learned.change, residual), dict(learned.metrics)
    if CLIP in config:
        # What is clipped off is not made up for, and losses would tell what noise hides.
        change, metrics = clipped(change, float(config[CLIP])), {}
    packed, lost = sender.send(task, change)
    _remember(store, job, task, lost, learned.optimizer_state)
    metrics[SECONDS] = time.monotonic() - started
    return ClientUpdate(task.round, task.device_id, task.kind, packed, learned.num_tokens, metrics)


def _recall(
    store: Store, job: str, device_id: str, last_round: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    groups: dict[str, dict[str, NDArray[Any]]] = {"residual": {}, "optimizer": {}}
    if last_round:
        try:
            content = store.get(Key(job, last_round, device_id, KEPT))
        except KeyError:
            _log.warning(
                "%s keeps nothing of round %d, its last one: it begins anew", device_id, last_round
            )
        else:
            for label, array in decode_arrays(content, KEPT).items():
                group, _, name = label.partition("/")
                groups[group][name] = array
    return groups["residual"], groups["optimizer"]


def _remember(
    store: Store,
    job: str,
    task: ClientTask,
    residual: Mapping[str, NDArray[Any]],
    optimizer_state: Parameters,
) -> None:
    arrays = {f"residual/{name}": array for name, array in residual.items()}
    arrays |= {f"optimizer/{name}": array for name, array in optimizer_state.items()}
    store.put(Key(job, task.round, task.device_id, KEPT), encode_arrays(arrays))


def _forget(store: Store, job: str, task: ClientTask, last_round: int) -> None:
    """Delete what no round will go on from."""
    for key in store.keys(f"{job}/"):
        if key.device == task.device_id and key.kind == KEPT and key.round < last_round:
            store.delete(key)
