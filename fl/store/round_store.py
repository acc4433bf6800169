"""The store of rounds: keeps every update, holds what is asked for next, and answers questions."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError, FederationError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE, Request
from hocket.fl.store.policies import Change, Policy, Tailored
from hocket.fl.store.statistics import work_out
from hocket.fl.store.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.store.cache import Cache
    from hocket.fl.store.catalog import Catalog, Entry, Statistics
    from hocket.fl.store.history import History
    from hocket.fl.store.workloads.workload import Answer, Question

logger = logging.getLogger(__name__)

REMEMBERED = 10_000


@dataclass(frozen=True)
class Handled:
    """What became of a request.

    Attributes:
        number: Of it, counted from 1.
        workload: What was asked.
        seconds: How long it took.
        num_reads: Entries it read.
        num_hits: Entries that were in memory.
        error: What went wrong; empty if nothing did.
    """

    number: int
    workload: str
    seconds: float
    num_reads: int
    num_hits: int
    error: str = ""


class CatalogDirectory:
    """What policies ask about entries, answered by the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def num_bytes(self, key: Key) -> int:
        """Return an entry's size; 0 if it is not there any more."""
        try:
            return self._catalog.entry(key).num_bytes
        except KeyError:
            return 0

    def updates_of(self, job: str, round_number: int) -> Sequence[Key]:
        """Return the updates of a round."""
        span = (round_number, round_number)
        return [entry.key for entry in self._catalog.entries(job, span, kind=UPDATE)]

    def next_update(self, key: Key) -> Key | None:
        """Return the same device's next update."""
        later = (
            each for each in self._catalog.rounds(key.job, key.kind, key.device) if each > key.round
        )
        number = next(later, None)
        return None if number is None else Key(key.job, number, key.device, key.kind)


