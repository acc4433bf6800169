"""Jobs that share devices, in simulated time: who works for whom, from which second to which.

A device is offered once a session, when it checks in. It waits for the rest of its round's devices,
gets its task, and answers when it is done, unless its session ends first. A round is over when a
quorum has answered; who answers later has worked in vain. All of it follows from the seeds and from
what jobs say of themselves, so a run that is begun anew goes the same way again.
"""

from __future__ import annotations

import enum
import functools
import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.errors import FederationError
from hocket.fl.core.seeds import generator_for
from hocket.fl.venn.requests import Phase, RoundRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hocket.fl.core.types import Device
    from hocket.fl.venn.scheduler import VennScheduler

MOST_DAYS = 100.0
"""Of simulated time; a fleet that is not done by then never will be."""


@dataclass(frozen=True)
class Cost:
    """What a task takes on a device.

    Attributes:
        download_seconds, compute_seconds, upload_seconds: Of its parts, one after the other.
        joules: Of the computation, by the machine's model.
        download_bytes, upload_bytes: Over its link.
    """

    download_seconds: float
    compute_seconds: float
    upload_seconds: float
    joules: float = 0.0
    download_bytes: int = 0
    upload_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


class FleetJob(Protocol):
    """A job as the loop sees it."""

    @property
    def name(self) -> str:
        """Of the job."""
        ...

    @property
    def num_rounds(self) -> int:
        """That it has at most."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it wants no more rounds."""
        ...

    def request(self) -> RoundRequest:
        """Return what devices its next round wants."""
        ...

    def costs(self, attempt: int, devices: Sequence[str]) -> Mapping[str, Cost]:
        """Return what its next round takes on each device that it got.

        Args:
            attempt: From 1; more where rounds have failed.
            devices: By name, in order.
        """
        ...

    def run_round(self, devices: Sequence[str], arrivals: Mapping[str, float]) -> None:
        """Run its next round.

        Args:
            devices: That had a task, in order.
            arrivals: Seconds from then to each answer that counts, by device.
        """
        ...


class Session(Protocol):
    """A time in which a device is there."""

    @property
    def device(self) -> Device:
        """Whose it is."""
        ...

    @property
    def start(self) -> float:
        """When it checks in, in simulated seconds."""
        ...

    @property
    def end(self) -> float:
        """When it leaves."""
        ...


class Outcome(enum.StrEnum):
    """What became of a device's work."""

    ANSWERED = "answered"
    LATE = "late"
    """Its round was over, or had failed."""
    LEFT = "left"
    """Its session ended first."""
    FAILED = "failed"
    """It dropped its task."""
    RELEASED = "released"
    """Its round did not find devices enough."""


