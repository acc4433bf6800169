"""Many jobs on a population of devices, in virtual time: what a policy makes of a workload."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.event_loop import run_events
from hocket.fl.venn.event_state import JobTable, Rules, State, new_state
from hocket.fl.venn.policies import Sharing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.venn.policies import Policy
    from hocket.fl.venn.traces import Trace
    from hocket.fl.venn.workloads import Job

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RoundRules:
    """How rounds go.

    Attributes:
        quorum: Part of a round's devices that must report.
        selection_timeout_seconds: How long a round waits for its devices. With a quorum of them it
            goes on then, otherwise it begins anew. The job's deadline, for reports, begins after.
        dispatch_seconds: A device is reached up to so long after its check-in.
        num_days: The simulation ends there, whatever is unfinished.
        is_published: Rounds as in Venn's simulator, to compare with its figures: the deadline runs
            from the request on. ``event_loop.py`` says what else.

    Raises:
        ConfigError: A number is out of range.
    """

    quorum: float = 0.8
    selection_timeout_seconds: float = 86400.0
    dispatch_seconds: float = 2.0
    num_days: float = 150.0
    is_published: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.quorum <= 1:
            raise ConfigError(f"quorum must be above 0 and up to 1, got {self.quorum}")
        for name in ("selection_timeout_seconds", "num_days"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.dispatch_seconds < 0:
            raise ConfigError(f"dispatch_seconds must be 0 or more, got {self.dispatch_seconds}")


OUR_RULES = RoundRules()
PUBLISHED_RULES = RoundRules(is_published=True)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a simulation; arrays are by job.

    Attributes:
        policy: Its name.
        completion_seconds: From a job's arrival to its end; NaN of jobs that did not end.
        scheduling_seconds, response_seconds: Of the mean completed round: until its cohort was
            complete, and from then to its quorum; NaN without any.
        rounds_done, rounds_aborted: Rounds.
        devices_used: That were given tasks.
        devices_lost: Whose session ended before the task.
        results_wasted, results_late: Of rounds that were given up; after their round.
        longest_wait_seconds: Of a round for its devices.
        fair_seconds: What a fair share would have made of the completion time.
        by_hour: Check-ins, devices assigned, and demand open, ``[hours, 3]``.
        num_checkins, num_events: Check-ins, and all events of devices.
        num_ineligible: Devices given to jobs that they are not eligible for; the published planner
            does that.
        num_plans: Times that the plan was made anew.
        end_seconds: Virtual time of the end.
        wall_seconds: Time that the simulation took.
    """

    policy: str
    completion_seconds: Floats
    scheduling_seconds: Floats
    response_seconds: Floats
    rounds_done: Ints
    rounds_aborted: Ints
    devices_used: Ints
    devices_lost: Ints
    results_wasted: Ints
    results_late: Ints
    longest_wait_seconds: Floats
    fair_seconds: Floats
    by_hour: Floats
    num_checkins: int
    num_events: int
    num_ineligible: int
    num_plans: int
    end_seconds: float
    wall_seconds: float

    @property
    def completed_jobs(self) -> int:
        """How many jobs ended."""
        return int(np.isfinite(self.completion_seconds).sum())

    @property
    def mean_seconds(self) -> float:
        """Mean completion time of the jobs that ended; NaN if none did."""
        return _mean(self.completion_seconds)

    @property
    def mean_scheduling_seconds(self) -> float:
        """Mean over jobs of a round's time until its cohort was complete; NaN of none."""
        return _mean(self.scheduling_seconds)

    @property
    def mean_response_seconds(self) -> float:
        """Mean over jobs of a round's time from then to its quorum; NaN of none."""
        return _mean(self.response_seconds)

    @property
    def fair_share(self) -> float:
        """Part of all jobs that ended within their fair share."""
        return float((self.completion_seconds <= self.fair_seconds).mean())

    @property
    def waste(self) -> float:
        """Part of the devices used whose work served no completed round."""
        lost = self.devices_lost.sum() + self.results_wasted.sum() + self.results_late.sum()
        return float(lost / max(self.devices_used.sum(), 1))

    @property
    def checkins_per_second(self) -> float:
        """Check-ins simulated in a second of wall time."""
        return self.num_checkins / self.wall_seconds


