"""The engine over a grid without processes: whom it asks, how long it waits, what it reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from support.federation import Clients, SoftmaxRegression, StandingClock

from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, Reply
from hocket.fl.engines.flower.client import make_client_app
from hocket.fl.engines.flower.deployment import DeployedApp, deploy, run_app
from hocket.fl.engines.flower.engine import FlowerEngine
from hocket.fl.engines.flower.simulation import FlowerSimulation


@pytest.fixture(autouse=True)
def a_task_of_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be what messages say they are from, as ServerApps are."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class DirectGrid(Grid):
    """A grid whose nodes answer at once, in this process, the last one asked first.

    Args:
        nodes: Sets of nodes, one for each time somebody asks; the last one stays.
        errors: What nodes answer instead.
        silent: Nodes that never answer.
        deaf: Nodes that no message can be sent to.
    """

    def __init__(
        self,
        nodes: list[list[int]],
        errors: dict[int, Error] | None = None,
        silent: Iterable[int] = (),
        deaf: Iterable[int] = (),
        app: ClientApp | None = None,
    ) -> None:
        self.nodes, self.errors = nodes, errors or {}
        self.silent, self.deaf = set(silent), set(deaf)
        self.app = app or make_client_app(lambda context: Clients()())
        self.sent: list[Message] = []
        self.replies: list[Message] = []

    def get_node_ids(self) -> list[int]:
        return self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.deaf:
                continue
            self.sent.append(message)
            message.metadata.__dict__["_message_id"] = f"message-{len(self.sent)}"
            names.append(message.metadata.message_id)
            if node in self.errors:
                self.replies.append(Message(self.errors[node], reply_to=message))
            elif node not in self.silent:
                context = Context(1, node, {}, RecordDict(), {})  # type: ignore[arg-type]
                self.replies.append(self.app(message, context))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        found = [each for each in self.replies if each.metadata.reply_to_message_id in wanted]
        self.replies = []
        return found[::-1]

    set_run = run = create_message = send_and_receive = None  # type: ignore[assignment]


def engine_on(grid: Grid, clients: Clients | None = None, **settings: Any) -> FlowerEngine:
    return FlowerEngine(grid, clients or Clients(), StandingClock(), poll_seconds=0.0, **settings)


def tasks_for(engine: FlowerEngine, kind: Any = "train") -> list[ClientTask]:
    return [ClientTask(1, each.device_id, kind, 5) for each in engine.devices()]


def run(engine: FlowerEngine, timeout_seconds: float | None = None) -> dict[str, Reply]:
    parameters = SoftmaxRegression().parameters()
    found = list(engine.run(tasks_for(engine), parameters, timeout_seconds))
    replies = {reply.device_id: reply for reply in found}
    assert len(replies) == len(found) == 6
    return replies


@pytest.mark.parametrize("nodes", [[5], [5, 9], [9, 5, 7, 1], list(range(1, 11))], ids=len)
def test_updates_do_not_depend_on_the_nodes(nodes: list[int]) -> None:
    grid = DirectGrid([nodes])
    engine = engine_on(grid)
    parameters = SoftmaxRegression().parameters()
    replies = run(engine)
    for task in tasks_for(engine):
        reply, wanted = replies[task.device_id], Clients()().run(task, parameters)
        assert isinstance(reply, ClientUpdate)
        assert digest_of(reply.parameters) == digest_of(wanted.parameters)
        assert (reply.num_examples, reply.metrics) == (wanted.num_examples, wanted.metrics)
    assert len(grid.sent) == min(len(nodes), 6)
    assert {message.metadata.message_type for message in grid.sent} == {"train"}


def test_a_process_makes_its_client_once() -> None:
    made = []

    def make(context: Context) -> Any:
        made.append(context)
        return Clients()()

    engine = engine_on(DirectGrid([[1, 2, 3]], app=make_client_app(make)))
    run(engine)
    run(engine)
    assert len(made) == 1


@pytest.mark.parametrize("shares_clock", [True, False])
def test_what_waited_past_its_time_is_not_begun(shares_clock: bool) -> None:
    class Queued(DirectGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            waited = list(messages)
            for message in waited:
                message.metadata.created_at -= 100.0
            return super().push_messages(waited)

    app = make_client_app(lambda context: Clients()(), shares_clock=shares_clock)
    replies = run(engine_on(Queued([[1, 2]], app=app)), 90.0).values()
    # Clocks of other machines say nothing.
    assert {isinstance(reply, ClientUpdate) for reply in replies} == {not shares_clock}
    assert all(reply.is_late for reply in replies if isinstance(reply, ClientFailure))


def test_a_client_that_cannot_be_made_fails_the_tasks() -> None:
    def make(context: Context) -> Any:
        raise ValueError("no such artifact")

    replies = run(engine_on(DirectGrid([[1, 2]], app=make_client_app(make))))
    assert {str(each).partition("failed: ")[2] for each in replies.values()} == {
        "ValueError: no such artifact"
    }


def test_train_and_evaluate_of_one_node_are_two_messages() -> None:
    grid = DirectGrid([[1]])
    engine = engine_on(grid)
    mixed = [*tasks_for(engine)[:3], *tasks_for(engine, "evaluate")[3:]]
    replies = list(engine.run(mixed, SoftmaxRegression().parameters()))
    assert sorted(reply.kind for reply in replies) == ["evaluate"] * 3 + ["train"] * 3
    assert [message.metadata.message_type for message in grid.sent] == ["train", "evaluate"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Error(5, "Node unavailable"), "its node is gone: Node unavailable"),
        (Error(8, "ClientApp stopped responding."), "its process ended: ClientApp stopped"),
        (Error(0, "<class 'ray.exceptions.ActorDiedError'>: x"), "its process ended"),
        (Error(99, "a\nb"), "Flower's error 99: a b"),
        (Error(99), "Flower's error 99"),
    ],
    ids=["node", "process", "actor", "unknown", "without reason"],
)
def test_what_goes_wrong_on_a_node_fails_its_devices_alone(error: Error, reason: str) -> None:
    replies = run(engine_on(DirectGrid([[1, 2, 3]], errors={2: error})))
    failed = {name: each for name, each in replies.items() if isinstance(each, ClientFailure)}
    assert failed.keys() == {"device-01", "device-04"}
    assert all(each.reason.startswith(reason) and not each.is_late for each in failed.values())


def test_a_node_that_is_silent_is_late() -> None:
    replies = run(engine_on(DirectGrid([[1, 2, 3]], silent=[3])), timeout_seconds=7.0)
    late = {each.device_id for each in replies.values() if isinstance(each, ClientFailure)}
    assert late == {"device-02", "device-05"}
    assert all(each.is_late for each in replies.values() if isinstance(each, ClientFailure))


def test_messages_end_soon_after_their_round() -> None:
    grid = DirectGrid([[1]])
    run(engine_on(grid), timeout_seconds=100.0)
    assert 100.0 < grid.sent[0].metadata.ttl < 200.0


def test_a_message_that_is_not_taken_is_a_failure() -> None:
    replies = run(engine_on(DirectGrid([[1, 2, 3]], deaf=[1])))
    failed = [each for each in replies.values() if isinstance(each, ClientFailure)]
    assert {each.device_id for each in failed} == {"device-00", "device-03"}
    assert {each.reason for each in failed} == {"Flower did not take its message"}


def test_it_waits_for_the_nodes_it_wants() -> None:
    grid = DirectGrid([[], [4], [4, 8]])
    run(engine_on(grid, num_nodes=2))
    assert {message.metadata.dst_node_id for message in grid.sent} == {4, 8}


def test_it_says_when_too_few_nodes_came() -> None:
    engine = engine_on(DirectGrid([[4]]), num_nodes=2, wait_seconds=10.0)
    with pytest.raises(FederationError, match="1 of 2 SuperNodes are connected after 11 seconds"):
        run(engine)


def test_it_goes_on_with_the_nodes_that_are_left() -> None:
    grid = DirectGrid([[1, 2], [2]])
    engine = engine_on(grid, num_nodes=2)
    run(engine)
    replies = run(engine)
    assert all(isinstance(each, ClientUpdate) for each in replies.values())
    assert grid.sent[-1].metadata.dst_node_id == 2


def test_a_federation_that_has_ended_is_not_waited_for() -> None:
    def check() -> None:
        raise FederationError("it has ended")

    with pytest.raises(FederationError, match="it has ended"):
        run(engine_on(DirectGrid([[1]], silent=[1]), check=check))


def test_arrays_that_are_not_the_models_reach_the_coordinator_as_they_are() -> None:
    clients = Clients(wrong={"device-01:1": "shape"})
    grid = DirectGrid([[1]], app=make_client_app(lambda context: clients()))
    reply = run(engine_on(grid))["device-01"]
    assert isinstance(reply, ClientUpdate)
    assert np.shape(reply.parameters["bias"]) == (4,)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_nodes must be 1 or more, got 0"):
        engine_on(DirectGrid([[1]]), num_nodes=0)
    with pytest.raises(ConfigError, match="num_workers must be 1 or more, got 0"):
        FlowerSimulation(Clients(), 0, StandingClock())
    with pytest.raises(ConfigError, match="num_nodes must be 1 or more, got 0"), deploy(0):
        pass


def test_apps_and_addresses_that_name_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"want an app as package\.module:name, got 'app\.py'"):
        DeployedApp("app.py", "app:client")
    with pytest.raises(ConfigError, match="want HOST:PORT of a SuperLink, got 'somewhere'"):
        run_app(DeployedApp("app:server", "app:client"), "somewhere")
