"""One order of all jobs, by what the supply that is to be expected would make of it.

Venn orders jobs within groups and then shares types among groups. Here there is one order for all,
and a device goes to the first job that may use it. What an order comes to is reckoned without
chance, as if devices flowed: between the ends of two jobs, each job takes its part of what those
before it leave of each type. Jobs are moved about in the order as long as the sum of their ends
gets less by it.

Before: devices a second by type, and what each job still wants.
After: the jobs' positions; those far behind stay in the order of what they want.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEAST_RATE = 1e-9
"""Devices a second of a type that nobody has seen."""

MOST_JOBS = 64
"""That are moved about; those behind them have their turn when others have ended."""

MOST_STEPS = 4_000_000
"""Of the reckoning, for one order: some 10 ms."""

LEAST_GAIN = 1e-9
"""Relative; below it a move is rounding."""


@njit(cache=True, error_model="numpy")
def rank_jointly(
    rates: Floats, eligible: Bools, left: Floats, demands: Floats, pause: float, groups: Ints
) -> Ints:
    """Return the position of each job in the order in which they should get devices.

    Args:
        rates: Devices a second, ``[atoms]``.
        eligible: Whether a group may use an atom, ``[groups, atoms]``.
        left: Devices that each job still wants in all rounds, ``[jobs]``.
        demands: Devices it wants a round, ``[jobs]``.
        pause: Seconds from a round's last device to the next round's request.
        groups: Of each job.
    """
    # Mergesort is stable: of equals, the earlier job.
    order = np.argsort(left, kind="mergesort")
    num_first = min(left.size, MOST_JOBS)
    first = order[:num_first]
    steps_a_reckoning = num_first * num_first * rates.size
    tries_left = MOST_STEPS // max(steps_a_reckoning, 1)
    best = _sum_of_ends(first, rates, eligible, left, demands, pause, groups, np.inf)
    other = first.copy()
    has_improved = True
    while has_improved and tries_left > 0:
        has_improved = False
        for distance in range(1, num_first):
            for at in range(num_first):
                for to in (at + distance, at - distance):
                    # To move a job by one ahead is to move the one before it by one back.
                    is_double = distance == 1 and to < at
                    if not 0 <= to < num_first or is_double or tries_left <= 0:
                        continue
                    tries_left -= 1
                    other[:] = first
                    _move(other, at, to)
                    total = _sum_of_ends(other, rates, eligible, left, demands, pause, groups, best)
                    if total < best * (1 - LEAST_GAIN):
                        best = total
                        first[:] = other
                        has_improved = True
    ranks = np.empty(left.size, np.int64)
    for rank, job in enumerate(order):
        ranks[job] = rank
    return ranks


@njit(cache=True, error_model="numpy")
def _move(order: Ints, at: int, to: int) -> None:
    """Take a job out of an order and put it in elsewhere."""
    moved = order[at]
    step = 1 if to > at else -1
    for position in range(at, to, step):
        order[position] = order[position + step]
    order[to] = moved


@njit(cache=True, error_model="numpy")
def _sum_of_ends(
    order: Ints,
    rates: Floats,
    eligible: Bools,
    left: Floats,
    demands: Floats,
    pause: float,
    groups: Ints,
    limit: float,
) -> float:
    """Return the sum of the times at which jobs end, or infinity once it is sure to reach a limit.

    A job that is offered ``rate`` devices a second takes ``demand / (demand / rate + pause)`` of
    them as long as rounds follow, and all of them in its last one.
    """
    rest = left.copy()
    speeds = np.zeros(left.size)
    free = np.empty(rates.size)
    now = total = 0.0
    running = order.size
    while running > 0:
        if total + running * now >= limit:
            return float(np.inf)
        free[:] = rates
        until = np.inf
        for job in order:
            if rest[job] <= 0:
                continue
            able = eligible[groups[job]]
            rate = LEAST_RATE
            for atom in range(free.size):
                if able[atom]:
                    rate += free[atom]
            speed = rate
            if rest[job] > demands[job]:
                speed = demands[job] / (demands[job] / rate + pause)
            for atom in range(free.size):
                if able[atom]:
                    free[atom] *= 1 - speed / rate
            speeds[job] = speed
            until = min(until, rest[job] / speed)
        now += until
        for job in order:
            if rest[job] > 0:
                rest[job] -= until * speeds[job]
                if rest[job] <= LEAST_GAIN * left[job]:
                    rest[job] = 0.0
                    running -= 1
                    total += now
    return float(total)
