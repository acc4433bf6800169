"""What every engine must do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from support.federation import Clients, SoftmaxRegression, StandingClock, UnmakeableClients
from support.ray_cluster import share_cluster

from hocket.fl.core.client import ClientFactory
from hocket.fl.core.clock import WallClock
from hocket.fl.core.engine import Engine
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, Kind, Reply
from hocket.fl.engines.local import InProcessEngine, ProcessEngine


def ray_engine(clients: ClientFactory) -> Engine:
    from hocket.fl.engines.ray import RayEngine

    share_cluster()
    return RayEngine(clients, 2, WallClock())


def flower_engine(clients: ClientFactory) -> Engine:
    """Return a simulated federation with one node a device."""
    from hocket.fl.engines.flower.simulation import FlowerSimulation

    class OnSharedCluster(FlowerSimulation):
        def close(self) -> None:
            with mock.patch("ray.shutdown"):  # as Flower stops what it has not started
                super().close()

    share_cluster()
    return OnSharedCluster(clients, 2, WallClock())


ENGINES: dict[str, Callable[[ClientFactory], Engine]] = {
    "in process": lambda clients: InProcessEngine(clients, WallClock()),
    "processes": lambda clients: ProcessEngine(clients, 2, WallClock()),
    "ray": ray_engine,
    "flower": flower_engine,
}
# Those that can stop a client that hangs, and outlive one that takes its process with it.
ISOLATING = [name for name in ENGINES if name != "in process"]
Make = Callable[[ClientFactory], Engine]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Engine] = []

    def make(clients: ClientFactory) -> Engine:
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


@pytest.mark.parametrize("make_engine", ISOLATING, indirect=True)
def test_a_process_that_ends_takes_only_its_task_with_it(make_engine: Make) -> None:
    # Of two workers both end, and each has the next task before anyone knows.
    ending = ["device-01", "device-02"]
    engine = make_engine(Clients(wrong={f"{name}:1": "exit" for name in ending}))
    replies = by_device(engine.run(tasks_for(engine), SoftmaxRegression().parameters()))
    failed = [name for name, each in replies.items() if isinstance(each, ClientFailure)]
    assert sorted(failed) == ending
    assert all("its process ended" in str(replies[name]) for name in ending)


@pytest.mark.parametrize("make_engine", ISOLATING, indirect=True)
def test_who_hangs_is_late_and_is_stopped(make_engine: Make) -> None:
    engine = make_engine(Clients(wrong={"device-03:1": "sleep"}))
    parameters = SoftmaxRegression().parameters()
    # The first round starts processes; the next one tells what a round takes.
    for number in (7, 8):
        began = time.monotonic()
        warm = by_device(engine.run(tasks_for(engine, number), parameters))
        assert all(isinstance(reply, ClientUpdate) for reply in warm.values())
    # Time enough for all others, however busy the machine is.
    limit = 5.0 + 3 * (time.monotonic() - began)
    replies = by_device(engine.run(tasks_for(engine), parameters, limit))
    late = [reply for reply in replies.values() if isinstance(reply, ClientFailure)]
    assert [(each.device_id, each.is_late) for each in late] == [("device-03", True)]
    after = by_device(engine.run(tasks_for(engine, 2), parameters))
    assert all(isinstance(reply, ClientUpdate) for reply in after.values())


def test_in_process_what_is_done_too_late_is_late() -> None:
    engine = InProcessEngine(Clients(), StandingClock())
    replies = list(engine.run(tasks_for(engine), SoftmaxRegression().parameters(), 4.5))
    # Each task asks for the time before and after; the first began at one second.
    kinds = [isinstance(reply, ClientUpdate) for reply in replies]
    assert kinds == [True, True, False, False, False, False]
    assert all(reply.is_late for reply in replies if isinstance(reply, ClientFailure))


@pytest.mark.parametrize("make_engine", ISOLATING, indirect=True)
def test_a_client_that_cannot_be_made_is_named(make_engine: Make) -> None:
    engine = make_engine(UnmakeableClients())
    replies = list(engine.run(tasks_for(engine), {}))
    reasons = [str(reply).partition("failed: ")[2] for reply in replies]
    assert reasons == ["ValueError: no such artifact"]


def test_a_pool_of_nobody_is_refused() -> None:
    from hocket.fl.engines.ray import RayEngine

    for engine in (ProcessEngine, RayEngine):
        with pytest.raises(ConfigError, match="num_workers must be 1 or more"):
            engine(Clients(), 0, WallClock())


def test_a_cluster_of_its_own_is_stopped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from hocket.fl.engines.ray import RayEngine

    ray.shutdown()
    # Workers inherit the environment of the cluster, which this process starts.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    engine = RayEngine(Clients(), 1, WallClock())
    replies = list(engine.run(tasks_for(engine)[:1], SoftmaxRegression().parameters()))
    assert isinstance(replies[0], ClientUpdate)
    engine.close()
    assert not ray.is_initialized()
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        RayEngine(Clients(), 1, WallClock(), address="127.0.0.1:9")
