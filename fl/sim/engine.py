"""An engine whose devices take simulated time, whatever the real ones take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hocket.fl.core.engine import failure, lateness
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import num_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hocket.fl.core.engine import Engine
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply
    from hocket.fl.sim.fleet import Fleet


class SimulatedClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return the simulated time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ConfigError: It would go back.
        """
        if not seconds >= 0:
            raise ConfigError(f"time goes on by 0 seconds or more, got {seconds}")
        self._now += seconds


class SimulatedEngine:
    """Has another engine do the work, and a fleet say when it is done and what is dropped.

    Tasks that are late or dropped by the fleet's word are not worked on at all. When the last reply
    is read, the clock has gone on by what the round took: until the last device was done or gave
    up, or until the deadline.

    Args:
        engine: Does the work, with all the real time it needs.
        fleet: Has its devices.
        clock: Goes on with each round.
    """

    def __init__(self, engine: Engine, fleet: Fleet, clock: SimulatedClock) -> None:
        self._engine, self._fleet, self._clock = engine, fleet, clock

    def devices(self) -> list[Device]:
        """Return the devices of the engine that does the work."""
        return self._engine.devices()

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as the work is done."""
        limit = math.inf if timeout_seconds is None else timeout_seconds
        size = num_bytes(parameters)
        fates = {task.device_id: self._fleet.fate_of(task, size) for task in tasks}
        done, lost = [], []
        for task in tasks:
            fate = fates[task.device_id]
            if fate.seconds > limit:
                lost.append(lateness(task))
            elif fate.reason:
                lost.append(failure(task, fate.reason))
            else:
                done.append(task)
        yield from self._engine.run(done, parameters)
        yield from lost
        seconds = max((fate.seconds for fate in fates.values()), default=0.0)
        self._clock.advance(min(seconds, limit))

    def close(self) -> None:
        """Close the engine that does the work."""
        self._engine.close()
