"""The loop of fleets with jobs that train nothing: who holds which device, from when to when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toy_fleet import ToyJob, make_loop

from hocket.fl.core.errors import FederationError
from hocket.fl.core.types import Device
from hocket.fleet.history import History, Outcome
from hocket.fleet.population import DeviceSession


def toy_jobs(quorum: float = 1.0) -> list[tuple[float, ToyJob]]:
    return [
        (0.0, ToyJob("wide", 3, 4, quorum=quorum, least_memory=1.0)),
        (50.0, ToyJob("small", 4, 2, 5.0, deadline_seconds=40.0, quorum=quorum)),
        (90.0, ToyJob("slow", 2, 3, 30.0, selection_seconds=500.0, quorum=quorum)),
    ]


def run_toys(policy: str, seed: int, failure_rate: float, quorum: float) -> History:
    jobs = toy_jobs(quorum)
    return make_loop(jobs, policy=policy, seed=seed, failure_rate=failure_rate).run()


POLICIES = ("random", "fifo", "venn", "venn-tiers", "foresight", "oort")


@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 1000),
    failure_rate=st.sampled_from([0.0, 0.1, 0.3]),
    quorum=st.sampled_from([0.6, 1.0]),
)
def test_no_device_has_two_jobs_and_no_time_is_lost(
    policy: str, seed: int, failure_rate: float, quorum: float
) -> None:
    history = run_toys(policy, seed, failure_rate, quorum)
    by_device: dict[str, list[tuple[float, float]]] = {}
    for each in history.segments:
        assert each.began <= each.ended
        by_device.setdefault(each.device, []).append((each.began, each.ended))
        is_even = int(each.device[-2:]) % 2 == 0
        assert not (each.job == "wide" and is_even)  # it lacks the memory
    for times in by_device.values():
        assert all(first[1] <= second[0] for first, second in pairwise(sorted(times)))
    for name, arrival in history.arrivals.items():
        mine = sorted((each for each in history.rounds if each.job == name), key=lambda r: r.round)
        assert [each.round for each in mine] == list(range(1, len(mine) + 1))
        assert all(each.asked <= each.begun <= each.filled <= each.ended for each in mine)
        # Waiting, attempts in vain among it, and responding make up all of a job's time.
        assert mine[0].asked == arrival
        assert all(first.ended == second.asked for first, second in pairwise(mine))
        assert mine[-1].ended == history.completions[name]


@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 1000))
def test_the_same_seed_gives_the_same_history(policy: str, seed: int) -> None:
    assert run_toys(policy, seed, 0.2, 0.6) == run_toys(policy, seed, 0.2, 0.6)


@given(seed=st.integers(0, 1000), quorum=st.sampled_from([0.6, 1.0]))
def test_a_job_hears_of_those_that_answered_and_of_no_others(seed: int, quorum: float) -> None:
    jobs = toy_jobs(quorum)
    history = make_loop(jobs, seed=seed, failure_rate=0.1).run()
    for _, job in jobs:
        assert len(job.rounds) == job.num_rounds
        times = {each.round: each for each in history.rounds if each.job == job.name}
        for number, (devices, arrivals) in enumerate(job.rounds, start=1):
            answered = {
                each.device: each.ended - times[number].begun
                for each in history.segments
                if (each.job, each.round, each.attempt)
                == (job.name, number, times[number].attempts)
                and each.outcome is Outcome.ANSWERED
            }
            assert arrivals == answered
            assert set(arrivals) <= set(devices)
            assert len(arrivals) >= quorum * job.devices


def sessions_of(*spans: tuple[int, float, float]):
    """Yield sessions of devices, and then one more of nobody's interest for ever."""
    for number, start, end in spans:
        yield DeviceSession(Device(f"device-{number:02d}", {"memory_bytes": 1.0}), start, end)
    start = max(start for _, start, _ in spans)
    while True:
        start += 86400.0
        yield DeviceSession(Device("device-99", {"memory_bytes": -1.0}), start, start + 1.0)