@dataclass(frozen=True)
class Segment:
    """A time that a device was held by a job.

    Attributes:
        device, job, round, attempt: Whose it was, and for which try of which round.
        given: When the device was given to the job.
        began: When it got its task; None if it did not.
        ended: When it was free again.
        outcome: Of its work.
        joules, download_bytes, upload_bytes: That it spent, of unfinished work a part.
    """

    device: str
    job: str
    round: int
    attempt: int
    given: float
    began: float | None
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
        filled: When the last try had them.
        ended: When a quorum had answered.
        num_devices, num_answers: That had a task, and that answered in time, in the last try.
    """

    job: str
    round: int
    attempts: int
    asked: float
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


class FleetClock:
    """Simulated time, as the loop has it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return the simulated time."""
        return self.seconds


class _Kind(enum.IntEnum):
    """What happens, in the order in which it does if it is at once."""

    ANSWER = 0
    LOSS = 1
    ROUND_OVER = 2
    ARRIVAL = 3
    DUE = 4
    CHECK_IN = 5


@dataclass(eq=False)
class _Try:
    """A round as it goes on.

    Attributes:
        round, attempt: Which.
        asked: When devices were first asked for, in an earlier attempt perhaps.
        given: When each device that is still held was given.
        cohort: Who had a task, in order; empty before.
        costs: Of each of these.
        filled: When they had it.
        answers: When those answered that count.
        is_over: Whether nobody waits for it any more.
    """

    round: int
    attempt: int
    asked: float
    given: dict[str, float] = field(default_factory=dict)
    cohort: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    filled: float | None = None
    answers: dict[str, float] = field(default_factory=dict)
    is_over: bool = False


class FleetLoop:
    """Shares devices among jobs until all jobs are done.

    Args:
        scheduler: Says who gets a device; it has the same clock.
        clock: Moved on from event to event.
        jobs: With the seconds at which they come.
        sessions: Of all devices, by their starts, without end.
        failure_rates: Share of tasks that a device drops, by its name; 0 where it is not named.
        seed: Of what is dropped.
        after_round: Told of each round that counted, with the job's name and the round's number.
    """

    def __init__(
        self,
        scheduler: VennScheduler,
        clock: FleetClock,
        jobs: Sequence[tuple[float, FleetJob]],
        sessions: Iterator[Session],
        *,
        failure_rates: Mapping[str, float] | None = None,
        seed: int = 0,
        after_round: Callable[[str, int], None] | None = None,
    ) -> None:
        self._scheduler, self._clock, self._sessions = scheduler, clock, sessions
        self._jobs = {job.name: job for _, job in jobs}
        self._failure_rates = failure_rates or {}
        self._seed = seed
        self._after_round = after_round
        self._tries: dict[str, _Try] = {}
        self._busy: set[str] = set()
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []
        self._history = History()
        for arrival, job in jobs:
            self._history.arrivals[job.name] = arrival
            self._push(arrival, _Kind.ARRIVAL, functools.partial(self._arrive, job))

    def run(self) -> History:
        """Run all jobs and return what has happened.

        Raises:
            FederationError: Some job gets no devices; the message says what it waits for.
            AdmissionError: A job asks for what no supply can meet.
        """
        self._push_session()
        while len(self._history.completions) < len(self._jobs):
            seconds, _, _, act = heapq.heappop(self._events)
            if seconds > MOST_DAYS * 86400:
                raise FederationError(self._stuck())
            self._clock.seconds = seconds
            act()
        self._end_what_is_left()
        return self._history

    def _push(self, seconds: float, kind: _Kind, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, kind, next(self._numbers), act))

    def _push_session(self) -> None:
        session = next(self._sessions)
        self._push(session.start, _Kind.CHECK_IN, functools.partial(self._check_in, session))

    def _arrive(self, job: FleetJob) -> None:
        self._scheduler.register(job.name, num_rounds=job.num_rounds)
        self._ask(job.name, 1, 1, self._clock.seconds)

    def _ask(self, name: str, number: int, attempt: int, asked: float) -> None:
        request = self._jobs[name].request()
        self._tries[name] = _Try(number, attempt, asked)
        self._scheduler.submit(request)
        self._push_due(name, request.selection_seconds)

    def _push_due(self, name: str, seconds: float) -> None:
        if seconds < float("inf"):
            at = self._clock.seconds + seconds
            self._push(at, _Kind.DUE, functools.partial(self._look, name, self._tries[name]))

    def _check_in(self, session: Session) -> None:
        self._push_session()
        device = session.device
        if device.device_id in self._busy:  # its last session goes on
            return
        name = self._scheduler.offer(device)
        if name is None:
            return
        current = self._tries[name]
        current.given[device.device_id] = self._clock.seconds
        self._busy.add(device.device_id)
        leave = functools.partial(self._lose, name, current, device.device_id, Outcome.LEFT)
        self._push(session.end, _Kind.LOSS, leave)
        self._look(name, current)

    def _look(self, name: str, current: _Try) -> None:
        """Do what follows from how a job's round stands."""
        if current.is_over or current is not self._tries.get(name):
            return
        phase = self._scheduler.progress(name).phase
        if phase is Phase.FAILED:
            self._give_up(name, current)
        elif phase is not Phase.SELECTING and current.filled is None:
            self._begin(name, current)
        elif phase is Phase.COMPLETE:
            # After all answers of this very moment.
            current.is_over = True
            over = functools.partial(self._end_round, name, current)
            self._push(self._clock.seconds, _Kind.ROUND_OVER, over)

    def _begin(self, name: str, current: _Try) -> None:
        job, now = self._jobs[name], self._clock.seconds
        current.filled, current.cohort = now, tuple(sorted(current.given))
        current.costs = job.costs(current.attempt, current.cohort)
        for device in current.cohort:
            seconds = current.costs[device].seconds
            drawn = generator_for(
                self._seed, "drop-out", name, current.round, current.attempt, device
            )
            chance, moment = drawn.random(2)
            if chance < self._failure_rates.get(device, 0.0):
                drop = functools.partial(self._lose, name, current, device, Outcome.FAILED)
                self._push(now + float(moment) * seconds, _Kind.LOSS, drop)
            else:
                answer = functools.partial(self._answer, name, current, device)
                self._push(now + seconds, _Kind.ANSWER, answer)
        self._push_due(name, job.request().deadline_seconds)

    def _answer(self, name: str, current: _Try, device: str) -> None:
        if device not in current.given:
            return
        is_current = current is self._tries.get(name)
        counts = is_current and device not in current.answers
        if counts:
            current.answers[device] = self._clock.seconds
        seconds = current.costs[device].seconds
        if name not in self._history.completions:
            self._scheduler.respond(name, device, seconds=seconds)
        self._free(name, current, device, Outcome.ANSWERED if counts else Outcome.LATE)
        self._look(name, current)

    def _lose(self, name: str, current: _Try, device: str, outcome: Outcome) -> None:
        if device not in current.given:
            return
        if current is self._tries.get(name):
            self._scheduler.lose(name, device)
        self._free(name, current, device, outcome)
        self._look(name, current)

    def _free(self, name: str, current: _Try, device: str, outcome: Outcome) -> None:
        given, now = current.given.pop(device), self._clock.seconds
        self._busy.discard(device)
        share, cost = 0.0, None
        if current.filled is not None:
            cost = current.costs[device]
            share = min(1.0, (now - current.filled) / cost.seconds) if cost.seconds else 1.0
        self._history.segments.append(
            Segment(
                device=device,
                job=name,
                round=current.round,
                attempt=current.attempt,
                given=given,
                began=current.filled,
                ended=now,
                outcome=outcome,
                joules=share * cost.joules if cost else 0.0,
                download_bytes=round(share * cost.download_bytes) if cost else 0,
                upload_bytes=cost.upload_bytes if cost and share == 1.0 else 0,
            )
        )

    def _give_up(self, name: str, current: _Try) -> None:
        """Ask anew for a round that has failed; who is at work goes on in vain."""
        current.is_over = True
        if current.filled is None:
            for device in sorted(current.given):
                self._free(name, current, device, Outcome.RELEASED)
        self._ask(name, current.round, current.attempt + 1, current.asked)

    def _end_round(self, name: str, current: _Try) -> None:
        job, now = self._jobs[name], self._clock.seconds
        filled = now if current.filled is None else current.filled
        self._scheduler.end_round(name)
        del self._tries[name]
        arrivals = {device: at - filled for device, at in current.answers.items()}
        self._history.rounds.append(
            RoundTimes(
                job=name,
                round=current.round,
                attempts=current.attempt,
                asked=current.asked,
                filled=filled,
                ended=now,
                num_devices=len(current.cohort),
                num_answers=len(arrivals),
            )
        )
        job.run_round(current.cohort, arrivals)
        if self._after_round is not None:
            self._after_round(name, current.round)
        if job.is_over:
            self._scheduler.finish(name)
            self._history.completions[name] = now
        else:
            self._ask(name, current.round + 1, 1, now)

    def _end_what_is_left(self) -> None:
        """Let devices end what they are at; nobody waits for it."""
        while self._busy:
            seconds, kind, _, act = heapq.heappop(self._events)
            if kind in (_Kind.ANSWER, _Kind.LOSS):
                self._clock.seconds = seconds
                act()

    def _stuck(self) -> str:
        waiting = [name for name in self._tries if name not in self._history.completions]
        reasons = " ".join(self._scheduler.why_waiting(name) for name in waiting)
        return f"after {MOST_DAYS:g} simulated days there are jobs without devices: {reasons}"
