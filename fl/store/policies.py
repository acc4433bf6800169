"""Which entries stay in memory: FLStore's policies by class, and what others do.

A policy is told of entries that come and of requests, and answers with what to load and what to
drop. It holds no bytes, so the same one drives a cache and a simulation of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import cachetools

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.access import (
    AIDS,
    METRICS,
    MODEL,
    SERVER,
    UPDATE,
    WINDOW_ROUNDS,
    Access,
    Learner,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hocket.fl.core.store import Key
    from hocket.fl.store.access import Directory, Request

PATIENCE_ROUNDS = 20


@dataclass(frozen=True)
class Change:
    """What is to be done about what is in memory.

    Attributes:
        load: Entries to hold from now on, in the order of their use.
        drop: Entries to let go of, first.
    """

    load: tuple[Key, ...] = ()
    drop: tuple[Key, ...] = ()


class Policy(Protocol):
    """Says what stays in memory. What it holds never takes more than its capacity."""

    def ingested(self, key: Key) -> Change:
        """An entry has come."""
        ...

    def requested(self, request: Request) -> Change:
        """A request has been served; what it missed was read past the cache."""
        ...

    def holds(self, key: Key) -> bool:
        """Return whether an entry is among what was to be loaded and not dropped since."""
        ...


class _Shelf(cachetools.Cache[Any, int]):
    """What one of cachetools' caches would hold, with a note of what it lets go."""

    dropped: list[Key]

    def popitem(self) -> tuple[Any, int]:
        key, size = super().popitem()
        self.dropped.append(key)
        return key, size


class _Fifo(_Shelf, cachetools.FIFOCache[Any, int]):
    pass


class _Lru(_Shelf, cachetools.LRUCache[Any, int]):
    pass


class _Lfu(_Shelf, cachetools.LFUCache[Any, int]):
    pass


SHELVES: dict[str, type[_Shelf]] = {"fifo": _Fifo, "lru": _Lru, "lfu": _Lfu}


class ByUse:
    """First in first out, least recently or least frequently used, whatever entries are.

    Args:
        order: ``fifo``, ``lru`` or ``lfu``.
        directory: Of the entries.
        capacity_bytes: Of what is held.
        write_through: Whether entries are held when they come, not only when they were missed.

    Raises:
        ConfigError: There is no such order.
    """

    def __init__(
        self, order: str, directory: Directory, capacity_bytes: int, *, write_through: bool
    ) -> None:
        if order not in SHELVES:
            raise ConfigError(f"unknown order {order!r}; there are {', '.join(SHELVES)}")
        self._shelf = SHELVES[order](capacity_bytes, getsizeof=int)
        self._shelf.dropped = []
        self._directory = directory
        self._write_through = write_through

    def ingested(self, key: Key) -> Change:
        """An entry has come."""
        return self._take([key]) if self._write_through else Change()

    def requested(self, request: Request) -> Change:
        """A request has been served."""
        return self._take(request.keys)

    def holds(self, key: Key) -> bool:
        """Return whether an entry is held."""
        return key in self._shelf

    def _take(self, keys: Iterable[Key]) -> Change:
        self._shelf.dropped.clear()
        new: dict[Key, None] = {}
        for key in keys:
            if key in self._shelf:
                # What counts as use.
                _ = self._shelf[key]
            elif (size := self._directory.num_bytes(key)) <= self._shelf.maxsize:
                if key not in self._shelf.dropped:
                    new[key] = None
                self._shelf[key] = size
        # A request larger than the cache drops some of what it has just loaded.
        gone = (key for key in dict.fromkeys(self._shelf.dropped) if key not in self._shelf)
        return Change(
            tuple(key for key in new if key in self._shelf),
            tuple(key for key in gone if key not in new),
        )


