"""The plan of live devices: which waiting job is next for each device type and tier.

The same compiled functions as in the simulator, from objects in place of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.venn.lookahead import rank_jointly
from hocket.fl.venn.planning import NOBODY, choose_heads, plan_intersections, queue_by_group
from hocket.fl.venn.policies import Policy, Sharing, attained_share, order_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.venn.live_jobs import LiveJob

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

RESPONSE_SECONDS = 120.0
"""Taken for a round's responses before any has been seen."""
QUORUM_SHARE = 0.8
"""Percentile of response times that a round is taken to last after its selection."""
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Scene:
    """What a plan is made for.

    Attributes:
        now: The time, seconds.
        supply: Check-ins of each type, ``[atoms]``.
        seconds: Time that these are for.
        eligible: Whether a group may use a type, ``[groups, atoms]``.
        response_seconds: That most devices take to answer; 0 if none has.
        num_jobs: That are known.
    """

    now: float
    supply: Floats
    seconds: float
    eligible: Bools
    response_seconds: float
    num_jobs: int


@dataclass(frozen=True)
class LivePlan:
    """Who is next.

    Attributes:
        heads: Position of a job, or ``NOBODY``, by atom and tier.
        owners: The group whose devices they are, or ``NOBODY``, by atom.
    """

    heads: list[list[int]]
    owners: list[int]


def make_plan(policy: Policy, scene: Scene, jobs: Sequence[LiveJob], groups: list[int]) -> LivePlan:
    """Return the plan for jobs that wait for devices.

    Args:
        policy: How devices are shared.
        scene: The time and the supply.
        jobs: Those that wait.
        groups: Of each.
    """
    num_groups, num_atoms = scene.eligible.shape
    wanted = np.array([job.wanted for job in jobs], np.int64)
    accepts = np.array([job.accepts for job in jobs], np.int64)
    by_job = np.array(groups, np.int64)
    shares = shares_of(policy, scene, jobs, groups)
    numbers = policy.numbers
    keys = np.array(
        [
            order_key(
                numbers,
                job.wanted,
                float(job.rounds_left * job.demand),
                # Jobs that came in the same instant are told apart by their numbers.
                float(job.number),
                job.served,
                job.draw,
                scene.now - job.asked,
                share,
                float(job.rank),
            )
            for job, share in zip(jobs, shares, strict=True)
        ],
        np.float64,
    )
    owners = np.full(num_atoms, NOBODY, np.int64)
    if policy.sharing == Sharing.INTERSECTIONS and jobs:
        demands, starts = queue_by_group(wanted, by_job, num_groups)
        weights = np.ones(num_groups)
        for group in set(groups):
            mean = np.mean([s for s, g in zip(shares, groups, strict=True) if g == group])
            weights[group] = max(float(mean), LEAST_SHARE) ** -policy.fairness
        owners = plan_intersections(scene.supply, scene.eligible, demands, starts, weights)
    heads = np.full((num_atoms, policy.num_tiers), NOBODY, np.int64)
    choose_heads(keys, wanted, by_job, accepts, scene.eligible, owners, heads)
    return LivePlan(heads.tolist(), owners.tolist())


def set_ranks(policy: Policy, scene: Scene, jobs: Sequence[LiveJob], groups: list[int]) -> None:
    """Order all jobs by look-ahead, those too that wait for responses and will ask again."""
    shares = shares_of(policy, scene, jobs, groups)
    left = [job.left * share**policy.fairness for job, share in zip(jobs, shares, strict=True)]
    demands = np.array([job.demand for job in jobs], np.float64)
    rates = scene.supply / max(scene.seconds, 1.0)
    pause = scene.response_seconds or RESPONSE_SECONDS
    ranks = rank_jointly(
        rates, scene.eligible, np.array(left), demands, pause, np.array(groups, np.int64)
    )
    for job, rank in zip(jobs, ranks.tolist(), strict=True):
        job.rank = rank


def shares_of(
    policy: Policy, scene: Scene, jobs: Sequence[LiveJob], groups: list[int]
) -> list[float]:
    """Return what part of its fair share each job has had; 1 where that does not count."""
    if not policy.fairness:
        return [1.0] * len(jobs)
    rates = (scene.eligible @ scene.supply) / max(scene.seconds, 1.0)
    shares = []
    for job, group in zip(jobs, groups, strict=True):
        total = job.rounds_done + 1 + job.rounds_left
        rate = max(float(rates[group]), 1e-9)
        alone = total * (job.demand / rate + (scene.response_seconds or RESPONSE_SECONDS))
        progress = job.rounds_done / total
        shares.append(attained_share(progress, scene.now - job.came, alone, scene.num_jobs))
    return shares
