"""Jobs, rounds and devices: a machine whose answers follow from what it was asked, and when.

It reads no clock and touches no file, so what was asked, asked again in the same order with the
same times, has the same answers: the journal relies on it.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.service.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    UnknownError,
)
from hocket.fl.venn.requests import Phase, RoundRequest
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.service.answers import (
    Answer,
    Assignment,
    Assignments,
    Cohort,
    Done,
    Explanation,
    JobStatus,
    Recorded,
    Status,
)
from hocket.fl.venn.service.operations import (
    AskDevices,
    CheckIn,
    CheckIns,
    EndRound,
    ExplainDevice,
    ExplainJobs,
    Finish,
    ListDevices,
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


class _Held(NamedTuple):
    """A device at work, and the token that checked it in."""

    assignment: Assignment
    gateway: str


@dataclass
class _Job:
    name: str
    owner: str
    num_rounds: int | None = None
    rounds_done: int = 0
    round: int = 0
    count: int = 0
    minimum: dict[str, float] = field(default_factory=dict)
    until: float = math.inf
    at_work: dict[int, str] = field(default_factory=dict)


class _StillClock:
    """Stands at the time of the operation that is being done."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


class ResourceManager:
    """Who works for whom.

    The scheduler decides; the manager knows whose jobs are, and numbers assignments. A device works
    for one job at a time: until its result is in, its round is over, or its time is up. One that
    checks in before is told the same again.

    Args:
        policy: By which devices are shared.
        seed: Of what the policy draws.

    Raises:
        ConfigError: The policy is for the simulator alone.
    """

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self._policy = policy
        self._clock = _StillClock()
        self._scheduler = VennScheduler(policy, clock=self._clock, seed=seed)
        self._jobs: dict[str, _Job] = {}
        self._over: OrderedDict[str, JobStatus] = OrderedDict()
        self._held: dict[str, _Held] = {}
        self._devices: dict[int, str] = {}
        self._num_check_ins = 0

    @property
    def time(self) -> float:
        """Of the last operation."""
        return self._clock.time

    @property
    def next_due(self) -> float:
        """When a round ends or devices are free by themselves, at the earliest."""
        seconds = (self._scheduler.progress(name).due_in_seconds for name in self._jobs)
        ends = self._clock.time + min(seconds, default=math.inf)
        return min([ends, *(job.until for job in self._jobs.values() if job.at_work)])

    @property
    def num_check_ins(self) -> int:
        """Check-ins of devices that were not at work, since the database was made."""
        return self._num_check_ins

    @property
    def num_given(self) -> int:
        """Devices that got a job, since the database was made."""
        return self._scheduler.usage.given

    @property
    def num_at_work(self) -> int:
        """Devices that work for a job."""
        return len(self._held)

    @property
    def num_jobs(self) -> int:
        """Jobs that are not over."""
        return len(self._jobs)

    @property
    def num_wanted(self) -> int:
        """Devices that jobs wait for."""
        return sum(self._scheduler.progress(name).wanted for name in self._jobs)

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
        # Of any job: what is due ends for all. So nothing that only looks, later, ends anything.
        for name in itertools.islice(self._jobs, 1):
            self._scheduler.progress(name)
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
            case ListDevices():
                answer = self._list_devices(caller, operation)
            case ExplainJobs():
                answer = self._explain_jobs(caller, operation.job)
            case ExplainDevice():
                answer = Explanation(self._why_device(operation.device))
            case Tick():
                self._free_all_over()
                answer = Done("", 0)
        return answer

    def _register(self, caller: Caller, operation: Register) -> Done:
        job = self._jobs.get(operation.job)
        if job is None:
            if len(self._jobs) >= MAX_JOBS:
                raise ConflictError(f"there are {MAX_JOBS} jobs already; end some")
            job = self._jobs[operation.job] = _Job(operation.job, caller.name)
            self._over.pop(operation.job, None)
        _check_is_theirs(caller, job.name, job.owner)
        job.num_rounds = operation.num_rounds
        self._scheduler.register(job.name, num_rounds=job.num_rounds)
        return Done(job.name, job.round)

    def _ask_devices(self, caller: Caller, operation: AskDevices) -> Done:
        job = self._job(caller, operation.job)
        try:
            self._scheduler.submit(
                RoundRequest(
                    job.name,
                    operation.count,
                    operation.minimum,
                    selection_seconds=operation.selection_seconds,
                    deadline_seconds=operation.deadline_seconds,
                    quorum=operation.quorum,
                )
            )
        except ConfigError as error:
            raise InvalidError(str(error)) from error
        self._free(job)
        job.round += 1
        job.count, job.minimum = operation.count, operation.minimum
        job.until = self._clock.time + operation.selection_seconds + operation.deadline_seconds
        return Done(job.name, job.round)

    def _withdraw(self, caller: Caller, operation: Withdraw) -> Done:
        job = self._job(caller, operation.job)
        self._scheduler.withdraw(job.name)
        return Done(job.name, job.round)

    def _end_round(self, caller: Caller, operation: EndRound) -> Done:
        job = self._job(caller, operation.job)
        if self._scheduler.progress(job.name).phase is Phase.IDLE:
            raise ConflictError(f"job {job.name!r} has no round to end")
        job.rounds_done += 1
        self._scheduler.end_round(job.name)
        self._free(job)
        return Done(job.name, job.round)

    def _finish(self, caller: Caller, operation: Finish) -> Done:
        job = self._job(caller, operation.job)
        self._scheduler.finish(job.name)
        self._free(job)
        del self._jobs[job.name]
        phase = "cancelled" if operation.is_cancelled else "finished"
        self._over[job.name] = JobStatus(
            job.name, job.owner, phase, job.num_rounds, job.rounds_done, job.round
        )
        if len(self._over) > KEPT_JOBS:
            self._over.popitem(last=False)
        return Done(job.name, job.round)

    def _list_devices(self, caller: Caller, operation: ListDevices) -> Cohort:
        job = self._job(caller, operation.job)
        self._free_if_over(job)
        return Cohort([self._held[device].assignment for device in job.at_work.values()])

    def _check_in(self, caller: Caller, check_in: CheckIn) -> Assignment | None:
        held = self._at_work(check_in.device)
        if held is not None:
            return held.assignment
        self._num_check_ins += 1
        name = self._scheduler.offer(Device(check_in.device, check_in.attributes))
        if name is None:
            return None
        job = self._jobs[name]
        found = Assignment(self.num_given, name, job.round, check_in.device)
        self._held[check_in.device] = _Held(found, caller.name)
        self._devices[found.assignment] = job.at_work[found.assignment] = check_in.device
        return found

    def _record(self, caller: Caller, result: Result) -> bool:
        held = self._at_work(self._devices.get(result.assignment, ""))
        if held is None:
            return False
        job, device = self._jobs[held.assignment.job], held.assignment.device
        if caller.name not in (job.owner, held.gateway) and not caller.is_operator:
            return False
        del self._held[device], self._devices[result.assignment], job.at_work[result.assignment]
        if result.is_success:
            self._scheduler.respond(job.name, device, seconds=result.seconds)
        else:
            self._scheduler.lose(job.name, device)
        return True

    def _at_work(self, device: str) -> _Held | None:
        """Return what a device works for, unless that is over by now."""
        held = self._held.get(device)
        if held is not None:
            self._free_if_over(self._jobs[held.assignment.job])
        return held if device in self._held else None

    def _free(self, job: _Job) -> None:
        for number, device in job.at_work.items():
            del self._held[device], self._devices[number]
        job.at_work.clear()

    def _free_if_over(self, job: _Job) -> None:
        """Free the devices of a round that has failed, or that nobody has ended in its time."""
        if job.at_work and (
            self._clock.time >= job.until
            or self._scheduler.progress(job.name).phase is Phase.FAILED
        ):
            self._free(job)

    def _free_all_over(self) -> None:
        for job in self._jobs.values():
            self._free_if_over(job)

    def _job(self, caller: Caller, name: str) -> _Job:
        job = self._jobs.get(name)
        if job is None:
            raise UnknownError(f"no job {name!r} is registered")
        _check_is_theirs(caller, name, job.owner)
        return job

    def _explain_jobs(self, caller: Caller, name: str | None) -> Status:
        self._free_all_over()
        jobs = [*self._over.values(), *map(self._status_of, self._jobs.values())]
        if name is not None:
            jobs = [job for job in jobs if job.job == name]
            if not jobs:
                raise UnknownError(f"no job {name!r} is registered")
            _check_is_theirs(caller, name, jobs[0].owner)
        jobs = [job for job in jobs if caller.is_operator or job.owner == caller.name]
        usage = self._scheduler.usage
        return Status(
            jobs=jobs,
            policy=self._policy.name,
            check_ins=self._num_check_ins,
            given=usage.given,
            answered=usage.answered,
            lost=usage.lost,
            at_work=self.num_at_work,
            waste=usage.waste,
        )

    def _status_of(self, job: _Job) -> JobStatus:
        progress = self._scheduler.progress(job.name)
        why = self._scheduler.why_waiting(job.name)
        if progress.phase is Phase.REPORTING:
            why = f"{job.name!r} waits for {progress.working} devices to report"
        due = progress.due_in_seconds
        return JobStatus(
            job=job.name,
            owner=job.owner,
            phase=progress.phase.value,
            num_rounds=job.num_rounds,
            rounds_done=job.rounds_done,
            round=job.round,
            count=job.count,
            minimum=job.minimum,
            wanted=progress.wanted,
            at_work=len(job.at_work),
            answered=progress.answered,
            lost=progress.lost,
            due_in_seconds=None if math.isinf(due) else due,
            why=why,
        )

    def _why_device(self, check_in: CheckIn) -> str:
        held = self._at_work(check_in.device)
        if held is not None:
            found = held.assignment
            return f"{found.device} works for {found.job!r}, in round {found.round}"
        return self._scheduler.why_device(Device(check_in.device, check_in.attributes))


def _check_is_theirs(caller: Caller, name: str, owner: str) -> None:
    if owner != caller.name and not caller.is_operator:
        raise ForbiddenError(f"job {name!r} is another's")
