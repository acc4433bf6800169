"""Where the clients of a federation run, by the name that its file gives."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hocket.diagnosis import usable_cores
from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import ConfigError
from hocket.fl.engines.local import InProcessEngine, ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hocket.federation import Federation, FederationResult
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer

LOOPBACK = "loopback"
"""Address of a SuperLink that is started here, with its SuperNodes."""


def launch(
    federation: Federation, observers: Sequence[Observer] = (), *, resume: bool = False
) -> FederationResult:
    """Run a federation on the engine that its file names, and stop the engine after it.

    Args:
        federation: To run.
        observers: Told of rounds as they go; not where Flower deploys the federation, whose server
            is another process.
        resume: Whether to go on after the last round that is over, if one is.

    Raises:
        ConfigError: The engine cannot be had here.
        FederationError: What is to be resumed was made from something else, or the engine ended.
    """
    settings = federation.config.engine
    if settings.name == "flower" and settings.address:
        return _deploy(federation, resume=resume)
    with federation.config.naming("engine"):
        engine = ENGINES[settings.name](federation)
    with contextlib.closing(engine):
        return federation.run(engine, observers, resume=resume)


def _make_local(federation: Federation) -> Engine:
    clients, attributes = federation.clients, federation.attributes
    workers = federation.config.engine.workers
    if workers:
        return ProcessEngine(clients, workers, WallClock(), attributes)
    return InProcessEngine(clients, WallClock(), attributes)


def _make_ray(federation: Federation) -> Engine:
    with _needing("ray"):
        from hocket.fl.engines.ray import RayEngine
    settings = federation.config.engine
    workers = settings.workers or usable_cores()
    return RayEngine(
        federation.clients, workers, WallClock(), federation.attributes, settings.address
    )


def _make_flower(federation: Federation) -> Engine:
    with _needing("flower"):
        from hocket.fl.engines.flower.simulation import FlowerSimulation
    workers = federation.config.engine.workers or usable_cores()
    return FlowerSimulation(federation.clients, workers, WallClock(), federation.attributes)


def _deploy(federation: Federation, *, resume: bool) -> FederationResult:
    """Run a federation on a SuperLink; its server leaves all of it in the folder."""
    config = federation.config
    with config.naming("engine"):
        with _needing("flower"):
            from hocket.fl.engines.flower.deployment import DeployedApp, deploy, run_app
            from hocket.flower_app import settings_of
        if federation.given:
            raise ConfigError(
                f"address: {', '.join(federation.given)} cannot be sent to a SuperLink; name them "
                "in the file as package.module:function"
            )
        federation.keep_module()
        workers = config.engine.workers
        with contextlib.ExitStack() as stack:
            address, num_nodes = config.engine.address, workers or 1
            if address == LOOPBACK:
                num_nodes = workers or usable_cores()
                address = stack.enter_context(deploy(num_nodes))
            settings = settings_of(federation, num_nodes, resume=resume)
            app = DeployedApp("hocket.flower_app:server", "hocket.flower_app:client", settings)
            run_app(app, address)
    # No round is left: this reads how it ended.
    with contextlib.closing(InProcessEngine(federation.clients, WallClock())) as engine:
        return federation.run(engine, resume=True)


@contextlib.contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"name: {error}; install hocket[{extra}]") from error


ENGINES: dict[str, Callable[[Federation], Engine]] = {
    "local": _make_local,
    "ray": _make_ray,
    "flower": _make_flower,
}
"""What makes each engine, by its name."""
