"""The scheduler of live devices: Venn's, and the baselines, behind one protocol.

A check-in is looked up in a plan that says for each device type which job is next. The plan is made
anew only when something changes it: a request comes, is filled or is withdrawn, a type is met for
the first time, a request has waited too long, or supply has been counted for a while.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.fl.venn.eligibility import Eligibility, requirement_of
from hocket.fl.venn.planning import (
    ALL_TIERS,
    NOBODY,
    choose_heads,
    plan_intersections,
    queue_by_group,
)
from hocket.fl.venn.policies import (
    POLICIES,
    Matching,
    Policy,
    Sharing,
    attained_share,
    order_key,
)
from hocket.fl.venn.supply import SupplyWindow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.fl.core.clock import Clock
    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.types import Device
    from hocket.fl.venn.eligibility import Requirement

CHECKINS_A_PLAN = 1000
"""After so many the plan is made anew, as supply may have changed."""

RESPONSE_SECONDS = 120.0
"""Taken for a round's responses when a job's time alone is estimated."""


@dataclass
class _Entry:
    """What is known of a job; ``wanted`` is 0 while it has no request."""

    number: int
    requirement: Requirement
    came: float
    num_rounds: int | None
    demand: int = 1
    wanted: int = 0
    asked: float = 0.0
    draw: float = 0.0
    served: int = 0
    rounds_done: int = 0

    @property
    def rounds_left(self) -> int:
        """After this one; where nobody has said, as many as there have been."""
        total = 2 * self.rounds_done + 1 if self.num_rounds is None else self.num_rounds
        return max(total - self.rounds_done - 1, 0)


class VennScheduler:
    """Shares devices that come and go among jobs with requirements.

    Args:
        policy: In what order jobs get devices, and how groups share; one without tiers.
        clock: Tells the time of check-ins and requests.
        seed: Of what a policy draws.
        window: Counts supply.

    Raises:
        ConfigError: The policy matches tiers, or is the published planner: both need what only the
            simulator knows.
    """

    def __init__(
        self,
        policy: Policy = POLICIES["venn"],
        *,
        clock: Clock | None = None,
        seed: int = 0,
        window: SupplyWindow | None = None,
    ) -> None:
        if policy.matching != Matching.ANY or policy.sharing == Sharing.PUBLISHED:
            raise ConfigError(
                f"policy {policy.name!r} is for the simulator; live devices have no tiers"
            )
        self._policy = policy
        self._clock = clock or WallClock()
        self._generator = generator_for(seed, "venn scheduler")
        self._supply = SupplyWindow() if window is None else window
        self._entries: dict[str, _Entry] = {}
        self._eligibility = Eligibility()
        self._heads: list[str | None] = []
        self._owners: list[int] = []
        self._is_stale = True
        self._checkins_left = 0
        self._impatient_at = math.inf
        self._num_jobs = 0

    def register(self, job: str, *, num_rounds: int | None = None) -> None:
        """Make a job known before its first request.

        Args:
            job: Its name.
            num_rounds: That it will have; unknown, as many as it has had are taken to be left.

        Raises:
            ConfigError: The number is not positive.
        """
        if num_rounds is not None and num_rounds < 1:
            raise ConfigError(f"job {job!r}: want 1 or more rounds, got {num_rounds}")
        entry = self._entry(job)
        entry.num_rounds = num_rounds
        self._is_stale = True

    def submit(self, request: DeviceRequest) -> None:
        """Take a request, which takes the place of one that the job made before."""
        entry = self._entry(request.job)
        requirement = requirement_of(request.minimum)
        has_changed = requirement != entry.requirement
        entry.requirement = requirement
        if has_changed or requirement not in self._eligibility.groups:
            self._regroup()
        entry.demand = entry.wanted = request.count
        entry.asked = self._clock.now()
        entry.draw = float(self._generator.random())
        self._is_stale = True

    def withdraw(self, job: str) -> None:
        """Forget a job's request, if it has one; the job itself stays known."""
        if job in self._entries:
            self._entries[job].wanted = 0
            self._is_stale = True

    def end_round(self, job: str) -> None:
        """Withdraw a job's request and count a round as done."""
        self.withdraw(job)
        if job in self._entries:
            self._entries[job].rounds_done += 1

    def finish(self, job: str) -> None:
        """Forget a job."""
        if self._entries.pop(job, None) is not None:
            self._regroup()

    def offer(self, device: Device) -> str | None:
        """Return the job that gets a device, whose request then wants one less; None if none."""
        now = self._clock.now()
        atom = self._eligibility.atom_of(device.attributes)
        self._supply.add(now, device.attributes, atom)
        self._checkins_left -= 1
        self._plan_if_needed(now, atom)
        job = self._heads[atom]
        if job is not None:
            entry = self._entries[job]
            entry.wanted -= 1
            entry.served += 1
            self._is_stale = not entry.wanted
        return job

    def why_device(self, device: Device) -> str:
        """Return in a sentence which job a device would get now, and why; nothing changes."""
        atom = self._eligibility.atom_of(device.attributes)
        self._plan_if_needed(self._clock.now(), atom)
        waiting = [
            name
            for name, entry in self._entries.items()
            if entry.wanted and self._mask(atom) >> self._group(entry) & 1
        ]
        job = self._heads[atom]
        if job is None:
            return f"nobody gets {device}: no waiting job may use it"
        others = ", ".join(name for name in waiting if name != job) or "nobody else"
        if self._owners[atom] == NOBODY:
            reason = f"it is the first by {self._policy.order.name.lower()}"
        elif self._owners[atom] == self._group(self._entries[job]):
            reason = "devices of its type go to the job's group, where the job is the first"
        else:
            reason = "it has waited longer than the policy's patience"
        return f"{job!r} gets {device}: {reason}; {others} may use it, too"

    def why_waiting(self, job: str) -> str:
        """Return in a sentence what a job waits for; nothing changes.

        Raises:
            ConfigError: There is no such job.
        """
        if job not in self._entries:
            raise ConfigError(f"no job {job!r}; there are {', '.join(self._entries) or 'none'}")
        entry = self._entries[job]
        if not entry.wanted:
            return f"{job!r} waits for nothing"
        self._plan_if_needed(self._clock.now(), NOBODY)
        group = self._group(entry)
        masks = self._eligibility.masks
        counts = self._supply.counts(len(masks))
        usable = [atom for atom, mask in enumerate(masks) if mask >> group & 1]
        owned = [atom for atom in usable if self._owners[atom] in (group, NOBODY)]
        mine = [atom for atom in usable if self._heads[atom] == job]
        ahead = sorted({str(self._heads[atom]) for atom in usable if self._heads[atom] != job})
        text = (
            f"{job!r} wants {entry.wanted} of {entry.demand} devices; of the last "
            f"{len(self._supply)} check-ins it may use {counts[usable].sum():.0f}, its group is "
            f"given {counts[owned].sum():.0f}, and it is next for {counts[mine].sum():.0f}"
        )
        return f"{text}; before it: {', '.join(ahead)}" if ahead else text

    def _entry(self, job: str) -> _Entry:
        if job not in self._entries:
            self._num_jobs += 1
            self._entries[job] = _Entry(self._num_jobs, (), self._clock.now(), None)
        return self._entries[job]

    def _group(self, entry: _Entry) -> int:
        return self._eligibility.groups[entry.requirement]

    def _mask(self, atom: int) -> int:
        return self._eligibility.masks[atom]

    def _regroup(self) -> None:
        """Tell apart what today's requirements tell apart."""
        requirements = dict.fromkeys(entry.requirement for entry in self._entries.values())
        self._eligibility = Eligibility(requirements)
        self._supply.recount(self._eligibility)
        self._is_stale = True

    def _plan_if_needed(self, now: float, atom: int) -> None:
        if (
            self._is_stale
            or atom >= len(self._heads)
            or self._checkins_left <= 0
            or now > self._impatient_at
        ):
            self._plan(now)

    def _plan(self, now: float) -> None:
        names = [name for name, entry in self._entries.items() if entry.wanted]
        entries = [self._entries[name] for name in names]
        eligible = self._eligibility.matrix
        num_groups, num_atoms = eligible.shape
        wanted = np.array([entry.wanted for entry in entries], np.int64)
        groups = np.array([self._group(entry) for entry in entries], np.int64)
        supply = self._supply.counts(num_atoms)
        shares = self._shares(now, entries, eligible, supply)
        numbers = self._policy.numbers
        keys = np.array(
            [
                order_key(
                    numbers,
                    entry.wanted,
                    float(entry.rounds_left * entry.demand),
                    # Jobs that came in the same instant are told apart by their numbers.
                    float(entry.number),
                    entry.served,
                    entry.draw,
                    now - entry.asked,
                    share,
                )
                for entry, share in zip(entries, shares, strict=True)
            ],
            np.float64,
        )
        owners = np.full(num_atoms, NOBODY, np.int64)
        if self._policy.sharing == Sharing.INTERSECTIONS and entries:
            demands, starts = queue_by_group(wanted, groups, num_groups)
            weights = np.ones(num_groups)
            for group in set(groups.tolist()):
                mean = np.mean([s for s, g in zip(shares, groups, strict=True) if g == group])
                weights[group] = max(float(mean), 1e-6) ** -self._policy.fairness
            owners = plan_intersections(supply, eligible, demands, starts, weights)
        heads = np.full((num_atoms, 1), NOBODY, np.int64)
        accepts = np.full(len(entries), ALL_TIERS, np.int64)
        choose_heads(keys, wanted, groups, accepts, eligible, owners, heads)
        self._heads = [None if head == NOBODY else names[head] for head in heads[:, 0].tolist()]
        self._owners = owners.tolist()
        self._is_stale = False
        self._checkins_left = CHECKINS_A_PLAN
        patience = numbers.patience
        waits = [each.asked + patience for each in entries if now - each.asked <= patience]
        self._impatient_at = min(waits, default=math.inf)

    def _shares(
        self,
        now: float,
        entries: list[_Entry],
        eligible: NDArray[np.bool_],
        supply: NDArray[np.float64],
    ) -> list[float]:
        """Return what part of its fair share each job has had."""
        if not self._policy.fairness:
            return [1.0] * len(entries)
        rates = (eligible @ supply) / max(self._supply.seconds, 1.0)
        shares = []
        for entry in entries:
            total = entry.rounds_done + 1 + entry.rounds_left
            rate = max(float(rates[self._group(entry)]), 1e-9)
            alone = total * (entry.demand / rate + RESPONSE_SECONDS)
            progress = entry.rounds_done / total
            shares.append(attained_share(progress, now - entry.came, alone, len(self._entries)))
        return shares
