"""The plan: a partition of supply among those who may use it; orders, fairness and tiers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.planning import (
    ALL_TIERS,
    NOBODY,
    choose_heads,
    plan_intersections,
    queue_by_group,
)
from hocket.fl.venn.policies import (
    POLICIES,
    Order,
    Policy,
    attained_share,
    choose_policies,
    judge_cohort,
    order_key,
    pays_to_match,
    tiers_at_request,
    tiers_bearable,
)

GENERAL, SCARCE = 0, 1


@st.composite
def contentions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Supply by atom, eligibility, and for some jobs the devices wanted and the group."""
    num_groups, num_atoms = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    supply = draw(st.lists(st.integers(0, 50), min_size=num_atoms, max_size=num_atoms))
    eligible = draw(
        st.lists(
            st.lists(st.booleans(), min_size=num_atoms, max_size=num_atoms),
            min_size=num_groups,
            max_size=num_groups,
        )
    )
    jobs = draw(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, num_groups - 1)), min_size=1, max_size=9
        )
    )
    wanted, groups = np.array(jobs, np.int64).T
    return np.array(supply, float), np.array(eligible, bool), wanted.copy(), groups.copy()


def plan_of(supply: np.ndarray, eligible: np.ndarray, wanted: np.ndarray, groups: np.ndarray):
    demands, starts = queue_by_group(wanted, groups, len(eligible))
    return plan_intersections(supply, eligible, demands, starts, np.ones(len(eligible)))


@given(contentions())
def test_the_plan_is_a_partition_of_what_queued_groups_may_use(contention) -> None:
    _, eligible, wanted, groups = contention
    owners = plan_of(*contention)
    queued = {int(group) for group, count in zip(groups, wanted, strict=True) if count}
    for atom, owner in enumerate(owners):
        able = {group for group in queued if eligible[group, atom]}
        assert (owner in able) if able else (owner == NOBODY)


@given(contentions(), st.integers(1, 3))
def test_no_device_is_idle_while_an_eligible_job_wants_it(contention, tiers) -> None:
    _, eligible, wanted, groups = contention
    heads = np.zeros((eligible.shape[1], tiers), np.int64)
    accepts = np.full(wanted.size, ALL_TIERS, np.int64)
    accepts[::2] = 1
    keys = wanted.astype(float)
    choose_heads(keys, wanted, groups, accepts, eligible, plan_of(*contention), heads)
    for atom in range(eligible.shape[1]):
        for tier in range(tiers):
            able = [
                job
                for job in range(wanted.size)
                if wanted[job] and eligible[groups[job], atom] and accepts[job] >> tier & 1
            ]
            assert heads[atom, tier] in (able or [NOBODY])


def test_scarce_devices_are_left_to_those_who_can_use_no_other() -> None:
    """Venn's figure 3 in small: nested groups, as many jobs in each."""
    eligible = np.array([[True, True], [False, True]])
    owners = plan_of(
        np.array([50.0, 50.0]), eligible, np.array([5, 5]), np.array([GENERAL, SCARCE])
    )
    assert owners.tolist() == [GENERAL, SCARCE]


def test_a_longer_queue_takes_the_intersection_and_nothing_else() -> None:
    eligible = np.array([[True, True, False], [False, True, True]])
    wanted = np.array([10] * 8 + [40])
    groups = np.array([0] * 8 + [1])
    supply = np.array([40.0, 20.0, 30.0])
    # While the scarce group's job waits for 40 of 50, three of the others' are through with 40.
    assert plan_of(supply, eligible, wanted, groups).tolist() == [0, 0, 1]
    wanted[-1] = 10
    # By the time that it has 10 of 50, none of the others has 10 of 40.
    assert plan_of(supply, eligible, wanted, groups).tolist() == [0, 1, 1]


def test_an_urgent_job_comes_before_the_owner_of_a_type() -> None:
    eligible = np.array([[True, True], [False, True]])
    heads = np.zeros((2, 1), np.int64)
    keys, all_tiers = np.array([-2e15, 1.0]), np.full(2, ALL_TIERS, np.int64)
    jobs = np.array([5, 5]), np.array([GENERAL, SCARCE])
    choose_heads(keys, *jobs, all_tiers, eligible, np.array([GENERAL, SCARCE]), heads)
    assert heads[:, 0].tolist() == [0, 0]


