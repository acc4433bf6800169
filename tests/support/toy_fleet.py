"""Jobs that train nothing and devices that come and go as drawn, for the loop of fleets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.requests import RoundRequest
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fleet.events import Cost, FleetClock, FleetLoop
from hocket.fleet.population import DeviceSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST_DEVICES = 12


@dataclass
class ToyJob:
    """A job whose tasks take as long as it says; it remembers its rounds."""

    name: str
    num_rounds: int
    devices: int
    compute_seconds: float = 10.0
    quorum: float = 1.0
    deadline_seconds: float = float("inf")
    selection_seconds: float = float("inf")
    least_memory: float = 0.0
    rounds: list[tuple[tuple[str, ...], dict[str, float]]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return len(self.rounds) == self.num_rounds

    def request(self) -> RoundRequest:
        return RoundRequest(
            self.name,
            self.devices,
            {"memory_bytes": self.least_memory},
            selection_seconds=self.selection_seconds,
            deadline_seconds=self.deadline_seconds,
            quorum=self.quorum,
        )

    def costs(self) -> Mapping[str, Cost]:
        return {
            f"device-{number:02d}": Cost(
                1.0, self.compute_seconds * (1 + number % 3), 2.0, 3.0, 100, 200
            )
            for number in range(MOST_DEVICES)
        }

    def run_round(self, devices: Sequence[str], arrivals: Mapping[str, float]) -> None:
        self.rounds.append((tuple(devices), dict(arrivals)))


def draw_sessions(num_devices: int, seed: int, mean_seconds: float = 600.0) -> Iterator[object]:
    """Yield sessions without end; every other device has much memory."""
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        now += float(generator.exponential(10.0))
        number = int(generator.integers(num_devices))
        device = Device(f"device-{number:02d}", {"memory_bytes": float(number % 2)})
        yield DeviceSession(device, now, now + float(generator.exponential(mean_seconds)))


def make_loop(
    jobs: Sequence[tuple[float, ToyJob]],
    *,
    policy: str = "venn",
    seed: int = 0,
    num_devices: int = MOST_DEVICES,
    failure_rate: float = 0.0,
    sessions: Iterator[object] | None = None,
) -> FleetLoop:
    clock = FleetClock()
    rates = {f"device-{number:02d}": failure_rate for number in range(num_devices)}
    return FleetLoop(
        VennScheduler(POLICIES[policy], clock=clock, seed=seed),
        clock,
        list(jobs),
        sessions or draw_sessions(num_devices, seed),  # type: ignore[arg-type]
        failure_rates=rates,
        seed=seed,
    )
