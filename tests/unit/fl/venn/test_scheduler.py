"""Live devices: eligibility, patience, explanations, and all interleavings of what may happen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.admission import AdmissionError
from hocket.fl.venn.eligibility import Eligibility, requirement_of
from hocket.fl.venn.policies import POLICIES, Order, Policy, Sharing
from hocket.fl.venn.requests import Phase, Progress, RoundRequest, Usage
from hocket.fl.venn.scheduler import PASSED_A_TIER, VennScheduler


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
    with pytest.raises(ConfigError, match="for the simulator"):
        VennScheduler(POLICIES["published"])
    with pytest.raises(ConfigError, match="1 or more rounds"):
        VennScheduler().register("job", num_rounds=0)


def test_a_round_ends_by_itself() -> None:
    clock = HandClock()
    scheduler = VennScheduler(clock=clock)
    request = RoundRequest("job", 4, selection_seconds=10.0, deadline_seconds=20.0, quorum=0.5)
    scheduler.submit(request)
    scheduler.offer(Device("a"))
    scheduler.offer(Device("b"))
    assert scheduler.progress("job") == Progress(Phase.SELECTING, 2, 2, 0, 0, 10.0)
    clock.time = 10.0
    assert scheduler.progress("job") == Progress(Phase.REPORTING, 0, 2, 0, 0, 20.0)
    assert scheduler.offer(Device("c")) is None, "the selection is over"
    assert scheduler.respond("job", "a")
    assert not scheduler.respond("job", "a"), "it has reported already"
    assert scheduler.respond("job", "b")
    assert scheduler.progress("job").phase is Phase.COMPLETE
    clock.time = 100.0
    assert scheduler.progress("job").phase is Phase.COMPLETE, "a deadline of no more meaning"
    scheduler.end_round("job")
    assert scheduler.progress("job").phase is Phase.IDLE
    assert scheduler.usage == Usage(given=2, answered=2, late=1)


def test_a_round_fails_for_want_of_devices_or_reports() -> None:
    clock = HandClock()
    scheduler = VennScheduler(clock=clock)
    request = RoundRequest("job", 4, selection_seconds=10.0, deadline_seconds=20.0, quorum=0.5)
    scheduler.submit(request)
    scheduler.offer(Device("a"))
    clock.time = 11.0
    assert scheduler.progress("job").phase is Phase.FAILED
    assert scheduler.why_waiting("job").endswith("too few devices came or reported")
    assert scheduler.usage == Usage(given=1, lost=1)
    scheduler.submit(request)
    for name in "abcd":
        assert scheduler.offer(Device(name)) == "job"
    scheduler.respond("job", "a")
    clock.time = 40.0
    assert scheduler.progress("job").phase is Phase.FAILED, "three are overdue"
    assert not scheduler.respond("job", "b")
    assert scheduler.usage == Usage(given=5, answered=1, lost=4, wasted=1, late=1)
    assert scheduler.usage.waste == pytest.approx(6 / 5), "an overdue answer is lost, and late"


def test_lost_devices_are_replaced_while_there_is_time() -> None:
    scheduler = VennScheduler(clock=HandClock())
    scheduler.submit(RoundRequest("job", 2, quorum=0.5))
    scheduler.offer(Device("a"))
    scheduler.lose("job", "a")
    scheduler.lose("job", "a")
    assert scheduler.progress("job").wanted == 2
    assert [scheduler.offer(Device(name)) for name in "bcd"] == ["job", "job", None]
    scheduler.lose("job", "b")
    assert scheduler.progress("job").phase is Phase.REPORTING, "one may still answer"
    scheduler.lose("job", "c")
    assert scheduler.progress("job").phase is Phase.FAILED


def test_requests_that_no_supply_can_meet_are_refused_with_what_would_do() -> None:
    clock = HandClock()
    scheduler = VennScheduler(clock=clock)
    want_much = RoundRequest("job", 200, {"memory": 4.0, "speed": 1.0}, selection_seconds=100.0)
    scheduler.submit(want_much)
    scheduler.withdraw("job")
    # One device a second, and one in ten with the memory.
    for number in range(1001):
        clock.time = float(number)
        scheduler.offer(Device(f"d{number}", {"memory": 8.0 * (number % 10 == 0), "speed": 2.0}))
    before = scheduler.progress("job")
    with pytest.raises(AdmissionError) as refusal:
        scheduler.submit(want_much)
    assert str(refusal.value) == (
        "job 'job': 200 devices with memory of 4, speed of 1 or more within 100 s, of which 200 "
        "must come, cannot be had: 10.1 such are expected in that time; ask for 20 or fewer or "
        "wait up to 1,600 s or ask for less memory than 4 (without it, 100 come)"
    )
    assert scheduler.progress("job") == before
    scheduler.submit(replace(want_much, count=20))
    scheduler.submit(replace(want_much, selection_seconds=1600.0))
    scheduler.submit(replace(want_much, minimum={"speed": 1.0}))
    scheduler.submit(DeviceRequest("patient", 10**6, {"memory": 4.0}))


@pytest.mark.parametrize("name", ["oort", "foresight", "venn-tiers"])
def test_tiers_are_learnt_from_how_long_devices_take(name: str) -> None:
    """Half of the devices answer in 10 s, half in 1000 s or not at all."""
    clock = HandClock()
    scheduler = VennScheduler(POLICIES[name], clock=clock, seed=1)
    given = {"quick": 0, "slow": 0}
    for number in range(300):
        scheduler.submit(RoundRequest("job", 8, quorum=0.75))
        turn = number % 40
        offered = [f"{kind}{turn}-{n}" for n in range(10) for kind in given]
        got = [device for device in offered if scheduler.offer(Device(device)) == "job"]
        for device in got:
            kind = "quick" if device.startswith("quick") else "slow"
            given[kind] += number >= 200
            if kind == "quick":
                scheduler.respond("job", device, seconds=10.0)
            elif number % 2:
                scheduler.respond("job", device, seconds=1000.0)
            else:
                scheduler.lose("job", device)
        clock.time += 1200.0
        scheduler.end_round("job")
    if name == "oort":
        assert given["quick"] > 3 * given["slow"], "all tiers in one round of ten only"
    elif name == "foresight":
        assert given["quick"] > given["slow"], "slow ones as far as a cohort can bear it"
    assert sum(given.values()) > 500


@pytest.mark.parametrize("name", ["oort", "foresight", "venn-tiers"])
@given(
    fates=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([1.0, 10.0, 1000.0, None])),
        min_size=55,
        max_size=90,
    ),
    demand=st.integers(1, 6),
    quorum=st.sampled_from([0.5, 0.8, 1.0]),
    seed=st.integers(0, 50),
)
def test_no_round_waits_for_a_tier_that_nobody_is_of(
    name: str, fates: list[tuple[int, float | None]], demand: int, quorum: float, seed: int
) -> None:
    """Whatever is known of six devices, a round gets its own from those that come."""
    clock = HandClock()
    scheduler = VennScheduler(POLICIES[name], clock=clock, seed=seed)
    scheduler.submit(RoundRequest("job", 10**6))
    for number, seconds in fates:
        if scheduler.offer(Device(f"d{number}")) is None:
            continue
        if seconds is None:
            scheduler.lose("job", f"d{number}")
        else:
            scheduler.respond("job", f"d{number}", seconds=seconds)
    scheduler.end_round("job")
    scheduler.submit(RoundRequest("job", demand, quorum=quorum))
    most = PASSED_A_TIER * POLICIES[name].num_tiers
    num_offers = 0
    while scheduler.progress("job").phase is Phase.SELECTING:
        num_offers += 1
        assert num_offers <= most * demand
        clock.time += 60.0
        scheduler.offer(Device(f"d{num_offers % 6}"))


def test_a_policy_that_refuses_a_tier_says_so() -> None:
    clock = HandClock()
    scheduler = VennScheduler(POLICIES["oort"], clock=clock, seed=3)
    scheduler.submit(DeviceRequest("job", 200))
    for number in range(100):
        assert scheduler.offer(Device(f"d{number}")) == "job"
        scheduler.respond("job", f"d{number}", seconds=10.0 if number % 2 else 1000.0)
    slow, quick = Device("d0"), Device("d1")
    assert scheduler.offer(slow) is None
    expected = "nobody gets d0: job may use it, but not its tier of speed"
    assert scheduler.why_device(slow).startswith(expected)
    assert scheduler.offer(quick) == "job"


@pytest.mark.parametrize("field", ["selection_seconds", "deadline_seconds", "quorum"])
def test_requests_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        RoundRequest("job", 1, **{field: 0.0})


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[4] / "docs" / "venn.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["job"] == "vision"
