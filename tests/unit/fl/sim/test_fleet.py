"""Fleets of simulated devices: their time, their failures, and what is done of their work."""

from __future__ import annotations

from typing import Any

import pytest
from support.federation import Clients, SoftmaxRegression

from hocket.fl.config import DeviceClass
from hocket.fl.core.backend import FOOTPRINT, Footprint, LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.fl.core.parameters import num_bytes
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.sim.engine import SimulatedClock, SimulatedEngine
from hocket.fl.sim.fleet import Fleet, make_fleet

TRAINING = LocalTraining(epochs=2, batch_size=4, learning_rate=0.3)
STEP_SECONDS, PEAK_BYTES = 0.5, 1000
COUNTS = {f"device-{number:02d}": (8 + 3 * number, 4) for number in range(6)}
SIZE = num_bytes(SoftmaxRegression().parameters())


class Measured(SoftmaxRegression):
    capabilities = SoftmaxRegression.capabilities | {FOOTPRINT}

    def footprint(self, *_: Any) -> Footprint:
        return Footprint(0, 0, 0, 0, PEAK_BYTES, 0, STEP_SECONDS)


def fleet_of(*classes: DeviceClass, seed: int = 0) -> Fleet:
    return make_fleet(classes, COUNTS, Measured(), seed)


def device_class(**settings: Any) -> DeviceClass:
    given = {"name": "any", "target": "mas-edge", "download_bytes_per_second": 1e3}
    return DeviceClass(**{**given, "upload_bytes_per_second": 1e2, **settings})


def task_of(device_id: str, round_number: int = 1, kind: Any = "train") -> ClientTask:
    return ClientTask(round_number, device_id, kind, 0, TRAINING.to_config())


def wanted_seconds(device_id: str) -> float:
    """Return the time of training: batches of four, twice, and the model down and up."""
    count = COUNTS[device_id][0]
    return SIZE / 1e3 + 2 * -(-count // 4) * STEP_SECONDS + SIZE / 1e2


def test_a_task_takes_download_steps_and_upload() -> None:
    fleet = fleet_of(device_class())
    for name in COUNTS:
        assert fleet.fate_of(task_of(name), SIZE).seconds == pytest.approx(wanted_seconds(name))
        # Four held out are one batch, forward alone; numbers go back.
        evaluation = fleet.fate_of(task_of(name, kind="evaluate"), SIZE)
        assert evaluation.seconds == pytest.approx(SIZE / 1e3 + STEP_SECONDS / 3)


def test_classes_have_their_shares_and_a_draw_decides_who_is_which() -> None:
    classes = [device_class(name=name, share=share) for name, share in (("a", 0.5), ("b", 0.5))]
    fleets = [fleet_of(*classes, seed=seed) for seed in range(8)]
    dealt = [[each.settings.name for each in fleet.classes.values()] for fleet in fleets]
    assert all(sorted(names) == ["a"] * 3 + ["b"] * 3 for names in dealt)
    assert len({tuple(names) for names in dealt}) > 1
    assert dealt[0] == [each.settings.name for each in fleet_of(*classes).classes.values()]


def test_devices_drop_tasks_at_their_rate_and_the_same_ones_each_time() -> None:
    fleet = fleet_of(device_class(failure_rate=0.2))
    fates = [fleet.fate_of(task_of(name, number), SIZE) for number in range(500) for name in COUNTS]
    rate = sum(bool(fate.reason) for fate in fates) / len(fates)
    assert rate == pytest.approx(0.2, abs=0.03)  # four standard deviations of 3,000 draws
    assert fates[:6] == [fleet.fate_of(task_of(name, 0), SIZE) for name in COUNTS]
    whole = [wanted_seconds(name) for name in COUNTS] * 500
    assert all(
        fate.seconds < full if fate.reason else fate.seconds == pytest.approx(full)
        for fate, full in zip(fates, whole, strict=True)
    )


def test_a_device_without_the_memory_gives_up_once_it_has_the_model() -> None:
    fate = fleet_of(device_class(memory_bytes=PEAK_BYTES - 1)).fate_of(task_of("device-00"), SIZE)
    assert fate.seconds == pytest.approx(SIZE / 1e3)
    assert "training needs 1,000 bytes, any has 999" in fate.reason
    assert (
        not fleet_of(device_class(memory_bytes=PEAK_BYTES))
        .fate_of(task_of("device-00"), SIZE)
        .reason
    )


def run(fleet: Fleet, timeout_seconds: float | None) -> tuple[list[Any], float]:
    clock = SimulatedClock()
    engine = SimulatedEngine(InProcessEngine(Clients(), WallClock()), fleet, clock)
    tasks = [task_of(name) for name in COUNTS]
    return list(engine.run(tasks, SoftmaxRegression().parameters(), timeout_seconds)), clock.now()


def test_a_round_takes_as_long_as_its_slowest_device() -> None:
    replies, seconds = run(fleet_of(device_class()), None)
    assert all(isinstance(reply, ClientUpdate) for reply in replies)
    assert len(replies) == len(COUNTS)
    assert seconds == pytest.approx(wanted_seconds("device-05"))


def test_who_is_slow_by_simulated_time_is_late() -> None:
    limit = (wanted_seconds("device-02") + wanted_seconds("device-03")) / 2
    replies, seconds = run(fleet_of(device_class()), limit)
    late = [reply for reply in replies if isinstance(reply, ClientFailure)]
    assert sorted(reply.device_id for reply in late) == ["device-03", "device-04", "device-05"]
    assert all(reply.is_late for reply in late)
    assert seconds == pytest.approx(limit)


def test_what_a_fleet_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no classes"):
        fleet_of()
    with pytest.raises(CapabilityError, match="cannot say what it takes"):
        make_fleet([device_class()], COUNTS, SoftmaxRegression(), 0)
    with pytest.raises(ConfigError, match="0 seconds or more"):
        SimulatedClock().advance(-1)
