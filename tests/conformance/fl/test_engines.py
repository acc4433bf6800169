"""What every engine must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.federation import Clients, SoftmaxRegression, StandingClock

from hocket.fl.core.client import ClientFactory
from hocket.fl.core.clock import WallClock
from hocket.fl.core.engine import Engine
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, Kind, Reply
from hocket.fl.engines.local import InProcessEngine, ProcessEngine

ENGINES: dict[str, Callable[[ClientFactory], Engine]] = {
    "in process": lambda clients: InProcessEngine(clients, WallClock()),
    "processes": lambda clients: ProcessEngine(clients, 2, WallClock()),
}
Make = Callable[[Clients], Engine]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Engine] = []

    def make(clients: Clients) -> Engine:
        made.append(ENGINES[request.param](clients))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
        engine.close()


def tasks_for(engine: Engine, round_number: int = 1, kind: Kind = "train") -> list[ClientTask]:
    return [
        ClientTask(
            round_number,
            device.device_id,
            kind,
            derive_seed(1, round_number, device.device_id),
            {"learning_rate": 0.5, "batch_size": 4, "epochs": 2},
        )
        for device in engine.devices()
    ]


def by_device(replies: Iterator[Reply]) -> dict[str, Reply]:
    found = list(replies)
    assert len({reply.device_id for reply in found}) == len(found)
    return {reply.device_id: reply for reply in found}


def test_updates_are_those_of_the_client_called_at_once(make_engine: Make) -> None:
    clients = Clients()
    engine = make_engine(clients)
    parameters = SoftmaxRegression().parameters()
    assert [device.device_id for device in engine.devices()] == clients.device_ids()
    for round_number, kind in ((1, "train"), (2, "train"), (2, "evaluate")):
        tasks = tasks_for(engine, round_number, kind)  # type: ignore[arg-type]
        replies = by_device(engine.run(tasks, parameters))
        for task in tasks:
            wanted, reply = clients().run(task, parameters), replies[task.device_id]
            assert isinstance(reply, ClientUpdate), reply
            assert digest_of(reply.parameters) == digest_of(wanted.parameters)
            assert (reply.num_examples, reply.metrics) == (wanted.num_examples, wanted.metrics)
            assert (reply.round, reply.kind) == (round_number, kind)


def test_no_failure_of_one_loses_the_others(make_engine: Make) -> None:
    engine = make_engine(Clients(wrong={"device-01:1": "raise", "device-04:1": "raise"}))
    parameters = SoftmaxRegression().parameters()
    replies = by_device(engine.run(tasks_for(engine), parameters))
    failures = {name for name, reply in replies.items() if isinstance(reply, ClientFailure)}
    assert failures == {"device-01", "device-04"}
    assert len(replies) == 6
    for name in failures:
        assert "RuntimeError: out of memory, says the device" in str(replies[name])
    after = by_device(engine.run(tasks_for(engine, 2), parameters))
    assert all(isinstance(reply, ClientUpdate) for reply in after.values())


def test_no_tasks_are_no_replies(make_engine: Make) -> None:
    assert list(make_engine(Clients()).run([], SoftmaxRegression().parameters())) == []


def test_a_process_that_ends_takes_only_its_task_with_it() -> None:
    engine = ProcessEngine(Clients(wrong={"device-02:1": "exit"}), 2, WallClock())
    try:
        replies = by_device(engine.run(tasks_for(engine), SoftmaxRegression().parameters()))
        assert [name for name, each in replies.items() if isinstance(each, ClientFailure)] == [
            "device-02"
        ]
        assert "its process ended with code 9" in str(replies["device-02"])
    finally:
        engine.close()


def test_who_hangs_is_late_and_is_stopped() -> None:
    engine = ProcessEngine(Clients(wrong={"device-03:1": "sleep"}), 2, WallClock())
    try:
        warm = by_device(engine.run(tasks_for(engine, 7), SoftmaxRegression().parameters()))
        assert all(isinstance(reply, ClientUpdate) for reply in warm.values())
        replies = by_device(engine.run(tasks_for(engine), SoftmaxRegression().parameters(), 5.0))
        late = [r for r in replies.values() if isinstance(r, ClientFailure)]
        assert [(each.device_id, each.is_late) for each in late] == [("device-03", True)]
        after = by_device(engine.run(tasks_for(engine, 2), SoftmaxRegression().parameters()))
        assert all(isinstance(reply, ClientUpdate) for reply in after.values())
    finally:
        engine.close()


def test_in_process_what_is_done_too_late_is_late() -> None:
    engine = InProcessEngine(Clients(), StandingClock())
    replies = list(engine.run(tasks_for(engine), SoftmaxRegression().parameters(), 4.5))
    # Each task asks for the time before and after; the first began at one second.
    kinds = [isinstance(reply, ClientUpdate) for reply in replies]
    assert kinds == [True, True, False, False, False, False]
    assert all(reply.is_late for reply in replies if isinstance(reply, ClientFailure))


def test_a_client_that_cannot_be_made_is_named() -> None:
    engine = ProcessEngine(Unmakeable(), 1, WallClock())
    try:
        replies = list(engine.run(tasks_for(engine), {}))
        assert [str(reply).partition("failed: ")[2] for reply in replies] == [
            "ValueError: no such artifact"
        ]
    finally:
        engine.close()


def test_a_pool_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_workers must be 1 or more"):
        ProcessEngine(Clients(), 0, WallClock())


class Unmakeable:
    def device_ids(self) -> list[str]:
        return ["only"]

    def __call__(self) -> Any:
        raise ValueError("no such artifact")