def test_a_device_that_leaves_while_others_are_waited_for_is_replaced() -> None:
    job = ToyJob("job", 1, 2, 100.0)
    spans = sessions_of((0, 0.0, 51.5), (3, 55.0, 500.0), (6, 60.0, 500.0))
    history = make_loop([(0.0, job)], sessions=spans).run()
    assert job.rounds == [(("device-03", "device-06"), {"device-03": 158.0, "device-06": 163.0})]
    lost, *others = history.segments
    assert (lost.outcome, lost.began, lost.ended) == (Outcome.LEFT, 0.0, 51.5)
    assert lost.joules == pytest.approx(1.5)  # half of its task
    assert (lost.download_bytes, lost.upload_bytes) == (50, 0)
    assert [each.began for each in others] == [55.0, 60.0]
    assert [(each.joules, each.upload_bytes) for each in others] == [(3.0, 200), (3.0, 200)]
    assert history.completions == {"job": 163.0}
    assert history.rounds[0].attempts == 1


def test_a_round_whose_devices_leave_is_tried_again() -> None:
    job = ToyJob("job", 1, 1, 100.0)
    spans = sessions_of((0, 0.0, 51.5), (3, 60.0, 500.0))
    history = make_loop([(0.0, job)], sessions=spans).run()
    (times,) = history.rounds
    assert (times.attempts, times.asked, times.begun) == (2, 0.0, 51.5)
    assert (times.filled, times.ended) == (60.0, 163.0)
    assert job.rounds == [(("device-03",), {"device-03": 111.5})]


def test_a_round_waits_for_all_its_devices_even_if_a_quorum_has_answered() -> None:
    job = ToyJob("job", 1, 2, 10.0, quorum=0.5)
    spans = sessions_of((0, 0.0, 500.0), (3, 100.0, 500.0))
    make_loop([(0.0, job)], sessions=spans).run()
    assert job.rounds == [(("device-00", "device-03"), {"device-00": 13.0})]


def test_who_answers_after_the_quorum_is_late() -> None:
    job = ToyJob("job", 1, 2, 10.0, quorum=0.5)
    spans = sessions_of((0, 0.0, 500.0), (2, 5.0, 500.0))  # the latter takes three times as long
    history = make_loop([(0.0, job)], sessions=spans).run()
    assert job.rounds == [(("device-00", "device-02"), {"device-00": 13.0})]
    assert [(each.device, each.outcome, each.ended) for each in history.segments] == [
        ("device-00", Outcome.ANSWERED, 13.0),
        ("device-02", Outcome.LATE, 38.0),
    ]
    assert history.completions == {"job": 13.0}


def test_answers_at_the_same_moment_count_alike() -> None:
    job = ToyJob("job", 1, 2, 10.0, quorum=0.5)
    spans = sessions_of((0, 5.0, 500.0), (3, 5.0, 500.0))
    make_loop([(0.0, job)], sessions=spans).run()
    assert job.rounds[0][1] == {"device-00": 18.0, "device-03": 18.0}


def test_a_deadline_fails_a_round() -> None:
    job = ToyJob("job", 1, 1, 10.0, deadline_seconds=20.0)
    spans = sessions_of((2, 0.0, 500.0), (0, 30.0, 500.0))
    history = make_loop([(0.0, job)], sessions=spans).run()
    assert [(each.device, each.outcome) for each in history.segments] == [
        ("device-02", Outcome.LATE),
        ("device-00", Outcome.ANSWERED),
    ]
    assert history.rounds[0].attempts == 2


def test_a_device_at_work_is_not_given_away_when_it_checks_in_again() -> None:
    job, other = ToyJob("job", 1, 1, 100.0), ToyJob("other", 1, 1, 10.0)
    spans = sessions_of((0, 0.0, 500.0), (0, 10.0, 500.0), (3, 20.0, 500.0))
    history = make_loop([(0.0, job), (0.0, other)], policy="fifo", sessions=spans).run()
    assert [each.device for each in history.segments] == ["device-03", "device-00"]


def test_a_device_answers_once_in_a_round() -> None:
    job = ToyJob("job", 2, 2, 10.0)
    spans = sessions_of(
        (0, 0.0, 90.0), (0, 100.0, 190.0), (3, 200.0, 290.0), (0, 300.0, 390.0), (6, 400.0, 490.0)
    )
    make_loop([(0.0, job)], sessions=spans).run()
    assert [devices for devices, _ in job.rounds] == [
        ("device-00", "device-03"),
        ("device-00", "device-06"),
    ]


def test_a_job_that_gets_no_devices_is_an_error_that_says_so() -> None:
    job = ToyJob("job", 1, 3)
    with pytest.raises(FederationError, match="'job' wants 3 of 3 devices"):
        make_loop([(0.0, job)], sessions=sessions_of((0, 0.0, 5.0))).run()
