"""A Flower federation that is simulated on this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.engine import FlowerEngine, make_server_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flwr.app import Context
    from flwr.serverapp import Grid

    from hocket.fl.core.client import Client, ClientFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply

_POLL_SECONDS = 0.1
_START_SECONDS = 60.0


class FlowerSimulation:
    """Runs tasks on the simulated nodes of a Flower federation, in Ray's worker processes.

    In Flower the ServerApp has the main loop; this one hands its grid over and waits for ``close``.
    Worker processes keep their client. One that ends is replaced, and what it was at is tried once
    more, as nobody knows whether it had begun. There can be one simulation at a time in a process,
    and Flower stops Ray in the end, also if it ran before.

    Flower's telemetry is off unless ``FLWR_TELEMETRY_ENABLED`` asks for it, and its log is silent
    unless ``FLWR_LOG_LEVEL`` is set: what goes wrong is in the replies.

    Args:
        make_client: Called once in each worker, which must be able to import what it needs.
        num_workers: Tasks at once, unless Ray runs already with another number of CPUs.
        clock: To tell who is late.
        attributes: Of each device, by its name; devices not named have none.
        num_nodes: SuperNodes; 0 for one a device.

    Raises:
        ConfigError: There are to be no workers, or Ray is not installed.
        FederationError: The simulation did not start.
    """

    def __init__(
        self,
        make_client: ClientFactory,
        num_workers: int,
        clock: Clock,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
        num_nodes: int = 0,
    ) -> None:
        if num_workers < 1:
            raise ConfigError(f"num_workers must be 1 or more, got {num_workers}")
        # Flower would end this process.
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("Flower simulates with Ray; pip install 'hocket[flower]'")
        num_nodes = num_nodes or len(make_client.device_ids())
        self._grids: Queue[Grid] = Queue()
        self._is_closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._simulate,
            args=(make_client, num_workers, num_nodes),
            name="flower-simulation",
            daemon=True,
        )
        self._thread.start()
        self._engine = FlowerEngine(
            self._wait_for_grid(),
            make_client,
            clock,
            attributes,
            num_nodes=num_nodes,
            poll_seconds=_POLL_SECONDS,
            check=self._check,
        )

    def devices(self) -> list[Device]:
        """Return all devices."""
        return self._engine.devices()

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as they come.

        Raises:
            FederationError: The simulation has ended.
        """
        return self._engine.run(tasks, parameters, timeout_seconds)

    def close(self) -> None:
        """End the simulation, after the tasks that run: only a round's time-out stops them."""
        self._is_closed.set()
        self._thread.join()

    def _simulate(self, make_client: ClientFactory, num_workers: int, num_nodes: int) -> None:
        try:
            with _quiet_flower():
                from flwr.simulation import run_simulation
                from flwr.simulation.ray_transport.ray_actor import ClientAppActor

                # That an actor ends when it is told to is no failure to be tried again, and told.
                actors: Any = ClientAppActor
                actors.__ray_metadata__.method_meta.max_task_retries["terminate"] = 0
                run_simulation(
                    make_server_app(self._hold),
                    make_client_app(_WithoutContext(make_client), shares_clock=True),
                    num_nodes,
                    backend_config=_backend_config(num_workers),
                )
        except BaseException as error:  # noqa: BLE001 - who waits for replies raises it
            self._error = error
        finally:
            self._is_closed.set()

    def _hold(self, grid: Grid, context: Context) -> None:
        del context
        self._grids.put(grid)
        self._is_closed.wait()

    def _wait_for_grid(self) -> Grid:
        for _ in range(int(_START_SECONDS / _POLL_SECONDS)):
            try:
                return self._grids.get(timeout=_POLL_SECONDS)
            except Empty:
                self._check()
        raise FederationError(f"Flower's simulation did not start in {_START_SECONDS:.0f} seconds")

    def _check(self) -> None:
        if self._is_closed.is_set():
            reason = f": {self._error}" if self._error else ""
            raise FederationError(f"Flower's simulation has ended{reason}") from self._error


@dataclass(frozen=True)
class _WithoutContext:
    make_client: ClientFactory

    def __call__(self, context: Context) -> Client:
        del context
        return self.make_client()


def _backend_config(num_workers: int) -> dict[str, Any]:
    return {
        "init_args": {
            "num_cpus": num_workers,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        },
        # Flower hands them on as options of its actors. It would go on using one that is dead, and
        # does so until Ray knows that it is: what an actor gets between is done by the next one.
        "client_resources": {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 1},
    }


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Silence Flower and Ray, and take back what they do to the environment."""
    names = ("PYTHONPATH", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    before = {name: os.environ.get(name) for name in names}
    logger = logging.getLogger("flwr")
    level = logger.level
    # What Ray will do in future, and warns of until then.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "FLWR_LOG_LEVEL" not in os.environ:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
