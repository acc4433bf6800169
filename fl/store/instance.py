"""One instance of the serverless cache: a process that maps what others hold and works on it.

What is said to it is JSON, then descriptors of memory, so that nothing that comes in is run.
"""

from __future__ import annotations

import json
from multiprocessing.reduction import recv_handle
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from hocket.fl.core.errors import ConfigError, StoreError, UpdateError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.slots import map_slot
from hocket.fl.store.workloads import WORKLOADS

if TYPE_CHECKING:
    import mmap
    from multiprocessing.connection import Connection

ERRORS = {error.__name__: error for error in (ConfigError, StoreError, UpdateError)}


def serve(connection: Connection) -> None:
    """Answer what comes down a pipe until it is closed.

    Messages: ``{"attach": slot, "num_bytes": n}``, followed by a descriptor; ``{"detach": slot}``;
    ``{"run": workload, "facts": ..., "contents": [[key, slot, num_bytes], ...]}``, answered by
    ``{"values": ..., "has_arrays": ...}``, an object after it if there are arrays, or by
    ``{"error": ..., "message": ...}``.
    """
    slots: dict[int, mmap.mmap] = {}
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
                for part in _run(message, slots):
                    connection.send_bytes(part)


def _run(message: dict[str, Any], slots: dict[int, mmap.mmap]) -> list[bytes]:
    contents = [
        (Key.parse(key), memoryview(slots[slot])[:num_bytes])
        for key, slot, num_bytes in message["contents"]
    ]
    try:
        answer = WORKLOADS[message["run"]].compute(message["facts"], contents)
    except tuple(ERRORS.values()) as error:
        return [json.dumps({"error": type(error).__name__, "message": str(error)}).encode()]
    said = json.dumps({"values": answer.values, "has_arrays": bool(answer.arrays)}).encode()
    return [said, layout.encode(answer.arrays)] if answer.arrays else [said]
