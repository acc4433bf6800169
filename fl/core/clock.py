"""Time, handed in, so that tests and simulations can have their own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in seconds since a moment of its own."""

    def now(self) -> float:
        """Return the time; never less than before."""
        ...


class WallClock:
    """The time of this machine."""

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()
