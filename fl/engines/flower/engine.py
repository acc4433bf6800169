"""Clients as nodes of Flower, simulated or not."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from flwr.app import DEFAULT_TTL, Message
from flwr.serverapp import ServerApp

from hocket.fl.core.engine import failure, lateness, named_devices
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.engines.flower.messages import decode_replies, encode_parameters, encode_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flwr.app import Context, Error
    from flwr.serverapp import Grid

    from hocket.fl.core.client import ClientFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Kind, Reply

_logger = logging.getLogger(__name__)

# Flower forgets a message whose time is up, and cannot be asked about it then.
_TTL_MARGIN_SECONDS = 30.0
# Codes of Flower's errors, and what they mean for a task.
_REASONS = {
    3: "Flower lost its message",
    4: "Flower lost its reply",
    5: "its node is gone",
    8: "its process ended",
}
_ENDED_ACTOR = ("ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError")


class FlowerEngine:
    """Runs tasks on the nodes of a Flower federation, all of one node's in one message.

    Devices are spread over the nodes that are there, in the order of their names; it does not
    matter for what comes out which node has which. Devices of one node share its fate: if its
    process ends, all their tasks fail.

    Args:
        grid: Of the ServerApp that this is used in.
        make_client: Knows the devices; nodes have it, too, from their ``make_client_app``.
        clock: To tell who is late.
        attributes: Of each device, by its name; devices not named have none.
        num_nodes: Nodes to wait for before the first round.
        wait_seconds: How long to wait for them, and for one if all have gone.
        poll_seconds: Between looking for replies.
        check: Called each time; raises if there will be none any more.

    Raises:
        ConfigError: There are to be no nodes.
    """

    def __init__(
        self,
        grid: Grid,
        make_client: ClientFactory,
        clock: Clock,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
        *,
        num_nodes: int = 1,
        wait_seconds: float = 60.0,
        poll_seconds: float = 0.1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        if num_nodes < 1:
            raise ConfigError(f"num_nodes must be 1 or more, got {num_nodes}")
        self._grid = grid
        self._clock = clock
        self._devices = named_devices(make_client, attributes)
        self._order = {device.device_id: at for at, device in enumerate(self._devices)}
        self._num_nodes = num_nodes
        self._wait_seconds = wait_seconds
        self._poll_seconds = poll_seconds
        self._check = check

    def devices(self) -> list[Device]:
        """Return all devices."""
        return list(self._devices)

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as they come.

        Raises:
            FederationError: Too few nodes are there.
        """
        if not tasks:
            return
        nodes = self._wait_for_nodes()
        # Only rounds count against devices, not how long their nodes took to connect.
        started = self._clock.now()
        waiting: dict[str, list[ClientTask]] = {}
        arrays = encode_parameters(parameters)
        ttl = DEFAULT_TTL if timeout_seconds is None else timeout_seconds + _TTL_MARGIN_SECONDS
        for (node, kind), group in self._spread(tasks, nodes).items():
            message = Message(
                encode_tasks(group, arrays, timeout_seconds),
                dst_node_id=node,
                message_type=kind,
                ttl=ttl,
                group_id=str(group[0].round),
            )
            pushed = [name for name in self._grid.push_messages([message]) if name]
            if pushed:
                waiting[pushed[0]] = group
            else:
                yield from (failure(task, "Flower did not take its message") for task in group)
        while waiting:
            self._check()
            for message in self._grid.pull_messages(list(waiting)):
                group = waiting.pop(message.metadata.reply_to_message_id, [])
                if not group:
                    _logger.warning("a reply to no message of this round: %s", message.metadata)
                elif message.has_error():
                    yield from (failure(task, _reason_of(message.error)) for task in group)
                else:
                    yield from decode_replies(message.content, group)
            if timeout_seconds is not None and self._clock.now() - started > timeout_seconds:
                break
            if waiting:
                time.sleep(self._poll_seconds)
        for group in waiting.values():
            yield from map(lateness, group)

    def close(self) -> None:
        """Do nothing: whoever has started the federation stops it."""

    def _spread(
        self, tasks: Sequence[ClientTask], nodes: Sequence[int]
    ) -> dict[tuple[int, Kind], list[ClientTask]]:
        groups: dict[tuple[int, Kind], list[ClientTask]] = {}
        for task in tasks:
            node = nodes[self._order[task.device_id] % len(nodes)]
            groups.setdefault((node, task.kind), []).append(task)
        return groups

    def _wait_for_nodes(self) -> list[int]:
        started = self._clock.now()
        while len(nodes := sorted(self._grid.get_node_ids())) < self._num_nodes:
            self._check()
            waited = self._clock.now() - started
            if waited > self._wait_seconds:
                raise FederationError(
                    f"{len(nodes)} of {self._num_nodes} SuperNodes are connected after "
                    f"{waited:.0f} seconds; start the others, or ask for fewer"
                )
            time.sleep(self._poll_seconds)
        # Those that are lost later are done without, down to the last.
        self._num_nodes = 1
        return nodes


def make_server_app(run: Callable[[Grid, Context], None]) -> ServerApp:
    """Return an app that does what a function does with its grid and context."""
    app = ServerApp()
    app.main()(run)
    return app


def _reason_of(error: Error) -> str:
    said = " ".join((error.reason or "").split())
    if any(name in said for name in _ENDED_ACTOR):
        return "its process ended"
    reason = _REASONS.get(error.code, f"Flower's error {error.code}")
    return f"{reason}: {said}" if said else reason
