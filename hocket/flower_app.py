"""A federation's apps for a deployment of Flower: its server, and a client of any device.

All machines have Hocket, see the federation's folder under one path, and have the data. A client
loads the compiled module from that folder; nothing is compiled twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.federated_clients import Clients
from hocket.federation import prepare_federation
from hocket.federation_parts import make_model, make_partitions
from hocket.fl.config import parse_config
from hocket.fl.core.clock import WallClock
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.engine import FlowerEngine, make_server_app

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Context
    from flwr.serverapp import Grid

    from hocket.federation import Federation
    from hocket.fl.config import FederationConfig
    from hocket.fl.core.client import Client
    from hocket.fl.core.types import Setting


def settings_of(federation: Federation, num_nodes: int, *, resume: bool) -> dict[str, Setting]:
    """Return what the apps have to be told to run a federation.

    Args:
        federation: Whose module is in its folder.
        num_nodes: SuperNodes that the server waits for.
        resume: Whether the server goes on after the last round that is over.
    """
    config = federation.config
    content: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    if federation.artifact is not None:
        content["model"] |= {"artifact": str(federation.model), "onnx": "", "dims": {}}
    return {
        "config": json.dumps(content),
        "origin": config.origin,
        "folder": str(config.folder.resolve()),
        "num-nodes": num_nodes,
        "resume": resume,
    }


def _read_config(settings: Mapping[str, Any]) -> FederationConfig:
    content = json.loads(str(settings["config"]))
    return parse_config(content, str(settings["origin"]), Path(str(settings["folder"])))


def _serve(grid: Grid, context: Context) -> None:
    settings = context.run_config
    federation = prepare_federation(_read_config(settings))
    engine = FlowerEngine(
        grid,
        federation.clients,
        WallClock(),
        federation.attributes,
        num_nodes=int(settings["num-nodes"]),
    )
    federation.run(engine, resume=bool(settings["resume"]))


def _make_client(context: Context) -> Client:
    config = _read_config(context.run_config)
    make_backend, artifact = make_model(config)
    digest = "" if artifact is None else artifact.digest
    partitions = make_partitions(config, artifact)
    return Clients(make_backend, partitions, digest, config.engine.threads_per_client)()


server = make_server_app(_serve)
client = make_client_app(_make_client)
