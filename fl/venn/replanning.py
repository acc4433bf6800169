"""The simulator's plans: made from what its state says of supply, jobs and rounds.

``replan`` sets keys and, where a policy shares by intersections, the owners of types, and chooses
the head of each type from them. The published planner and its keys have their own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.fl.venn.event_state import (
    HOURS_OF_SUPPLY,
    JobTable,
    Rules,
    State,
    percentile_of,
)
from hocket.fl.venn.lookahead import rank_jointly
from hocket.fl.venn.planning import NOBODY, choose_heads, plan_intersections, queue_by_group
from hocket.fl.venn.policies import Order, PolicyNumbers, Sharing, attained_share, order_key
from hocket.fl.venn.published import heads_as_published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

SECONDS_AN_HOUR = 3600.0
RANK_SECONDS = 6 * SECONDS_AN_HOUR
"""How long the order of ``rank_jointly`` is kept, unless a job comes or ends."""
QUORUM_SHARE = 0.8
"""Percentile of response times that a round is taken to last after its selection."""


@njit(cache=True, error_model="numpy")
def replan(
    now: float, state: State, jobs: JobTable, eligible: Bools, rules: Rules, policy: PolicyNumbers
) -> None:
    """Write down in ``state.heads`` the job that the next device of each atom and tier goes to."""
    num_groups, num_atoms = eligible.shape
    if policy.sharing == Sharing.PUBLISHED:
        supply = np.zeros(num_atoms)
        for atom in state.window:
            if atom != NOBODY:
                supply[atom] += 1.0
        heads_as_published(
            supply, eligible, state.asked, state.wanted, jobs.groups, state.heads[:, 0]
        )
        return
    if policy.order == Order.LOOK_AHEAD and now >= state.ranked_until[0]:
        _rank(now, state, jobs, eligible, policy)
    # Keys of published rules are set at requests.
    if not rules.is_published or policy.order == Order.LOOK_AHEAD:
        set_keys(now, state, jobs, policy)
    if policy.sharing == Sharing.INTERSECTIONS:
        demands, starts = queue_by_group(state.wanted, jobs.groups, num_groups)
        weights = _group_weights(now, state, jobs, policy, num_groups)
        state.owners[:] = plan_intersections(_supply(state), eligible, demands, starts, weights)
    choose_heads(
        state.keys, state.wanted, jobs.groups, state.accepts, eligible, state.owners, state.heads
    )


@njit(cache=True, error_model="numpy")
def set_keys(now: float, state: State, jobs: JobTable, policy: PolicyNumbers) -> None:
    """Write down in ``state.keys`` what waiting jobs are ordered by."""
    num_jobs = _num_there(state)
    for job in range(state.wanted.size):
        if state.wanted[job] <= 0:
            continue
        left = float((jobs.rounds[job] - state.done[job] - 1) * jobs.demands[job])
        state.keys[job] = order_key(
            policy,
            state.wanted[job],
            left,
            jobs.arrivals[job],
            state.served[job],
            state.draws[job],
            now - state.asked_at[job],
            _share(now, job, num_jobs, state, jobs),
            state.ranks[job],
        )


@njit(cache=True, error_model="numpy")
def _rank(now: float, state: State, jobs: JobTable, eligible: Bools, policy: PolicyNumbers) -> None:
    """Order all jobs that are there, also those that wait for responses and will ask again."""
    state.ranked_until[0] = now + RANK_SECONDS
    there = np.flatnonzero((state.attempts > 0) & (state.finished_at < 0))
    left = np.empty(there.size)
    for at in range(there.size):
        job = int(there[at])
        left[at] = (jobs.rounds[job] - state.done[job]) * jobs.demands[job]
        if policy.fairness > 0:
            left[at] *= _share(now, job, there.size, state, jobs) ** policy.fairness
    seconds = min(max(now, 1.0), HOURS_OF_SUPPLY * SECONDS_AN_HOUR)
    demands = jobs.demands[there].astype(np.float64)
    pause = percentile_of(state.bins[-1], QUORUM_SHARE)
    rates = _supply(state) / seconds
    state.ranks[there] = rank_jointly(rates, eligible, left, demands, pause, jobs.groups[there])


@njit(cache=True, error_model="numpy")
def _supply(state: State) -> Floats:
    """Return the check-ins of the last day, ``[atoms]``."""
    supply = np.empty(state.hours.shape[1])
    for atom in range(supply.size):
        supply[atom] = state.hours[:, atom].sum()
    return supply


@njit(cache=True, error_model="numpy")
def _num_there(state: State) -> int:
    num_jobs = 0
    for job in range(state.wanted.size):
        num_jobs += state.attempts[job] > 0 and state.finished_at[job] < 0
    return num_jobs


@njit(cache=True, error_model="numpy")
def _share(now: float, job: int, num_jobs: int, state: State, jobs: JobTable) -> float:
    progress = state.done[job] / jobs.rounds[job]
    return float(attained_share(progress, now - jobs.arrivals[job], jobs.alone[job], num_jobs))


@njit(cache=True, error_model="numpy")
def _group_weights(
    now: float, state: State, jobs: JobTable, policy: PolicyNumbers, num_groups: int
) -> Floats:
    """Return ``(sum T_i / sum t_i) ^ epsilon`` of each group's queued jobs."""
    weights = np.ones(num_groups)
    if policy.fairness == 0:
        return weights
    num_jobs = _num_there(state)
    fair = np.zeros(num_groups)
    attained = np.zeros(num_groups)
    for job in range(state.wanted.size):
        if state.wanted[job] > 0:
            age = max(now - jobs.arrivals[job], 1.0)
            fair[jobs.groups[job]] += age
            attained[jobs.groups[job]] += age * _share(now, job, num_jobs, state, jobs)
    for group in range(num_groups):
        if attained[group] > 0:
            weights[group] = (fair[group] / attained[group]) ** policy.fairness
    return weights
