"""What jobs ask of live devices for a round, how it stands, and what devices were spent on."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError


@dataclass(frozen=True)
class RoundRequest(DeviceRequest):
    """A request that ends by itself, for a round that need not hear of all its devices.

    Attributes:
        selection_seconds: For which it waits for devices. With a quorum of them the round then goes
            on, otherwise it has failed.
        deadline_seconds: For reports, from the end of the selection on.
        quorum: Part of the devices that must report.

    Raises:
        ConfigError: A number is out of range.
    """

    selection_seconds: float = math.inf
    deadline_seconds: float = math.inf
    quorum: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("selection_seconds", "deadline_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"job {self.job!r}: {name} must be above 0, got {getattr(self, name)}"
                )
        if not 0 < self.quorum <= 1:
            raise ConfigError(
                f"job {self.job!r}: quorum must be above 0 and up to 1, got {self.quorum}"
            )


class Phase(enum.StrEnum):
    """Where a job's round is."""

    IDLE = "idle"
    SELECTING = "selecting"
    REPORTING = "reporting"
    COMPLETE = "complete"
    """A quorum has reported."""
    FAILED = "failed"
    """Too few devices came in time, or too few of them reported."""


@dataclass(frozen=True)
class Progress:
    """How a job's round stands.

    Attributes:
        phase: Where it is.
        wanted: Devices still waited for.
        working: Devices that have not reported yet.
        answered: Devices that have.
        lost: Devices that left or failed.
        due_in_seconds: When the phase ends by itself; infinite if it does not.
    """

    phase: Phase
    wanted: int
    working: int
    answered: int
    lost: int
    due_in_seconds: float


@dataclass
class Usage:
    """What devices were spent on, over all jobs.

    Attributes:
        given: To jobs.
        answered: That reported to the round that they were given to.
        lost: That left, failed, or were overdue.
        wasted: Answers of rounds that were given up.
        late: Answers that no round waited for.
    """

    given: int = 0
    answered: int = 0
    lost: int = 0
    wasted: int = 0
    late: int = 0

    @property
    def waste(self) -> float:
        """Part of the devices given whose work served no completed round."""
        return (self.lost + self.wasted + self.late) / max(self.given, 1)
