"""A federation's apps for a deployment of Flower: its server, and a client of any device.

All machines have Hocket, see the federation's folder under one path, and have the data. A client
loads the compiled module from that folder; nothing is compiled twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.federated_clients import Clients
from hocket.federation import prepare_federation
from hocket.federation_launch import config_of
from hocket.federation_parts import make_model, make_partitions
from hocket.fl.core.clock import WallClock
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.engine import FlowerEngine, make_server_app
from hocket.prophet_parts import robust_clients

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from hocket.fl.core.client import Client


def _serve(grid: Grid, context: Context) -> None:
    settings = context.run_config
    federation = prepare_federation(config_of(settings))
    engine = FlowerEngine(
        grid,
        federation.clients,
        WallClock(),
        federation.attributes,
        num_nodes=int(settings["num-nodes"]),
    )
    federation.run(engine, resume=bool(settings["resume"]))


def _make_client(context: Context) -> Client:
    config = config_of(context.run_config)
    make_backend, artifact = make_model(config)
    digest = "" if artifact is None else artifact.digest
    partitions = make_partitions(config, artifact)
    if config.prophet is not None:
        return robust_clients(config, artifact, partitions)()
    return Clients(make_backend, partitions, digest, config.engine.threads_per_client)()


server = make_server_app(_serve)
client = make_client_app(_make_client)
