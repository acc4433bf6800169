"""Whatever is asked, in any order, over any number of crashes: nothing admitted is lost, no device
is in two places, and no restart changes a decision.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.venn_service import HandClock, ServiceHere

from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.requests import RoundRequest
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.service.journal import Journal
from hocket.fl.venn.service.manager import Caller
from hocket.fl.venn.service.operations import AskDevices, CheckIn, CheckIns, EndRound, Register

JOBS = st.sampled_from(["a", "b"])
DEVICES = st.sampled_from([f"d{number}" for number in range(4)])
ATTRIBUTES = st.fixed_dictionaries({}, optional={"memory": st.sampled_from([0.0, 1.0])})
CHECK_INS = st.lists(st.tuples(DEVICES, ATTRIBUTES), min_size=1, max_size=4)
SECONDS = st.sampled_from([5.0, 50.0])
NEVER = float("inf")


@dataclass
class Job:
    """What must be true of a job."""

    count: int = 0
    quorum: float = 1.0
    minimum: dict[str, float] = field(default_factory=dict)
    deadline_seconds: float = 0.0
    wanted: int = 0
    answered: int = 0
    phase: str = "idle"
    due: float = NEVER
    until: float = NEVER


class Interleavings(RuleBasedStateMachine):
    """Requests, check-ins, failures, cancellations, repeated questions, deadlines, crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = HandClock(1000.0)
        self.jobs: dict[str, Job] = {}
        self.held: dict[str, tuple[str, int]] = {}
        self.asked: list[tuple[str, dict[str, Any], str, int, Any]] = []
        self.numbers: set[int] = set()

    def start(self) -> None:
        self.service = ServiceHere(
            Path(self.folder.name) / "venn.db", clock=self.clock, snapshot_cost=10
        )
        self.http = self.service.http()

    def teardown(self) -> None:
        self.service.stop()
        self.folder.cleanup()

    def post(self, kind: str, **body: Any) -> httpx.Response:
        self.pass_time()
        key = f"k{len(self.asked)}"
        response = self.http.post(f"/v1/{kind}", json=body, headers={"Idempotency-Key": key})
        self.asked.append((kind, body, key, response.status_code, response.json()))
        return response

    def pass_time(self) -> None:
        """End what is due, as the service must."""
        for name, job in self.jobs.items():
            if job.phase == "selecting" and job.due <= self.clock.time:
                if self.can_reach_quorum(name, job):
                    self.end_selection(job, job.due)
                else:
                    self.fail(name, job)
            if job.due <= self.clock.time:
                self.fail(name, job)
            if job.until <= self.clock.time:
                self.free(name)

    def can_reach_quorum(self, name: str, job: Job) -> bool:
        at_work = sum(at == name for at, _ in self.held.values())
        return job.answered + at_work >= job.count * job.quorum

    def end_selection(self, job: Job, now: float) -> None:
        job.wanted, job.phase, job.due = 0, "reporting", now + job.deadline_seconds
        self.end_with_quorum(job)

    def end_with_quorum(self, job: Job) -> None:
        if job.phase == "reporting" and job.answered >= job.count * job.quorum:
            job.phase, job.due = "complete", NEVER

    def fail(self, name: str, job: Job) -> None:
        job.wanted, job.phase, job.due = 0, "failed", NEVER
        self.free(name)

    def free(self, name: str) -> None:
        self.held = {device: at for device, at in self.held.items() if at[0] != name}

    @initialize()
    def begin(self) -> None:
        """Begin a round, as most of what follows needs one."""
        self.start()
        self.register("a")
        self.ask_devices("a", 2, {}, 50.0, 50.0, 1.0)

    def register(self, job: str) -> None:
        assert self.post("register", job=job).status_code == 200
        self.jobs.setdefault(job, Job())

    @rule(
        job=JOBS,
        count=st.integers(1, 3),
        minimum=ATTRIBUTES,
        selection=SECONDS,
        deadline=SECONDS,
        quorum=st.sampled_from([0.5, 1.0]),
    )
    def ask_devices(
        self,
        job: str,
        count: int,
        minimum: dict[str, float],
        selection: float,
        deadline: float,
        quorum: float,
    ) -> None:
        self.register(job)
        response = self.post(
            "ask-devices",
            job=job,
            count=count,
            minimum=minimum,
            selection_seconds=selection,
            deadline_seconds=deadline,
            quorum=quorum,
        )
        assert response.status_code == 200
        self.free(job)
        found = self.jobs[job] = Job(count, quorum, minimum, deadline, count, phase="selecting")
        found.due = self.clock.time + selection
        found.until = found.due + deadline

    @rule(devices=CHECK_INS)
    def check_in_first(self, devices: list[tuple[str, dict[str, float]]]) -> None:
        """A rule of its own, so that devices come as often as all else together."""
        self.check_in(devices)

    @rule(devices=CHECK_INS)
    def check_in(self, devices: list[tuple[str, dict[str, float]]]) -> None:
        body = [{"device": name, "attributes": attributes} for name, attributes in devices]
        answers = self.post("check-ins", devices=body).json()["assignments"]
        for (device, attributes), answer in zip(devices, answers, strict=True):
            if device in self.held:
                job, number = self.held[device]
                assert (answer["job"], answer["assignment"]) == (job, number)
                continue
            waiting = [
                name
                for name, job in self.jobs.items()
                if job.wanted
                and all(attributes.get(key, -1.0) >= least for key, least in job.minimum.items())
            ]
            if answer is None:
                assert not waiting, "a device that somebody wants is not turned away"
                continue
            assert answer["job"] in waiting
            assert answer["assignment"] not in self.numbers
            self.numbers.add(answer["assignment"])
            self.held[device] = answer["job"], answer["assignment"]
            job = self.jobs[answer["job"]]
            job.wanted -= 1
            if not job.wanted:
                self.end_selection(job, self.clock.time)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), is_success=st.booleans())
    def report(self, data: st.DataObject, *, is_success: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.numbers)))
        result = {"assignment": number, "is_success": is_success}
        (is_recorded,) = self.post("results", results=[result]).json()["is_recorded"]
        devices = [device for device, (_, at) in self.held.items() if at == number]
        assert is_recorded == bool(devices)
        for device in devices:
            name, _ = self.held.pop(device)
            job = self.jobs[name]
            if is_success:
                job.answered += 1
                self.end_with_quorum(job)
            elif job.phase == "selecting":
                job.wanted += 1
            elif job.phase == "reporting" and not self.can_reach_quorum(name, job):
                self.fail(name, job)

    @rule(job=JOBS, kind=st.sampled_from(["withdraw", "end-round", "finish", "list-devices"]))
    def manage(self, job: str, kind: str) -> None:
        status = self.post(kind, job=job).status_code
        if job not in self.jobs:
            assert status == 404
            return
        found = self.jobs[job]
        if kind == "end-round" and found.phase == "idle":
            assert status == 409
            return
        assert status == 200
        if kind == "withdraw" and found.phase == "selecting":
            self.end_selection(found, self.clock.time)
        elif kind in {"end-round", "finish"}:
            self.free(job)
            self.jobs[job] = Job()
        if kind == "finish":
            del self.jobs[job]

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """The same question with the same key has the same answer, and does nothing."""
        kind, body, key, status, answer = data.draw(st.sampled_from(self.asked))
        response = self.http.post(f"/v1/{kind}", json=body, headers={"Idempotency-Key": key})
        assert (response.status_code, response.json()) == (status, answer)

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds

    @rule(is_killed=st.booleans())
    def restart(self, *, is_killed: bool) -> None:
        self.service.kill() if is_killed else self.service.stop()
        self.start()

    @invariant()
    def the_service_agrees(self) -> None:
        if not hasattr(self, "service"):
            return
        self.pass_time()
        status = self.http.post("/v1/explain-jobs", json={}).json()
        alive = {each["job"]: each for each in status["jobs"] if each["job"] in self.jobs}
        assert alive.keys() == self.jobs.keys(), "no admitted job is lost"
        for name, job in self.jobs.items():
            assert alive[name]["wanted"] == job.wanted
            assert alive[name]["phase"] == job.phase
            assert alive[name]["answered"] == job.answered
            answer = self.http.post("/v1/list-devices", json={"job": name}).json()
            found = answer["assignments"]
            active = {each["device"]: (each["job"], each["assignment"]) for each in found}
            assert active == {device: at for device, at in self.held.items() if at[0] == name}


