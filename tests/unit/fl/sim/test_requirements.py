"""Requirements from what training takes: bytes the same everywhere, seconds a machine's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hocket.fl.core.backend import FOOTPRINT, Footprint, LocalTraining
from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.sim.requirements import TrainingNeed, attributes_of, minimum_of
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.scheduler import VennScheduler
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel

FAST = load_target("mas-edge")
SLOW = replace(FAST, name="slow", clock_hz=FAST.clock_hz / 100)


class Sized:
    """A model whose step takes so many operations, one a cycle, and so many bytes."""

    capabilities = frozenset({FOOTPRINT})

    def __init__(self, flops: int, peak_bytes: int) -> None:
        self.flops, self.peak_bytes = flops, peak_bytes

    def footprint(self, machine: HardwareModel, training: LocalTraining) -> Footprint:
        peak = self.peak_bytes * training.batch_size
        return Footprint(1, 1, 0, 1, peak, self.flops, self.flops / machine.clock_hz)


def need_of(job: str, flops: int, peak_bytes: int, seconds: float) -> TrainingNeed:
    backend: Any = Sized(flops, peak_bytes)
    return TrainingNeed(job, backend, LocalTraining(batch_size=4), 10, seconds)


# A hundred times the work in a hundred times the bytes, and a light one that is in a hurry.
LARGE = need_of("large", 100 * int(FAST.clock_hz), 1000, 2000.0)
SMALL = need_of("small", int(FAST.clock_hz), 10, 11.0)


@pytest.mark.parametrize(
    ("machine", "memory_bytes", "jobs"),
    [
        (FAST, 4000, {"large", "small"}),
        (FAST, 3999, {"small"}),
        (FAST, 39, set()),
        # In time for neither: 1,000 and 100,000 s.
        (SLOW, 10**9, set()),
    ],
)
def test_a_device_meets_what_it_can_do_in_bytes_and_seconds(
    machine: HardwareModel, memory_bytes: int, jobs: set[str]
) -> None:
    device = Device("one", attributes_of(machine, memory_bytes, (LARGE, SMALL)))
    met = {
        need.job
        for need in (LARGE, SMALL)
        if DeviceRequest(need.job, 1, minimum_of(need)).is_met_by(device)
    }
    assert met == jobs


def test_a_device_that_does_not_know_a_job_gets_none_of_it() -> None:
    device = Device("one", attributes_of(FAST, 10**9, (SMALL,)))
    assert not DeviceRequest("large", 1, minimum_of(LARGE)).is_met_by(device)


def test_devices_are_shared_by_what_they_can_train() -> None:
    scheduler = VennScheduler(POLICIES["venn"])
    for need in (LARGE, SMALL):
        scheduler.submit(DeviceRequest(need.job, 2, minimum_of(need)))
    offers = [
        Device(f"{kind}-{number}", attributes_of(FAST, memory, (LARGE, SMALL)))
        for number in range(2)
        for kind, memory in (("phone", 100), ("board", 10**6))
    ]
    given = {device.device_id: scheduler.offer(device) for device in offers}
    # Phones can train the small one only, so boards are kept for the large one.
    assert given == {
        "phone-0": "small",
        "phone-1": "small",
        "board-0": "large",
        "board-1": "large",
    }


@pytest.mark.parametrize("change", [{"num_steps": 0}, {"within_seconds": 0.0}])
def test_needs_without_steps_or_time_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="job 'small'"):
        replace(SMALL, **change)
