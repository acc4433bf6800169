"""The simulator's loop over check-ins, responses and deadlines, compiled by Numba.

Check-ins come in order from the trace, which repeats; all other events wait in a heap. A check-in
is one look into the plan (``heads``), and the plan is made anew only when a request comes, is
filled or ends.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.fl.venn.event_state import HOURS_OF_SUPPLY, JobTable, Rules, Sessions, State
from hocket.fl.venn.planning import NOBODY
from hocket.fl.venn.policies import LEARNING_RATE, Matching, PolicyNumbers
from hocket.fl.venn.published import PUBLISHED_WINDOW, RATE_WINDOW
from hocket.fl.venn.replanning import SECONDS_AN_HOUR, replan
from hocket.fl.venn.rounds import (
    ASK,
    CLOSE,
    LOSE,
    REACH,
    RESPOND,
    SELECTED,
    ask,
    close_round,
    count,
    fill_cohort,
    is_enough,
    open_round,
    reach,
    respond,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Events = list[tuple[float, int, int, int, int]]


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
            reach(reached_at, job, end, sessions.task_seconds[index], tier, state, jobs, events)
            state.wanted[job] -= 1
            is_changed = False
            if state.wanted[job] == 0 or policy.matching == Matching.LOSSES:
                is_changed = count(now, job, tier, state, jobs, rules, policy, events)
        else:
            now, kind, job, attempt, detail = heapq.heappop(events)
            if job == NOBODY:
                break
            num_others += kind in (REACH, RESPOND, LOSE)
            is_changed = False
            if kind == ASK and attempt == 0:
                open_round(now, job, state, jobs, rules, events)
            elif kind == ASK:
                if attempt == state.attempts[job]:
                    ask(now, job, state, jobs, rules, policy)
                    is_changed = True
            elif kind == REACH:
                shift = offset
                if sessions.starts[detail] + shift > now:
                    shift -= rules.period
                end, task = sessions.ends[detail] + shift, sessions.task_seconds[detail]
                tier = sessions.tiers[detail]
                reach(now, job, end, task, tier, state, jobs, events)
                state.wanted[job] -= 1
                is_changed = count(now, job, tier, state, jobs, rules, policy, events)
            elif kind == LOSE:
                state.answered[detail] -= LEARNING_RATE * state.answered[detail]
            elif kind == RESPOND:
                is_changed = success = respond(job, attempt, detail, state, jobs, rules)
                if success:
                    # Not a literal, for which ``close_round`` would be compiled once more.
                    running -= close_round(now, job, success, state, jobs, rules, events)
            elif attempt == state.attempts[job] and (kind == CLOSE or state.filled_at[job] < 0):
                is_changed = True
                if kind == SELECTED and state.reached[job] >= jobs.demands[job] * rules.quorum:
                    fill_cohort(now, job, state, jobs, events)
                else:
                    success = rules.is_published and is_enough(job, state, jobs, rules)
                    running -= close_round(now, job, success, state, jobs, rules, events)
        if is_changed:
            replan(now, state, jobs, eligible, rules, policy)
            num_plans += 1
    return num_checkins, num_others, num_ineligible, num_plans, now
