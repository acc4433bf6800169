"""Venn's planner as its published simulator has it, to compare with; ours is in ``planning.py``.

It differs from the paper's Algorithm 1: supply is the last 1,000 check-ins; a group without a queue
gives all it has to the groups that pass by; and a move takes all that the other group has, also
devices that the taker's jobs are not eligible for. Written anew from what that code does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.fl.venn.planning import queue_by_group

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

PUBLISHED_WINDOW = 1000
"""Check-ins that supply is counted over."""

RATE_WINDOW = 100
"""Check-ins of a class that its rate is measured over."""


@njit(cache=True, error_model="numpy")
def plan_as_published(
    supply: Floats, eligible: Bools, demands: Floats, starts: Ints
) -> tuple[Bools, Ints]:
    """Return which atoms each group is given, and the order in which groups are asked.

    Args:
        supply: Check-ins of each atom in the window, ``[atoms]``.
        eligible: ``[groups, atoms]``.
        demands, starts: As ``queue_by_group`` returns them, of the demands when asked for.
    """
    num_groups, num_atoms = eligible.shape
    given = np.zeros((num_groups, num_atoms), np.bool_)
    totals = np.zeros(num_groups)
    for group in range(num_groups):
        for atom in range(num_atoms):
            if eligible[group, atom]:
                totals[group] += supply[atom]
    order = np.argsort(totals, kind="mergesort")
    amounts = np.zeros(num_groups)
    is_taken = np.zeros(num_atoms, np.bool_)
    for group in order:
        for atom in range(num_atoms):
            if eligible[group, atom] and supply[atom] > 0 and not is_taken[atom]:
                is_taken[atom] = True
                given[group, atom] = True
                amounts[group] += supply[atom]
        amounts[group] = max(amounts[group], 1.0)
    # Each group's queue: demands, and what each of them is served from.
    lengths = starts[1:] - starts[:-1]
    queues = np.zeros((num_groups, demands.size))
    rates = np.zeros((num_groups, demands.size))
    for group in range(num_groups):
        queues[group, : lengths[group]] = demands[starts[group] : starts[group + 1]]
        rates[group, : lengths[group]] = amounts[group]
    for at in range(num_groups - 1, -1, -1):
        taker = order[at]
        if lengths[taker] == 0 or amounts[taker] == 0:
            given[taker] = False
            amounts[taker] = 0.0
            continue
        for below in range(at - 1, -1, -1):
            giver = order[below]
            if lengths[giver] == 0:
                amounts[taker] += amounts[giver]
                given[taker] |= given[giver]
                continue
            affected = _num_affected(
                queues[taker, : lengths[taker]],
                rates[taker, : lengths[taker]],
                queues[giver, : lengths[giver]],
                rates[giver, : lengths[giver]],
            )
            is_longer = amounts[giver] > 0 and (
                affected / amounts[taker] > lengths[giver] / amounts[giver]
            )
            if not is_longer:
                break
            amounts[taker] += amounts[giver]
            given[taker] |= given[giver]
            mine, other = lengths[taker], lengths[giver]
            rates[taker, :mine] += amounts[giver]
            queues[taker, mine : mine + other] = queues[giver, :other]
            rates[taker, mine : mine + other] = rates[giver, :other]
            lengths[taker] += other
            amounts[giver] = 0.0
            lengths[giver] = 0
            given[giver] = False
    return given, order


@njit(cache=True, error_model="numpy")
def _num_affected(mine: Floats, my_rates: Floats, other: Floats, other_rates: Floats) -> int:
    delay = (other / other_rates).sum()
    waits = mine / my_rates
    if waits.sum() <= delay:
        return mine.size
    waited = 0.0
    for position in range(mine.size):
        waited += waits[position]
        if waited >= delay:
            return position
    return mine.size


@njit(cache=True, error_model="numpy")
def heads_as_published(
    supply: Floats, eligible: Bools, asked: Ints, wanted: Ints, groups: Ints, heads: Ints
) -> None:
    """Write down the job that the next device of each atom goes to.

    Of the first group that was given the atom, the job with the smallest request, or one that
    already wants less. A request that was refused stays in its queue, and gets devices if it is the
    smallest.

    Args:
        supply, eligible: As ``plan_as_published`` takes them.
        asked, wanted: Devices asked for and still wanted, ``[jobs]``.
        groups: Of each job.
        heads: Written: a job or -1, ``[atoms]``.
    """
    num_groups, num_atoms = eligible.shape
    demands, starts = queue_by_group(asked, groups, num_groups)
    given, order = plan_as_published(supply, eligible, demands, starts)
    first = np.full(num_groups, -1, np.int64)
    for job in range(asked.size):
        group = groups[job]
        if asked[job] > 0 and (first[group] < 0 or asked[job] < asked[first[group]]):
            first[group] = job
    for job in range(asked.size):
        group = groups[job]
        if asked[job] > 0 and 0 < wanted[job] < wanted[first[group]]:
            first[group] = job
    for atom in range(num_atoms):
        heads[atom] = -1
        for group in order:
            if given[group, atom] and first[group] >= 0:
                heads[atom] = first[group]
                break
