"""What every device scheduler must do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.venn_service import scheduler_by_service

from hocket.fl.core.devices import DeviceRequest, DeviceScheduler, FifoScheduler, RandomScheduler
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES, Sharing
from hocket.fl.venn.scheduler import VennScheduler

SCHEDULERS: dict[str, Callable[[], DeviceScheduler]] = {
    "fifo": FifoScheduler,
    "random": lambda: RandomScheduler(seed=3),
    **{
        f"venn-{name}": partial(VennScheduler, policy)
        for name, policy in POLICIES.items()
        if policy.sharing != Sharing.PUBLISHED
    },
    "venn-service": scheduler_by_service,
}
scheduler_of = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())

ATTRIBUTES = st.dictionaries(st.sampled_from(["memory_bytes", "score"]), st.integers(0, 4))
DEVICES = st.lists(ATTRIBUTES, max_size=25).map(
    lambda found: [Device(f"d{number}", each) for number, each in enumerate(found)]
)
REQUESTS = st.lists(st.tuples(st.integers(1, 6), ATTRIBUTES), min_size=1, max_size=5).map(
    lambda found: [DeviceRequest(f"j{n}", count, least) for n, (count, least) in enumerate(found)]
)


@scheduler_of
@given(requests=REQUESTS, devices=DEVICES)
def test_no_job_gets_what_it_did_not_ask_for(
    make: Callable[[], DeviceScheduler], requests: list[DeviceRequest], devices: list[Device]
) -> None:
    scheduler = make()
    wanted = {request.job: request for request in requests}
    for request in requests:
        scheduler.submit(request)
    given_to: Counter[str] = Counter()
    for device in devices:
        job = scheduler.offer(device)
        open_jobs = [
            each.job
            for each in requests
            if given_to[each.job] < each.count and each.is_met_by(device)
        ]
        if job is None:
            assert not open_jobs, "a device that someone wants is not turned away"
            continue
        assert job in open_jobs
        assert wanted[job].is_met_by(device)
        given_to[job] += 1


@scheduler_of
@given(requests=REQUESTS, devices=DEVICES)
def test_what_is_withdrawn_gets_nothing(
    make: Callable[[], DeviceScheduler], requests: list[DeviceRequest], devices: list[Device]
) -> None:
    scheduler = make()
    for request in requests:
        scheduler.submit(request)
        scheduler.withdraw(request.job)
    scheduler.withdraw("nobody")
    assert [scheduler.offer(device) for device in devices] == [None] * len(devices)


@scheduler_of
def test_a_request_takes_the_place_of_the_one_before(make: Callable[[], DeviceScheduler]) -> None:
    scheduler = make()
    scheduler.submit(DeviceRequest("job", 5))
    scheduler.submit(DeviceRequest("job", 1))
    assert [scheduler.offer(Device(f"d{n}")) for n in range(3)] == ["job", None, None]


@scheduler_of
@given(requests=REQUESTS, devices=DEVICES)
def test_the_same_offers_get_the_same_answers(
    make: Callable[[], DeviceScheduler], requests: list[DeviceRequest], devices: list[Device]
) -> None:
    answers = []
    for _ in range(2):
        scheduler = make()
        for request in requests:
            scheduler.submit(request)
        answers.append([scheduler.offer(device) for device in devices])
    assert answers[0] == answers[1]


def test_fifo_serves_who_came_first() -> None:
    scheduler = FifoScheduler()
    for job, count in (("a", 2), ("b", 1), ("c", 1)):
        scheduler.submit(DeviceRequest(job, count))
    answers = [scheduler.offer(Device(f"d{n}")) for n in range(5)]
    assert answers == ["a", "a", "b", "c", None]


def test_a_request_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more devices"):
        DeviceRequest("job", 0)
