"""The serverless cache of one machine: memory that nobody loses, and processes that come and go.

This process owns the memory; instances map it. So an instance that is killed takes no entry with
it: another one maps the same memory, and the request is run again.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
import weakref
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import FederationError, StoreError
from hocket.fl.store import layout
from hocket.fl.store.cache import ATTEMPTS, InstanceLostError, Usage, died_too_often
from hocket.fl.store.instance import ERRORS, serve
from hocket.fl.store.slots import Slot, Slots, map_slot, slot_bytes
from hocket.fl.store.workloads.workload import Answer

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from hocket.fl.core.store import Key

START_SECONDS = 60.0
READERS = 4
"""Entries that are read at once for a request."""


@dataclass(eq=False)
class _Room:
    """Memory that an instance makes answers in, one after the other."""

    memory: mmap.mmap
    reader: Callable[[], Any] = lambda: None

    def read(self, num_bytes: int) -> memoryview:
        """Return what is there, which stays as long as somebody looks at it."""
        found = np.frombuffer(self.memory, np.uint8, num_bytes)
        self.reader = weakref.ref(found)
        return found.data


@dataclass(eq=False)
class _Instance:
    process: BaseProcess
    connection: Connection
    attached: set[int] = field(default_factory=set)
    idle_since: float = 0.0
    rooms: dict[int, _Room] = field(default_factory=dict)


@dataclass(eq=False)
class _Held:
    slot: Slot
    num_bytes: int
    readers: int = 0
    is_dropped: bool = False


class Instances:
    """Holds entries and runs work on them, as a ``Cache`` does.

    Args:
        capacity_bytes: Of the memory that entries are held in.
        most: Instances at once. They are started as requests come, and stopped when idle.
        idle_seconds: After which one is stopped, at the next request's end.
        request_seconds: After which a request has failed, and its instance is killed.
        now: The time in seconds, ever growing.
        make_model: Where instances find what makes models, as ``package.module:name``; empty for
            nothing.
    """

    def __init__(
        self,
        capacity_bytes: int,
        most: int = 2,
        idle_seconds: float = 300.0,
        request_seconds: float = 120.0,
        now: Callable[[], float] = time.monotonic,
        make_model: str = "",
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self._slots = Slots(capacity_bytes)
        self._most, self._idle_seconds = most, idle_seconds
        self._request_seconds, self._now = request_seconds, now
        self._make_model = make_model
        self._held: dict[Key, _Held] = {}
        self._idle: list[_Instance] = []
        self._alive: list[_Instance] = []
        self._num_starting = 0
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._changed = threading.Condition()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["hocket.fl.store.preload"])

    def hold(self, key: Key, content: bytes | memoryview) -> bool:
        """Hold an entry, in the place of what was held under its key."""
        with self._changed:
            self._drop(key)
            slot = self._slots.take(len(content))
        if slot is None:
            return False
        # Without the lock, and before anybody can see it.
        slot.memory[: len(content)] = content
        with self._changed:
            self._drop(key)
            self._held[key] = _Held(slot, len(content))
        return True

    def drop(self, key: Key) -> None:
        """Let go of an entry; whoever reads it may read on."""
        with self._changed:
            self._drop(key)

    def holds(self, key: Key) -> bool:
        """Return whether an entry is held."""
        with self._changed:
            return key in self._held

    @contextmanager
    def reading(self, keys: Sequence[Key]) -> Iterator[dict[Key, memoryview]]:
        """Give the bytes of those entries that are held, which stay as they are meanwhile."""
        with self._changed:
            found = {key: self._held[key] for key in keys if key in self._held}
            for held in found.values():
                held.readers += 1
        try:
            yield {
                key: memoryview(held.slot.memory)[: held.num_bytes].toreadonly()
                for key, held in found.items()
            }
        finally:
            self._done_reading(list(found.values()))

    def run(
        self,
        workload: str,
        facts: Mapping[str, Any],
        keys: Sequence[Key],
        read: Callable[[Key], bytes | memoryview],
    ) -> Answer:
        """Run work on entries in an instance, and again in another if that one dies."""
        with self._pinned(keys, read) as contents:
            for attempt in range(ATTEMPTS):
                try:
                    answer = self._run_once(workload, facts, keys, contents)
                except InstanceLostError:
                    with self._changed:
                        self._counts["retries"] += attempt + 1 < ATTEMPTS
                    continue
                with self._changed:
                    self._counts["requests"] += 1
                return answer
        raise died_too_often(workload)

    def usage(self) -> Usage:
        """Return what instances have done so far."""
        with self._changed:
            return Usage(
                len(self._alive),
                self._counts["requests"],
                self._counts["lost"],
                self._counts["retries"],
                self._counts["cold starts"],
                self._seconds["cold starts"],
                self._seconds["busy"],
                sum(held.num_bytes for held in self._held.values()),
                self._slots.made_bytes,
            )

    def processes(self) -> list[int]:
        """Return the process numbers of all instances, at work or idle."""
        with self._changed:
            return [each.process.pid for each in self._alive if each.process.pid is not None]

    def close(self) -> None:
        """Stop all instances and let go of all entries. Nothing may be running."""
        with self._changed:
            idle, self._idle, self._alive = self._idle, [], []
            for key in list(self._held):
                self._drop(key)
            self._slots.close()
        for instance in idle:
            self._stop(instance)

    def _drop(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.is_dropped = True
            if not held.readers:
                self._slots.give_back(held.slot)

    def _done_reading(self, entries: Sequence[_Held]) -> None:
        with self._changed:
            for held in entries:
                held.readers -= 1
                if held.is_dropped and not held.readers:
                    self._slots.give_back(held.slot)

    @contextmanager
    def _pinned(
        self, keys: Sequence[Key], read: Callable[[Key], bytes | memoryview]
    ) -> Iterator[list[_Held]]:
        """Give entries in memory that stays theirs until the request is over."""
        pinned: dict[Key, _Held] = {}
        try:
            with self._changed:
                for key in keys:
                    if key in self._held and key not in pinned:
                        pinned[key] = self._held[key]
                        pinned[key].readers += 1
            missing = [key for key in dict.fromkeys(keys) if key not in pinned]
            if missing:
                # Several at once, as most of it is waiting, and digests.
                with ThreadPoolExecutor(READERS) as readers:
                    reads = [readers.submit(self._borrow, key, read) for key in missing]
                found = zip(missing, reads, strict=True)
                pinned |= {key: each.result() for key, each in found if each.exception() is None}
                for each in reads:
                    each.result()
            yield [pinned[key] for key in keys]
        finally:
            self._done_reading(list(pinned.values()))

    def _borrow(self, key: Key, read: Callable[[Key], bytes | memoryview]) -> _Held:
        content = read(key)
        with self._changed:
            slot = self._slots.take(len(content))
        if slot is None:
            raise StoreError(
                f"{key}: its {len(content)} bytes do not fit beside what is held, in "
                f"{self._slots.capacity_bytes} bytes; give the cache more memory"
            )
        slot.memory[: len(content)] = content
        return _Held(slot, len(content), readers=1, is_dropped=True)

    def _run_once(
        self,
        workload: str,
        facts: Mapping[str, Any],
        keys: Sequence[Key],
        contents: Sequence[_Held],
    ) -> Answer:
        instance = self._take_instance()
        started, is_well = self._now(), False
        try:
            answer = self._ask(instance, workload, facts, keys, contents)
            is_well = True
        except tuple(ERRORS.values()):
            is_well = True
            raise
        finally:
            with self._changed:
                self._seconds["busy"] += self._now() - started
            if is_well:
                self._give_back(instance)
            else:
                self._lose(instance)
        return answer

    def _ask(
        self,
        instance: _Instance,
        workload: str,
        facts: Mapping[str, Any],
        keys: Sequence[Key],
        contents: Sequence[_Held],
    ) -> Answer:
        connection = instance.connection
        try:
            for held in contents:
                if held.slot.number not in instance.attached:
                    _say(connection, attach=held.slot.number, num_bytes=held.slot.num_bytes)
                    send_handle(connection, held.slot.descriptor, instance.process.pid)
                    instance.attached.add(held.slot.number)
            places = [
                [str(key), held.slot.number, held.num_bytes]
                for key, held in zip(keys, contents, strict=True)
            ]
            unread = [number for number, room in instance.rooms.items() if room.reader() is None]
            _say(connection, run=workload, facts=facts, contents=places, unread=unread)
            self._wait_for(instance)
            said = json.loads(connection.recv_bytes())
            if said.get("is_new"):
                self._wait_for(instance)
                size = slot_bytes(said["num_bytes"])
                instance.rooms[said["room"]] = _Room(map_slot(recv_handle(connection), size))
        except (OSError, EOFError) as error:
            raise InstanceLostError(f"instance {instance.process.pid}: {error}") from error
        if "error" in said:
            raise ERRORS[said["error"]](said["message"])
        if not said["num_bytes"]:
            return Answer(said["values"])
        content = instance.rooms[said["room"]].read(said["num_bytes"])
        return Answer(said["values"], layout.view(content, workload), content)

    def _wait_for(self, instance: _Instance) -> None:
        ready = wait([instance.connection, instance.process.sentinel], self._request_seconds)
        if not ready:
            raise FederationError(
                f"a request took more than {self._request_seconds:g} s; its instance is stopped"
            )
        # What it said before it died is still to be read.
        if instance.connection not in ready and not instance.connection.poll():
            raise InstanceLostError(f"instance {instance.process.pid} died")

    def _take_instance(self) -> _Instance:
        with self._changed:
            while True:
                if self._idle:
                    return self._idle.pop()
                if len(self._alive) + self._num_starting < self._most:
                    self._num_starting += 1
                    break
                self._changed.wait()
        started = self._now()
        instance = None
        try:
            instance = self._start()
        finally:
            with self._changed:
                self._num_starting -= 1
                if instance is not None:
                    self._alive.append(instance)
                    self._counts["cold starts"] += 1
                    self._seconds["cold starts"] += self._now() - started
                self._changed.notify()
        return instance

    def _start(self) -> _Instance:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._make_model), daemon=True)
        process.start()
        theirs.close()
        instance = _Instance(process, ours)
        if not wait([ours, process.sentinel], START_SECONDS) or not ours.poll():
            self._stop(instance)
            raise FederationError("an instance of the cache did not start; see its message above")
        ours.recv_bytes()
        return instance

    def _give_back(self, instance: _Instance) -> None:
        with self._changed:
            instance.idle_since = self._now()
            oldest = instance.idle_since - self._idle_seconds
            stopped = [each for each in self._idle if each.idle_since < oldest]
            self._idle = [each for each in self._idle if each.idle_since >= oldest]
            self._alive = [each for each in self._alive if each not in stopped]
            self._idle.append(instance)
            self._changed.notify()
        for each in stopped:
            self._stop(each)

    def _lose(self, instance: _Instance) -> None:
        with self._changed:
            self._alive.remove(instance)
            self._counts["lost"] += 1
            self._changed.notify()
        self._stop(instance)

    def _stop(self, instance: _Instance) -> None:
        instance.connection.close()
        instance.process.kill()
        instance.process.join()
        instance.process.close()


def _say(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())
