"""What has happened in a fleet: who was at work for whom, and when rounds went on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Outcome(enum.StrEnum):
    """What became of a device's work."""

    ANSWERED = "answered"
    LATE = "late"
    """Its round was over, or had failed."""
    LEFT = "left"
    """Its session ended first."""
    FAILED = "failed"
    """It dropped its task."""


@dataclass(frozen=True)
class Segment:
    """A time that a device was at work for a job.

    Attributes:
        device, job, round, attempt: Whose it was, and for which try of which round.
        began: When the device was given to the job.
        ended: When it was free again.
        outcome: Of its work.
        joules, download_bytes, upload_bytes: That it spent, of unfinished work a part.
    """

    device: str
    job: str
    round: int
    attempt: int
    began: float
    ended: float
    outcome: Outcome
    joules: float = 0.0
    download_bytes: int = 0
    upload_bytes: int = 0


@dataclass(frozen=True)
class RoundTimes:
    """When a round went on.

    Attributes:
        job, round: Which.
        attempts: It took, the last of which counted.
        asked: When its devices were first asked for.
        begun: When the last try began.
        filled: When it had them.
        ended: When a quorum had answered.
        num_devices, num_answers: That had a task and were not replaced, and that answered in time,
            in the last try.
    """

    job: str
    round: int
    attempts: int
    asked: float
    begun: float
    filled: float
    ended: float
    num_devices: int
    num_answers: int


@dataclass
class History:
    """All that has happened, in order.

    Attributes:
        segments: Of devices, by their ends.
        rounds: That counted, by their ends.
        arrivals, completions: Of jobs, in simulated seconds.
    """

    segments: list[Segment] = field(default_factory=list)
    rounds: list[RoundTimes] = field(default_factory=list)
    arrivals: dict[str, float] = field(default_factory=dict)
    completions: dict[str, float] = field(default_factory=dict)
