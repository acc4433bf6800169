"""The scheduler of live devices under interleavings of all that may happen, beside a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES, Matching, Policy
from hocket.fl.venn.requests import Phase, RoundRequest
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.supply import SupplyWindow

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, math.nan, -1.5])
ATTRIBUTES = st.dictionaries(st.sampled_from(["memory", "compute", "seconds"]), NUMBERS)
TIMES = st.sampled_from([5.0, 40.0, math.inf])


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


@dataclass
class ModelJob:
    """What a job's round must be, kept with no thought of speed."""

    request: RoundRequest | None = None
    phase: Phase = Phase.IDLE
    due: float = math.inf
    wanted: int = 0
    working: set[str] = field(default_factory=set)
    answered: int = 0

    @property
    def needed(self) -> float:
        return self.request.count * self.request.quorum if self.request else math.inf

    def end_selection(self, now: float) -> None:
        self.wanted = 0
        is_complete = self.answered >= self.needed
        self.phase = Phase.COMPLETE if is_complete else Phase.REPORTING
        self.due = math.inf if is_complete else now + self.request.deadline_seconds

    def end(self, phase: Phase) -> None:
        self.phase, self.wanted, self.due = phase, 0, math.inf
        self.working = set()


class Interleavings(RuleBasedStateMachine):
    """Check-ins, requests, answers, losses, cancellations, ends of rounds and jobs, and time."""

    policy: Policy = POLICIES["venn"]

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.scheduler = VennScheduler(
            self.policy, clock=self.clock, supply=SupplyWindow(max_checkins=5)
        )
        self.jobs: dict[str, ModelJob] = {}
        self.num_devices = self.num_given = 0

    names = st.sampled_from(["a", "b", "c", "d"])

    @rule(
        name=names,
        count=st.integers(1, 4),
        minimum=ATTRIBUTES,
        times=st.tuples(TIMES, TIMES),
        quorum=st.sampled_from([0.5, 0.8, 1.0]),
    )
    def request(
        self,
        name: str,
        count: int,
        minimum: dict[str, float],
        times: tuple[float, float],
        quorum: float,
    ) -> None:
        request = RoundRequest(name, count, minimum, *times, quorum)
        self.scheduler.submit(request)
        self.jobs[name] = ModelJob(
            request, Phase.SELECTING, self.clock.time + request.selection_seconds, count
        )

    @rule(name=names, num_rounds=st.sampled_from([None, 1, 9]))
    def register(self, name: str, num_rounds: int | None) -> None:
        self.scheduler.register(name, num_rounds=num_rounds)
        self.jobs.setdefault(name, ModelJob())

    @rule(name=names)
    def cancel(self, name: str) -> None:
        self.scheduler.withdraw(name)
        job = self.jobs.get(name)
        if job is not None and job.phase is Phase.SELECTING:
            job.end_selection(self.clock.time)

    @rule(name=names)
    def end_round(self, name: str) -> None:
        self.scheduler.end_round(name)
        if name in self.jobs:
            self.jobs[name].end(Phase.IDLE)

    @rule(name=names)
    def finish(self, name: str) -> None:
        self.scheduler.finish(name)
        self.jobs.pop(name, None)

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0, 1e5]))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds
        for job in self.jobs.values():
            if job.due > self.clock.time:
                continue
            enough = job.answered + len(job.working) >= job.needed
            if job.phase is Phase.SELECTING and enough:
                job.end_selection(job.due)
            if job.due <= self.clock.time:
                job.end(Phase.FAILED)

    @rule(attributes=ATTRIBUTES, asks_why=st.booleans())
    def check_in(self, attributes: dict[str, float], asks_why: bool) -> None:
        self.num_devices += 1
        device = Device(f"d{self.num_devices}", attributes)
        expected = self.scheduler.why_device(device) if asks_why else None
        name = self.scheduler.offer(device)
        able = [each for each, job in self.jobs.items() if job.wanted and self._may(job, device)]
        if name is None:
            # Only a policy that minds tiers of speed turns a device away that somebody may use.
            assert not able or self.policy.matching != Matching.ANY
            return
        assert name in able
        if expected is not None:
            assert expected.startswith(f"'{name}' gets")
        self.num_given += 1
        job = self.jobs[name]
        job.working.add(device.device_id)
        job.wanted -= 1
        if self.policy.matching == Matching.LOSSES:
            # A cohort may be enough before it is complete.
            progress = self.scheduler.progress(name)
            assert progress.wanted <= job.wanted
            assert progress.working + progress.answered >= job.needed or progress.wanted
            job.wanted = progress.wanted
        if not job.wanted:
            job.end_selection(self.clock.time)

    @precondition(lambda self: any(job.working for job in self.jobs.values()))
    @rule(data=st.data(), seconds=st.sampled_from([1.0, 100.0, None]))
    def respond(self, data: st.DataObject, seconds: float | None) -> None:
        name, device = self._draw_working(data)
        assert self.scheduler.respond(name, device, seconds=seconds)
        job = self.jobs[name]
        job.working.discard(device)
        job.answered += 1
        if job.phase is Phase.REPORTING and job.answered >= job.needed:
            job.phase, job.due = Phase.COMPLETE, math.inf

    @precondition(lambda self: any(job.working for job in self.jobs.values()))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        name, device = self._draw_working(data)
        self.scheduler.lose(name, device)
        job = self.jobs[name]
        job.working.discard(device)
        if job.phase is Phase.SELECTING:
            job.wanted += 1
        elif job.phase is Phase.REPORTING and job.answered + len(job.working) < job.needed:
            job.end(Phase.FAILED)

    @rule(name=names)
    def respond_from_nowhere(self, name: str) -> None:
        late = self.scheduler.usage.late
        assert not self.scheduler.respond(name, "nobody")
        assert self.scheduler.usage.late == late + 1

    @invariant()
    def rounds_stand_as_they_must(self) -> None:
        for name, job in self.jobs.items():
            found = self.scheduler.progress(name)
            assert (found.phase, found.wanted) == (job.phase, job.wanted)
            assert found.working == len(job.working)
            assert found.due_in_seconds == job.due - self.clock.time
            text = self.scheduler.why_waiting(name)
            expected = f"wants {job.wanted} of" if job.wanted else "waits for nothing"
            assert expected in text

    @invariant()
    def every_device_is_accounted_for(self) -> None:
        usage = self.scheduler.usage
        assert usage.given == self.num_given
        working = [device for job in self.jobs.values() for device in job.working]
        assert len(working) == len(set(working)), "a device works for one job"
        assert usage.answered + usage.lost + len(working) <= usage.given
        assert usage.wasted <= usage.answered

    @invariant()
    def who_is_not_known_is_asked_for_in_vain(self) -> None:
        for name in {"a", "b", "c", "d"} - self.jobs.keys():
            with pytest.raises(ConfigError, match="no job"):
                self.scheduler.progress(name)

    def _may(self, job: ModelJob, device: Device) -> bool:
        return job.request is not None and job.request.is_met_by(device)

    def _draw_working(self, data: st.DataObject) -> tuple[str, str]:
        pairs = [(n, each) for n, job in self.jobs.items() for each in sorted(job.working)]
        return data.draw(st.sampled_from(pairs))


class OfForesight(Interleavings):
    """The same for a policy that sizes cohorts by expected losses."""

    policy = POLICIES["foresight"]


class OfTiers(Interleavings):
    """The same for a policy that refuses tiers of speed."""

    policy = POLICIES["oort"]


SETTINGS = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = SETTINGS
TestInterleavingsOfForesight = OfForesight.TestCase
TestInterleavingsOfForesight.settings = SETTINGS
TestInterleavingsOfTiers = OfTiers.TestCase
TestInterleavingsOfTiers.settings = SETTINGS
