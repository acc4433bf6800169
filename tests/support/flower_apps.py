"""A federation of three rounds, whichever engine runs it, and its apps for Flower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from support.federation import Clients, SoftmaxRegression

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.store import FolderStore, MemoryStore
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.engine import FlowerEngine, make_server_app
from hocket.fl.strategies.averaging import FederatedAveraging

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from hocket.fl.core.coordinator import Progress
    from hocket.fl.core.engine import Engine
    from hocket.fl.core.store import Store

NUM_NODES = 2


def coordinator(engine: Engine, store: Store | None = None) -> Coordinator:
    """Return a federation whose devices are evaluated after the last of its rounds."""
    training = LocalTraining(epochs=2, batch_size=4, learning_rate=0.3)
    return Coordinator(
        Plan("engines", num_rounds=3, seed=7, evaluate_every=3),
        FederatedAveraging(training=training, fraction_evaluate=1.0),
        engine,
        FifoScheduler(),
        store or MemoryStore(),
        WallClock(),
    )


def run(federation: Coordinator) -> Progress:
    """Run it to its end."""
    return federation.run(federation.begin(SoftmaxRegression().parameters()))


def _serve(grid: Grid, context: Context) -> None:
    engine = FlowerEngine(grid, Clients(), WallClock(), num_nodes=NUM_NODES)
    run(coordinator(engine, FolderStore(Path(str(context.run_config["folder"])))))


def _fail(grid: Grid, context: Context) -> None:
    del grid, context
    raise RuntimeError("the server has no disk left")


server = make_server_app(_serve)
failing_server = make_server_app(_fail)
client = make_client_app(lambda context: Clients()())
