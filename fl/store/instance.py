"""One instance of the serverless cache: a process that maps what others hold and works on it.

What is said to it is JSON, then descriptors of memory, so that nothing that comes in is run.
"""

from __future__ import annotations

import json
import os
import pkgutil
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from hocket.fl.core.errors import ConfigError, StoreError, UpdateError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODULE
from hocket.fl.store.slots import make_shared, map_slot, slot_bytes
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.store.workloads.models import ModelWorkload
from hocket.fl.store.workloads.workload import MakingWorkload, fresh_memory

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from hocket.fl.store.workloads.models import MakeModel, Model
    from hocket.fl.store.workloads.workload import Answer, Memory

_NUM_ROOMS = 2
ERRORS = {error.__name__: error for error in (ConfigError, StoreError, UpdateError)}


def serve(connection: Connection, make_model: str = "") -> None:
    """Answer what comes down a pipe until it is closed.

    Args:
        connection: The pipe.
        make_model: Where to find what makes models, as ``package.module:name``; empty for nothing.

    Messages: ``{"attach": slot, "num_bytes": n}``, followed by a descriptor; ``{"detach": slot}``;
    ``{"run": workload, "facts": ..., "contents": [[key, slot, num_bytes], ...], "unread": [...]}``,
    answered by ``{"values": ..., "num_bytes": n, "room": number, "is_new": ...}`` or by
    ``{"error": ..., "message": ...}``. Arrays are an object of ``n`` bytes: in the room of an
    answer that nobody reads any more, or in new memory, whose descriptor follows.
    """
    slots: dict[int, mmap.mmap] = {}
    rooms = Rooms()
    models = Models(make_model)
    with threadpool_limits(1):
        # Says that it is there, which is what a cold start is timed by.
        connection.send_bytes(b"{}")
        while True:
            try:
                message = json.loads(connection.recv_bytes())
            except EOFError:
                return
            if "attach" in message:
                slots[message["attach"]] = map_slot(recv_handle(connection), message["num_bytes"])
            elif "detach" in message:
                # Unmapped when the last array over it is gone.
                del slots[message["detach"]]
            else:
                rooms.offer(message["unread"])
                _answer(connection, _run(message, slots, models, rooms), rooms)


class Rooms:
    """Memory that answers are made in, used again: new memory takes longer than most work.

    There are two, as who asks again often has the last answer still.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, mmap.mmap] = {}
        self._unread: list[int] = []
        self.taken: int | None = None
        self.descriptor: int | None = None

    def offer(self, unread: Sequence[int]) -> None:
        """Begin an answer.

        Args:
            unread: Rooms that may be written to.
        """
        self._unread = [number for number in unread if number in self._rooms]
        self.taken = self.descriptor = None

    def take(self, num_bytes: int) -> memoryview:
        """Return memory for the answer; ``descriptor`` is that of new memory, and else None."""
        size = slot_bytes(num_bytes)
        fitting = [number for number in self._unread if len(self._rooms[number]) == size]
        if fitting:
            self.taken = fitting[0]
        else:
            # What is in the older one, if both are read, stays as long as it is read.
            free = [number for number in range(_NUM_ROOMS) if number not in self._rooms]
            self.taken = [*free, *self._unread, next(iter(self._rooms), 0)][0]
            self._rooms.pop(self.taken, None)
            self.descriptor, self._rooms[self.taken] = make_shared(size)
        return memoryview(self._rooms[self.taken])[:num_bytes]

    def withdraw(self) -> None:
        """Let go of new memory that there is no answer in."""
        if self.taken is not None and self.descriptor is not None:
            os.close(self.descriptor)
            del self._rooms[self.taken]


class Models:
    """Models of modules, of which the last one is kept: to make one takes longer than to run it.

    Args:
        make_model: Where to find what makes them; empty for nothing.
    """

    def __init__(self, make_model: str) -> None:
        self._make_model = make_model
        self._last: tuple[str, Model] | None = None

    def run(
        self,
        workload: str,
        facts: Mapping[str, Any],
        contents: Sequence[tuple[Key, memoryview]],
        memory: Memory = fresh_memory,
    ) -> Answer:
        """Return what a workload comes to, with a model if it wants one.

        Args:
            workload: By name.
            facts, contents: Of its plan.
            memory: Where a model that it makes is to be.

        Raises:
            ConfigError, StoreError, UpdateError: The work failed.
        """
        work = WORKLOADS[workload]
        if isinstance(work, MakingWorkload):
            return work.compute(facts, contents, memory)
        if not isinstance(work, ModelWorkload) or not self._make_model or not work.compute_with:
            return work.compute(facts, contents)
        digest = facts[MODULE]
        if self._last is None or self._last[0] != digest:
            make: MakeModel = pkgutil.resolve_name(self._make_model)
            self._last = (digest, make(contents[0][1]))
        return work.compute_with(facts, contents[1:], self._last[1])


def _run(
    message: dict[str, Any], slots: dict[int, mmap.mmap], models: Models, rooms: Rooms
) -> Answer | Exception:
    contents = [
        (Key.parse(key), memoryview(slots[slot])[:num_bytes])
        for key, slot, num_bytes in message["contents"]
    ]
    try:
        return models.run(message["run"], message["facts"], contents, rooms.take)
    except tuple(ERRORS.values()) as error:
        return error


def _answer(connection: Connection, answer: Answer | Exception, rooms: Rooms) -> None:
    if isinstance(answer, Exception):
        rooms.withdraw()
        _say(connection, error=type(answer).__name__, message=str(answer))
        return
    if not answer.arrays:
        _say(connection, values=answer.values, num_bytes=0)
        return
    content = answer.content
    if content is None:
        # In memory that who asked maps, as a pipe would take longer than the work.
        pieces = [memoryview(piece) for piece in layout.pieces(answer.arrays)]
        content = rooms.take(sum(piece.nbytes for piece in pieces))
        start = 0
        for piece in pieces:
            content[start : start + piece.nbytes] = piece
            start += piece.nbytes
    is_new = rooms.descriptor is not None
    told = {"num_bytes": len(content), "room": rooms.taken, "is_new": is_new}
    _say(connection, values=answer.values, **told)
    if rooms.descriptor is not None:
        send_handle(connection, rooms.descriptor, os.getpid())
        os.close(rooms.descriptor)


def _say(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())
