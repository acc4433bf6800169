"""What a node of Flower runs."""

from __future__ import annotations

import faulthandler
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Message
from flwr.clientapp import ClientApp

from hocket.fl.core.client import run_safely
from hocket.fl.core.engine import failure, lateness
from hocket.fl.engines.flower.messages import decode_tasks, encode_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flwr.app import Context

    from hocket.fl.core.client import Client
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Reply

# A server whose time is up takes nothing any more; so much later its clients are stopped.
_GRACE_SECONDS = 1.0
_STDERR = 2

# Of this process: its client, and the app that it was made for.
_made: tuple[str, Client] | None = None


def make_client_app(
    make_client: Callable[[Context], Client], *, shares_clock: bool = False
) -> ClientApp:
    """Return an app that does the tasks of a ``FlowerEngine``.

    A process makes its client once. A client that is still at it when the time of the round is up
    ends its process, since Flower has no other way of getting a node back.

    Args:
        make_client: Makes a client of any device; picklable if it is for a simulation.
        shares_clock: With the server. Then the time of a round begins when its message is made, and
            not when it comes: what waited too long is not begun.
    """
    app = ClientApp()
    handler = _Handler(os.urandom(8).hex(), make_client, shares_clock)
    app.train()(handler)
    app.evaluate()(handler)
    return app


@dataclass(frozen=True)
class _Handler:
    # Ray's actors get it anew with every message, so what it keeps is of the module.
    app: str
    make_client: Callable[[Context], Client]
    shares_clock: bool

    def __call__(self, message: Message, context: Context) -> Message:
        tasks, parameters, seconds = decode_tasks(message.content)
        if seconds is not None:
            if self.shares_clock:
                seconds -= time.time() - message.metadata.created_at
            if seconds <= 0:
                return Message(encode_replies(list(map(lateness, tasks))), reply_to=message)
            # Needs no Python to run: it ends a client that holds the interpreter, too.
            faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=_STDERR)
        try:
            replies = self._run(tasks, parameters, context)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return Message(encode_replies(replies), reply_to=message)

    def _run(
        self, tasks: Sequence[ClientTask], parameters: Parameters, context: Context
    ) -> list[Reply]:
        global _made  # noqa: PLW0603 - a process has one client
        if _made is None or _made[0] != self.app:
            try:
                _made = (self.app, self.make_client(context))
            except Exception as error:  # noqa: BLE001 - the failures say what
                return [failure(task, error) for task in tasks]
        return [run_safely(_made[1], task, parameters) for task in tasks]