Interleavings.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestInterleavings = Interleavings.TestCase


OPERATIONS = st.lists(
    st.one_of(
        st.builds(
            AskDevices,
            job=JOBS,
            count=st.integers(1, 4),
            minimum=ATTRIBUTES,
            deadline_seconds=SECONDS,
        ),
        st.builds(EndRound, job=JOBS),
        st.builds(
            lambda found: CheckIns(
                devices=tuple(CheckIn(device=name, attributes=each) for name, each in found)
            ),
            st.lists(st.tuples(DEVICES, ATTRIBUTES), min_size=1, max_size=6),
        ),
    ),
    max_size=40,
)
POLICY_NAMES = st.sampled_from(["venn", "random", "las", "foresight"])


@given(operations=OPERATIONS, policy=POLICY_NAMES, ends=st.sets(st.integers(0, 39), max_size=6))
@settings(max_examples=40, deadline=None)
def test_decisions_are_those_of_a_scheduler_that_never_stopped(
    operations: list[Any], policy: str, ends: set[int]
) -> None:
    """Beside a bare scheduler, which is offered every device that is free."""
    clock = HandClock()
    bare = VennScheduler(POLICIES[policy], clock=clock)
    me = Caller("me")
    with tempfile.TemporaryDirectory() as folder:

        def start() -> Journal:
            path = Path(folder) / "venn.db"
            return Journal(path, POLICIES[policy], is_synced=False, snapshot_cost=5)

        journal = start()
        for job in ("a", "b"):
            journal.perform(0.0, me, Register(job=job, num_rounds=5))
            bare.register(job, num_rounds=5)
        journal.commit()
        held: dict[str, str] = {}
        has_round: set[str] = set()
        for number, operation in enumerate(operations):
            clock.time = float(number)
            if isinstance(operation, CheckIns):
                given_to = _follow(bare, operation, held)
                answer = json.loads(journal.perform(clock.time, me, operation))
                assert [each and each["job"] for each in answer["assignments"]] == given_to
            elif isinstance(operation, AskDevices):
                patient = operation.model_copy(update={"deadline_seconds": 1e6})
                journal.perform(clock.time, me, patient)
                fields = patient.model_dump(exclude={"kind"})
                bare.submit(RoundRequest(**fields))
                held = {device: job for device, job in held.items() if job != operation.job}
                has_round.add(operation.job)
            elif operation.job in has_round:
                journal.perform(clock.time, me, operation)
                bare.end_round(operation.job)
                held = {device: job for device, job in held.items() if job != operation.job}
                has_round.discard(operation.job)
            journal.commit()
            if number in ends:
                journal.abandon()
                journal = start()
        journal.abandon()


def _follow(bare: VennScheduler, operation: CheckIns, held: dict[str, str]) -> list[str | None]:
    found: list[str | None] = []
    for each in operation.devices:
        if each.device not in held:
            job = bare.offer(Device(each.device, each.attributes))
            if job is not None:
                held[each.device] = job
        found.append(held.get(each.device))
    return found