@dataclass
class RoundStore:
    """Keeps what federations leave and answers questions about it where it lies in memory.

    It is a ``Store``, too. For several threads at once.

    Attributes:
        history: Where entries are kept for good.
        instances: Where they are held, and work on them is run.
        policy: What is held; by default FLStore's.
        clock: The time in seconds, ever growing.
    """

    history: History
    instances: Cache
    policy: Policy | None = None
    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _handled: deque[Handled] = field(default_factory=lambda: deque(maxlen=REMEMBERED), repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    _compared: dict[Key, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.policy is None:
            directory = CatalogDirectory(self.history.catalog)
            self.policy = Tailored(directory, self.instances.capacity_bytes)
        # What is loaded ahead is loaded after the answer is given.
        self._ahead = ThreadPoolExecutor(1, "hocket-store")

    def close(self) -> None:
        """Stop what runs in the background. What was acknowledged is kept already."""
        self._ahead.shutdown()
        self.instances.close()

    def put(self, key: Key, content: bytes) -> None:
        """Keep bytes; what the key held before is replaced, whole or not at all."""
        self.keep(key, content)

    def keep(
        self,
        key: Key,
        content: bytes | memoryview,
        metrics: Mapping[str, float] | None = None,
        provenance: Mapping[str, str] | None = None,
        made_from: Mapping[Key, float] | None = None,
    ) -> Entry:
        """Keep bytes and what is known of them, as ``History.record`` does, and hold none of it."""
        with self._lock:
            self._let_go(key)
            return self.history.record(key, content, metrics, provenance, made_from)

    def get(self, key: Key) -> bytes:
        """Return the bytes, from memory if they are there.

        Raises:
            KeyError: There are none.
            StoreError: They are not those that were put there.
        """
        with self.content(key) as content:
            return bytes(content)

    @contextmanager
    def content(self, key: Key) -> Iterator[memoryview]:
        """Give the bytes without a copy, from memory if they are there; they stay meanwhile.

        Raises:
            KeyError: There are none.
            StoreError: They are not those that were put there.
        """
        with self.instances.reading([key]) as held:
            yield held[key] if key in held else self.history.view(key)

    def delete(self, key: Key) -> None:
        """Forget an entry."""
        with self._lock:
            self._let_go(key)
            self.history.delete(key)

    def forget(self, keys: Sequence[Key]) -> int:
        """Forget entries, those in memory, too, and return how many were there."""
        with self._lock:
            for key in keys:
                self._let_go(key)
            return self.history.forget(keys)

    def keys(self, prefix: str = "") -> list[Key]:
        """Return the keys whose text begins so, in order."""
        return self.history.keys(prefix)

    def ingest(
        self,
        key: Key,
        parameters: Parameters,
        metrics: Mapping[str, float] | None = None,
        provenance: Mapping[str, str] | None = None,
        made_from: Mapping[Key, float] | None = None,
    ) -> Entry:
        """Keep an update or a model, work out what most questions ask of it, and hold it.

        An update's statistics are of its change from the model of the round before, if that is
        there and has as many numbers, and otherwise of the update as it is. With updates of other
        arrays, of other parts of a model, there are none.

        Args:
            key: Its kind is ``update`` or ``model``.
            parameters: Its arrays.
            metrics: Numbers, such as ``num_examples``, ``loss``, ``accuracy``, ``seconds``.
            provenance: Words.
            made_from: Of a model: the updates it is the mean of, and their shares.

        Raises:
            ConfigError: Its kind is another.
            UpdateError: It is not finite.
            KeyError: One of ``made_from`` is not there.
        """
        if key.kind not in (UPDATE, MODEL):
            raise ConfigError(f"{key}: want the kind 'update' or 'model'; use put for others")
        content = layout.encode(parameters)
        with self._lock:
            statistics = self._work_out(key, content) if key.kind == UPDATE else None
            self._let_go(key)
            entry = self.history.record(key, content, metrics, provenance, made_from, statistics)
            change = self._policy.ingested(key)
            self._compare_with(key, content)
        self._apply(change, {key: (entry, memoryview(content))})
        return entry

    def ask(self, workload: str, question: Question) -> Answer:
        """Answer a question.

        Args:
            workload: By name; ``WORKLOADS`` has them.
            question: About what.

        Raises:
            ConfigError: There is no such workload, or the question cannot be answered; says why.
            StoreError: An entry was damaged.
            FederationError: Instances died of it, or it took too long.
        """
        if workload not in WORKLOADS:
            raise ConfigError(f"unknown workload {workload!r}; there are {', '.join(WORKLOADS)}")
        work, number, started = WORKLOADS[workload], next(self._numbers), self.clock()
        keys: tuple[Key, ...] = ()
        num_hits = 0
        error = ""
        try:
            plan = work.prepare(self.history.catalog, question)
            keys = plan.keys
            if not keys:
                return work.compute(plan.facts, ())
            num_hits = sum(self.instances.holds(key) for key in keys)
            answer = self.instances.run(workload, plan.facts, keys, self.history.view)
            self._ahead.submit(self._look_ahead, Request(workload, keys, work.access))
            return answer
        except (ConfigError, StoreError, FederationError) as found:
            error = str(found)
            raise
        finally:
            self._handled.append(
                Handled(number, workload, self.clock() - started, len(keys), num_hits, error)
            )

    def handled(self) -> list[Handled]:
        """Return the last requests, oldest first."""
        return list(self._handled)

    def settle(self) -> None:
        """Wait until all that was to be loaded ahead is."""
        self._ahead.submit(lambda: None).result()

    @property
    def _policy(self) -> Policy:
        if self.policy is None:
            raise FederationError("the store has no policy")
        return self.policy

    def _work_out(self, key: Key, content: bytes) -> Statistics:
        others = [
            entry.key
            for entry in self.history.catalog.entries(key.job, (key.round, key.round), kind=UPDATE)
            # What has other arrays is of another part of the model, and cannot be compared.
            if entry.key != key and entry.num_bytes == len(content)
        ]
        before = Key(key.job, max(key.round - 1, 0), SERVER, MODEL)
        with ExitStack() as stack:
            held = stack.enter_context(self.instances.reading([*others, before]))

            def numbers(wanted: Key) -> NDArray[np.float32]:
                found: bytes | memoryview | None = held.get(wanted, self._compared.get(wanted))
                if found is None:
                    found = self.history.view(wanted)
                return layout.flat_numbers(found, str(wanted))

            update = layout.flat_numbers(content, str(key))
            base: Any = None
            if before.round < key.round and before in self.history.catalog:
                base = numbers(before)
            if base is not None and base.size != update.size:
                base = None
            return work_out(
                key.device,
                update,
                {each.device: numbers(each) for each in others},
                base,
            )

    def _compare_with(self, key: Key, content: bytes) -> None:
        """Have at hand what the statistics of a round's next update need, if no class holds it.

        That is the round's updates, and the model of the one before: reading them anew for each
        update would take longer than all else that is done with it.
        """
        for each in [each for each in self._compared if each.job == key.job]:
            oldest = key.round - 1 if each.kind == MODEL else key.round
            if each.round < oldest:
                del self._compared[each]
        size = sum(map(len, self._compared.values())) + len(content)
        if not self._policy.holds(key) and size <= self.instances.capacity_bytes:
            self._compared[key] = content

    def _let_go(self, key: Key) -> None:
        self._compared.pop(key, None)
        self.instances.drop(key)

    def _look_ahead(self, request: Request) -> None:
        try:
            with self._lock:
                change = self._policy.requested(request)
            self._apply(change, {})
        except (KeyError, OSError, StoreError) as error:
            # Nothing was promised: the next request reads what is not there.
            logger.warning("cannot load ahead of %s: %s", request.workload, error)

    def _apply(self, change: Change, contents: Mapping[Key, tuple[Entry, memoryview]]) -> None:
        # Changes of two threads may come here in another order than the policy made them, and
        # entries may be put anew or forgotten meanwhile: what is there by now counts.
        for key in change.drop:
            with self._lock:
                if not self._policy.holds(key):
                    self.instances.drop(key)
        for key in change.load:
            if key in contents:
                entry, content = contents[key]
            else:
                entry = self.history.catalog.entry(key)
                content = self.history.content(entry)
            with self._lock:
                if not self._policy.holds(key) or not self._is_current(entry):
                    continue
                if not self.instances.hold(key, content):
                    logger.warning("%s: no room for its %d bytes in memory", key, len(content))

    def _is_current(self, entry: Entry) -> bool:
        try:
            return self.history.catalog.entry(entry.key).digest == entry.digest
        except KeyError:
            return False