@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(1, 1e6), st.floats(1, 1e6), st.integers(1, 99))
def test_a_job_gains_rank_by_waiting_and_loses_it_by_service(
    progress: float, age: float, longer: float, alone: float, num_jobs: int
) -> None:
    share = attained_share(progress, age, alone, num_jobs)
    assert attained_share(progress, age + longer, alone, num_jobs) <= share
    assert attained_share(min(1.0, progress + 0.1), age, alone, num_jobs) >= share


def test_fairness_moves_those_behind_forward() -> None:
    fair = Policy("fair", Order.REQUEST, fairness=2.0).numbers
    behind, ahead = (order_key(fair, 10, 0.0, 0.0, 0, 0.0, 0.0, each, 0.0) for each in (0.5, 2.0))
    assert (behind, ahead) == (2.5, 40.0)
    plain = POLICIES["srsf"].numbers
    assert order_key(plain, 10, 0.0, 0.0, 0, 0.0, 0.0, 0.5, 0.0) == 10


@pytest.mark.parametrize(
    ("name", "key"),
    [("random", 0.25), ("fifo", 7.0), ("las", 40.0), ("srsf", 10.0), ("total", 110.0),
     ("lookahead", 3.0)],
)  # fmt: skip
def test_orders_are_by_what_their_names_say(name: str, key: float) -> None:
    assert order_key(POLICIES[name].numbers, 10, 100.0, 7.0, 40, 0.25, 0.0, 1.0, 3.0) == key


@given(st.integers(2, 8), st.floats(0, 1), st.floats(0, 100))
def test_one_tier_pays_exactly_where_the_round_gets_shorter(
    num_tiers: int, gain: float, ratio: float
) -> None:
    # Scheduling takes 1, responses take the ratio.
    difference = (num_tiers + gain * ratio) - (1 + ratio)
    assert pays_to_match(num_tiers, gain, ratio) == (difference < 0)


def test_a_cohort_is_enough_when_its_quorum_is_sure() -> None:
    ours = POLICIES["foresight"].numbers
    answered = np.full(8, 0.9)
    # Losses count three times: 9.1 devices are needed, of which 0.3 may be lost.
    assert judge_cohort(ours, 10, 0.8, 9, 0.0, answered)[0]
    assert not judge_cohort(ours, 10, 0.8, 9, 0.1, answered)[0]
    assert judge_cohort(ours, 10, 0.8, 10, 0.3, answered)[0]


def test_rounds_begin_with_the_tiers_that_policies_want() -> None:
    oort, tiers = POLICIES["oort"].numbers, POLICIES["venn-tiers"].numbers
    assert tiers_at_request(oort, 0, 1.0, 0.0, False, 0.5) & 0b1111 == 0b1100, "the faster half"
    assert tiers_at_request(oort, 0, 1.0, 0.0, False, 0.05) == ALL_TIERS, "one round of ten"
    assert tiers_at_request(oort, 0, 1.0, 0.0, True, 0.5) == ALL_TIERS, "after a failure"
    assert tiers_at_request(tiers, 1, 0.5, 9.0, False, 0.5) == 0b10
    assert tiers_at_request(tiers, 1, 0.5, 1.0, False, 0.5) == ALL_TIERS, "it does not pay"
    assert tiers_at_request(tiers, 1, 0.5, 0.0, False, 0.5) == ALL_TIERS, "in a first round"


def test_a_cohort_refuses_slow_devices_when_it_can_lose_no_more() -> None:
    answered = np.array([0.5, 0.9, 1.0])
    assert tiers_bearable(1.0, answered, 1.3) == 0b111
    assert tiers_bearable(0.2, answered, 1.3) == 0b110
    assert tiers_bearable(-9.0, answered, 1.3) == 0b100, "the most reliable is always welcome"


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_tiers", 0), ("num_tiers", 99), ("fairness", -1), ("patience_seconds", 0),
     ("stop_weight", 0.5), ("gate_weight", 0.5)],
)  # fmt: skip
def test_policies_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Policy("bad", Order.FIFO, **{field: value})


def test_unknown_policies_are_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no policy 'best'.*fifo"):
        choose_policies(["fifo", "best"])
