"""What work on updates reads: the four classes of FLStore, and a request of one of them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.store import Key

SERVER = "server"
MODEL, UPDATE, METRICS = "model", "update", "metrics"
MODULE, EXAMPLES = "module", "examples"
AIDS = (MODULE, EXAMPLES)
"""Kinds of what work reads beside updates, in every round alike."""

WINDOW_ROUNDS = 10

# How many of a workload's last requests its class is learnt from.
_MEMORY = 8


class Access(StrEnum):
    """Which entries a kind of work reads (FLStore's classes P1 to P4).

    ``MODEL``: one entry, usually the newest model. ``ROUND``: all updates of a round. ``DEVICE``:
    one device's updates, from round to round. ``WINDOW``: metrics of the last rounds.
    """

    MODEL = "P1"
    ROUND = "P2"
    DEVICE = "P3"
    WINDOW = "P4"


@dataclass(frozen=True)
class Request:
    """One piece of work.

    Attributes:
        workload: Which kind of work, by name.
        keys: What it reads, all of one job.
        access: Its class, if its author has said so.
    """

    workload: str
    keys: tuple[Key, ...]
    access: Access | None = None


class Directory(Protocol):
    """Knows which entries there are, and how large."""

    def num_bytes(self, key: Key) -> int:
        """Return an entry's size."""
        ...

    def updates_of(self, job: str, round_number: int) -> Sequence[Key]:
        """Return the updates of a round."""
        ...

    def next_update(self, key: Key) -> Key | None:
        """Return the same device's next update after a round, if it took part again."""
        ...


def classify(request: Request, newest_round: int) -> Access:
    """Return the class that a request looks like.

    Args:
        request: With keys.
        newest_round: Of its job.
    """
    kinds = {key.kind for key in request.keys}
    devices = {key.device for key in request.keys}
    rounds = {key.round for key in request.keys}
    if kinds == {METRICS}:
        return Access.WINDOW
    if devices == {SERVER}:
        return Access.MODEL
    if len(devices) == 1 and (len(rounds) > 1 or max(rounds) < newest_round):
        return Access.DEVICE
    return Access.MODEL if len(request.keys) == 1 else Access.ROUND


@dataclass
class Learner:
    """Learns the classes of workloads that nobody has declared, each from its last requests."""

    _seen: dict[str, deque[Access]] = field(default_factory=dict)

    def access_of(self, request: Request, newest_round: int) -> Access:
        """Return a request's class: as declared, or as most of the workload's last ones looked."""
        if request.access is not None:
            return request.access
        seen = self._seen.setdefault(request.workload, deque(maxlen=_MEMORY))
        seen.append(classify(request, newest_round))
        return Counter(seen).most_common(1)[0][0]
