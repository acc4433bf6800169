"""What the scheduler of live devices knows of a job: what it asks for, and its round's cohort."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hocket.fl.venn.planning import ALL_TIERS
from hocket.fl.venn.requests import Phase, Progress, RoundRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.venn.eligibility import Requirement


class Given(NamedTuple):
    """A device at work: since when, its tier then, and how likely it was to be lost."""

    at: float
    tier: int
    risk: float


@dataclass
class LiveJob:
    """A job, from its first request or registration to its end.

    Attributes:
        number: Of jobs, in the order in which they came.
        requirement: What its devices must have.
        came: When it did, seconds.
        num_rounds: That it will have; None if nobody has said.
        demand: Devices a round.
        wanted: Devices still waited for; 0 without an open request.
        asked: When the round began.
        draw: A number drawn for the request.
        served: Devices it has had in all rounds.
        rounds_done: Rounds.
        rank: Position in the order by look-ahead.
        limits: What the request says of time and quorum.
        phase: Where the round is.
        due: When the phase ends by itself.
        filled: When the selection ended.
        ratio: Response over scheduling time of the last round; 0 before the first.
        accepts: Tiers that the cohort takes, a bit each.
        passed: Check-ins in a row of devices that it may use, and that were of other tiers.
        cohort: Devices at work, by id.
        risk: Of these, expected to be lost.
        answered, lost: Of the round's devices.
    """

    number: int
    requirement: Requirement
    came: float
    num_rounds: int | None = None
    demand: int = 1
    wanted: int = 0
    asked: float = 0.0
    draw: float = 0.0
    served: int = 0
    rounds_done: int = 0
    rank: int = 0
    limits: RoundRequest | None = None
    phase: Phase = Phase.IDLE
    due: float = math.inf
    filled: float = 0.0
    ratio: float = 0.0
    accepts: int = ALL_TIERS
    passed: int = 0
    cohort: dict[str, Given] = field(default_factory=dict)
    risk: float = 0.0
    answered: int = 0
    lost: int = 0

    @property
    def rounds_left(self) -> int:
        """After this one; where nobody has said, as many as there have been."""
        total = 2 * self.rounds_done + 1 if self.num_rounds is None else self.num_rounds
        return max(total - self.rounds_done - 1, 0)

    @property
    def left(self) -> float:
        """Devices that all its rounds still want."""
        return float(self.rounds_left * self.demand + (self.wanted or self.demand))

    @property
    def quorum(self) -> float:
        """Part of the round's devices that must report."""
        return 1.0 if self.limits is None else self.limits.quorum

    @property
    def has_quorum(self) -> bool:
        """Whether enough devices have reported."""
        return self.answered >= self.demand * self.quorum

    @property
    def can_reach_quorum(self) -> bool:
        """Whether enough have reported or are at work."""
        return self.answered + len(self.cohort) >= self.demand * self.quorum

    def begin(self, request: DeviceRequest, now: float, draw: float) -> None:
        """Begin a round."""
        self.limits = request if isinstance(request, RoundRequest) else None
        self.demand = self.wanted = request.count
        self.asked, self.draw = now, draw
        self.phase = Phase.SELECTING
        self.due = math.inf if self.limits is None else now + self.limits.selection_seconds
        self.accepts = ALL_TIERS
        self.passed = 0
        self.answered = self.lost = 0

    def end_selection(self, now: float) -> None:
        """Go on with the devices that there are."""
        self.wanted = 0
        self.filled = now
        if self.has_quorum:
            self.complete()
            return
        self.phase = Phase.REPORTING
        self.due = math.inf if self.limits is None else now + self.limits.deadline_seconds

    def complete(self) -> None:
        """Have a quorum; the job may end the round."""
        self.phase = Phase.COMPLETE
        self.due = math.inf

    def end(self, phase: Phase) -> None:
        """End a round, complete or not; who is still at work is forgotten."""
        self.wanted = 0
        self.due = math.inf
        self.phase = phase
        self.cohort.clear()
        self.risk = 0.0

    def progress(self, now: float) -> Progress:
        """Return how the round stands."""
        return Progress(
            self.phase, self.wanted, len(self.cohort), self.answered, self.lost, self.due - now
        )

    def is_first_of(self, jobs: Iterable[LiveJob]) -> bool:
        """Whether no waiting job with the same requirement wants fewer devices."""
        return not any(
            other.wanted and other.requirement == self.requirement and other.wanted < self.wanted
            for other in jobs
        )
