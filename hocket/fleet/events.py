"""Jobs that share devices, in simulated time: who works for whom, from which second to which.

A device is offered once a session, when it checks in, unless it is at work still or has answered in
a round that goes on. If a job gets it, it begins at once, and
answers when it is done, unless its session ends first. A round is over when it has had all devices
that it asked for, and a quorum of them has answered; who answers later has worked in vain. All of
it follows from the seeds and from what jobs say of themselves, so a run that is begun anew goes the
same way again.
"""

from __future__ import annotations

import enum
import functools
import heapq
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.errors import FederationError
from hocket.fl.core.seeds import generator_for
from hocket.fl.venn.requests import Phase, RoundRequest
from hocket.fleet.history import History, Outcome, RoundTimes, Segment

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

    def costs(self) -> Mapping[str, Cost]:
        """Return what its next round takes on every device, by name."""
        ...

    def run_round(self, devices: Sequence[str], arrivals: Mapping[str, float]) -> None:
        """Run its next round.

        Args:
            devices: That had a task and were not replaced, in order.
            arrivals: Seconds from its start to each answer that counts, by device.
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
        begun: When they were asked for in this one.
        costs: Of the round, by device.
        working: Since when each device is at work.
        cohort: Who had a task and was not replaced.
        filled: When all devices were there; None before.
        answers: When those answered that count.
        is_over: Whether nobody waits for it any more.
    """

    round: int
    attempt: int
    asked: float
    begun: float
    costs: Mapping[str, Cost]
    working: dict[str, float] = field(default_factory=dict)
    cohort: set[str] = field(default_factory=set)
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
        now = self._clock.seconds
        self._ask(_Try(1, 1, now, now, job.costs()), job)

    def _ask(self, current: _Try, job: FleetJob) -> None:
        request = job.request()
        self._tries[job.name] = current
        self._scheduler.submit(request)
        self._push_due(job.name, current, request.selection_seconds)

    def _push_due(self, name: str, current: _Try, seconds: float) -> None:
        if seconds < math.inf:
            at = self._clock.seconds + seconds
            self._push(at, _Kind.DUE, functools.partial(self._look, name, current))

    def _check_in(self, session: Session) -> None:
        self._push_session()
        device = session.device.device_id
        has_answered = any(device in each.answers for each in self._tries.values())
        if device in self._busy or has_answered:
            return
        name = self._scheduler.offer(session.device)
        if name is None:
            return
        current, now = self._tries[name], self._clock.seconds
        current.working[device] = now
        current.cohort.add(device)
        self._busy.add(device)
        seconds = current.costs[device].seconds
        purpose = ("drop-out", name, current.round, current.attempt, device)
        chance, moment = generator_for(self._seed, *purpose).random(2)
        lose = functools.partial(self._lose, name, current, device)
        self._push(session.end, _Kind.LOSS, functools.partial(lose, Outcome.LEFT))
        if chance < self._failure_rates.get(device, 0.0):
            drop = functools.partial(lose, Outcome.FAILED)
            self._push(now + float(moment) * seconds, _Kind.LOSS, drop)
        else:
            answer = functools.partial(self._answer, name, current, device)
            self._push(now + seconds, _Kind.ANSWER, answer)
        self._look(name, current)

    def _look(self, name: str, current: _Try) -> None:
        """Do what follows from how a job's round stands."""
        if current.is_over or current is not self._tries.get(name):
            return
        job, now = self._jobs[name], self._clock.seconds
        phase = self._scheduler.progress(name).phase
        if phase is Phase.FAILED:
            current.is_over = True  # who is at work goes on in vain
            number, attempt = current.round, current.attempt + 1
            self._ask(_Try(number, attempt, current.asked, now, current.costs), job)
            return
        if phase is not Phase.SELECTING and current.filled is None:
            current.filled = now
            self._push_due(name, current, job.request().deadline_seconds)
        if phase is Phase.COMPLETE:
            # After all answers of this very moment.
            current.is_over = True
            over = functools.partial(self._end_round, name, current)
            self._push(now, _Kind.ROUND_OVER, over)

    def _answer(self, name: str, current: _Try, device: str) -> None:
        if device not in current.working:
            return
        counts = current is self._tries.get(name)
        if counts:
            current.answers[device] = self._clock.seconds
        self._scheduler.respond(name, device, seconds=current.costs[device].seconds)
        self._free(name, current, device, Outcome.ANSWERED if counts else Outcome.LATE)
        self._look(name, current)

    def _lose(self, name: str, current: _Try, device: str, outcome: Outcome) -> None:
        if device not in current.working:
            return
        if current is self._tries.get(name):
            if current.filled is None:  # another one is asked for
                current.cohort.discard(device)
            self._scheduler.lose(name, device)
        self._free(name, current, device, outcome)
        self._look(name, current)

    def _free(self, name: str, current: _Try, device: str, outcome: Outcome) -> None:
        began, now = current.working.pop(device), self._clock.seconds
        self._busy.discard(device)
        cost = current.costs[device]
        is_done = outcome in (Outcome.ANSWERED, Outcome.LATE)
        share = 1.0 if is_done or not cost.seconds else (now - began) / cost.seconds
        self._history.segments.append(
            Segment(
                device=device,
                job=name,
                round=current.round,
                attempt=current.attempt,
                began=began,
                ended=now,
                outcome=outcome,
                joules=share * cost.joules,
                download_bytes=round(share * cost.download_bytes),
                upload_bytes=cost.upload_bytes if is_done else 0,
            )
        )

    def _end_round(self, name: str, current: _Try) -> None:
        job, now = self._jobs[name], self._clock.seconds
        self._scheduler.end_round(name)
        del self._tries[name]
        arrivals = {device: at - current.begun for device, at in current.answers.items()}
        self._history.rounds.append(
            RoundTimes(
                job=name,
                round=current.round,
                attempts=current.attempt,
                asked=current.asked,
                begun=current.begun,
                filled=now if current.filled is None else current.filled,
                ended=now,
                num_devices=len(current.cohort),
                num_answers=len(arrivals),
            )
        )
        job.run_round(sorted(current.cohort), arrivals)
        if self._after_round is not None:
            self._after_round(name, current.round)
        if job.is_over:
            self._scheduler.finish(name)
            self._history.completions[name] = now
        else:
            self._ask(_Try(current.round + 1, 1, now, now, job.costs()), job)

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
