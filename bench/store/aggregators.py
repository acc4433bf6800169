"""Aggregators as they are run today: they fetch what a question needs, then work on it.

They have the same kernels as the store: what differs is where the data are, and what is known
beforehand. Every aggregator knows which entries there are without asking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE, WINDOW_ROUNDS
from hocket.fl.store.catalog import MEMORY, Catalog, Entry
from hocket.fl.store.statistics import work_out
from hocket.fl.store.workloads import WORKLOADS

if TYPE_CHECKING:
    import obstore.store
    import redis

    from hocket.fl.store.catalog import Statistics
    from hocket.fl.store.workloads.workload import Answer, Question


class Blobs(Protocol):
    """Bytes by name, in another process."""

    def put(self, name: str, content: bytes) -> None:
        """Keep bytes."""
        ...

    def get(self, name: str) -> memoryview:
        """Return bytes."""
        ...


@dataclass(frozen=True)
class ObjectStore:
    """An object store, by obstore."""

    storage: obstore.store.S3Store

    def put(self, name: str, content: bytes) -> None:
        """Keep bytes."""
        import obstore

        obstore.put(self.storage, name, content)

    def get(self, name: str) -> memoryview:
        """Return bytes."""
        import obstore

        return memoryview(obstore.get(self.storage, name).bytes())


@dataclass(frozen=True)
class Cache:
    """A cache server, by redis-py."""

    client: redis.Redis

    def put(self, name: str, content: bytes) -> None:
        """Keep bytes."""
        self.client.set(name, content)

    def get(self, name: str) -> memoryview:
        """Return bytes."""
        found = self.client.get(name)
        if not isinstance(found, bytes):
            raise KeyError(name)
        return memoryview(found)


@dataclass
class Fetched:
    """What an aggregator has read."""

    num_reads: int = 0
    num_bytes: int = 0


class Aggregator:
    """Answers questions from bytes in another process.

    Args:
        blobs: Where these are.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._parents: dict[Key, dict[Key, float]] = {}
        self._entries: dict[Key, Entry] = {}
        self.fetched = Fetched()

    def put(self, entry: Entry, content: bytes, parents: dict[Key, float]) -> None:
        """Keep an update or a model, and its metrics beside it."""
        self._blobs.put(str(entry.key), content)
        known = {"metrics": dict(entry.metrics), "digest": entry.digest}
        self._blobs.put(f"{entry.key}.json", json.dumps(known).encode())
        self._entries[entry.key], self._parents[entry.key] = entry, parents

    def forget(self, job: str, before: int) -> None:
        """Know no more of rounds before one; their bytes are the caller's to delete."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if key.job != job or key.round >= before
        }

    def ask(self, workload: str, question: Question) -> Answer:
        """Answer a question, with all that has to be read for it."""
        self.fetched = Fetched()
        contents: dict[Key, memoryview] = {}
        catalog = Catalog(MEMORY)
        work = WORKLOADS[workload]
        try:
            for number, with_weights in self._rounds(workload, question):
                self._read_round(catalog, contents, question.job, number, with_weights)
            plan = work.prepare(catalog, question)
            inputs = [(key, self._get(contents, key)) for key in plan.keys]
            return work.compute(json.loads(json.dumps(plan.facts)), inputs)
        finally:
            catalog.close()

    def _rounds(self, workload: str, question: Question) -> list[tuple[int, bool]]:
        """Return the rounds that a question is about, and whether weights have to be read."""
        mine = [key for key in self._entries if key.job == question.job]
        updates = [key for key in mine if key.kind == UPDATE]
        last = max(key.round for key in updates)
        window = sorted({key.round for key in updates if key.round > last - WINDOW_ROUNDS})
        part = sorted({key.round for key in updates if key.device == question.device})
        if workload in ("oort-selection", "tier-selection", "settings"):
            return [(number, False) for number in window]
        if workload == "convergence":
            return [(number, True) for number in window]
        if workload in ("reputation", "unlearning"):
            return [(number, workload == "reputation") for number in part]
        if workload == "audit":
            return [(question.round or last, False)]
        number = question.round if question.round is not None else last
        return [(number, workload != "robust-mean")]

    def _read_round(
        self,
        catalog: Catalog,
        contents: dict[Key, memoryview],
        job: str,
        number: int,
        with_weights: bool,
    ) -> None:
        here = sorted(key for key in self._entries if key.job == job and key.round == number)
        updates = [key for key in here if key.kind == UPDATE]
        vectors: dict[str, Any] = {}
        before = Key(job, number - 1, SERVER, MODEL)
        base = None
        if with_weights and before in self._entries:
            base = layout.flat_numbers(self._get(contents, before), str(before))
        for key in (*updates, *(key for key in here if key.kind != UPDATE)):
            metrics = json.loads(bytes(self._get({}, key, ".json")))["metrics"]
            statistics: Statistics | None = None
            if with_weights and key.kind == UPDATE:
                vector = layout.flat_numbers(self._get(contents, key), str(key))
                statistics = work_out(key.device, vector, vectors, base)
                vectors[key.device] = vector
            known = self._entries[key]
            entry = Entry(key, known.digest, known.num_bytes, known.created_seconds, metrics)
            catalog.record(entry, [], statistics)

    def _get(self, contents: dict[Key, memoryview], key: Key, ending: str = "") -> memoryview:
        if key not in contents:
            found = self._blobs.get(f"{key}{ending}")
            self.fetched.num_reads += 1
            self.fetched.num_bytes += len(found)
            contents[key] = found
        return contents[key]
