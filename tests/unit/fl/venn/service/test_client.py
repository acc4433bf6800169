"""The client: it asks again with the same key, gives up with a reason, and waits for devices."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from support.venn_service import ServiceHere

from hocket.fl.core.devices import DeviceRequest, gather
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import ClientFailure, ClientUpdate, Device
from hocket.fl.venn.service.client import ServiceClient, ServiceScheduler
from hocket.fl.venn.service.errors import ServiceError

DEVICES = [Device(f"d{number}", {"memory": float(number)}) for number in range(6)]


class Flaky(httpx.BaseTransport):
    """Loses questions, or their answers, before a service answers in the end."""

    def __init__(self, inner: httpx.BaseTransport, faults: list[str | httpx.Response]) -> None:
        self.inner, self.faults = inner, faults
        self.keys: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers["idempotency-key"])
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, httpx.Response):
            return fault
        if fault == "question":
            raise httpx.ConnectError("refused")
        answer = self.inner.handle_request(request)
        if fault == "answer":
            raise httpx.ReadTimeout("")
        return answer


@pytest.fixture
def here(tmp_path: Path) -> ServiceHere:
    return ServiceHere(tmp_path / "venn.db")


def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(here: ServiceHere) -> None:
    faults: list[str | httpx.Response] = [
        *("question", "answer", "answer"),
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(503),
    ]
    flaky, waits = Flaky(here, []), []
    client = ServiceClient("http://s", http=httpx.Client(transport=flaky), sleep=waits.append)
    client.register("a")
    flaky.faults = faults
    assert client.ask_devices(DeviceRequest("a", 2)) == 1, "one round, however often it was asked"
    assert len(set(flaky.keys[1:])) == 1
    assert waits == [0.1, 0.2, 0.4, 7.0, 10.0]
    found = client.check_in(DEVICES[:3])
    assert [each and each.job for each in found] == ["a", "a", None]
    assert len(set(flaky.keys)) == 3
    here.stop()


def test_it_gives_up_with_a_reason(here: ServiceHere) -> None:
    flaky = Flaky(here, ["question"] * 3)
    client = ServiceClient(
        "http://s/", attempts=3, http=httpx.Client(transport=flaky), sleep=lambda _: None
    )
    with pytest.raises(
        ServiceError, match=r"http://s: cannot be reached: refused; .*\(3 attempts\)"
    ):
        client.register("a")
    flaky.faults = [httpx.Response(503, json={"error": "it stops"})] * 3
    with pytest.raises(ServiceError, match="it stops"):
        client.register("a")
    flaky.faults = [httpx.Response(404, text="<html>")]
    with pytest.raises(ServiceError, match=r"Not Found \(status 404\)$"):
        client.register("a")
    flaky.faults = [httpx.Response(200, json={"hello": 1})]
    with pytest.raises(ServiceError, match="does not know"):
        client.register("a")
    with pytest.raises(ServiceError, match="no job 'b' is registered"):
        client.withdraw("b")
    with pytest.raises(ConfigError, match="pattern"):
        client.register("a/b")
    for url in ("nothing", "ftp://s", "http://", "http://a:b"):
        with pytest.raises(ConfigError, match="URL"):
            ServiceClient(url)
    here.stop()


def test_many_devices_are_asked_for_in_parts(here: ServiceHere) -> None:
    client = here.client()
    client.register("a")
    client.ask_devices(DeviceRequest("a", 1500))
    devices = [Device(f"d{number}") for number in range(2500)]
    found = client.check_in(devices)
    assert [each is not None for each in found] == [True] * 1500 + [False] * 1000
    assert [each.device for each in client.devices("a")] == [f"d{n}" for n in range(1500)]
    assert client.why_device(devices[0]) == "d0 works for 'a', in round 1"
    here.stop()


def test_rounds_of_two_jobs_take_turns(here: ServiceHere) -> None:
    """The second waits until the first asks for its next round, then has the devices itself."""
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            first.withdraw("first")
            first.close()

    first = ServiceScheduler(here.client(), num_rounds=1)
    second = ServiceScheduler(here.client(), wait_seconds=60.0, clock=lambda: 0.0, sleep=sleep)
    request = DeviceRequest("first", 4, {"memory": 1.0})
    assert gather(first, request, DEVICES) == DEVICES[1:5]
    got = gather(second, DeviceRequest("second", 5, {"memory": 1.0}), DEVICES)
    assert sorted(got, key=str) == DEVICES[1:]
    assert len(waited) == 3
    here.stop()


def test_a_device_is_free_when_its_update_is_in(here: ServiceHere) -> None:
    """Not when it is evaluated, and not when it has failed: it may still be at it."""
    scheduler = ServiceScheduler(here.client())
    gather(scheduler, DeviceRequest("a", 4), DEVICES)
    scheduler.replied(ClientUpdate(1, "d0", "train", {}, 5, {}))
    scheduler.replied(ClientUpdate(1, "d1", "evaluate", {}, 5, {}))
    scheduler.replied(ClientFailure(1, "d2", "train", "its battery is flat"))
    scheduler.replied(ClientUpdate(1, "d5", "train", {}, 5, {}))
    client = here.client()
    assert [each.device for each in client.devices("a")] == ["d1", "d2", "d3"]
    assert client.status().answered == 1
    scheduler.close()
    here.stop()


def test_a_round_goes_on_with_what_it_has_when_waiting_takes_too_long(here: ServiceHere) -> None:
    times = iter([0.0, 10.0, 59.0, 60.0])
    waits: list[float] = []
    first = ServiceScheduler(here.client())
    second = ServiceScheduler(
        here.client(), wait_seconds=60.0, clock=lambda: next(times), sleep=waits.append
    )
    gather(first, DeviceRequest("first", 4), DEVICES)
    assert gather(second, DeviceRequest("second", 5), DEVICES) == DEVICES[4:]
    assert waits == [0.5, 0.5]
    assert gather(first, DeviceRequest("first", 6), DEVICES[:4]) == DEVICES[:4], "its own are free"
    here.stop()
