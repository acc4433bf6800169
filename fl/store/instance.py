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

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from hocket.fl.store.workloads.models import MakeModel, Model
    from hocket.fl.store.workloads.workload import Answer

ERRORS = {error.__name__: error for error in (ConfigError, StoreError, UpdateError)}


def serve(connection: Connection, make_model: str = "") -> None:
    """Answer what comes down a pipe until it is closed.

    Args:
        connection: The pipe.
        make_model: Where to find what makes models, as ``package.module:name``; empty for nothing.

    Messages: ``{"attach": slot, "num_bytes": n}``, followed by a descriptor; ``{"detach": slot}``;
    ``{"run": workload, "facts": ..., "contents": [[key, slot, num_bytes], ...], "is_read": ...}``,
    answered by ``{"values": ..., "num_bytes": n, "is_same": ...}`` or by
    ``{"error": ..., "message": ...}``. Arrays are an object of ``n`` bytes: in the memory of the
    last one, if nobody reads that any more, and else in new memory, whose descriptor follows.
    """
    slots: dict[int, mmap.mmap] = {}
    room: mmap.mmap | None = None
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
                room = _answer(
                    connection,
                    _run(message, slots, models),
                    room if message["is_read"] else None,
                )


class Models:
    """Models of modules, of which the last one is kept: to make one takes longer than to run it.

    Args:
        make_model: Where to find what makes them; empty for nothing.
    """

    def __init__(self, make_model: str) -> None:
        self._make_model = make_model
        self._last: tuple[str, Model] | None = None

    def run(
        self, workload: str, facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]
    ) -> Answer:
        """Return what a workload comes to, with a model if it wants one.

        Raises:
            ConfigError, StoreError, UpdateError: The work failed.
        """
        work = WORKLOADS[workload]
        if not isinstance(work, ModelWorkload) or not self._make_model or not work.compute_with:
            return work.compute(facts, contents)
        digest = facts[MODULE]
        if self._last is None or self._last[0] != digest:
            make: MakeModel = pkgutil.resolve_name(self._make_model)
            self._last = (digest, make(contents[0][1]))
        return work.compute_with(facts, contents[1:], self._last[1])


def _run(
    message: dict[str, Any], slots: dict[int, mmap.mmap], models: Models
) -> Answer | Exception:
    contents = [
        (Key.parse(key), memoryview(slots[slot])[:num_bytes])
        for key, slot, num_bytes in message["contents"]
    ]
    try:
        return models.run(message["run"], message["facts"], contents)
    except tuple(ERRORS.values()) as error:
        return error


def _answer(
    connection: Connection, answer: Answer | Exception, room: mmap.mmap | None
) -> mmap.mmap | None:
    """Answer a request, and return the memory that its arrays are in."""
    if isinstance(answer, Exception):
        _say(connection, error=type(answer).__name__, message=str(answer))
        return room
    if not answer.arrays:
        _say(connection, values=answer.values, num_bytes=0, is_same=True)
        return room
    # In memory that who asked maps, as a pipe would take longer than the work, and so would new
    # memory for each.
    pieces = [memoryview(piece) for piece in layout.pieces(answer.arrays)]
    num_bytes = sum(piece.nbytes for piece in pieces)
    is_same, descriptor = room is not None and len(room) == slot_bytes(num_bytes), -1
    if room is None or not is_same:
        descriptor, room = make_shared(slot_bytes(num_bytes))
    start = 0
    for piece in pieces:
        room[start : start + piece.nbytes] = piece
        start += piece.nbytes
    _say(connection, values=answer.values, num_bytes=num_bytes, is_same=is_same)
    if not is_same:
        send_handle(connection, descriptor, os.getpid())
        os.close(descriptor)
    return room


def _say(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())
