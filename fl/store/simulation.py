"""What a policy would have hit, over a trace of entries that come and requests that read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.store.access import UPDATE, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hocket.fl.core.store import Key
    from hocket.fl.store.policies import Change, Policy

Event = "tuple[Key, int] | Request"


@dataclass(frozen=True)
class Tally:
    """What came of the requests of a workload.

    Attributes:
        num_requests: How many.
        num_served: How many found all they read in memory.
        num_reads: Entries they read.
        num_hits: Entries that were in memory.
    """

    num_requests: int
    num_served: int
    num_reads: int
    num_hits: int

    @property
    def hit_rate(self) -> float:
        """Share of reads that were hits, 0 to 1."""
        return self.num_hits / self.num_reads if self.num_reads else 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a trace.

    Attributes:
        tallies: By workload.
        peak_bytes: The most that was held.
        loaded_bytes: Read from the store into memory, ahead of a request or after a miss.
        unused_bytes: Of what was held and let go again without a hit: pollution.
    """

    tallies: Mapping[str, Tally]
    peak_bytes: int
    loaded_bytes: int
    unused_bytes: int


class ListedEntries:
    """A directory of the entries that have come in a trace."""

    def __init__(self) -> None:
        self._sizes: dict[Key, int] = {}
        self._updates: dict[tuple[str, int], list[Key]] = {}
        self._rounds: dict[tuple[str, str], list[Key]] = {}

    def add(self, key: Key, num_bytes: int) -> None:
        """Take note of an entry."""
        self._sizes[key] = num_bytes
        if key.kind == UPDATE:
            self._updates.setdefault((key.job, key.round), []).append(key)
            self._rounds.setdefault((key.job, key.device), []).append(key)

    def num_bytes(self, key: Key) -> int:
        """Return an entry's size."""
        return self._sizes[key]

    def updates_of(self, job: str, round_number: int) -> Sequence[Key]:
        """Return the updates of a round."""
        return self._updates.get((job, round_number), [])

    def next_update(self, key: Key) -> Key | None:
        """Return the same device's next update."""
        later = [
            each for each in self._rounds.get((key.job, key.device), []) if each.round > key.round
        ]
        return min(later, default=None)


def simulate(
    events: Iterable[tuple[Key, int] | Request], directory: ListedEntries, policy: Policy
) -> Outcome:
    """Run a trace.

    Args:
        events: Entries with their sizes as they come, and requests, in the order of time.
        directory: Empty, and the one that the policy has.
        policy: New.
    """
    counts: dict[str, Counter[str]] = {}
    held: dict[Key, bool] = {}
    held_bytes = peak_bytes = loaded_bytes = unused_bytes = 0

    def apply(change: Change, arrived: Key | None = None) -> None:
        nonlocal held_bytes, peak_bytes, loaded_bytes, unused_bytes
        for key in change.drop:
            was_used = held.pop(key)
            held_bytes -= directory.num_bytes(key)
            unused_bytes += 0 if was_used else directory.num_bytes(key)
        for key in change.load:
            held[key] = False
            held_bytes += directory.num_bytes(key)
            loaded_bytes += 0 if key == arrived else directory.num_bytes(key)
        peak_bytes = max(peak_bytes, held_bytes)

    for event in events:
        if not isinstance(event, Request):
            directory.add(*event)
            apply(policy.ingested(event[0]), arrived=event[0])
            continue
        hits = [key for key in event.keys if key in held]
        for key in hits:
            held[key] = True
        count = counts.setdefault(event.workload, Counter())
        count.update(
            requests=1,
            served=int(len(hits) == len(event.keys)),
            reads=len(event.keys),
            hits=len(hits),
        )
        apply(policy.requested(event))
    tallies = {
        name: Tally(count["requests"], count["served"], count["reads"], count["hits"])
        for name, count in counts.items()
    }
    return Outcome(tallies, peak_bytes, loaded_bytes, unused_bytes)
