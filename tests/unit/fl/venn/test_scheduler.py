"""Live devices: eligibility, patience, explanations, and all interleavings of what may happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.eligibility import Eligibility, requirement_of
from hocket.fl.venn.policies import POLICIES, Order, Policy, Sharing
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.supply import SupplyWindow


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, float("inf"), float("nan"), -1.5])
ATTRIBUTES = st.dictionaries(st.sampled_from(["memory", "compute", "seconds"]), NUMBERS)


@given(st.lists(ATTRIBUTES, max_size=6), st.lists(ATTRIBUTES, min_size=1, max_size=12))
def test_types_are_exactly_the_requirements_that_devices_meet(minimums, devices) -> None:
    groups = dict.fromkeys(requirement_of(minimum) for minimum in minimums)
    eligibility = Eligibility(groups)
    for attributes in devices:
        atom = eligibility.atom_of(attributes)
        for group, requirement in enumerate(groups):
            is_met = DeviceRequest("j", 1, dict(requirement)).is_met_by(Device("d", attributes))
            assert eligibility.matrix[group, atom] == is_met
    assert len(set(eligibility.masks)) == len(eligibility.masks)


def test_supply_is_of_the_last_day_and_of_so_many_checkins() -> None:
    window = SupplyWindow(max_checkins=3, max_seconds=100.0)
    for time, atom in ((0.0, 0), (10.0, 1), (20.0, 1), (30.0, 0)):
        window.add(time, {}, atom)
    assert window.counts(3).tolist() == [1, 2, 0]
    window.add(115.0, {}, 2)
    assert window.counts(3).tolist() == [1, 1, 1]
    assert window.seconds == 95.0


@pytest.mark.parametrize("sharing", [Sharing.NONE, Sharing.INTERSECTIONS], ids=str)
@given(
    demands=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    needs_memory=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_no_request_starves(sharing: Sharing, demands: list[int], needs_memory: list[bool]) -> None:
    """Past its patience, a request waits for no more devices than it and older ones want."""
    clock = HandClock()
    policy = Policy("patient", Order.REQUEST, sharing, patience_seconds=100.0)
    scheduler = VennScheduler(policy, clock=clock)
    for number, demand in enumerate(demands):
        clock.time = float(number)
        minimum = {"memory": 1.0} if needs_memory[number] else {}
        scheduler.submit(DeviceRequest(f"j{number}", demand, minimum))
    clock.time = 500.0
    # Fresh small requests, which the order would have first, come all the time.
    for number in range(sum(demands)):
        scheduler.submit(DeviceRequest("fresh", 1))
        assert scheduler.offer(Device(f"d{number}", {"memory": 2.0})) != "fresh"
    scheduler.submit(DeviceRequest("fresh", 1))
    assert scheduler.offer(Device("last", {"memory": 2.0})) == "fresh"


def test_the_smallest_total_needs_to_know_the_rounds() -> None:
    scheduler = VennScheduler(POLICIES["total"])
    scheduler.register("long", num_rounds=100)
    scheduler.register("short", num_rounds=2)
    scheduler.submit(DeviceRequest("long", 1))
    scheduler.submit(DeviceRequest("short", 5))
    assert scheduler.offer(Device("d")) == "short"


def test_a_job_without_its_share_comes_first_in_time() -> None:
    clock = HandClock()
    policy = replace(POLICIES["srsf"], fairness=4.0)
    scheduler = VennScheduler(policy, clock=clock)
    scheduler.register("large", num_rounds=10)
    clock.time = 1e6
    scheduler.register("small", num_rounds=10)
    scheduler.submit(DeviceRequest("large", 20))
    scheduler.submit(DeviceRequest("small", 10))
    assert scheduler.offer(Device("d1")) == "large"


def test_it_says_why() -> None:
    scheduler = VennScheduler()
    scheduler.submit(DeviceRequest("general", 5))
    scheduler.submit(DeviceRequest("memory", 5, {"memory": 4.0}))
    for number in range(10):
        scheduler.offer(Device(f"d{number}", {"memory": 4.0 if number % 2 else 1.0}))
        scheduler.submit(DeviceRequest("general", 5))
        scheduler.submit(DeviceRequest("memory", 5, {"memory": 4.0}))
    large, small = Device("large", {"memory": 8.0}), Device("small")
    assert scheduler.why_device(large) == (
        "'memory' gets large: devices of its type go to the job's group, where the job is the "
        "first; general may use it, too"
    )
    assert scheduler.why_device(small).startswith("'general' gets small")
    assert scheduler.why_waiting("general") == (
        "'general' wants 5 of 5 devices; of the last 10 check-ins it may use 10, its group is "
        "given 5, and it is next for 5; before it: memory"
    )
    scheduler.withdraw("general")
    assert scheduler.why_device(small) == "nobody gets small: no waiting job may use it"
    assert scheduler.why_waiting("general") == "'general' waits for nothing"
    with pytest.raises(ConfigError, match="no job 'x'; there are general, memory"):
        scheduler.why_waiting("x")
    assert scheduler.offer(large) == "memory", "to ask why changes nothing"


def test_what_only_the_simulator_can_is_refused() -> None:
    for name in ("foresight", "venn-tiers", "published"):
        with pytest.raises(ConfigError, match="for the simulator"):
            VennScheduler(POLICIES[name])
    with pytest.raises(ConfigError, match="1 or more rounds"):
        VennScheduler().register("job", num_rounds=0)


class Interleavings(RuleBasedStateMachine):
    """Check-ins, requests, cancellations, ends of rounds and of jobs, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        policy = Policy("p", Order.REQUEST, Sharing.INTERSECTIONS, patience_seconds=50.0)
        self.scheduler = VennScheduler(
            policy, clock=self.clock, window=SupplyWindow(max_checkins=5)
        )
        self.wanted: dict[str, int] = {}
        self.requests: dict[str, DeviceRequest] = {}

    jobs = st.sampled_from(["a", "b", "c", "d"])

    @rule(job=jobs, count=st.integers(1, 4), minimum=ATTRIBUTES)
    def request(self, job: str, count: int, minimum: dict[str, float]) -> None:
        self.requests[job] = DeviceRequest(job, count, minimum)
        self.wanted[job] = count
        self.scheduler.submit(self.requests[job])

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.scheduler.withdraw(job)
        self.wanted.pop(job, None)

    @rule(job=jobs)
    def end_round(self, job: str) -> None:
        self.scheduler.end_round(job)
        self.wanted.pop(job, None)

    @rule(job=jobs)
    def finish(self, job: str) -> None:
        self.scheduler.finish(job)
        self.wanted.pop(job, None)
        self.requests.pop(job, None)

    @rule(seconds=st.sampled_from([1.0, 30.0, 1e5]))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds

    @rule(attributes=ATTRIBUTES, asks_why=st.booleans())
    def check_in(self, attributes: dict[str, float], asks_why: bool) -> None:
        device = Device("d", attributes)
        expected = self.scheduler.why_device(device) if asks_why else None
        job = self.scheduler.offer(device)
        able = [each for each in self.wanted if self.requests[each].is_met_by(device)]
        assert job in (able or [None])
        if expected is not None and job is not None:
            assert expected.startswith(f"'{job}' gets")
        if job is not None:
            self.wanted[job] -= 1
            if not self.wanted[job]:
                del self.wanted[job]

    @invariant()
    def waiting_jobs_can_be_explained(self) -> None:
        for job in self.requests:
            text = self.scheduler.why_waiting(job)
            expected = f"wants {self.wanted[job]} of" if job in self.wanted else "waits for nothing"
            assert expected in text


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
