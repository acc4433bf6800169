"""The simulator's loop over check-ins, responses and deadlines, compiled by Numba.

All state is arrays indexed by job, group, atom or tier. Events other than check-ins wait in a heap;
check-ins come in order from the trace, which repeats. Two sets of rules:

- ours: a device counts when it is assigned; selection has a timeout of its own, and the reporting
  deadline begins when the cohort is complete, or enough of it at the timeout;
- published: what Venn's simulator does. A device counts when it has been reached, up to two seconds
  later; the deadline runs from the request, so waiting for devices eats it; a request is refused
  where its class checks in too slowly.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from hocket.fl.venn.planning import (
    ANY_TIER,
    NOBODY,
    choose_heads,
    plan_intersections,
    queue_by_group,
)
from hocket.fl.venn.published import PUBLISHED_WINDOW, RATE_WINDOW, plan_as_published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ASK, REACH, RESPOND, CLOSE, LOST = range(5)
SECONDS_AN_HOUR = 3600.0
HOURS_OF_SUPPLY = 24
NUM_BINS = 96
BINS_AN_OCTAVE = 8.0


class Sessions(NamedTuple):
    """One period of a trace, by check-in.

    Attributes:
        starts: When devices check in, ascending, seconds.
        ends: When their sessions end.
        task_seconds: How long a device takes for one unit of work, dispatch not counted.
        atoms: Their types.
        tiers: Of their speed, 0 for the slowest.
    """

    starts: Floats
    ends: Floats
    task_seconds: Floats
    atoms: NDArray[np.int32]
    tiers: NDArray[np.int32]


class JobTable(NamedTuple):
    """What jobs ask for, by job.

    Attributes:
        arrivals: Seconds, ascending.
        demands: Devices a round.
        rounds: To be completed.
        deadlines: Seconds for a round.
        groups: By requirement.
        alone_seconds: What a job would take if it were alone, as fairness counts it.
    """

    arrivals: Floats
    demands: Ints
    rounds: Ints
    deadlines: Floats
    groups: Ints
    alone_seconds: Floats


class Rules(NamedTuple):
    """How rounds go; see ``hocket.fl.venn.simulator``."""

    published: bool
    quorum: float
    selection_timeout: float
    dispatch_seconds: float
    period: float
    horizon: float


class PolicyNumbers(NamedTuple):
    """A policy as numbers; see ``hocket.fl.venn.policies``."""

    order: int
    plan: int
    num_tiers: int
    tier_rule: int
    epsilon: float
    patience: float
    confidence: float
    gate: float


class State(NamedTuple):
    """What the loop knows, by job unless said otherwise.

    Attributes:
        wanted: Devices still wanted in this round.
        asked: Devices that the open request was for; 0 without one.
        keys, draws, tiers: What jobs are ordered by, a random number a request, the tier it takes.
        attempts: Rounds begun, by which late responses are told.
        done, aborted: Rounds completed and given up.
        reached, responses: Devices of this round, and those that have answered.
        asked_at, filled_at: When the round began, and when its cohort was complete.
        schedule_seconds, response_seconds: Sums over completed rounds.
        last_ratio: Response over scheduling time of the last round, 0 before the first.
        served, failed, wasted, late: Devices reached, lost, whose round was given up, too late.
        finished_at: -1 while it goes on.
        heads, owners: The plan, ``[atoms, tiers]`` and ``[atoms]``.
        hours: Check-ins by hour of the last day, ``[hours, atoms]``.
        window: The atoms of the last check-ins.
        class_times: The last check-ins of each group, ``[groups, times]``.
        bins: Responses by tier and logarithm of their time, ``[tiers + 1, bins]``; the last row is
            of all tiers.
        by_hour: Check-ins, devices assigned and demand open, ``[hours of the run, 3]``.
    """

    wanted: Ints
    asked: Ints
    keys: Floats
    draws: Floats
    tiers: Ints
    attempts: Ints
    done: Ints
    aborted: Ints
    reached: Ints
    responses: Ints
    asked_at: Floats
    filled_at: Floats
    schedule_seconds: Floats
    response_seconds: Floats
    last_ratio: Floats
    served: Ints
    failed: Ints
    wasted: Ints
    late: Ints
    finished_at: Floats
    heads: Ints
    owners: Ints
    hours: Floats
    window: Ints
    class_times: Floats
    class_seen: Ints
    bins: Floats
    by_hour: Floats
    mean: Floats
    variance: Floats
    answered: Floats
    floors: Ints


@njit(cache=True, error_model="numpy")
def new_state(num_jobs: int, eligible: Bools, num_tiers: int, num_hours: int) -> State:
    """Return the state before anything has happened."""
    num_groups, num_atoms = eligible.shape
    return State(
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.full(num_jobs, ANY_TIER, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_jobs, np.int64),
        np.full(num_jobs, -1.0),
        np.full((num_atoms, num_tiers), NOBODY, np.int64),
        np.full(num_atoms, NOBODY, np.int64),
        np.zeros((HOURS_OF_SUPPLY, num_atoms)),
        np.full(PUBLISHED_WINDOW, NOBODY, np.int64),
        np.zeros((num_groups, RATE_WINDOW)),
        np.zeros(num_groups, np.int64),
        np.zeros((num_tiers + 1, NUM_BINS)),
        np.zeros((num_hours, 3)),
        np.zeros(num_jobs),
        np.zeros(num_jobs),
        np.full(num_tiers, 0.9),
        np.zeros(num_jobs, np.int64),
    )


RANDOM, FIFO, SERVICE, REQUEST, TOTAL, TIME_LEFT, TIME_LEFT2 = range(7)
NO_PLAN, INTERSECTIONS, PUBLISHED, JOINT = range(4)
NO_TIERS, TRADE_OFF, FASTEST = range(3)


@njit(cache=True, error_model="numpy")
def _set_keys(now: float, state: State, jobs: JobTable, rules: Rules, policy: PolicyNumbers, rates: Floats) -> None:
    active = 0
    for job in range(state.wanted.size):
        if jobs.arrivals[job] <= now and state.finished_at[job] < 0:
            active += 1
    for job in range(state.wanted.size):
        if state.wanted[job] <= 0:
            continue
        left = jobs.rounds[job] - state.done[job] - 1
        if policy.order == RANDOM:
            key = state.draws[job]
        elif policy.order == FIFO:
            key = jobs.arrivals[job]
        elif policy.order == SERVICE:
            key = float(state.served[job])
        elif policy.order == REQUEST:
            key = float(state.wanted[job])
        elif policy.order == TOTAL:
            key = float(left * jobs.demands[job] + state.wanted[job])
        elif policy.order == TIME_LEFT:
            key = (left * jobs.demands[job] + state.wanted[job]) / rates[jobs.groups[job]]
        else:
            key = (left * jobs.demands[job] + state.wanted[job]) / rates[jobs.groups[job]] + left * 100.0
        if policy.epsilon > 0:
            share = active * jobs.alone_seconds[job]
            progress = (state.done[job] + 0.5) / (jobs.rounds[job] + 0.5)
            behind = share * progress / max(now - jobs.arrivals[job], 1.0)
            key *= behind**policy.epsilon
        if now - state.asked_at[job] > policy.patience:
            key = state.asked_at[job] - 1e12
        state.keys[job] = key


@njit(cache=True, error_model="numpy")
def _replan(now: float, state: State, jobs: JobTable, eligible: Bools, rules: Rules, policy: PolicyNumbers) -> None:
    num_groups, num_atoms = eligible.shape
    if policy.plan == PUBLISHED:
        supply = np.zeros(num_atoms)
        for atom in state.window:
            if atom != NOBODY:
                supply[atom] += 1
        demands, starts = queue_by_group(state.asked, jobs.groups, num_groups)
        given, order = plan_as_published(supply, eligible, demands, starts)
        state.heads[:] = NOBODY
        for atom in range(num_atoms):
            for group in order:
                if given[group, atom] and starts[group + 1] > starts[group]:
                    head = NOBODY
                    for job in range(state.asked.size):
                        if state.asked[job] > 0 and jobs.groups[job] == group:
                            if head == NOBODY or state.asked[job] < state.asked[head]:
                                head = job
                    least = state.wanted[head]
                    for job in range(state.asked.size):
                        if state.asked[job] > 0 and jobs.groups[job] == group:
                            if 0 < state.wanted[job] < least:
                                head, least = job, state.wanted[job]
                    state.heads[atom, 0] = head
                    break
        return
    rates = np.zeros(num_groups)
    supply = np.zeros(num_atoms)
    span = min(max(now, SECONDS_AN_HOUR), HOURS_OF_SUPPLY * SECONDS_AN_HOUR)
    for atom in range(num_atoms):
        supply[atom] = state.hours[:, atom].sum() / span
        for group in range(num_groups):
            if eligible[group, atom]:
                rates[group] += supply[atom]
    if not rules.published:
        _set_keys(now, state, jobs, rules, policy, rates)
    if policy.plan == INTERSECTIONS:
        demands, starts = queue_by_group(state.wanted, jobs.groups, num_groups)
        state.owners[:] = plan_intersections(supply, eligible, demands, starts, np.ones(num_groups))
    choose_heads(
        state.keys, state.wanted, jobs.groups, state.floors, eligible, state.owners, state.heads
    )


@njit(cache=True, error_model="numpy")
def _open(now: float, job: int, state: State, jobs: JobTable, rules: Rules, events: list) -> None:
    state.attempts[job] += 1
    state.asked_at[job] = now
    state.reached[job] = 0
    state.responses[job] = 0
    state.filled_at[job] = -1.0
    heapq.heappush(events, (now + 0.1 if rules.published else now, ASK, job, state.attempts[job], 0))
    limit = jobs.deadlines[job] if rules.published else rules.selection_timeout
    heapq.heappush(events, (now + limit, CLOSE, job, state.attempts[job], 0))


@njit(cache=True, error_model="numpy")
def _ask(now: float, job: int, state: State, jobs: JobTable, rules: Rules, policy: PolicyNumbers, rates_ok: bool) -> None:
    state.asked[job] = jobs.demands[job]
    state.wanted[job] = jobs.demands[job]
    state.draws[job] = np.random.random()
    state.mean[job] = 0.0
    state.variance[job] = 0.0
    state.floors[job] = 0
    if rules.published and policy.plan == PUBLISHED:
        group = jobs.groups[job]
        seen = state.class_seen[group]
        newest = state.class_times[group, (seen - 1) % RATE_WINDOW]
        oldest = state.class_times[group, seen % RATE_WINDOW]
        rate = RATE_WINDOW * 60 / max(1.0, newest - oldest)
        if 0.5 * jobs.demands[job] / (jobs.deadlines[job] // 60) > rate:
            state.wanted[job] = 0


@njit(cache=True, error_model="numpy")
def _budget(job: int, tier: int, state: State, jobs: JobTable, rules: Rules, policy: PolicyNumbers) -> bool:
    chance = 1 - policy.confidence * (1 - state.answered[tier])
    state.mean[job] += chance
    state.variance[job] += chance * (1 - chance)
    needed = jobs.demands[job] * rules.quorum
    spread = 1.0
    if state.mean[job] - spread >= needed:
        state.wanted[job] = 0
        return True
    state.variance[job] += 1 - state.answered[tier] - chance * (1 - chance)
    # What may be lost of the devices still wanted
    allowed = jobs.demands[job] - policy.gate * state.variance[job] - spread - needed
    floor = 0
    num_tiers = state.answered.size
    while floor < num_tiers - 1 and policy.gate * (1 - state.answered[floor]) > allowed:
        floor += 1
    if floor != state.floors[job]:
        state.floors[job] = floor
        return True
    return False


@njit(cache=True, error_model="numpy")
def run_events(sessions: Sessions, jobs: JobTable, eligible: Bools, rules: Rules, policy: PolicyNumbers, seed: int, state: State) -> tuple[int, int, int, int, float]:
    """Run until all jobs are done or the horizon is reached.

    Returns:
        Check-ins, other device events, ineligible assignments, plans made, and the last time.
    """
    np.random.seed(seed)
    num_jobs = jobs.demands.size
    num_groups, num_atoms = eligible.shape
    events = [(rules.horizon, CLOSE, NOBODY, 0, 0)]
    for job in range(num_jobs):
        heapq.heappush(events, (jobs.arrivals[job], ASK, job, 0, 0))
    num_checkins = num_others = num_ineligible = num_plans = 0
    running = num_jobs
    at = 0
    offset = 0.0
    next_checkin = sessions.starts[0]
    hour = 0
    now = 0.0
    while running > 0:
        if next_checkin <= events[0][0]:
            now = next_checkin
            if now >= rules.horizon:
                break
            index = at
            shift = offset
            at += 1
            if at == sessions.starts.size:
                at = 0
                offset += rules.period
            next_checkin = sessions.starts[at] + offset
            atom = sessions.atoms[index]
            this_hour = int(now / SECONDS_AN_HOUR)
            if this_hour != hour:
                for skipped in range(hour + 1, this_hour + 1):
                    state.hours[skipped % HOURS_OF_SUPPLY] = 0.0
                hour = this_hour
                state.by_hour[hour, 2] = state.wanted.sum()
            state.hours[hour % HOURS_OF_SUPPLY, atom] += 1.0
            state.by_hour[hour, 0] += 1.0
            if rules.published:
                state.window[num_checkins % PUBLISHED_WINDOW] = atom
                for group in range(num_groups):
                    if eligible[group, atom]:
                        state.class_times[group, state.class_seen[group] % RATE_WINDOW] = now
                        state.class_seen[group] += 1
            num_checkins += 1
            job = state.heads[atom, sessions.tiers[index]]
            if job == NOBODY:
                continue
            state.by_hour[hour, 1] += 1.0
            if not eligible[jobs.groups[job], atom]:
                num_ineligible += 1
            reached_at = now + rules.dispatch_seconds * np.random.random()
            if rules.published:
                heapq.heappush(events, (reached_at, REACH, job, index, 0))
                # The session's end travels by its index; sessions do not outlive a period here.
                continue
            state.wanted[job] -= 1
            _reach(reached_at, job, sessions.ends[index] + shift, sessions.task_seconds[index], sessions.tiers[index], jobs.deadlines[job], state, events)
            if policy.confidence > 0 and _budget(job, sessions.tiers[index], state, jobs, rules, policy) and state.wanted[job] > 0:
                choose_heads(
                    state.keys, state.wanted, jobs.groups, state.floors, eligible, state.owners, state.heads
                )
            if state.wanted[job] == 0:
                state.asked[job] = 0
                state.filled_at[job] = now
                heapq.heappush(events, (now + jobs.deadlines[job], CLOSE, job, -state.attempts[job], 0))
                _replan(now, state, jobs, eligible, rules, policy)
                num_plans += 1
            continue
        now, kind, job, attempt, tier = heapq.heappop(events)
        if job == NOBODY:
            break
        if kind == ASK:
            if attempt == 0:
                _open(now, job, state, jobs, rules, events)
            elif attempt == state.attempts[job]:
                _ask(now, job, state, jobs, rules, policy, True)
                if rules.published:
                    rates = np.ones(num_groups)
                    _set_keys(now, state, jobs, rules, policy, rates)
                _replan(now, state, jobs, eligible, rules, policy)
                num_plans += 1
        elif kind == REACH:
            num_others += 1
            index = attempt
            shift = offset if sessions.starts[index] + offset <= now else offset - rules.period
            _reach(now, job, sessions.ends[index] + shift, sessions.task_seconds[index], sessions.tiers[index], jobs.deadlines[job], state, events)
            state.wanted[job] -= 1
            if policy.confidence > 0 and _budget(job, sessions.tiers[index], state, jobs, rules, policy) and state.wanted[job] > 0:
                choose_heads(
                    state.keys, state.wanted, jobs.groups, state.floors, eligible, state.owners, state.heads
                )
            if state.reached[job] == int(jobs.demands[job] * rules.quorum):
                state.filled_at[job] = now
            if state.wanted[job] == 0:
                state.asked[job] = 0
                _replan(now, state, jobs, eligible, rules, policy)
                num_plans += 1
        elif kind == RESPOND:
            num_others += 1
            state.answered[tier] += (1.0 - state.answered[tier]) * 0.003
            if attempt != state.attempts[job] or state.finished_at[job] >= 0:
                state.late[job] += 1
                continue
            state.responses[job] += 1
            if state.responses[job] >= jobs.demands[job] * rules.quorum:
                if _close(now, job, True, state, jobs, rules, events):
                    running -= 1
                _replan(now, state, jobs, eligible, rules, policy)
                num_plans += 1
        elif kind == LOST:
            num_others += 1
            state.answered[tier] -= state.answered[tier] * 0.003
        elif abs(attempt) == state.attempts[job]:
            enough = jobs.demands[job] * rules.quorum
            reached = state.reached[job]
            if rules.published:
                success = reached >= enough and (
                    state.responses[job] >= min(reached, jobs.demands[job]) * rules.quorum
                )
            else:
                success = False
                if attempt > 0 and state.filled_at[job] >= 0:
                    continue
                if attempt > 0 and reached >= enough:
                    state.wanted[job] = 0
                    state.asked[job] = 0
                    state.filled_at[job] = now
                    heapq.heappush(events, (now + jobs.deadlines[job], CLOSE, job, -attempt, 0))
                    _replan(now, state, jobs, eligible, rules, policy)
                    num_plans += 1
                    continue
            if _close(now, job, success, state, jobs, rules, events):
                running -= 1
            _replan(now, state, jobs, eligible, rules, policy)
            num_plans += 1
    return num_checkins, num_others, num_ineligible, num_plans, now


@njit(cache=True, error_model="numpy")
def _reach(now: float, job: int, end: float, task_seconds: float, tier: int, lost_after: float, state: State, events: list) -> None:
    state.reached[job] += 1
    state.served[job] += 1
    if now + task_seconds <= end:
        heapq.heappush(events, (now + task_seconds, RESPOND, job, state.attempts[job], np.int64(tier)))
    else:
        state.failed[job] += 1
        heapq.heappush(events, (now + lost_after, LOST, job, 0, np.int64(tier)))


@njit(cache=True, error_model="numpy")
def _close(now: float, job: int, success: bool, state: State, jobs: JobTable, rules: Rules, events: list) -> bool:
    if success:
        state.done[job] += 1
        filled = state.filled_at[job] if state.filled_at[job] >= 0 else now
        state.schedule_seconds[job] += filled - state.asked_at[job]
        state.response_seconds[job] += now - filled
    else:
        state.aborted[job] += 1
        state.wasted[job] += state.responses[job]
    state.asked[job] = 0
    if not rules.published:
        state.wanted[job] = 0
    if state.done[job] >= jobs.rounds[job]:
        state.finished_at[job] = now
        state.attempts[job] += 1
        state.wanted[job] = 0
        return True
    _open(now, job, state, jobs, rules, events)
    return False
