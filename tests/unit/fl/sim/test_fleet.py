"""A simulated fleet: times that add up, failures that are the seed's, lateness by its clock."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.federation import Blobs, Clients, SoftmaxRegression

from hocket.fl.config import DeviceClass
from hocket.fl.core.backend import FOOTPRINT, Footprint, LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, Kind
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.sim.engine import SimulatedClock, SimulatedEngine
from hocket.fl.sim.fleet import Fleet, make_fleet, num_steps
from hocket.hwmodels.errors import TargetError

STEP_SECONDS = 0.25
PEAK_BYTES = 1000


class Measured(SoftmaxRegression):
    """A model whose steps take a quarter of a second."""

    capabilities = frozenset({FOOTPRINT})

    def footprint(self, *_: Any) -> Footprint:
        return Footprint(1, 1, 0, 1, PEAK_BYTES, 1, STEP_SECONDS)


def make(*classes: DeviceClass, num_devices: int = 6, seed: int = 0) -> Fleet:
    blobs = Blobs(num_devices)
    counts = {
        name: (len(blobs.load(name)), len(blobs.held_out(name))) for name in blobs.device_ids()
    }
    return make_fleet(classes or (DeviceClass(name="one"),), counts, Measured(), seed)


def task(device: str = "device-00", kind: Kind = "train", **training: Any) -> ClientTask:
    return ClientTask(1, device, kind, 1, LocalTraining(**training).to_config())


def test_a_task_takes_its_transfers_and_its_steps() -> None:
    kind = DeviceClass(name="one", download_bytes_per_second=100.0, upload_bytes_per_second=10.0)
    fleet = make(kind)
    # 8 examples in batches of 3, twice.
    time = fleet.time_of(task(batch_size=3, epochs=2), 400)
    assert (time.download_seconds, time.compute_seconds, time.upload_seconds) == (4.0, 1.5, 40.0)
    assert time.seconds == 45.5
    # 10 examples in 4 batches, forward alone, and nothing but numbers back.
    time = fleet.time_of(task(kind="evaluate", batch_size=3, epochs=2), 400)
    assert time.seconds == pytest.approx(4.0 + 4 * STEP_SECONDS / 3)


@given(
    count=st.integers(1, 200),
    epochs=st.integers(1, 4),
    batch_size=st.integers(1, 64),
    max_steps=st.integers(0, 50),
)
def test_steps_are_those_of_the_loop(
    count: int, epochs: int, batch_size: int, max_steps: int
) -> None:
    steps = 0
    for _ in range(epochs):
        for _ in range(0, count, batch_size):
            if not max_steps or steps < max_steps:
                steps += 1
    training = LocalTraining(epochs=epochs, batch_size=batch_size, max_steps=max_steps)
    assert num_steps(count, training) == steps


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    num_devices=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_every_class_has_its_share_of_devices(
    weights: list[int], num_devices: int, seed: int
) -> None:
    classes = [
        DeviceClass(name=f"class-{number}", share=weight / sum(weights))
        for number, weight in enumerate(weights)
    ]
    fleet = make(*classes, num_devices=num_devices, seed=seed)
    assert sorted(fleet.classes) == Blobs(num_devices).device_ids()
    dealt = Counter(each.settings.name for each in fleet.classes.values())
    for each in classes:
        assert abs(dealt[each.name] - each.share * num_devices) <= 1
    again = make(*classes, num_devices=num_devices, seed=seed)
    assert {n: c.settings.name for n, c in again.classes.items()} == {
        n: c.settings.name for n, c in fleet.classes.items()
    }


def test_as_many_drop_out_as_the_rate_says() -> None:
    fleet = make(DeviceClass(name="one", failure_rate=0.3))
    fates = [
        fleet.fate_of(ClientTask(number, "device-03", "train", 1, {}), 1000)
        for number in range(2000)
    ]
    dropped = [fate for fate in fates if fate.reason]
    # Four standard deviations of a binomial.
    assert abs(len(dropped) - 600) < 4 * math.sqrt(2000 * 0.3 * 0.7)
    whole = fleet.time_of(task("device-03"), 1000).seconds
    assert all(0 <= fate.seconds <= whole for fate in dropped)
    assert len({fate.seconds for fate in dropped}) > 100


@given(
    failure_rate=st.floats(0, 1),
    seed=st.integers(0, 100),
    timeout=st.none() | st.floats(0.01, 10.0),
    upload=st.floats(1.0, 1e6),
)
def test_a_round_is_what_the_fleet_says(
    failure_rate: float, seed: int, timeout: float | None, upload: float
) -> None:
    classes = (
        DeviceClass(name="fast", share=0.5, failure_rate=failure_rate),
        DeviceClass(name="slow", share=0.5, upload_bytes_per_second=upload),
    )
    fleet, clients, clock = make(*classes, seed=seed), Clients(), SimulatedClock()
    engine = SimulatedEngine(InProcessEngine(clients, WallClock()), fleet, clock)
    parameters = SoftmaxRegression().parameters()
    tasks = [task(device.device_id) for device in engine.devices()]
    replies = {reply.device_id: reply for reply in engine.run(tasks, parameters, timeout)}
    assert sorted(replies) == clients.device_ids()
    limit = math.inf if timeout is None else timeout
    lasted = []
    for each in tasks:
        fate = fleet.fate_of(each, num_bytes(parameters))
        reply = replies[each.device_id]
        lasted.append(min(fate.seconds, limit))
        if fate.seconds > limit:
            assert isinstance(reply, ClientFailure)
            assert reply.is_late
        elif fate.reason:
            assert isinstance(reply, ClientFailure)
            assert fate.reason in reply.reason
        else:
            assert isinstance(reply, ClientUpdate)
    assert clock.now() == max(lasted)


def test_what_is_too_large_for_a_device_fails_there() -> None:
    fleet = make(DeviceClass(name="tiny", memory_bytes=PEAK_BYTES - 1))
    assert "needs 1,000 bytes, tiny has 999" in fleet.fate_of(task(), 100).reason
    assert fleet.fate_of(task(kind="evaluate"), 100).reason == ""
    assert make(DeviceClass(name="tiny", memory_bytes=PEAK_BYTES)).fate_of(task(), 100).reason == ""
    assert fleet.attributes["device-00"]["memory_bytes"] == PEAK_BYTES - 1


def test_no_tasks_take_no_time() -> None:
    clock = SimulatedClock()
    engine = SimulatedEngine(InProcessEngine(Clients(), WallClock()), make(), clock)
    assert list(engine.run([], {}, 1.0)) == []
    assert clock.now() == 0.0
    engine.close()
    with pytest.raises(ConfigError, match="0 seconds or more"):
        clock.advance(-1.0)


def test_fleets_that_cannot_be_are_refused() -> None:
    counts = {"device": (1, 0)}
    with pytest.raises(ConfigError, match="no classes"):
        make_fleet((), counts, Measured(), 0)
    with pytest.raises(CapabilityError, match="cannot say"):
        make_fleet((DeviceClass(name="one"),), counts, SoftmaxRegression(), 0)
    with pytest.raises(TargetError):
        make_fleet((DeviceClass(name="one", target="abacus"),), counts, Measured(), 0)
