"""Clients as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from hocket.fl.core.client import run_safely
from hocket.fl.core.engine import failure, lateness, named_devices
from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hocket.fl.core.client import Client, ClientFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply

_REACH_SECONDS = 10.0

# Of a worker process: its client, and the engine that it was made for.
_made: tuple[str, Client] | None = None


class RayEngine:
    """Runs each task as a task of Ray, in worker processes that keep their client.

    A worker that dies takes only its task with it. Parameters of a round are put into the cluster's
    object store once.

    Args:
        make_client: Called once in each worker, which must be able to import what it needs.
        num_workers: Tasks at once.
        clock: To tell who is late.
        attributes: Of each device, by its name; devices not named have none.
        address: Of a cluster; empty to start one on this machine, unless one is there already.

    Raises:
        ConfigError: There are to be no workers, or there is no such cluster.
    """

    def __init__(
        self,
        make_client: ClientFactory,
        num_workers: int,
        clock: Clock,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
        address: str = "",
    ) -> None:
        if num_workers < 1:
            raise ConfigError(f"num_workers must be 1 or more, got {num_workers}")
        self._clock = clock
        self._devices = named_devices(make_client, attributes)
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            _connect(address, num_workers)
        self._num_workers = num_workers
        self._name = os.urandom(8).hex()
        self._make_client = ray.put(make_client)

    def devices(self) -> list[Device]:
        """Return all devices."""
        return list(self._devices)

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as they come."""
        shared: Any = ray.put(dict(parameters))
        started, queue = self._clock.now(), list(reversed(tasks))
        running: dict[Any, ClientTask] = {}
        try:
            while queue or running:
                while queue and len(running) < self._num_workers:
                    task = queue.pop()
                    running[_run_on_worker.remote(self._name, self._make_client, task, shared)] = (
                        task
                    )
                left = None
                if timeout_seconds is not None:
                    left = max(0.0, started + timeout_seconds - self._clock.now())
                done, _ = ray.wait(list(running), num_returns=1, timeout=left)
                if not done:
                    break
                yield _reply_of(done[0], running.pop(done[0]))
            for task in (*running.values(), *reversed(queue)):
                yield lateness(task)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        if self._owns_cluster and ray.is_initialized():
            ray.shutdown()
            self._owns_cluster = False


def _connect(address: str, num_workers: int) -> None:
    settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if address:
        settings["address"] = address
        _check_reachable(address)
    else:
        settings["num_cpus"] = num_workers
    ray.init(**settings, logging_level=logging.WARNING, configure_logging=False)


def _check_reachable(address: str) -> None:
    """Check that someone listens, since Ray goes on trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"engine.address: want HOST:PORT of a Ray cluster, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"engine.address: no Ray cluster at {address!r}: {error}") from error


def _reply_of(reference: Any, task: ClientTask) -> Reply:
    try:
        reply: Reply = ray.get(reference)
    except TaskCancelledError:
        return lateness(task)
    except RayTaskError as error:
        return failure(task, error.cause if isinstance(error.cause, Exception) else error)
    except RayError as error:
        return failure(task, f"its process ended: {type(error).__name__}")
    return reply


@ray.remote(max_retries=0, num_cpus=1)
def _run_on_worker(
    engine: str, make_client: ClientFactory, task: ClientTask, parameters: Parameters
) -> Reply:
    global _made  # noqa: PLW0603 - a worker process has one client
    if _made is None or _made[0] != engine:
        _made = (engine, make_client())
    return run_safely(_made[1], task, parameters)
