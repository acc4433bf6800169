"""Policies: in what order jobs get devices, how groups share, and which devices suit a cohort.

A policy is data. The scheduler that serves live devices and the simulator read the same one, and
call the same compiled functions of this file and of ``planning.py``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.planning import ALL_TIERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MAX_TIERS = 16

EXPLORE = 0.1
"""Part of the rounds in which an Oort-style policy takes all tiers."""
LEARNING_RATE = 0.003
"""Weight of one device's fate in the share of its tier that answers."""

_STARVING = -1e15
"""Added to the time of a request that has waited too long: before all keys, the oldest first."""


class Order(enum.IntEnum):
    """What jobs are ordered by, smallest first."""

    RANDOM = 0
    """A number drawn for each request."""
    FIFO = 1
    """When the job came."""
    SERVICE = 2
    """Devices that the job has had: least attained service."""
    REQUEST = 3
    """Devices that the round still wants: smallest remaining request first."""
    TOTAL = 4
    """Devices that all rounds together still want: smallest remaining total first."""
    LOOK_AHEAD = 5
    """Ours: the order that has all jobs done soonest, by the supply to be expected."""


class Sharing(enum.IntEnum):
    """How groups of jobs with different requirements share device types."""

    NONE = 0
    """One order for all jobs."""
    INTERSECTIONS = 1
    """Venn: by scarcity, then intersections to longer queues (``plan_intersections``)."""
    PUBLISHED = 2
    """As Venn's published simulator does it (``plan_as_published``); in the simulator only."""


class Matching(enum.IntEnum):
    """Which tiers of device speed a cohort takes."""

    ANY = 0
    TRADE_OFF = 1
    """Venn's Algorithm 2: one drawn tier, where that pays."""
    FASTEST = 2
    """Oort-style: the faster half, but all in one round of ten, and after a selection failed."""
    LOSSES = 3
    """Ours: all, until so many are expected to be lost that the quorum is in danger."""


