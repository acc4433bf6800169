"""The order by look-ahead, against all orders and against arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.fl.venn.lookahead import MOST_JOBS, rank_jointly

NESTED = np.array([[True, True], [False, True]])


def sum_of_ends(
    order: list[int], rates: list[float], left: list[float], groups: list[int]
) -> float:
    """Return it for jobs of one round, where each type flows to the first who may have it."""
    rest, now, total = list(left), 0.0, 0.0
    while any(rest):
        speeds = dict.fromkeys(range(len(left)), 0.0)
        for atom, rate in enumerate(rates):
            able = [job for job in order if rest[job] and NESTED[groups[job], atom]]
            if able:
                speeds[able[0]] += rate
        ends = {job: rest[job] / speed for job, speed in speeds.items() if speed}
        step = min(ends.values())
        now += step
        for job, end in ends.items():
            rest[job] = 0.0 if end <= step * (1 + 1e-9) else rest[job] - step * speeds[job]
            total += now if not rest[job] else 0.0
    return total


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 1)), min_size=1, max_size=4),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_four_jobs_come_in_an_order_close_to_the_best_of_all(jobs, supply) -> None:
    left, groups = ([float(n) for n, _ in jobs], [group for _, group in jobs])
    rates = [float(rate) for rate in supply]
    ranks = rank_jointly(
        np.array(rates), NESTED, np.array(left), np.array(left), 100.0, np.array(groups)
    )
    found = sum_of_ends(np.argsort(ranks).tolist(), rates, left, groups)
    orders = itertools.permutations(range(len(jobs)))
    best = min(sum_of_ends(list(order), rates, left, groups) for order in orders)
    by_size = sum_of_ends(np.argsort(left, kind="stable").tolist(), rates, left, groups)
    assert found <= by_size * (1 + 1e-6), "never worse than the order that it begins with"
    assert found <= best * 1.1


def test_who_can_use_scarce_devices_only_comes_before_a_smaller_job() -> None:
    """Of a type each, one job may use both: by size it would be first, and hold up the other."""
    left = np.array([10.0, 11.0])
    scarce = rank_jointly(np.array([3.0, 1.0]), NESTED, left, left, 0.0, np.array([0, 1]))
    # By size: 2.5 and 2.5 + 11 = 13.5. Else 11 for the scarce and 10 / 3 beside it.
    assert scarce.tolist() == [1, 0]


def test_pauses_between_rounds_leave_devices_to_others() -> None:
    """A job of many small rounds takes few devices a second, so a large one may go beside it."""
    rates, eligible = np.array([1.0]), np.ones((1, 1), bool)
    left, groups = np.array([100.0, 90.0]), np.zeros(2, np.int64)
    # The second asks for 1 device and then pauses for 99 s, 90 times; the first is one round.
    demands = np.array([100.0, 1.0])
    ranks = rank_jointly(rates, eligible, left, demands, 99.0, groups)
    assert ranks.tolist() == [1, 0]


@pytest.mark.parametrize("num_jobs", [0, 1, MOST_JOBS + 40])
def test_ranks_are_a_permutation(num_jobs: int) -> None:
    generator = np.random.default_rng(num_jobs)
    left = generator.integers(1, 1000, num_jobs).astype(float)
    groups = generator.integers(0, 2, num_jobs)
    ranks = rank_jointly(np.array([1.0, 0.5]), NESTED, left, left, 1.0, groups)
    assert sorted(ranks.tolist()) == list(range(num_jobs))
    behind = np.argsort(ranks)[MOST_JOBS:]
    assert np.all(np.diff(left[behind]) >= 0), "those far behind stay in order"
