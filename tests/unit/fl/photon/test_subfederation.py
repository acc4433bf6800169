"""A node of several machines learns what as many clients would."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support.federation import StandingClock
from support.photon_rounds import BATCH, CONTEXT, OPEN, STEPS, TRAINING, Averages, Counting

from hocket.fl.core.backend import LocalTraining, Result
from hocket.fl.core.client import Client
from hocket.fl.core.coordinator import Plan, Progress
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import MemoryStore
from hocket.fl.core.types import ClientTask, ClientUpdate
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.privacy import Privacy
from hocket.fl.photon.recipe import Recipe
from hocket.fl.photon.server import PhotonServer, ledger_of
from hocket.fl.photon.subfederation import MACHINES, MachineSequences, SubFederation

COUNT = BATCH * STEPS
NODES = {"node-0": 1, "node-1": 3}


class InOrder(Averages):
    """Trains on examples in the order they are in, whatever the seed."""

    def train(
        self, training: LocalTraining, examples: Examples, seed: int, optimizer_state: Any = None
    ) -> Result:
        del seed
        return super().train(training, examples, 0, optimizer_state)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Two nodes' text; node 1's is three times what node 0 reads of its own in a round."""

    def device_ids(self) -> list[str]:
        return list(NODES)

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        return Counting().take(f"client-{device_id[-1]}", cursor, count)


@dataclasses.dataclass(frozen=True)
class Flat:
    """The same text for four clients: each has what one of the machines reads."""

    def device_ids(self) -> list[str]:
        return [f"{node}.{at}" for node, machines in NODES.items() for at in range(machines)]

    def take(self, device_id: str, cursor: int, count: int) -> Examples:
        node, _, at = device_id.rpartition(".")
        rounds, rest = divmod(cursor, COUNT)
        assert (rest, count) == (0, COUNT)
        return Texts().take(node, (rounds * NODES[node] + int(at)) * COUNT, count)


@dataclasses.dataclass(frozen=True)
class Made:
    """Makes clients by name."""

    names: tuple[str, ...]
    clients: Mapping[str, Client]

    def device_ids(self) -> list[str]:
        return list(self.names)

    def __call__(self) -> Client:
        clients = self.clients

        class Each:
            def run(self, task: ClientTask, parameters: Any) -> ClientUpdate:
                return clients[task.device_id].run(task, parameters)

        return Each()


def flat_engine() -> InProcessEngine:
    client = PhotonClient(InOrder(), Flat(), MemoryStore())
    names = tuple(Flat().device_ids())
    return InProcessEngine(Made(names, dict.fromkeys(names, client)), StandingClock())


def node(machines: int, failing: dict[str, int] | None = None, **parts: Any) -> SubFederation:
    """A node whose machines fail so many times, by name."""
    left = failing or {}
    store = MemoryStore()
    client = PhotonClient(InOrder(), MachineSequences(Texts(), machines), store)

    class Failing:
        def run(self, task: ClientTask, parameters: Any) -> ClientUpdate:
            if left.get(task.device_id, 0):
                left[task.device_id] -= 1
                raise RuntimeError("no power")
            return client.run(task, parameters)

    names = tuple(MachineSequences(Texts(), machines).device_ids())
    engine = InProcessEngine(Made(names, dict.fromkeys(names, Failing())), StandingClock())
    return SubFederation(engine, machines, store, **parts)


def node_engine(**parts: Any) -> InProcessEngine:
    clients = {name: node(machines, **parts) for name, machines in NODES.items()}
    attributes = {name: {MACHINES: float(machines)} for name, machines in NODES.items()}
    return InProcessEngine(Made(tuple(NODES), clients), StandingClock(), attributes)


def train(engine: InProcessEngine, num_rounds: int = 3, **given: Any) -> Progress:
    recipe = Recipe(
        **{"training": TRAINING, "guard": OPEN, **given}, local_steps=STEPS, context=CONTEXT
    )
    plan = Plan("run", num_rounds=num_rounds, seed=3)
    server = PhotonServer(plan, recipe, engine, MemoryStore(), StandingClock())
    return server.run(server.begin(Averages().parameters()))


def test_nodes_of_machines_train_the_model_that_the_machines_would() -> None:
    wanted, found = train(flat_engine()), train(node_engine())
    assert not any(report.failures for report in found.reports)
    for name, array in wanted.state.parameters.items():
        moved = np.abs(array - Averages().parameters()[name]).max()
        # Of a node's mean in float32: half of its last bit.
        assert np.abs(found.state.parameters[name] - array).max() < 1e-6 * moved
    tokens = COUNT * CONTEXT
    accounts = ledger_of(found.state).accounts
    assert {name: each.tokens for name, each in accounts.items()} == {
        name: 3 * machines * tokens for name, machines in NODES.items()
    }
    assert ledger_of(found.state).tokens == ledger_of(wanted.state).tokens
    for one, other in zip(found.reports, wanted.reports, strict=True):
        assert one.train_metrics["used"] == pytest.approx(other.train_metrics["used"])


def test_a_nodes_link_is_passed_once() -> None:
    flat, nodes = (ledger_of(train(each).state) for each in (flat_engine(), node_engine()))
    assert nodes.downloaded_bytes == flat.downloaded_bytes // 2
    assert nodes.uploaded_bytes < 0.51 * flat.uploaded_bytes


def test_coarse_links_inside_are_made_up_for_by_each_machine() -> None:
    wanted, found = train(flat_engine(), 12), train(node_engine(scheme="int4"), 12)
    for name, array in wanted.state.parameters.items():
        moved = np.abs(array - Averages().parameters()[name]).max()
        assert np.abs(found.state.parameters[name] - array).max() < 0.02 * moved


def test_a_machine_that_fails_once_is_asked_again() -> None:
    found = train(node_engine(failing={"node-1.2": 1}))
    assert not any(report.failures for report in found.reports)
    assert found.digest == train(node_engine()).digest


def test_a_machine_that_goes_on_failing_costs_the_nodes_round() -> None:
    clients = {"node-0": node(1), "node-1": node(3, failing={"node-1.1": 2})}
    attributes = {name: {MACHINES: float(machines)} for name, machines in NODES.items()}
    found = train(InProcessEngine(Made(tuple(NODES), clients), StandingClock(), attributes))
    assert [report.num_updates for report in found.reports] == [1, 2, 2]
    assert "1 of its machines failed" in found.reports[0].failures[0]
    assert "no power" in found.reports[0].failures[0]


def test_a_server_that_does_not_know_of_machines_is_told() -> None:
    names = ("node-1",)
    engine = InProcessEngine(Made(names, {"node-1": node(4)}), StandingClock())
    report = train(engine, 1).reports[0]
    assert "cannot share 6 sequences evenly" in report.failures[1]
    with pytest.raises(ConfigError, match="num_machines must be 1 or more"):
        node(0)


def test_nodes_of_other_sizes_do_not_weigh_the_same_in_private() -> None:
    with pytest.raises(ConfigError, match="all weigh the same"):
        train(node_engine(), privacy=Privacy(1.0, 1.0))


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_what_is_clipped_is_the_nodes_change() -> None:
    attributes = {"node-1": {MACHINES: 3.0}}
    clients = {"node-1": node(3)}
    engine = InProcessEngine(Made(("node-1",), clients), StandingClock(), attributes)
    found = train(engine, 1, privacy=Privacy(1e-3, 1e-3))
    start = Averages().parameters()
    moved = np.sqrt(sum(float(((found.state.parameters[n] - start[n]) ** 2).sum()) for n in start))
    assert 0.9e-3 < moved < 1.1e-3
