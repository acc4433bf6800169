"""One order of all jobs, from what the supply that is to be expected would make of it.

Venn orders jobs within groups and then shares types among groups. Here there is one order for all:
a device goes to the first job that may use it. What an order comes to is reckoned without chance,
as if devices flowed: as long as no job ends, each takes a share of what those before it leave of
each type. Then jobs are moved about in the order as long as the sum of their ends gets less.
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


@njit(cache=True, error_model="numpy")
def order_jointly(
    rates: Floats,
    eligible: Bools,
    left: Floats,
    demands: Floats,
    pause: float,
    groups: Ints,
    effort: int,
) -> Ints:
    """Return jobs in the order in which they should get devices.

    Args:
        rates: Devices a second, ``[atoms]``.
        eligible: Whether a group may use an atom, ``[groups, atoms]``.
        left: Devices that each job still wants in all rounds, ``[jobs]``.
        demands: Devices it wants a round, ``[jobs]``.
        pause: Seconds from a round's last device to the next round's request.
        groups: Of each job.
        effort: Orders that are looked at, at most.
    """
    order = np.argsort(left, kind="mergesort")
    if left.size < 2:
        return order
    best = _sum_of_ends(order, rates, eligible, left, demands, pause, groups, np.inf)
    alone = np.empty(left.size)
    for job in range(left.size):
        alone[job] = left[job] / max((rates * eligible[groups[job]]).sum(), LEAST_RATE)
    other = np.argsort(alone, kind="mergesort")
    total = _sum_of_ends(other, rates, eligible, left, demands, pause, groups, best)
    if total < best:
        order, best = other, total
    has_changed = True
    while has_changed and effort > 0:
        has_changed = False
        for step in range(1, left.size):
            for at in range(left.size - step):
                for direction in range(2):
                    if effort <= 0:
                        return order
                    if step == 1 and direction == 1:
                        continue
                    effort -= 1
                    first, last = (at, at + step) if direction == 0 else (at + step, at)
                    other[:] = order
                    _move(other, first, last)
                    total = _sum_of_ends(
                        other, rates, eligible, left, demands, pause, groups, best
                    )
                    if total < best * (1 - 1e-9):
                        order[:] = other
                        best = total
                        has_changed = True
    return order


@njit(cache=True, error_model="numpy")
def _move(order: Ints, first: int, last: int) -> None:
    moved = order[first]
    step = 1 if last > first else -1
    for at in range(first, last, step):
        order[at] = order[at + step]
    order[last] = moved


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
    rest = left.copy()
    speeds = np.zeros(left.size)
    free = np.empty(rates.size)
    now = total = 0.0
    running = left.size
    while running > 0:
        if total + running * now >= limit:
            return np.inf
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
            speeds[job] = speed
            kept = 1.0 - speed / rate
            for atom in range(free.size):
                if able[atom]:
                    free[atom] *= kept
            until = min(until, rest[job] / speed)
        now += until
        for job in order:
            if rest[job] > 0:
                rest[job] -= until * speeds[job]
                if rest[job] <= 1e-9 * left[job]:
                    rest[job] = 0.0
                    running -= 1
                    total += now
    return total
