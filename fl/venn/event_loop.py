"""The simulator's loop over check-ins, responses and deadlines, compiled by Numba.

Check-ins come in order from the trace, which repeats; all other events wait in a heap. A check-in
is one look into the plan (``heads``), and the plan is made anew only when a request comes, is
filled or ends. There are two sets of rules:

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

from hocket.fl.venn.event_state import (
    HOURS_OF_SUPPLY,
    JobTable,
    Rules,
    Sessions,
    State,
    bin_of,
    percentile_of,
)
from hocket.fl.venn.planning import (
    ALL_TIERS,
    NOBODY,
    choose_heads,
    plan_intersections,
    queue_by_group,
)
from hocket.fl.venn.policies import (
    Matching,
    PolicyNumbers,
    Sharing,
    attained_share,
    order_key,
    pays_to_match,
    tiers_bearable,
)
from hocket.fl.venn.published import PUBLISHED_WINDOW, RATE_WINDOW, heads_as_published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Events = list[tuple[float, int, int, int, int]]

ASK, REACH, RESPOND, LOSE, SELECTED, CLOSE = range(6)
SECONDS_AN_HOUR = 3600.0
PAUSE_SECONDS = 0.1
"""Published rules: from the end of a round to the next request."""
TIER_SHARE = 0.95
"""Percentile of response times that tiers are compared by."""
LEAST_RESPONSES = 50
"""Of a tier, before it is compared with others."""
EXPLORE = 0.1
LEARNING_RATE = 0.003
"""Weight of one device's fate in the share of its tier that answers."""


@njit(cache=True, error_model="numpy")
def run_events(  # noqa: PLR0912, PLR0915 - one loop, so that nothing is passed about in it
    sessions: Sessions,
    jobs: JobTable,
    eligible: Bools,
    rules: Rules,
    policy: PolicyNumbers,
    seed: int,
    state: State,
) -> tuple[int, int, int, int, float]:
    """Run until all jobs are done or the horizon is reached, and write it all into ``state``.

    Returns:
        Check-ins, other events of devices, devices given to jobs they are not eligible for (always
        0 but for the published planner), plans made, and the time of the end.
    """
    np.random.seed(seed)  # noqa: NPY002 - the generator that compiled code has
    num_groups = eligible.shape[0]
    num_checkins = num_others = num_ineligible = num_plans = 0
    running = jobs.demands.size
    events = [(rules.horizon, CLOSE, NOBODY, 0, 0)]
    for job in range(jobs.demands.size):
        heapq.heappush(events, (jobs.arrivals[job], ASK, job, 0, 0))
    at, offset, hour = 0, 0.0, 0
    while running > 0:
        checkin = sessions.starts[at] + offset
        if checkin <= events[0][0]:
            if checkin >= rules.horizon:
                break
            index, shift, now = at, offset, checkin
            at += 1
            if at == sessions.starts.size:
                at = 0
                offset += rules.period
            atom = sessions.atoms[index]
            tier = sessions.tiers[index]
            while hour < int(now / SECONDS_AN_HOUR):
                hour += 1
                state.hours[hour % HOURS_OF_SUPPLY] = 0.0
                state.by_hour[hour, 2] = np.maximum(state.wanted, 0).sum()
            state.hours[hour % HOURS_OF_SUPPLY, atom] += 1.0
            state.by_hour[hour, 0] += 1.0
            if rules.is_published:
                state.window[num_checkins % PUBLISHED_WINDOW] = atom
                for group in range(num_groups):
                    if eligible[group, atom]:
                        state.class_times[group, state.class_seen[group] % RATE_WINDOW] = now
                        state.class_seen[group] += 1
            num_checkins += 1
            job = state.heads[atom, tier]
            if job == NOBODY:
                continue
            state.by_hour[hour, 1] += 1.0
            if not eligible[jobs.groups[job], atom]:
                num_ineligible += 1
            reached_at = now + rules.dispatch_seconds * np.random.random()  # noqa: NPY002
            if rules.is_published:
                heapq.heappush(events, (reached_at, REACH, job, 0, index))
                continue
            end = sessions.ends[index] + shift
            _reach(reached_at, job, end, sessions.task_seconds[index], tier, state, jobs, events)
            state.wanted[job] -= 1
            is_changed = False
            # Not for every device: to call a function with the state takes longer than all else.
            if state.wanted[job] == 0 or policy.matching == Matching.LOSSES:
                is_changed = _count(now, job, tier, state, jobs, rules, policy, events)
        else:
            now, kind, job, attempt, detail = heapq.heappop(events)
            if job == NOBODY:
                break
            num_others += kind in (REACH, RESPOND, LOSE)
            is_changed = False
            if kind == ASK and attempt == 0:
                _open(now, job, state, jobs, rules, events)
            elif kind == ASK:
                if attempt == state.attempts[job]:
                    _ask(now, job, state, jobs, rules, policy)
                    is_changed = True
            elif kind == REACH:
                shift = offset
                if sessions.starts[detail] + shift > now:
                    shift -= rules.period
                end, task = sessions.ends[detail] + shift, sessions.task_seconds[detail]
                tier = sessions.tiers[detail]
                _reach(now, job, end, task, tier, state, jobs, events)
                state.wanted[job] -= 1
                is_changed = _count(now, job, tier, state, jobs, rules, policy, events)
            elif kind == LOSE:
                state.answered[detail] -= LEARNING_RATE * state.answered[detail]
            elif kind == RESPOND:
                is_changed = _respond(job, attempt, detail, state, jobs, rules)
                if is_changed:
                    running -= _close(now, job, True, state, jobs, rules, events)
            elif attempt == state.attempts[job] and (kind == CLOSE or state.filled_at[job] < 0):
                is_changed = True
                if kind == SELECTED and state.reached[job] >= jobs.demands[job] * rules.quorum:
                    _fill(now, job, state, jobs, events)
                else:
                    success = rules.is_published and _is_enough(job, state, jobs, rules)
                    running -= _close(now, job, success, state, jobs, rules, events)
        if is_changed:
            _replan(now, state, jobs, eligible, rules, policy)
            num_plans += 1
    return num_checkins, num_others, num_ineligible, num_plans, now


