"""Who gets devices of which type: allocation by scarcity, and the job at the head of each type.

The planner is Venn's Algorithm 1 (MLSys 2025, section 4) on exact device types, which are called
*atoms* here: all devices of an atom may serve the same groups of jobs. Groups are what requests
with the same requirement make.

Before: supply by atom, which group may use which atom, and the demands queued in each group.
After: one group for every atom that a queued group may use, and none for the others.
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

NOBODY = -1
"""In place of a group or a job: there is none."""

ALL_TIERS = -1
"""A job's tiers where all are welcome: every bit is set."""

URGENT = -1e14
"""Jobs with a lower key come before those of the group that owns an atom."""

LEAST_SUPPLY = 1e-9
"""What an atom that nobody has seen counts for, so that it has a group, too."""


@njit(cache=True, error_model="numpy")
def plan_intersections(  # noqa: PLR0912 - the algorithm's two passes
    supply: Floats, eligible: Bools, demands: Floats, starts: Ints, weights: Floats
) -> Ints:
    """Return the group that each atom's devices go to: ``owners[atom]``, or ``NOBODY``.

    Groups first take what is eligible, the scarcest first. Then each group, the most abundant
    first, takes its intersection with scarcer ones while its queue is longer for what it has
    (``m'_j / |S'_j| > m'_k / |S'_k|``). Only atoms that a group may use ever move to it: the
    published code moves whole allocations, and so hands out devices that are not eligible.

    Args:
        supply: Devices a time, ``[atoms]``.
        eligible: Whether a group may use an atom, ``[groups, atoms]``.
        demands: Devices wanted by each queued job, those of a group together, smallest first.
        starts: Where in ``demands`` each group's begin, ``[groups + 1]``.
        weights: What a queued job of each group counts for, ``[groups]``: 1, or fairness's factor.
    """
    num_groups, num_atoms = eligible.shape
    owners = np.full(num_atoms, NOBODY, np.int64)
    totals = np.zeros(num_groups)
    for group in range(num_groups):
        for atom in range(num_atoms):
            if eligible[group, atom]:
                totals[group] += max(supply[atom], LEAST_SUPPLY)
    # Mergesort is stable, so that groups of the same supply keep their order.
    scarcest_first = np.argsort(totals, kind="mergesort")
    allocated = np.zeros(num_groups)
    for group in scarcest_first:
        if starts[group + 1] == starts[group]:
            continue
        for atom in range(num_atoms):
            if eligible[group, atom] and owners[atom] == NOBODY:
                owners[atom] = group
                allocated[group] += max(supply[atom], LEAST_SUPPLY)
    queues = (starts[1:] - starts[:-1]) * weights
    absorbed = np.zeros(num_groups)
    held = np.zeros(num_groups, np.int64)
    for owner in owners:
        if owner != NOBODY:
            held[owner] += 1
    shared = np.zeros(num_groups)
    for at in range(num_groups - 1, 0, -1):
        taker = scarcest_first[at]
        if allocated[taker] <= 0:
            continue
        shared[:] = 0.0
        for atom in range(num_atoms):
            if owners[atom] != NOBODY and eligible[taker, atom]:
                shared[owners[atom]] += max(supply[atom], LEAST_SUPPLY)
        for below in range(at - 1, -1, -1):
            giver = scarcest_first[below]
            if shared[giver] <= 0:
                continue
            affected = weights[taker] * _num_affected(
                demands, starts, taker, allocated[taker], giver, allocated[giver]
            )
            is_longer = (affected + absorbed[taker]) / allocated[taker] > (
                (queues[giver] + absorbed[giver]) / allocated[giver]
            )
            if not is_longer:
                break
            for atom in range(num_atoms):
                if owners[atom] == giver and eligible[taker, atom]:
                    owners[atom] = taker
                    held[taker] += 1
                    held[giver] -= 1
            allocated[taker] += shared[giver]
            allocated[giver] -= shared[giver]
            if held[giver] == 0:
                # Its jobs now wait for the taker's, as if they were queued behind them.
                allocated[giver] = 0.0
                absorbed[taker] += queues[giver] + absorbed[giver]
    return owners


