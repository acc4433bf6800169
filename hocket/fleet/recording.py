"""Every round of a job in the store of rounds before it counts, and the questions asked of it."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.fl.core.coordinator import STATE, decode_state
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.photon.link import HEADER, Label, unpack
from hocket.fl.store.workloads.workload import Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.store import Key, Store
    from hocket.fl.core.types import ClientUpdate
    from hocket.fl.store.recording import Recorder
    from hocket.fl.store.round_store import RoundStore
    from hocket.fleet.config import RequestSection


@dataclass
class RecordedCheckpoints:
    """Checkpoints of a job whose rounds are recorded before they count; a ``Store``.

    A process that is killed thus leaves no round that is over and not recorded; one that was
    recorded and is not over is recorded again, with the same bits.

    Attributes:
        inside: Where checkpoints are.
        recorder: Where rounds go.
    """

    inside: Store
    recorder: Recorder
    _shares: dict[int, dict[str, int]] = field(default_factory=dict)

    def update(self, update: ClientUpdate, before: Parameters) -> None:
        """Record what a device has sent, as the parameters that it came to."""
        arrays = update.parameters
        if HEADER in arrays:  # Photon's changes, as they are sent
            label = Label(self.recorder.job, update.round, update.device_id)
            arrays = {name: before[name] + change for name, change in unpack(arrays, label, before)}
        if not arrays:  # it only measured
            return
        self.recorder.update(
            update.round, update.device_id, arrays, update.num_examples, update.metrics
        )
        self._shares.setdefault(update.round, {})[update.device_id] = update.num_examples

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; of a state, record the model first."""
        if key.kind == STATE:
            counts = self._shares.pop(key.round, {})
            total = sum(counts.values())
            shares = {device: count / total for device, count in counts.items()}
            self.recorder.model(key.round, decode_state(content).parameters, shares)
            self.recorder.flush()
        self.inside.put(key, content)

    def get(self, key: Key) -> bytes:
        """Return the bytes.

        Raises:
            KeyError: There are none.
        """
        return self.inside.get(key)

    def delete(self, key: Key) -> None:
        """Forget an entry."""
        self.inside.delete(key)

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        return self.inside.keys(prefix)


def ask(
    store: RoundStore, request: RequestSection, round_number: int, devices: Sequence[str]
) -> dict[str, Any]:
    """Ask the store a question after a round; return what came of it, as values of JSON.

    A question that cannot be answered is an answer, too: it says why.

    Args:
        store: Has the round.
        request: What is asked.
        round_number: About which round.
        devices: That answered in it.
    """
    device = min(devices, default=None) if request.is_about_device else None
    question = Question(request.job, round_number, device, request.options)
    values: Mapping[str, Any] = {}
    with contextlib.suppress(ConfigError, FederationError):  # the store keeps what it said
        values = store.ask(request.workload, question).values
    store.settle()
    handled = asdict(store.handled()[-1])
    del handled["number"]
    return {
        "job": request.job,
        "round": round_number,
        "device": device,
        **handled,
        "answer": values,
    }
