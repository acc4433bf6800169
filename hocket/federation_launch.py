"""Where the clients of a federation run, by the name that its file gives."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.fl.config import parse_config
from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import ConfigError
from hocket.fl.engines.local import InProcessEngine, ProcessEngine
from hocket.installation import mend_of
from hocket.runtime.cpu import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hocket.federation import Federation, FederationResult
    from hocket.fl.config import FederationConfig
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.types import Setting

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


def settings_of(federation: Federation, num_nodes: int, *, resume: bool) -> dict[str, Setting]:
    """Return what the apps of ``hocket.flower_app`` have to be told to run a federation.

    Args:
        federation: Whose module is in its folder.
        num_nodes: SuperNodes that the server waits for.
        resume: Whether the server goes on after the last round that is over.
    """
    config = federation.config
    content: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    if federation.artifact is not None:
        content["model"] |= {"artifact": str(federation.model), "onnx": "", "dims": {}}
    if config.prophet is not None:
        modules = [name for name, each in federation.files.items() if not isinstance(each, str)]
        content["prophet"] |= {"smaller": [str(federation.folder / name) for name in modules]}
    return {
        "config": json.dumps(content),
        "origin": config.origin,
        "folder": str(config.folder.resolve()),
        "num-nodes": num_nodes,
        "resume": resume,
    }


def config_of(settings: Mapping[str, Any]) -> FederationConfig:
    """Return the configuration that ``settings_of`` has put there."""
    content = json.loads(str(settings["config"]))
    return parse_config(content, str(settings["origin"]), Path(str(settings["folder"])))


@contextlib.contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"name: {error}; {mend_of(extra)}") from error


ENGINES: dict[str, Callable[[Federation], Engine]] = {
    "local": _make_local,
    "ray": _make_ray,
    "flower": _make_flower,
}
"""What makes each engine, by its name."""
