"""What the simulator's loop reads and writes: arrays by job, group, atom and tier."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from hocket.fl.venn.planning import ALL_TIERS, NOBODY
from hocket.fl.venn.published import PUBLISHED_WINDOW, RATE_WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    SmallInts = NDArray[np.int32]

HOURS_OF_SUPPLY = 24
NUM_BINS = 96
BINS_AN_OCTAVE = 8
FIRST_ANSWERED = 0.9
"""Share of devices that are taken to answer, before anything is known."""


class Sessions(NamedTuple):
    """One period of a trace, by check-in.

    Attributes:
        starts, ends: Of the sessions, seconds; starts ascend.
        task_seconds: How long the device takes for a task.
        atoms: Device types.
        tiers: Of speed, 0 for the slowest.
    """

    starts: Floats
    ends: Floats
    task_seconds: Floats
    atoms: SmallInts
    tiers: Ints


class JobTable(NamedTuple):
    """What jobs ask for, by job.

    Attributes:
        arrivals: Seconds, ascending.
        demands: Devices a round.
        rounds: To be completed.
        deadlines: Seconds for a round's reports.
        groups: By requirement.
        alone: Seconds that a job would take by itself.
    """

    arrivals: Floats
    demands: Ints
    rounds: Ints
    deadlines: Floats
    groups: Ints
    alone: Floats


class Rules(NamedTuple):
    """How rounds go; see ``hocket.fl.venn.simulator.RoundRules``."""

    is_published: bool
    quorum: float
    selection_timeout: float
    dispatch_seconds: float
    period: float
    horizon: float


class State(NamedTuple):
    """What the loop knows, by job unless said otherwise.

    Attributes:
        wanted: Devices still wanted in this round.
        asked: Devices that the open request was for; 0 without one.
        keys, draws: What jobs are ordered by; a number drawn for each request.
        ranks, ranked_until: Positions in the order of ``rank_jointly``, and how long they are to
            be kept, ``[1]``.
        accepts: Tiers that the cohort takes, a bit each.
        attempts: Rounds begun, by which late responses are told.
        done, aborted: Rounds completed, and given up.
        reached, responses: Devices of this round, and those that have answered.
        lost: Devices of this round expected to be lost.
        asked_at, filled_at: When the round began, and when its cohort was complete, or -1.
        schedule_seconds, response_seconds: Sums over completed rounds.
        longest_wait: Of a round for its devices, seconds.
        last_ratio: Response over scheduling time of the last round; 0 before the first.
        served, failed, wasted, late: Devices reached; lost; that answered in a round given up; that
            answered after their round.
        finished_at: -1 while it goes on.
        heads, owners: The plan, ``[atoms, tiers]`` and ``[atoms]``.
        hours: Check-ins by hour of the last day, ``[hours, atoms]``.
        window: The atoms of the last check-ins.
        class_times, class_seen: The last check-ins of each group, ``[groups, times]``, and how many
            there were.
        bins: Responses by logarithm of their time, ``[tiers + 1, bins]``; the last row is of all.
        answered: Share of devices that answer, lately, ``[tiers]``.
        by_hour: Check-ins, devices assigned, and demand open, ``[hours of the run, 3]``.
    """

    wanted: Ints
    asked: Ints
    keys: Floats
    draws: Floats
    ranks: Floats
    ranked_until: Floats
    accepts: Ints
    attempts: Ints
    done: Ints
    aborted: Ints
    reached: Ints
    responses: Ints
    lost: Floats
    asked_at: Floats
    filled_at: Floats
    schedule_seconds: Floats
    response_seconds: Floats
    longest_wait: Floats
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
    answered: Floats
    by_hour: Floats


def new_state(num_jobs: int, eligible: Bools, num_tiers: int, num_hours: int) -> State:
    """Return the state before anything has happened.

    Args:
        num_jobs: How many there are.
        eligible: Whether a group may use an atom, ``[groups, atoms]``.
        num_tiers: Of speed.
        num_hours: That the run may take.
    """
    num_groups, num_atoms = eligible.shape

    def ints() -> Ints:
        return np.zeros(num_jobs, np.int64)

    def floats(value: float = 0.0) -> Floats:
        return np.full(num_jobs, value)

    return State(
        wanted=ints(),
        asked=ints(),
        keys=floats(),
        draws=floats(),
        ranks=floats(),
        ranked_until=np.zeros(1),
        accepts=np.full(num_jobs, ALL_TIERS, np.int64),
        attempts=ints(),
        done=ints(),
        aborted=ints(),
        reached=ints(),
        responses=ints(),
        lost=floats(),
        asked_at=floats(),
        filled_at=floats(-1.0),
        schedule_seconds=floats(),
        response_seconds=floats(),
        longest_wait=floats(),
        last_ratio=floats(),
        served=ints(),
        failed=ints(),
        wasted=ints(),
        late=ints(),
        finished_at=floats(-1.0),
        heads=np.full((num_atoms, num_tiers), NOBODY, np.int64),
        owners=np.full(num_atoms, NOBODY, np.int64),
        hours=np.zeros((HOURS_OF_SUPPLY, num_atoms)),
        window=np.full(PUBLISHED_WINDOW, NOBODY, np.int64),
        class_times=np.zeros((num_groups, RATE_WINDOW)),
        class_seen=np.zeros(num_groups, np.int64),
        bins=np.zeros((num_tiers + 1, NUM_BINS)),
        answered=np.full(num_tiers, FIRST_ANSWERED),
        by_hour=np.zeros((num_hours, 3)),
    )


@njit(cache=True, error_model="numpy")
def bin_of(seconds: float) -> int:
    """Return the bin of a response time."""
    return min(max(int(BINS_AN_OCTAVE * np.log2(max(seconds, 1.0))), 0), NUM_BINS - 1)


@njit(cache=True, error_model="numpy")
def percentile_of(counts: Floats, share: float) -> float:
    """Return the time below which a share of binned responses came; 0 of none."""
    seen = 0.0
    target = share * counts.sum()
    if target <= 0:
        return 0.0
    for number in range(counts.size):
        seen += counts[number]
        if seen >= target:
            return float(2.0 ** ((number + 1) / BINS_AN_OCTAVE))
    return float(2.0 ** (counts.size / BINS_AN_OCTAVE))
