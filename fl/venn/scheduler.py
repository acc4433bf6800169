"""The scheduler of live devices: Venn's, the baselines, and ours, behind one protocol.

A check-in is looked up in a plan that says for each device type, and tier of speed, which job is
next. The plan is made anew only when something changes it: a request comes, is filled, is withdrawn
or ends, a device is lost, a type is met for the first time, a request has waited too long, or
supply has been counted for a while.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hocket.fl.core.clock import WallClock
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.seeds import generator_for
from hocket.fl.venn.admission import check_admission
from hocket.fl.venn.eligibility import Eligibility, requirement_of
from hocket.fl.venn.explanations import explain_device, explain_waiting
from hocket.fl.venn.live_jobs import Given, LiveJob
from hocket.fl.venn.live_plan import QUORUM_SHARE, Scene, make_plan, set_ranks
from hocket.fl.venn.planning import ALL_TIERS, NOBODY
from hocket.fl.venn.policies import (
    POLICIES,
    Matching,
    Order,
    Policy,
    Sharing,
    judge_cohort,
    tiers_at_request,
)
from hocket.fl.venn.requests import Phase, Progress, RoundRequest, Usage
from hocket.fl.venn.supply import SupplyWindow
from hocket.fl.venn.tiers import TierProfile

if TYPE_CHECKING:
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.devices import DeviceRequest
    from hocket.fl.core.types import Device
    from hocket.fl.venn.supply import Supply

CHECKINS_A_PLAN = 1000
"""After so many the plan is made anew, as supply may have changed."""

RANK_SECONDS = 3600.0
"""How long an order by look-ahead is kept, unless jobs or what they ask for change."""

PASSED_A_TIER = 3
"""A round takes devices of any tier after so many times the number of tiers came, in a row, that
are of none it takes. Tiers are alike in size, so by chance that is one case in twenty or fewer;
where nobody is of a tier, as with few devices, a round would wait for ever."""

FEW_JOBS = 8
"""As long as there are no more, the order is looked for at each plan."""


class VennScheduler:
    """Shares devices that come and go among jobs with requirements.

    A device is offered whenever it has nothing to do. Who tells, by ``respond`` and ``lose``, what
    has become of devices, gets replacements for lost ones, rounds that end by themselves, and
    policies that match tiers of speed, which are learnt from response times. Who does not, asks for
    devices and withdraws.

    Args:
        policy: In what order jobs get devices, how groups share, which tiers a cohort takes.
        clock: Tells the time of check-ins and requests.
        seed: Of what a policy draws.
        supply: Counts check-ins: a ``SupplyWindow``, or a ``WeeklySupply``.

    Attributes:
        usage: What devices were spent on.

    Raises:
        ConfigError: The policy is the published planner, which is for the simulator.
    """

    def __init__(
        self,
        policy: Policy = POLICIES["venn"],
        *,
        clock: Clock | None = None,
        seed: int = 0,
        supply: Supply | None = None,
    ) -> None:
        if policy.sharing == Sharing.PUBLISHED:
            raise ConfigError(f"policy {policy.name!r} is for the simulator")
        self.usage = Usage()
        self._policy = policy
        self._numbers = policy.numbers
        self._clock = clock or WallClock()
        self._generator = generator_for(seed, "venn scheduler")
        self._supply: Supply = SupplyWindow() if supply is None else supply
        self._tiers = TierProfile(policy.num_tiers)
        self._jobs: dict[str, LiveJob] = {}
        self._eligibility = Eligibility()
        self._heads: list[list[str | None]] = []
        self._owners: list[int] = []
        self._choosy: list[LiveJob] = []
        self._is_stale = True
        self._checkins_left = 0
        self._impatient_at = math.inf
        self._due_at = math.inf
        self._ranked_until = -math.inf
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
        self._job(job).num_rounds = num_rounds
        self._change_order()

    def submit(self, request: DeviceRequest) -> None:
        """Take a request, which takes the place of one that the job made before.

        Raises:
            AdmissionError: It is a ``RoundRequest`` that no supply seen so far can meet in its
                time; the job is as before.
        """
        now = self._clock.now()
        if isinstance(request, RoundRequest):
            check_admission(request, self._supply, now)
        job = self._job(request.job)
        requirement = requirement_of(request.minimum)
        has_changed = requirement != job.requirement
        job.requirement = requirement
        if has_changed or requirement not in self._eligibility.groups:
            self._regroup()
        if has_changed or request.count != job.demand:
            self._change_order()
        has_failed = job.phase is Phase.FAILED
        self._give_up(job)
        job.begin(request, now, float(self._generator.random()))
        self._due_at = min(self._due_at, job.due)
        if self._policy.matching in (Matching.TRADE_OFF, Matching.FASTEST):
            tier = int(self._generator.integers(self._policy.num_tiers))
            gain = self._tiers.gain(tier) if job.is_first_of(self._jobs.values()) else 1.0
            draw = float(self._generator.random())
            job.accepts = tiers_at_request(self._numbers, tier, gain, job.ratio, has_failed, draw)
        self._is_stale = True

    def withdraw(self, job: str) -> None:
        """Ask for no more devices; those at work stay, and the job stays known."""
        found = self._jobs.get(job)
        if found is not None and found.phase is Phase.SELECTING:
            found.end_selection(self._clock.now())
            self._due_at = min(self._due_at, found.due)
            self._is_stale = True

    def end_round(self, job: str) -> None:
        """Withdraw a job's request and count a round as done; who is still at work is too late."""
        self.withdraw(job)
        found = self._jobs.get(job)
        if found is not None:
            if found.phase in (Phase.REPORTING, Phase.COMPLETE):
                responding = self._clock.now() - found.filled
                found.ratio = responding / max(found.filled - found.asked, 1.0)
            found.rounds_done += 1
            found.end(Phase.IDLE)

    def finish(self, job: str) -> None:
        """Forget a job; a round that it had is given up."""
        found = self._jobs.pop(job, None)
        if found is not None:
            self._give_up(found)
            self._regroup()
            self._change_order()

    def offer(self, device: Device) -> str | None:
        """Return the job that gets a device, whose request then wants one less; None if none."""
        now = self._clock.now()
        atom = self._eligibility.atom_of(device.attributes)
        self._supply.add(now, device.attributes, atom)
        self._checkins_left -= 1
        self._end_what_is_due(now)
        self._plan_if_needed(now, atom)
        tier = self._tiers.tier_of(device.device_id)
        if self._choosy and self._pass(atom, tier):
            self._plan(now)
        name = self._heads[atom][tier]
        if name is not None:
            self._give(self._jobs[name], device.device_id, tier, now)
        return name

    def respond(self, job: str, device_id: str, *, seconds: float | None = None) -> bool:
        """Take the result of a device.

        Args:
            job: That the device was given to.
            device_id: Of the device.
            seconds: That it took; by default, since it was given.

        Returns:
            Whether a round waited for it. ``progress`` says whether it has its quorum now.
        """
        now = self._clock.now()
        self._end_what_is_due(now)
        found = self._jobs.get(job)
        given = None if found is None else found.cohort.pop(device_id, None)
        if found is None or given is None:
            self.usage.late += 1
            return False
        took = now - given.at if seconds is None else seconds
        self._tiers.learn_answer(device_id, given.tier, took)
        found.risk -= given.risk
        found.answered += 1
        self.usage.answered += 1
        if found.phase is Phase.REPORTING and found.has_quorum:
            found.complete()
        return True

    def lose(self, job: str, device_id: str) -> None:
        """Take note that a device has left or failed.

        While its round still selects, another is asked for in its place; after, the round fails
        once too few are left.
        """
        now = self._clock.now()
        self._end_what_is_due(now)
        found = self._jobs.get(job)
        given = None if found is None else found.cohort.pop(device_id, None)
        if found is None or given is None:
            return
        self._tiers.learn_loss(device_id, given.tier, now - given.at)
        found.risk -= given.risk
        found.lost += 1
        self.usage.lost += 1
        if found.phase is Phase.SELECTING:
            found.wanted += 1
            self._is_stale = True
        elif found.phase is Phase.REPORTING and not found.can_reach_quorum:
            self._fail(found, now)

    def progress(self, job: str) -> Progress:
        """Return how a job's round stands.

        Raises:
            ConfigError: There is no such job.
        """
        now = self._clock.now()
        self._end_what_is_due(now)
        return self._known(job).progress(now)

    def why_device(self, device: Device) -> str:
        """Return in a sentence which job a device would get now, and why; nothing changes."""
        now = self._clock.now()
        self._end_what_is_due(now)
        atom = self._eligibility.atom_of(device.attributes)
        self._plan_if_needed(now, atom)
        tier = self._tiers.tier_of(device.device_id)
        able = [
            name
            for name, job in self._jobs.items()
            if job.wanted and self._eligibility.masks[atom] >> self._group(job) & 1
        ]
        head = self._heads[atom][tier]
        group = NOBODY if head is None else self._group(self._jobs[head])
        owner, order = self._owners[atom], self._policy.order
        return explain_device(device, tier, head, able, owner, group, order)

    def why_waiting(self, job: str) -> str:
        """Return in a sentence what a job waits for; nothing changes.

        Raises:
            ConfigError: There is no such job.
        """
        now = self._clock.now()
        self._end_what_is_due(now)
        found = self._known(job)
        self._plan_if_needed(now, NOBODY)
        group = self._group(found)
        masks = self._eligibility.masks
        counts = self._supply.counts(len(masks))
        usable = [atom for atom, mask in enumerate(masks) if mask >> group & 1]
        owned = [atom for atom in usable if self._owners[atom] in (group, NOBODY)]
        mine = [atom for atom in usable if job in self._heads[atom]]
        heads = {head for atom in usable for head in self._heads[atom] if head is not None}
        sums = (counts[usable].sum(), counts[owned].sum(), counts[mine].sum())
        return explain_waiting(job, found, len(self._supply), sums, heads - {job})

    def _pass(self, atom: int, tier: int) -> bool:
        """Count a check-in for jobs that do not take its tier; return whether some do from now."""
        mask, most = self._eligibility.masks[atom], PASSED_A_TIER * self._policy.num_tiers
        has_changed = False
        for job in self._choosy:
            if not job.wanted or job.passed >= most or not mask >> self._group(job) & 1:
                continue
            if job.accepts >> tier & 1:
                job.passed = 0
                continue
            job.passed += 1
            if job.passed >= most:
                job.accepts = ALL_TIERS
                has_changed = True
        return has_changed

    def _give(self, job: LiveJob, device_id: str, tier: int, now: float) -> None:
        given = Given(now, tier, 1 - float(self._tiers.answered[tier]))
        job.cohort[device_id] = given
        job.risk += given.risk
        job.served += 1
        job.wanted -= 1
        self.usage.given += 1
        # Where all must report, lost devices are replaced, and none is refused for being slow.
        if self._policy.matching == Matching.LOSSES and job.quorum < 1:
            is_enough, accepts = judge_cohort(
                self._numbers,
                job.demand,
                job.quorum,
                len(job.cohort) + job.answered,
                job.risk,
                self._tiers.answered,
            )
            if is_enough:
                job.wanted = 0
            if job.passed < PASSED_A_TIER * self._policy.num_tiers:
                self._is_stale |= accepts != job.accepts
                job.accepts = accepts
        if not job.wanted:
            job.end_selection(now)
            self._due_at = min(self._due_at, job.due)
            self._is_stale = True

    def _give_up(self, job: LiveJob) -> None:
        """Count what a round that nobody has ended has cost."""
        if job.phase not in (Phase.IDLE, Phase.FAILED):
            self.usage.wasted += job.answered
        job.end(Phase.IDLE)

    def _fail(self, job: LiveJob, now: float) -> None:
        for device_id, given in job.cohort.items():
            self._tiers.learn_loss(device_id, given.tier, now - given.at)
        self.usage.lost += len(job.cohort)
        self.usage.wasted += job.answered
        job.end(Phase.FAILED)
        self._is_stale = True

    def _end_what_is_due(self, now: float) -> None:
        if now < self._due_at:
            return
        for job in self._jobs.values():
            if now < job.due:
                continue
            if job.phase is Phase.SELECTING and job.can_reach_quorum:
                job.end_selection(job.due)
            if now >= job.due:
                self._fail(job, now)
            self._is_stale = True
        self._due_at = min((job.due for job in self._jobs.values()), default=math.inf)

    def _known(self, job: str) -> LiveJob:
        if job not in self._jobs:
            raise ConfigError(f"no job {job!r}; there are {', '.join(self._jobs) or 'none'}")
        return self._jobs[job]

    def _job(self, job: str) -> LiveJob:
        if job not in self._jobs:
            self._num_jobs += 1
            self._jobs[job] = LiveJob(self._num_jobs, (), self._clock.now())
            if () not in self._eligibility.groups:
                self._regroup()  # an order may ask for the group of a job without a request
            self._change_order()
        return self._jobs[job]

    def _group(self, job: LiveJob) -> int:
        return self._eligibility.groups[job.requirement]

    def _change_order(self) -> None:
        self._ranked_until = -math.inf
        self._is_stale = True

    def _regroup(self) -> None:
        """Tell apart what today's requirements tell apart."""
        requirements = dict.fromkeys(job.requirement for job in self._jobs.values())
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
        eligible = self._eligibility.matrix
        scene = Scene(
            now,
            self._supply.counts(eligible.shape[1]),
            self._supply.seconds,
            eligible,
            self._tiers.response_seconds(QUORUM_SHARE),
            len(self._jobs),
        )
        everyone = list(self._jobs.values())
        is_due = now >= self._ranked_until or len(everyone) <= FEW_JOBS
        if self._policy.order == Order.LOOK_AHEAD and everyone and is_due:
            set_ranks(self._policy, scene, everyone, [self._group(job) for job in everyone])
            self._ranked_until = now + RANK_SECONDS
        names = [name for name, job in self._jobs.items() if job.wanted]
        waiting = [self._jobs[name] for name in names]
        plan = make_plan(self._policy, scene, waiting, [self._group(job) for job in waiting])
        self._heads = [
            [None if head == NOBODY else names[head] for head in row] for row in plan.heads
        ]
        self._owners = plan.owners
        every = (1 << self._policy.num_tiers) - 1
        self._choosy = [job for job in waiting if job.accepts & every != every]
        self._is_stale = False
        self._checkins_left = CHECKINS_A_PLAN
        patience = self._numbers.patience
        waits = [job.asked + patience for job in waiting if now - job.asked <= patience]
        self._impatient_at = min(waits, default=math.inf)