@dataclass
class Tailored:
    """FLStore's policies: each class of work holds what its next request will read.

    ======  ==========================================  =======================================
    class   holds                                       lets go
    ======  ==========================================  =======================================
    P1      a job's newest model, from when it comes    the one before
    P2      all updates of the newest round, from when  the round before; of older rounds, what
            they come; of older rounds that are walked   was walked past
            through, the next one
    P3      a device's next update after the one read   the one read
    P4      metrics of the last rounds                  those of older ones
    ======  ==========================================  =======================================

    Modules and examples are held from when a class has read them.

    An entry is in memory as long as some class holds it. Where that is too much, what was loaded
    ahead for P3 goes first, then older rounds, then the newest: metrics, which are small, last.
    A class that nobody has asked for in some rounds holds nothing until somebody asks again.

    Attributes:
        directory: Of the entries.
        capacity_bytes: Of what is held.
        window_rounds: How many rounds of metrics P4 holds.
        patience_rounds: How many rounds a class holds something without a request.
    """

    directory: Directory
    capacity_bytes: int
    window_rounds: int = WINDOW_ROUNDS
    patience_rounds: int = PATIENCE_ROUNDS
    _held: dict[Key, set[Access]] = field(default_factory=dict)
    _sizes: dict[Key, int] = field(default_factory=dict)
    _newest: dict[str, int] = field(default_factory=dict)
    _learner: Learner = field(default_factory=Learner)
    _asked: dict[tuple[str, Access], int] = field(default_factory=dict)

    def ingested(self, key: Key) -> Change:
        """An entry has come."""
        newest = self._newest[key.job] = max(self._newest.get(key.job, 0), key.round)
        if key.kind == MODEL and key.device == SERVER:
            return self._change([key], Access.MODEL, lambda held: held.round < newest, key.job)
        if key.kind == UPDATE:
            wanted = [key] if key.round == newest else []
            return self._change(wanted, Access.ROUND, lambda held: held.round < newest, key.job)
        if key.kind == METRICS:
            oldest = newest - self.window_rounds
            return self._change([key], Access.WINDOW, lambda held: held.round <= oldest, key.job)
        return Change()

    def requested(self, request: Request) -> Change:
        """A request has been served."""
        if not request.keys:
            return Change()
        job = request.keys[0].job
        newest = self._newest.get(job, 0)
        access = self._learner.access_of(request, newest)
        self._asked[job, access] = newest
        last = max(key.round for key in request.keys)
        aids = [key for key in request.keys if key.kind in AIDS]
        if access is Access.ROUND and last < newest:
            ahead = [*aids, *self.directory.updates_of(job, last + 1)]
            return self._change(ahead, access, lambda held: held.round <= last, job)
        if access is Access.DEVICE:
            read = set(request.keys)
            ahead = [
                following
                for device in sorted({key.device for key in request.keys if key not in aids})
                for following in [self._next(request, device)]
                if following is not None
            ]
            return self._change([*aids, *ahead], access, read.__contains__, job)
        return self._change(aids, access, lambda _: False, job) if aids else Change()

    def holds(self, key: Key) -> bool:
        """Return whether an entry is held."""
        return key in self._held

    def _next(self, request: Request, device: str) -> Key | None:
        latest = max(
            (key for key in request.keys if key.device == device), key=lambda key: key.round
        )
        return self.directory.next_update(latest)

    def _change(
        self, wanted: Iterable[Key], access: Access, is_past: Callable[[Key], bool], job: str
    ) -> Change:
        before = set(self._held)
        if self._newest.get(job, 0) - self._asked.get((job, access), 0) > self.patience_rounds:
            wanted = ()
        for key in [key for key, classes in self._held.items() if access in classes]:
            # A module and its examples serve every round.
            if key.job == job and key.kind not in AIDS and is_past(key):
                self._let_go(key, access)
        for key in wanted:
            self._sizes[key] = self.directory.num_bytes(key)
            self._held.setdefault(key, set()).add(access)
        self._shrink()
        after = set(self._held)
        return Change(
            tuple(key for key in self._held if key not in before), tuple(sorted(before - after))
        )

    def _let_go(self, key: Key, access: Access) -> None:
        self._held[key].discard(access)
        if not self._held[key]:
            del self._held[key], self._sizes[key]

    def _shrink(self) -> None:
        excess = sum(self._sizes.values()) - self.capacity_bytes
        if excess <= 0:
            return
        for key in sorted(self._held, key=self._worth):
            excess -= self._sizes.pop(key)
            del self._held[key]
            if excess <= 0:
                return

    def _worth(self, key: Key) -> tuple[int, int, Key]:
        classes = self._held[key]
        order = (Access.DEVICE, Access.ROUND, Access.MODEL, Access.WINDOW)
        return max(order.index(access) for access in classes), key.round, key