@dataclass(frozen=True)
class Policy:
    """How devices are shared.

    Attributes:
        name: What it is called.
        order: Of jobs, in a group or in all.
        sharing: Among groups.
        matching: Of tiers.
        num_tiers: Tiers of speed, alike in size; 1 without matching.
        fairness: Venn's epsilon: 0 for none; the larger, the more it counts whether a job has had
            its fair share.
        patience_seconds: After which a waiting request goes before all that have waited less; None
            for never.
        stop_weight, gate_weight: With ``LOSSES``: how many times an expected loss counts, when
            asked whether a cohort is enough already, and whether it can bear slower devices.
            Losses come in bursts, so they count more than once.

    Raises:
        ConfigError: A number is out of range.
    """

    name: str
    order: Order
    sharing: Sharing = Sharing.NONE
    matching: Matching = Matching.ANY
    num_tiers: int = 1
    fairness: float = 0.0
    patience_seconds: float | None = None
    stop_weight: float = 3.0
    gate_weight: float = 1.3

    def __post_init__(self) -> None:
        if not 1 <= self.num_tiers <= MAX_TIERS:
            raise ConfigError(f"num_tiers must be 1 to {MAX_TIERS}, got {self.num_tiers}")
        if self.fairness < 0:
            raise ConfigError(f"fairness must be 0 or more, got {self.fairness}")
        if self.patience_seconds is not None and self.patience_seconds <= 0:
            raise ConfigError(f"patience_seconds must be above 0, got {self.patience_seconds}")
        for name in ("stop_weight", "gate_weight"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def __str__(self) -> str:
        return self.name

    @property
    def numbers(self) -> PolicyNumbers:
        """The policy as compiled functions take it."""
        patience = np.inf if self.patience_seconds is None else self.patience_seconds
        return PolicyNumbers(
            int(self.order),
            int(self.sharing),
            int(self.matching),
            self.num_tiers,
            float(self.fairness),
            float(patience),
            float(self.stop_weight),
            float(self.gate_weight),
        )


class PolicyNumbers(NamedTuple):
    """A ``Policy`` for compiled functions; its attributes say what each means."""

    order: int
    sharing: int
    matching: int
    num_tiers: int
    fairness: float
    patience: float
    stop_weight: float
    gate_weight: float


HALF_A_DAY = 12 * 3600.0

POLICIES = {
    policy.name: policy
    for policy in (
        Policy("random", Order.RANDOM),
        Policy("fifo", Order.FIFO),
        Policy("las", Order.SERVICE),
        Policy("srsf", Order.REQUEST),
        Policy("total", Order.TOTAL),
        Policy("oort", Order.RANDOM, matching=Matching.FASTEST, num_tiers=4),
        Policy("venn", Order.REQUEST, Sharing.INTERSECTIONS, patience_seconds=HALF_A_DAY),
        Policy(
            "venn-tiers",
            Order.REQUEST,
            Sharing.INTERSECTIONS,
            Matching.TRADE_OFF,
            num_tiers=2,
            patience_seconds=HALF_A_DAY,
        ),
        Policy("lookahead", Order.LOOK_AHEAD, patience_seconds=HALF_A_DAY),
        Policy(
            "foresight",
            Order.LOOK_AHEAD,
            matching=Matching.LOSSES,
            num_tiers=8,
            patience_seconds=HALF_A_DAY,
        ),
        Policy("published", Order.REQUEST, Sharing.PUBLISHED),
    )
}
"""All policies by name: baselines, Venn's without and with tiers, ours, and Venn as published."""


def choose_policies(names: Sequence[str]) -> list[Policy]:
    """Return policies by their names.

    Raises:
        ConfigError: There is no such policy.
    """
    for name in names:
        if name not in POLICIES:
            raise ConfigError(f"no policy {name!r}; there are {', '.join(POLICIES)}")
    return [POLICIES[name] for name in names]


@njit(cache=True, error_model="numpy")
def order_key(
    policy: PolicyNumbers,
    wanted: int,
    left: float,
    arrival: float,
    served: int,
    draw: float,
    waited: float,
    share: float,
    rank: float,
) -> float:
    """Return what a job is ordered by; the smallest key comes first.

    Args:
        policy: Says which of the other arguments counts.
        wanted: Devices that the round still wants.
        left: Devices that the rounds after this one want.
        arrival: When the job came, seconds.
        served: Devices it has had.
        draw: Drawn for the request, in [0, 1).
        waited: Seconds since the request.
        share: ``attained_share`` of the job.
        rank: Position in the order of ``rank_jointly``.
    """
    if policy.order == Order.RANDOM:
        key = draw
    elif policy.order == Order.FIFO:
        key = arrival
    elif policy.order == Order.SERVICE:
        key = float(served)
    elif policy.order == Order.REQUEST:
        key = float(wanted)
    elif policy.order == Order.TOTAL:
        key = left + wanted
    else:
        key = rank
    if policy.fairness > 0 and policy.order != Order.LOOK_AHEAD:
        key *= share**policy.fairness
    if waited > policy.patience:
        key = _STARVING - waited
    return key


@njit(cache=True, error_model="numpy")
def attained_share(progress: float, age: float, alone: float, num_jobs: int) -> float:
    """Return how much of its fair share a job has had: 1 is fair, less is too little.

    A job that would take ``alone`` seconds by itself fairly takes ``num_jobs`` times as long, so at
    ``age`` it should have done ``age / (num_jobs * alone)``. Venn's ``t_i / T_i``, where we read
    ``t_i`` as attained service: as the time waited, jobs would lose rank by waiting.

    Args:
        progress: Part of its work that is done, in [0, 1].
        age: Seconds since it came.
        alone: Seconds that it would take alone.
        num_jobs: Jobs at the time.
    """
    return max(progress, 1e-3) * num_jobs * alone / max(age, 1.0)


@njit(cache=True, error_model="numpy")
def pays_to_match(num_tiers: int, gain: float, ratio: float) -> bool:
    """Whether a cohort of one tier is done sooner: Venn's ``V + g_u c_i < 1 + c_i``.

    Args:
        num_tiers: ``V``: selection takes so many times as long.
        gain: ``g_u``: the tier's response time over that of all devices.
        ratio: ``c_i``: response over scheduling time of the job's last round.
    """
    return num_tiers + gain * ratio < 1 + ratio


@njit(cache=True, error_model="numpy")
def tiers_at_request(
    policy: PolicyNumbers, tier: int, gain: float, ratio: float, has_failed: bool, draw: float
) -> int:
    """Return the tiers, a bit each, that a round begins with: ``TRADE_OFF`` and ``FASTEST``.

    Args:
        policy: Says which of the other arguments counts.
        tier: Drawn among all.
        gain: The tier's response time over that of all devices; 1 if unknown.
        ratio: Response over scheduling time of the job's last round; 0 before the first.
        has_failed: Whether the job's last selection did.
        draw: In [0, 1).
    """
    if policy.matching == Matching.FASTEST and not has_failed and draw >= EXPLORE:
        return ALL_TIERS << (policy.num_tiers // 2)
    if policy.matching == Matching.TRADE_OFF and pays_to_match(policy.num_tiers, gain, ratio):
        return 1 << tier
    return ALL_TIERS


@njit(cache=True, error_model="numpy")
def judge_cohort(
    policy: PolicyNumbers, demand: int, quorum: float, size: int, lost: float, answered: Floats
) -> tuple[bool, int]:
    """Return whether a cohort is enough, and the tiers that it can still bear: ``LOSSES``.

    Args:
        policy: How many times an expected loss counts.
        demand: Devices that were asked for.
        quorum: Part of them that must answer.
        size: Of the cohort.
        lost: Of these, expected to be lost.
        answered: Share of each tier's devices that answer.
    """
    needed = demand * quorum + 1
    is_enough = size - policy.stop_weight * lost >= needed
    spare = demand - needed - policy.gate_weight * lost
    return is_enough, tiers_bearable(spare, answered, policy.gate_weight)


@njit(cache=True, error_model="numpy")
def tiers_bearable(spare: float, answered: Floats, gate_weight: float) -> int:
    """Return the tiers, a bit each, that a cohort can still bear: ``LOSSES``.

    Args:
        spare: Devices that may yet be lost without danger to the quorum.
        answered: Share of each tier's devices that answer.
        gate_weight: How many times an expected loss counts.
    """
    accepted = 0
    best = 0
    for tier in range(answered.size):
        if gate_weight * (1 - answered[tier]) <= spare:
            accepted |= 1 << tier
        if answered[tier] >= answered[best]:
            best = tier
    # Somebody must be welcome, or a cohort would wait for ever.
    return accepted | (1 << best)
