"""Rounds as they happen, into a store, beside the training: one line around a strategy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import StoreError
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.store import Key
from hocket.fl.store.access import MODEL, SERVER, UPDATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.strategy import ServerState, Strategy
    from hocket.fl.core.types import ClientTask, ClientUpdate, Device, Kind
    from hocket.fl.store.round_store import RoundStore

PENDING_BYTES = 1 << 30


@dataclass
class Recorder:
    """Puts what a federation leaves into a store, in the background and in order.

    Attributes:
        store: Which.
        job: The federation's name there.
        provenance: Words for every entry, such as the artifact's digest and the code's version.
        pending_bytes: Of arrays that may wait; who brings more waits, too.
    """

    store: RoundStore
    job: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    pending_bytes: int = PENDING_BYTES

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "hocket-recorder")
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._error: BaseException | None = None

    def update(
        self,
        round_number: int,
        device_id: str,
        parameters: Parameters,
        num_examples: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Record what a device has sent. Its arrays must not be changed any more.

        Raises:
            StoreError: An earlier entry could not be put.
        """
        key = Key(self.job, round_number, device_id, UPDATE)
        known = {**metrics, "num_examples": float(num_examples)}
        self._submit(parameters, lambda: self.store.ingest(key, parameters, known, self.provenance))

    def model(
        self, round_number: int, parameters: Parameters, made_from: Mapping[str, float]
    ) -> None:
        """Record a round's model. Its arrays must not be changed any more.

        Args:
            round_number: 0 for the one that all begins with.
            parameters: The model.
            made_from: Devices whose updates it was made from, and their shares.

        Raises:
            StoreError: An earlier entry could not be put.
        """
        key = Key(self.job, round_number, SERVER, MODEL)
        parents = {
            Key(self.job, round_number, device, UPDATE): share
            for device, share in made_from.items()
        }
        self._submit(
            parameters,
            lambda: self.store.ingest(
                key, parameters, provenance=self.provenance, made_from=parents
            ),
        )

    def flush(self) -> None:
        """Wait until all is put.

        Raises:
            StoreError: An entry could not be.
        """
        self._thread.submit(lambda: None).result()
        self._check()

    def close(self) -> None:
        """Wait until all is put, and record no more.

        Raises:
            StoreError: An entry could not be.
        """
        self._thread.shutdown()
        self._check()

    def _submit(self, parameters: Parameters, put: Callable[[], Any]) -> None:
        self._check()
        size = num_bytes(parameters)
        with self._room:
            # One that is larger than all room goes alone.
            self._room.wait_for(
                lambda: not self._waiting_bytes or self._waiting_bytes + size <= self.pending_bytes
            )
            self._waiting_bytes += size
        self._thread.submit(put).add_done_callback(lambda future: self._done(future, size))

    def _done(self, future: Future[Any], size: int) -> None:
        with self._room:
            self._waiting_bytes -= size
            self._error = self._error or future.exception()
            self._room.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise StoreError(
                f"job {self.job!r}: a round could not be recorded: {self._error}"
            ) from self._error


@dataclass(frozen=True)
class Recorded:
    """A strategy whose rounds are recorded; in all else it is the one inside.

    ``Recorded(FedAvg(...), recorder)`` takes the place of ``FedAvg(...)`` in a ``Coordinator``.

    Attributes:
        inside: What decides.
        recorder: Where rounds go.
    """

    inside: Strategy
    recorder: Recorder

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the state before the first round, whose model is recorded."""
        state = self.inside.initialize(parameters)
        self.recorder.model(0, state.parameters, {})
        return state

    def request(self, job: str, round_number: int, num_devices: int) -> DeviceRequest:
        """Return what devices a round wants."""
        return self.inside.request(job, round_number, num_devices)

    def configure(
        self,
        state: ServerState,
        round_number: int,
        devices: Sequence[Device],
        seed: int,
        kind: Kind,
    ) -> list[ClientTask]:
        """Return what devices are to do."""
        return self.inside.configure(state, round_number, devices, seed, kind)

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return arrays like those that a device is to send back."""
        return self.inside.returned(state, task)

    def num_updates_needed(self, num_tasks: int) -> int:
        """Return how many updates make a round count."""
        return self.inside.num_updates_needed(num_tasks)

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return the state after a round; its updates and its model are recorded.

        Raises:
            StoreError: An earlier round could not be recorded.
        """
        after = self.inside.aggregate(state, updates)
        for update in updates:
            self.recorder.update(
                update.round,
                update.device_id,
                update.parameters,
                update.num_examples,
                update.metrics,
            )
        total = sum(update.num_examples for update in updates)
        shares = {update.device_id: update.num_examples / total for update in updates}
        self.recorder.model(updates[0].round, after.parameters, shares)
        return after

    def is_finished(self, state: ServerState) -> bool:
        """Return whether more rounds would change nothing."""
        return self.inside.is_finished(state)
