"""Jobs, rounds and devices: a machine whose answers follow from what it was asked, and when.

It reads no clock, draws nothing and touches no file, so what was asked, asked again in the same
order with the same times, has the same answers: the journal relies on it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.service.answers import (
    Answer,
    Assignment,
    Assignments,
    Cohort,
    Done,
    Explanation,
    JobStatus,
    Phase,
    Recorded,
    Status,
)
from hocket.fl.venn.service.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    UnknownError,
)
from hocket.fl.venn.service.operations import (
    AskDevices,
    CheckIn,
    CheckIns,
    EndRound,
    ExplainDevice,
    ExplainJobs,
    Finish,
    Operation,
    Register,
    Result,
    Results,
    Tick,
    Withdraw,
)

if TYPE_CHECKING:
    from hocket.fl.venn.policies import Policy

MAX_JOBS = 10_000
"""That are not over."""

KEPT_JOBS = 1000
"""Jobs that are over and can still be asked about."""


class Caller(NamedTuple):
    """Who asks: the name of a token, and whether it may do everything."""

    name: str
    is_operator: bool = False


@dataclass
class _Job:
    name: str
    owner: str
    num_rounds: int | None = None
    rounds_done: int = 0
    round: int = 0
    phase: Phase = "idle"
    request: AskDevices | None = None
    due: float | None = None
    wanted: int = 0
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    active: set[int] = field(default_factory=set)


class _StillClock:
    """Stands at the time of the operation that is being done."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


