"""One engine for all jobs: whose task it is, which client a device is, and when answers come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hocket.fl.core.clock import WallClock
from hocket.fl.core.devices import DeviceRequest, gather
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate
from hocket.fl.engines.local import InProcessEngine
from hocket.fleet.clients import Cohort, FleetClients, JobEngine
from hocket.fleet.events import Cost, FleetClock

PARAMETERS = {"w": np.zeros(2, np.float32)}
DEVICES = ("device-0", "device-1", "device-2")


@dataclass(frozen=True)
class ToyClients:
    """Clients that answer with a number of their own, and the seconds that they really took."""

    names: tuple[str, ...]
    number: float

    def device_ids(self) -> list[str]:
        return list(self.names)

    def __call__(self) -> ToyClients:
        return self

    def run(self, task: ClientTask, parameters: dict[str, np.ndarray]) -> ClientUpdate:
        assert task.device_id in self.names
        assert dict(task.config) == {"epochs": 1}
        arrays = {"w": parameters["w"] + np.float32(self.number)}
        return ClientUpdate(task.round, task.device_id, task.kind, arrays, 1, {"seconds": 99.0})


CLIENTS = FleetClients(
    {"one": ToyClients(("a", "b", "c"), 1.0), "two": ToyClients(("x", "y"), 2.0)}, DEVICES
)


def make_engine(job: str, told: list[ClientUpdate]) -> JobEngine:
    inner = InProcessEngine(CLIENTS, WallClock())
    names = CLIENTS.clients_of(job)
    return JobEngine(job, inner, names, FleetClock(), lambda update, before: told.append(update))


def tasks_for(*names: str, kind: str = "train") -> list[ClientTask]:
    return [ClientTask(1, name, kind, 0, {"epochs": 1}) for name in names]  # type: ignore[arg-type]


def test_devices_are_clients_of_each_job() -> None:
    assert CLIENTS.clients_of("one") == dict(zip(DEVICES, "abc", strict=True))
    assert CLIENTS.clients_of("two") == {"device-0": "x", "device-1": "y"}
    assert [each.device_id for each in make_engine("two", []).devices()] == ["x", "y"]


@pytest.mark.parametrize(("job", "names", "number"), [("one", "ab", 1.0), ("two", "xy", 2.0)])
def test_a_task_is_done_by_its_own_job_s_client(job: str, names: str, number: float) -> None:
    engine = make_engine(job, [])
    engine.arrivals = dict.fromkeys(names, 1.0)
    engine.costs = {name: Cost(1.0, 2.0, 3.0) for name in names}
    replies = list(engine.run(tasks_for(*names), PARAMETERS))
    assert [each.device_id for each in replies] == list(names)
    assert all(each.parameters["w"].tolist() == [number] * 2 for each in replies)


def test_answers_come_in_simulated_time_and_others_fail() -> None:
    told: list[ClientUpdate] = []
    engine = make_engine("one", told)
    engine.clock.seconds = 100.0
    engine.arrivals = {"b": 3.0, "a": 7.0}
    engine.costs = {name: Cost(1.0, 2.0, 3.0) for name in "abc"}
    seen = [
        (reply.device_id, engine.clock.now(), getattr(reply, "metrics", None))
        for reply in engine.run(tasks_for("a", "b", "c"), PARAMETERS, 0.0)
    ]
    assert seen == [
        ("b", 103.0, {"seconds": 2.0}),  # that it computed
        ("a", 107.0, {"seconds": 2.0}),
        ("c", 107.0, None),
    ]
    assert [(each.device_id, each.metrics["seconds"]) for each in told] == [("b", 6.0), ("a", 6.0)]


def test_what_is_measured_on_devices_takes_no_time() -> None:
    told: list[ClientUpdate] = []
    engine = make_engine("one", told)
    replies = list(engine.run(tasks_for("c", "a", kind="evaluate"), PARAMETERS))
    assert [each.device_id for each in replies] == ["a", "c"]
    assert not any(isinstance(each, ClientFailure) for each in replies)
    assert engine.clock.now() == 0.0
    assert told == []


def test_a_round_gets_its_devices_and_no_others() -> None:
    cohort = Cohort()
    cohort.names = frozenset({"a", "c"})
    devices = make_engine("one", []).devices()
    got = gather(cohort, DeviceRequest("one", 1), devices)
    assert [each.device_id for each in got] == ["a", "c"]
