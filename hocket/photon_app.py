"""Photon's apps for a deployment of Flower: its server, and a client of any device.

All machines have Hocket, and see the run's folder and the shards under one path; the module in the
folder is compiled already. SuperNodes may name a folder of their own for what clients keep, by
``--node-config 'client-store="PATH"'``; where sums are secret they must, as it holds the secrets.

Flower starts a process for every message. What such a process needs is on disk: the module, its
kernels in the compile cache, the text with the place to read from in the task, and what the client
has kept. So a message costs what it takes to start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hocket.fl.core.clock import WallClock
from hocket.fl.core.observers import Silent
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.engine import FlowerEngine, make_server_app
from hocket.photon import photon_clients, train_photon
from hocket.photon_launch import config_of

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from hocket.fl.core.client import Client
    from hocket.fl.core.types import RoundReport

CLIENT_STORE = "client-store"
"""What a SuperNode's configuration calls the folder of what its clients keep."""


class _Line(Silent):
    """Says a line for each round, by which who follows the log knows that it is over."""

    def finished(self, report: RoundReport) -> None:
        """Say it."""
        print(f"round {report.round} is over", flush=True)  # noqa: T201 - to Flower's log


def _serve(grid: Grid, context: Context) -> None:
    settings = context.run_config
    config = config_of(settings)
    _, clients = photon_clients(config)
    engine = FlowerEngine(
        grid, clients, WallClock(), clients.attributes(), num_nodes=int(settings["num-nodes"])
    )
    train_photon(config, resume=bool(settings["resume"]), engine=engine, observers=[_Line()])


def make_client(context: Context) -> Client:
    """Return a client of any device, as a SuperNode runs it."""
    _, clients = photon_clients(config_of(context.run_config))
    store = str(context.node_config.get(CLIENT_STORE, clients.store))
    return dataclasses.replace(clients, store=store)()


server = make_server_app(_serve)
client = make_client_app(make_client)