def _mean(values: Floats) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else float("nan")


def simulate(
    trace: Trace,
    jobs: Sequence[Job],
    policy: Policy,
    *,
    rules: RoundRules = OUR_RULES,
    seed: int = 0,
) -> Outcome:
    """Run jobs on a trace under a policy, until all are done or the days are over.

    The same arguments give the same outcome, wall time apart.

    Args:
        trace: The devices.
        jobs: By arrival.
        policy: Who gets them.
        rules: How rounds go.
        seed: Of dispatch delays and of what the policy draws.

    Raises:
        ConfigError: Jobs do not ascend by arrival, are of a class that the trace does not have, or
            the published planner is asked for under other rules than its own.
    """
    if policy.sharing == Sharing.PUBLISHED and not rules.is_published:
        raise ConfigError(f"policy {policy.name!r} wants the published rules of rounds")
    table = job_table(trace, jobs)
    state = new_state(len(jobs), trace.eligible, policy.num_tiers, int(rules.num_days * 24) + 2)
    # An integer among them would have the loop compiled once more, which takes a while.
    numbers = Rules(
        bool(rules.is_published),
        float(rules.quorum),
        float(rules.selection_timeout_seconds),
        float(rules.dispatch_seconds),
        float(trace.period_seconds),
        rules.num_days * 86400.0,
    )
    sessions = trace.sessions(policy.num_tiers)
    start = time.perf_counter()
    counts = run_events(sessions, table, trace.eligible, numbers, policy.numbers, seed, state)
    wall_seconds = time.perf_counter() - start
    return _outcome(policy.name, table, state, counts, wall_seconds)


def job_table(trace: Trace, jobs: Sequence[Job]) -> JobTable:
    """Return jobs as the loop takes them."""
    arrivals = np.array([job.arrival_seconds for job in jobs], np.float64)
    groups = np.array([job.group for job in jobs], np.int64)
    if not jobs or np.any(np.diff(arrivals) < 0):
        raise ConfigError("want 1 or more jobs, by arrival")
    if groups.min() < 0 or groups.max() >= trace.eligible.shape[0]:
        raise ConfigError(
            f"a job is of class {groups.max()}; the trace has {trace.eligible.shape[0]} classes"
        )
    demands = np.array([job.demand for job in jobs], np.int64)
    rounds = np.array([job.rounds for job in jobs], np.int64)
    # By itself a job waits for as many check-ins as it wants, and then for most responses.
    responding = float(np.quantile(trace.task_seconds, 0.8))
    rates = np.maximum(trace.class_rates[groups], 1e-9)
    alone = rounds * (demands / rates + responding)
    deadlines = np.array([job.deadline_seconds for job in jobs], np.float64)
    return JobTable(arrivals, demands, rounds, deadlines, groups, alone)


def _outcome(
    name: str,
    jobs: JobTable,
    state: State,
    counts: tuple[int, int, int, int, float],
    wall_seconds: float,
) -> Outcome:
    num_checkins, num_others, num_ineligible, num_plans, end = counts
    finished = np.where(state.finished_at >= 0, state.finished_at, np.nan)
    stays = np.where(np.isnan(finished), end, finished) - jobs.arrivals
    # Jobs that were there at once, on average over the time in which any was.
    num_jobs = np.maximum(stays, 0).sum() / max(end - jobs.arrivals[0], 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scheduling = state.schedule_seconds / state.done
        responding = state.response_seconds / state.done
    return Outcome(
        policy=name,
        completion_seconds=finished - jobs.arrivals,
        scheduling_seconds=scheduling,
        response_seconds=responding,
        rounds_done=state.done,
        rounds_aborted=state.aborted,
        devices_used=state.served,
        devices_lost=state.failed,
        results_wasted=state.wasted,
        results_late=state.late,
        longest_wait_seconds=state.longest_wait,
        fair_seconds=jobs.alone * max(num_jobs, 1.0),
        by_hour=state.by_hour[: int(end / 3600) + 1],
        num_checkins=num_checkins,
        num_events=num_checkins + num_others,
        num_ineligible=num_ineligible,
        num_plans=num_plans,
        end_seconds=end,
        wall_seconds=wall_seconds,
    )