@njit(cache=True, error_model="numpy")
def _num_affected(
    demands: Floats, starts: Ints, taker: int, taken: float, giver: int, given: float
) -> int:
    """Return ``m'``: jobs of a group that are through before another group's queue is.

    It may be none, with which the group takes nothing: its first job would not be done any sooner
    than the others are now.
    """
    delay = demands[starts[giver] : starts[giver + 1]].sum() / given
    waited = 0.0
    for position in range(starts[taker], starts[taker + 1]):
        waited += demands[position] / taken
        if waited >= delay:
            return int(position - starts[taker])
    return int(starts[taker + 1] - starts[taker])


@njit(cache=True, error_model="numpy")
def queue_by_group(wanted: Ints, groups: Ints, num_groups: int) -> tuple[Floats, Ints]:
    """Return ``demands`` and ``starts`` as ``plan_intersections`` takes them.

    Args:
        wanted: Devices each job still wants, 0 for none, ``[jobs]``.
        groups: Of each job.
        num_groups: How many there are.
    """
    starts = np.zeros(num_groups + 1, np.int64)
    for job in range(wanted.size):
        if wanted[job] > 0:
            starts[groups[job] + 1] += 1
    starts = np.cumsum(starts)
    demands = np.empty(starts[-1])
    filled = starts[:-1].copy()
    for job in range(wanted.size):
        if wanted[job] > 0:
            demands[filled[groups[job]]] = wanted[job]
            filled[groups[job]] += 1
    for group in range(num_groups):
        demands[starts[group] : starts[group + 1]].sort()
    return demands, starts


@njit(cache=True, error_model="numpy")
def choose_heads(  # noqa: PLR0912 - loops over jobs, then over atoms and tiers
    keys: Floats,
    wanted: Ints,
    groups: Ints,
    accepts: Ints,
    eligible: Bools,
    owners: Ints,
    heads: Ints,
) -> None:
    """Write down the job that the next device of each atom and tier goes to.

    The owner's first job, by the least key, unless a device's tier is one that no job of the owner
    wants: then the first of all other jobs that may have it, so that no device is turned away that
    somebody wants. Where nobody owns an atom, the first of all jobs. Urgent jobs come before any.

    Args:
        keys: What jobs are ordered by, smallest first, ``[jobs]``. Of equals, the earlier job.
        wanted, groups: Devices each job still wants, and its group, ``[jobs]``.
        accepts: The tiers that each job takes, one bit a tier, ``[jobs]``.
        eligible: Whether a group may use an atom, ``[groups, atoms]``.
        owners: Group by atom, or ``NOBODY``, ``[atoms]``.
        heads: Written: a job or ``NOBODY``, ``[atoms, tiers]``.
    """
    num_groups, num_atoms = eligible.shape
    num_tiers = heads.shape[1]
    first = np.full((num_groups, num_tiers), NOBODY, np.int64)
    for job in range(wanted.size):
        if wanted[job] <= 0:
            continue
        group = groups[job]
        for tier in range(num_tiers):
            if not (accepts[job] >> tier) & 1:
                continue
            if first[group, tier] == NOBODY or keys[job] < keys[first[group, tier]]:
                first[group, tier] = job
    has_urgent = False
    for group in range(num_groups):
        for tier in range(num_tiers):
            if first[group, tier] != NOBODY and keys[first[group, tier]] < URGENT:
                has_urgent = True
    for atom in range(num_atoms):
        for tier in range(num_tiers):
            head = NOBODY
            if owners[atom] != NOBODY:
                head = first[owners[atom], tier]
            if head == NOBODY or has_urgent:
                for group in range(num_groups):
                    other = first[group, tier]
                    if not eligible[group, atom] or other == NOBODY:
                        continue
                    if head == NOBODY:
                        head = other
                    elif owners[atom] != NOBODY and first[owners[atom], tier] != NOBODY:
                        if keys[other] < min(keys[head], URGENT):
                            head = other
                    elif (keys[other], other) < (keys[head], head):
                        head = other
            heads[atom, tier] = head
