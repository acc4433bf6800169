"""Where the clients of a federation run, by the name that its file gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from hocket.diagnosis import usable_cores
from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.federation import Federation
    from hocket.fl.core.engine import Engine

    T = TypeVar("T")


def launch(federation: Federation, run: Callable[[Engine], T]) -> T:
    """Call ``run`` with the engine that a federation's file names, and stop the engine after it.

    Raises:
        ConfigError: There is no such engine, or it cannot be had here.
    """
    name = federation.config.engine.name
    with federation.config.naming("engine"):
        if name not in LAUNCHERS:
            raise ConfigError(f"name: no engine {name!r} here; there are {', '.join(LAUNCHERS)}")
        launcher: Callable[[Federation, Callable[[Engine], T]], T] = LAUNCHERS[name]
        return launcher(federation, run)


def _launch_local(federation: Federation, run: Callable[[Engine], T]) -> T:
    from hocket.fl.engines.local import InProcessEngine, ProcessEngine

    workers = federation.config.engine.workers
    clients, attributes = federation.clients, federation.attributes
    if workers:
        return _closing(ProcessEngine(clients, workers, WallClock(), attributes), run)
    return _closing(InProcessEngine(clients, WallClock(), attributes), run)


def _launch_ray(federation: Federation, run: Callable[[Engine], T]) -> T:
    try:
        from hocket.fl.engines.ray import RayEngine
    except ModuleNotFoundError as error:
        raise ConfigError(f"name: {error}; install hocket[ray]") from error
    settings = federation.config.engine
    engine = RayEngine(
        federation.clients,
        settings.workers or usable_cores(),
        WallClock(),
        federation.attributes,
        settings.address,
    )
    return _closing(engine, run)


def _closing(engine: Engine, run: Callable[[Engine], T]) -> T:
    try:
        return run(engine)
    finally:
        engine.close()


LAUNCHERS: dict[str, Callable[..., Any]] = {"local": _launch_local, "ray": _launch_ray}
"""How to have an engine while a federation runs, by name.

An engine that owns its process's main loop, as Flower's server does, calls ``run`` from in there.
"""