class ResourceManager:
    """Who works for whom.

    A device works for one job at a time: until its result is in, its round is over, or its time is
    up. One that checks in before is told the same again.

    Args:
        policy: By which devices are shared.
        seed: Of what the policy draws.
    """

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self._policy = policy
        self._clock = _StillClock()
        self._scheduler = VennScheduler(policy, clock=self._clock, seed=seed)
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._over: OrderedDict[str, _Job] = OrderedDict()
        self._held: dict[str, Assignment] = {}
        self._gateways: dict[int, str] = {}
        self._assignments: dict[int, Assignment] = {}
        self._due: list[tuple[float, str, int]] = []
        self._check_ins = 0
        self._given = 0

    @property
    def time(self) -> float:
        """Of the last operation."""
        return self._clock.time

    @property
    def next_due(self) -> float | None:
        """When something ends by itself, at the earliest."""
        return self._due[0][0] if self._due else None

    @property
    def num_active(self) -> int:
        """Devices that work for a job."""
        return len(self._assignments)

    @property
    def num_jobs(self) -> int:
        """Jobs that are not over."""
        return len(self._jobs)

    @property
    def num_check_ins(self) -> int:
        """Check-ins of devices that had no work, since the database was made."""
        return self._check_ins

    @property
    def num_given(self) -> int:
        """Devices that got a job, since the database was made."""
        return self._given

    @property
    def num_wanted(self) -> int:
        """Devices that jobs wait for."""
        return sum(job.wanted for job in self._jobs.values())

    def perform(self, now: float, caller: Caller, operation: Operation) -> Answer:
        """Do what is asked.

        Args:
            now: The time; never less than before.
            caller: Who asks.
            operation: What is asked.

        Raises:
            RefusedError: It may not be; nothing but the time has changed.
        """
        self._clock.time = now
        self._end_what_is_due(now)
        answer: Answer
        match operation:
            case CheckIns():
                answer = Assignments([self._check_in(caller, each) for each in operation.devices])
            case Results():
                answer = Recorded([self._record(caller, each) for each in operation.results])
            case Register():
                answer = self._register(caller, operation)
            case AskDevices():
                answer = self._ask_devices(caller, operation)
            case Withdraw():
                answer = self._withdraw(caller, operation)
            case EndRound():
                answer = self._end_round(caller, operation)
            case Finish():
                answer = self._finish(caller, operation)
            case ExplainJobs():
                answer = self._explain_jobs(caller, operation.job)
            case ExplainDevice():
                answer = Explanation(self._why_device(operation.device))
            case Tick():
                answer = Done("", 0)
        return answer

    def cohort(self, caller: Caller, job: str) -> Cohort:
        """Return the devices that work for a job; nothing changes.

        Raises:
            RefusedError: There is no such job, or it is another's.
        """
        active = sorted(self._job(caller, job).active)
        return Cohort([self._assignments[number] for number in active])

    def _register(self, caller: Caller, operation: Register) -> Done:
        job = self._jobs.get(operation.job)
        if job is None:
            if len(self._jobs) >= MAX_JOBS:
                raise ConflictError(f"there are {MAX_JOBS} jobs already; end some")
            job = self._jobs[operation.job] = _Job(operation.job, caller.name)
            self._over.pop(operation.job, None)
        self._job(caller, operation.job)
        job.num_rounds = operation.num_rounds
        self._scheduler.register(job.name, num_rounds=job.num_rounds)
        return Done(job.name, job.round)

    def _ask_devices(self, caller: Caller, operation: AskDevices) -> Done:
        job = self._job(caller, operation.job)
        try:
            self._scheduler.submit(DeviceRequest(job.name, operation.count, operation.minimum))
        except ConfigError as error:
            raise InvalidError(str(error)) from error
        self._free_devices(job)
        job.round += 1
        job.phase = "selecting"
        job.request = operation
        job.wanted = operation.count
        job.succeeded = job.failed = job.expired = 0
        self._set_due(job, operation.selection_seconds)
        return Done(job.name, job.round)

    def _withdraw(self, caller: Caller, operation: Withdraw) -> Done:
        job = self._job(caller, operation.job)
        self._end_selection(job)
        return Done(job.name, job.round)

    def _end_round(self, caller: Caller, operation: EndRound) -> Done:
        job = self._job(caller, operation.job)
        if not job.round:
            raise ConflictError(f"job {job.name!r} has no round to end")
        if operation.is_success and job.phase != "idle":
            job.rounds_done += 1
            self._scheduler.end_round(job.name)
        self._close_round(job)
        job.phase = "idle"
        return Done(job.name, job.round)

    def _finish(self, caller: Caller, operation: Finish) -> Done:
        job = self._job(caller, operation.job)
        self._close_round(job)
        self._scheduler.finish(job.name)
        job.phase = "cancelled" if operation.is_cancelled else "finished"
        self._over[job.name] = self._jobs.pop(job.name)
        if len(self._over) > KEPT_JOBS:
            self._over.popitem(last=False)
        return Done(job.name, job.round)

    def _check_in(self, caller: Caller, check_in: CheckIn) -> Assignment | None:
        held = self._held.get(check_in.device)
        if held is not None:
            return held
        self._check_ins += 1
        name = self._scheduler.offer(Device(check_in.device, check_in.attributes))
        if name is None:
            return None
        job = self._jobs[name]
        self._given += 1
        found = Assignment(self._given, name, job.round, check_in.device)
        self._held[check_in.device] = self._assignments[found.assignment] = found
        self._gateways[found.assignment] = caller.name
        job.active.add(found.assignment)
        job.wanted -= 1
        if not job.wanted:
            self._end_selection(job)
        return found

    def _record(self, caller: Caller, result: Result) -> bool:
        found = self._assignments.get(result.assignment)
        if found is None:
            return False
        job = self._jobs[found.job]
        names = (job.owner, self._gateways[found.assignment])
        if caller.name not in names and not caller.is_operator:
            return False
        self._release(job, found)
        if result.is_success:
            job.succeeded += 1
        else:
            job.failed += 1
            self._replace_one(job)
        if job.phase == "reporting" and not job.active:
            self._set_over(job)
        return True

    def _replace_one(self, job: _Job) -> None:
        """Ask for a device in place of a lost one, as long as devices are selected."""
        if job.phase == "selecting" and job.request is not None:
            job.wanted += 1
            self._scheduler.submit(DeviceRequest(job.name, job.wanted, job.request.minimum))

    def _end_selection(self, job: _Job) -> None:
        """Go on with the devices that there are; their time begins."""
        if job.phase != "selecting" or job.request is None:
            return
        self._scheduler.withdraw(job.name)
        job.wanted = 0
        job.phase = "reporting"
        self._set_due(job, job.request.deadline_seconds)
        if not job.active:
            self._set_over(job)

    def _close_round(self, job: _Job) -> None:
        """Free a round's devices, and ask for no more."""
        self._scheduler.withdraw(job.name)
        job.wanted = 0
        self._free_devices(job)
        self._set_over(job)

    def _free_devices(self, job: _Job) -> None:
        job.expired += len(job.active)
        for number in sorted(job.active):
            self._release(job, self._assignments[number])

    def _release(self, job: _Job, found: Assignment) -> None:
        job.active.discard(found.assignment)
        del self._held[found.device]
        del self._assignments[found.assignment]
        del self._gateways[found.assignment]

    def _set_due(self, job: _Job, seconds: float) -> None:
        job.due = self._clock.time + seconds
        heapq.heappush(self._due, (job.due, job.name, job.round))

    def _set_over(self, job: _Job) -> None:
        job.due = None
        job.phase = "over"

    def _end_what_is_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, name, number = heapq.heappop(self._due)
            job = self._jobs.get(name)
            if job is None or job.round != number or job.due != due:
                continue  # it ended before
            if job.phase == "selecting":
                self._end_selection(job)
            else:
                self._close_round(job)

    def _job(self, caller: Caller, name: str) -> _Job:
        job = self._jobs.get(name)
        if job is None:
            raise UnknownError(f"no job {name!r} is registered")
        _check_is_theirs(caller, job)
        return job

    def _explain_jobs(self, caller: Caller, name: str | None) -> Status:
        jobs = [*self._over.values(), *self._jobs.values()]
        if name is None:
            jobs = [job for job in jobs if caller.is_operator or job.owner == caller.name]
        else:
            jobs = [job for job in jobs if job.name == name]
            if not jobs:
                raise UnknownError(f"no job {name!r} is registered")
            _check_is_theirs(caller, jobs[0])
        return Status(
            [self._status_of(job) for job in jobs],
            self._policy.name,
            self._check_ins,
            self._given,
            self.num_active,
        )

    def _status_of(self, job: _Job) -> JobStatus:
        if job.phase == "selecting":
            why = self._scheduler.why_waiting(job.name)
        elif job.phase == "reporting":
            why = f"{job.name!r} waits for {len(job.active)} devices to report"
        else:
            why = f"{job.name!r} waits for nothing"
        return JobStatus(
            job=job.name,
            owner=job.owner,
            phase=job.phase,
            num_rounds=job.num_rounds,
            rounds_done=job.rounds_done,
            round=job.round,
            count=0 if job.request is None else job.request.count,
            wanted=job.wanted,
            minimum={} if job.request is None else job.request.minimum,
            active=len(job.active),
            succeeded=job.succeeded,
            failed=job.failed,
            expired=job.expired,
            due_in_seconds=None if job.due is None else job.due - self._clock.time,
            why=why,
        )

    def _why_device(self, check_in: CheckIn) -> str:
        held = self._held.get(check_in.device)
        if held is not None:
            return f"{check_in.device} works for {held.job!r}, in round {held.round}"
        return self._scheduler.why_device(Device(check_in.device, check_in.attributes))


def _check_is_theirs(caller: Caller, job: _Job) -> None:
    if job.owner != caller.name and not caller.is_operator:
        raise ForbiddenError(f"job {job.name!r} is another's")
