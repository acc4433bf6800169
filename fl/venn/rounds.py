"""The life of a round in the simulator: asked for, selected, reported, done or given up.

There are two sets of rules:

- ours: a device counts when it is assigned; selection has a timeout of its own, and the reporting
  deadline begins when the cohort is complete, or enough of it at the timeout;
- published: what Venn's simulator does. A device counts when it has been reached, up to two seconds
  later; the deadline runs from the request, so that waiting for devices eats it; keys are set at
  requests only; a request is refused where its class checks in too slowly.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.fl.venn.event_state import JobTable, Rules, State, bin_of, percentile_of
from hocket.fl.venn.planning import ALL_TIERS
from hocket.fl.venn.policies import (
    LEARNING_RATE,
    Matching,
    PolicyNumbers,
    Sharing,
    judge_cohort,
    tiers_at_request,
)
from hocket.fl.venn.published import RATE_WINDOW
from hocket.fl.venn.replanning import set_keys

if TYPE_CHECKING:
    Events = list[tuple[float, int, int, int, int]]

ASK, REACH, RESPOND, LOSE, SELECTED, CLOSE = range(6)
"""What may happen beside check-ins; an event is its time, one of these, a job, the attempt that it
belongs to, and a detail."""
PAUSE_SECONDS = 0.1
"""Published rules: from the end of a round to the next request."""
TIER_SHARE = 0.95
"""Percentile of response times that tiers are compared by."""
LEAST_RESPONSES = 50
"""Of a tier, before it is compared with others."""


@njit(cache=True, error_model="numpy")
def open_round(
    now: float, job: int, state: State, jobs: JobTable, rules: Rules, events: Events
) -> None:
    """Begin a round."""
    if state.attempts[job] == 0:
        state.ranked_until[0] = now
    state.attempts[job] += 1
    attempt = state.attempts[job]
    state.asked_at[job] = now
    state.filled_at[job] = -1.0
    state.reached[job] = 0
    state.responses[job] = 0
    state.lost[job] = 0.0
    if rules.is_published:
        heapq.heappush(events, (now + PAUSE_SECONDS, ASK, job, attempt, 0))
        heapq.heappush(events, (now + jobs.deadlines[job], CLOSE, job, attempt, 0))
    else:
        heapq.heappush(events, (now, ASK, job, attempt, 0))
        heapq.heappush(events, (now + rules.selection_timeout, SELECTED, job, attempt, 0))


@njit(cache=True, error_model="numpy")
def ask(
    now: float,
    job: int,
    state: State,
    jobs: JobTable,
    rules: Rules,
    policy: PolicyNumbers,
) -> None:
    """Ask for a round's devices."""
    state.asked[job] = jobs.demands[job]
    state.wanted[job] = jobs.demands[job]
    state.draws[job] = np.random.random()  # noqa: NPY002
    state.accepts[job] = ALL_TIERS
    if policy.matching in (Matching.FASTEST, Matching.TRADE_OFF):
        tier = np.random.randint(policy.num_tiers)  # noqa: NPY002
        gain = 1.0
        if state.bins[tier].sum() >= LEAST_RESPONSES and _is_first(job, state, jobs):
            gain = percentile_of(state.bins[tier], TIER_SHARE) / percentile_of(
                state.bins[-1], TIER_SHARE
            )
        has_failed = state.aborted[job] > 0 and state.last_ratio[job] == 0
        state.accepts[job] = tiers_at_request(
            policy,
            tier,
            gain,
            state.last_ratio[job],
            has_failed,
            np.random.random(),  # noqa: NPY002
        )
    if rules.is_published:
        set_keys(now, state, jobs, policy)
        if policy.sharing == Sharing.PUBLISHED:
            group = jobs.groups[job]
            newest = state.class_times[group, (state.class_seen[group] - 1) % RATE_WINDOW]
            oldest = state.class_times[group, state.class_seen[group] % RATE_WINDOW]
            checkins_a_minute = RATE_WINDOW * 60 / max(1.0, newest - oldest)
            if 0.5 * jobs.demands[job] / (jobs.deadlines[job] // 60) > checkins_a_minute:
                state.wanted[job] = 0


@njit(cache=True, error_model="numpy")
def _is_first(job: int, state: State, jobs: JobTable) -> bool:
    """Whether no job of the same group wants fewer devices."""
    for other in range(state.wanted.size):
        if jobs.groups[other] == jobs.groups[job] and 0 < state.wanted[other] < state.wanted[job]:
            return False
    return True


@njit(cache=True, error_model="numpy", inline="always")
def reach(
    now: float,
    job: int,
    end: float,
    task_seconds: float,
    tier: int,
    state: State,
    jobs: JobTable,
    events: Events,
) -> None:
    """Have a device begin its task, which comes to nothing if its session ends before."""
    state.reached[job] += 1
    state.served[job] += 1
    attempt = int(state.attempts[job])
    if now + task_seconds <= end:
        detail = int(tier + state.answered.size * bin_of(task_seconds))
        heapq.heappush(events, (now + task_seconds, RESPOND, job, attempt, detail))
    else:
        state.failed[job] += 1
        # Nobody tells that a device has left: it is missed when its round's deadline is over.
        heapq.heappush(events, (now + jobs.deadlines[job], LOSE, job, attempt, int(tier)))


@njit(cache=True, error_model="numpy", inline="always")
def count(
    now: float,
    job: int,
    tier: int,
    state: State,
    jobs: JobTable,
    rules: Rules,
    policy: PolicyNumbers,
    events: Events,
) -> bool:
    """Have a cohort one device larger; return whether the plan has changed by that."""
    is_changed = False
    if policy.matching == Matching.LOSSES:
        state.lost[job] += 1 - state.answered[tier]
        is_complete, accepts = judge_cohort(
            policy,
            jobs.demands[job],
            rules.quorum,
            state.reached[job],
            state.lost[job],
            state.answered,
        )
        if is_complete:
            state.wanted[job] = min(state.wanted[job], 0)
        is_changed = accepts != state.accepts[job]
        state.accepts[job] = accepts
    if rules.is_published and state.reached[job] == int(jobs.demands[job] * rules.quorum):
        state.filled_at[job] = now
    if state.wanted[job] == 0:
        is_changed = True
        state.asked[job] = 0
        if not rules.is_published:
            fill_cohort(now, job, state, jobs, events)
    return is_changed


@njit(cache=True, error_model="numpy")
def fill_cohort(now: float, job: int, state: State, jobs: JobTable, events: Events) -> None:
    """End a round's selection; from now on its deadline runs."""
    state.wanted[job] = 0
    state.asked[job] = 0
    state.filled_at[job] = now
    deadline = now + jobs.deadlines[job]
    heapq.heappush(events, (deadline, CLOSE, job, state.attempts[job], 0))


@njit(cache=True, error_model="numpy", inline="always")
def respond(
    job: int, attempt: int, detail: int, state: State, jobs: JobTable, rules: Rules
) -> bool:
    """Take a response; return whether the round has its quorum by it."""
    num_tiers = state.answered.size
    tier, number = detail % num_tiers, detail // num_tiers
    state.bins[tier, number] += 1.0
    state.bins[num_tiers, number] += 1.0
    state.answered[tier] += LEARNING_RATE * (1.0 - state.answered[tier])
    if attempt != state.attempts[job] or state.finished_at[job] >= 0:
        state.late[job] += 1
        return False
    state.responses[job] += 1
    return bool(state.responses[job] >= jobs.demands[job] * rules.quorum)


@njit(cache=True, error_model="numpy")
def is_enough(job: int, state: State, jobs: JobTable, rules: Rules) -> bool:
    """Published rules at a deadline: a cohort nearly complete of which most have answered."""
    cohort = min(state.reached[job], jobs.demands[job])
    return bool(
        state.reached[job] >= jobs.demands[job] * rules.quorum
        and state.responses[job] >= cohort * rules.quorum
    )


@njit(cache=True, error_model="numpy")
def close_round(
    now: float, job: int, success: bool, state: State, jobs: JobTable, rules: Rules, events: Events
) -> int:
    """End a round and begin the next; return 1 if it was the job's last."""
    filled = state.filled_at[job] if state.filled_at[job] >= 0 else now
    scheduling, responding = filled - state.asked_at[job], now - filled
    state.longest_wait[job] = max(state.longest_wait[job], scheduling)
    if success:
        state.done[job] += 1
        state.schedule_seconds[job] += scheduling
        state.response_seconds[job] += responding
        state.last_ratio[job] = responding / max(scheduling, 1.0)
    else:
        state.aborted[job] += 1
        state.wasted[job] += state.responses[job]
        if state.filled_at[job] < 0:
            state.last_ratio[job] = 0.0
    state.asked[job] = 0
    if not rules.is_published:
        state.wanted[job] = 0
    if state.done[job] >= jobs.rounds[job]:
        state.finished_at[job] = now
        state.ranked_until[0] = now
        state.attempts[job] += 1
        state.wanted[job] = 0
        return 1
    open_round(now, job, state, jobs, rules, events)
    return 0