@njit(cache=True, error_model="numpy")
def _open(now: float, job: int, state: State, jobs: JobTable, rules: Rules, events: Events) -> None:
    """Begin a round."""
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
def _ask(
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
    if policy.matching == Matching.FASTEST:
        has_failed = state.aborted[job] > 0 and state.last_ratio[job] == 0
        if not has_failed and np.random.random() >= EXPLORE:  # noqa: NPY002
            state.accepts[job] = ALL_TIERS << (policy.num_tiers // 2)
    elif policy.matching == Matching.TRADE_OFF and state.last_ratio[job] > 0:
        tier = np.random.randint(policy.num_tiers)  # noqa: NPY002
        if state.bins[tier].sum() >= LEAST_RESPONSES and _is_first(job, state, jobs):
            gain = percentile_of(state.bins[tier], TIER_SHARE) / percentile_of(
                state.bins[-1], TIER_SHARE
            )
            if pays_to_match(policy.num_tiers, gain, state.last_ratio[job]):
                state.accepts[job] = 1 << tier
    if rules.is_published:
        _set_keys(now, state, jobs, policy)
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
def _reach(
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


@njit(cache=True, error_model="numpy")
def _count(
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
        needed = jobs.demands[job] * rules.quorum + 1
        if state.reached[job] - policy.stop_weight * state.lost[job] >= needed:
            state.wanted[job] = min(state.wanted[job], 0)
        spare = jobs.demands[job] - needed - policy.gate_weight * state.lost[job]
        accepts = tiers_bearable(spare, state.answered, policy.gate_weight)
        is_changed = accepts != state.accepts[job]
        state.accepts[job] = accepts
    if rules.is_published and state.reached[job] == int(jobs.demands[job] * rules.quorum):
        state.filled_at[job] = now
    if state.wanted[job] == 0:
        is_changed = True
        state.asked[job] = 0
        if not rules.is_published:
            _fill(now, job, state, jobs, events)
    return is_changed


@njit(cache=True, error_model="numpy")
def _fill(now: float, job: int, state: State, jobs: JobTable, events: Events) -> None:
    """End a round's selection; from now on its deadline runs."""
    state.wanted[job] = 0
    state.asked[job] = 0
    state.filled_at[job] = now
    deadline = now + jobs.deadlines[job]
    heapq.heappush(events, (deadline, CLOSE, job, state.attempts[job], 0))


@njit(cache=True, error_model="numpy", inline="always")
def _respond(
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
def _is_enough(job: int, state: State, jobs: JobTable, rules: Rules) -> bool:
    """Published rules at a deadline: a cohort nearly complete of which most have answered."""
    cohort = min(state.reached[job], jobs.demands[job])
    return bool(
        state.reached[job] >= jobs.demands[job] * rules.quorum
        and state.responses[job] >= cohort * rules.quorum
    )


@njit(cache=True, error_model="numpy")
def _close(
    now: float, job: int, success: bool, state: State, jobs: JobTable, rules: Rules, events: Events
) -> int:
    """End a round and begin the next; return 1 if it was the job's last."""
    if success:
        filled = state.filled_at[job] if state.filled_at[job] >= 0 else now
        scheduling, responding = filled - state.asked_at[job], now - filled
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
        state.attempts[job] += 1
        state.wanted[job] = 0
        return 1
    _open(now, job, state, jobs, rules, events)
    return 0


@njit(cache=True, error_model="numpy")
def _set_keys(now: float, state: State, jobs: JobTable, policy: PolicyNumbers) -> None:
    num_jobs = 0
    for job in range(state.wanted.size):
        num_jobs += state.attempts[job] > 0 and state.finished_at[job] < 0
    for job in range(state.wanted.size):
        if state.wanted[job] <= 0:
            continue
        left = float((jobs.rounds[job] - state.done[job] - 1) * jobs.demands[job])
        share = attained_share(
            state.done[job] / jobs.rounds[job], now - jobs.arrivals[job], jobs.alone[job], num_jobs
        )
        state.keys[job] = order_key(
            policy,
            state.wanted[job],
            left,
            jobs.arrivals[job],
            state.served[job],
            state.draws[job],
            now - state.asked_at[job],
            share,
        )


@njit(cache=True, error_model="numpy")
def _replan(
    now: float, state: State, jobs: JobTable, eligible: Bools, rules: Rules, policy: PolicyNumbers
) -> None:
    num_groups, num_atoms = eligible.shape
    supply = np.zeros(num_atoms)
    if policy.sharing == Sharing.PUBLISHED:
        for atom in state.window:
            if atom != NOBODY:
                supply[atom] += 1.0
        heads_as_published(
            supply, eligible, state.asked, state.wanted, jobs.groups, state.heads[:, 0]
        )
        return
    if not rules.is_published:
        _set_keys(now, state, jobs, policy)
    if policy.sharing == Sharing.INTERSECTIONS:
        for atom in range(num_atoms):
            supply[atom] = state.hours[:, atom].sum()
        demands, starts = queue_by_group(state.wanted, jobs.groups, num_groups)
        weights = _group_weights(now, state, jobs, policy, num_groups)
        state.owners[:] = plan_intersections(supply, eligible, demands, starts, weights)
    choose_heads(
        state.keys, state.wanted, jobs.groups, state.accepts, eligible, state.owners, state.heads
    )


@njit(cache=True, error_model="numpy")
def _group_weights(
    now: float, state: State, jobs: JobTable, policy: PolicyNumbers, num_groups: int
) -> NDArray[np.float64]:
    """Return ``(sum T_i / sum t_i) ^ epsilon`` of each group's queued jobs."""
    weights = np.ones(num_groups)
    if policy.fairness == 0:
        return weights
    num_jobs = 0
    for job in range(state.wanted.size):
        num_jobs += state.attempts[job] > 0 and state.finished_at[job] < 0
    fair = np.zeros(num_groups)
    attained = np.zeros(num_groups)
    for job in range(state.wanted.size):
        if state.wanted[job] > 0:
            age = max(now - jobs.arrivals[job], 1.0)
            fair[jobs.groups[job]] += age
            attained[jobs.groups[job]] += age * attained_share(
                state.done[job] / jobs.rounds[job], age, jobs.alone[job], num_jobs
            )
    for group in range(num_groups):
        if attained[group] > 0:
            weights[group] = (fair[group] / attained[group]) ** policy.fairness
    return weights
