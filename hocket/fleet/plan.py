"""What policies come to for a fleet, before anything is trained."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hocket.fleet.jobs import costs_of
from hocket.fleet.run import make_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.venn.requests import RoundRequest
    from hocket.fleet.events import Cost
    from hocket.fleet.families import Family
    from hocket.fleet.jobs import Demand
    from hocket.fleet.run import Fleet


@dataclass
class PlannedJob:
    """A job that trains nothing: each of its rounds is taken to be like the first.

    Attributes:
        family: What it is made of.
        demand: Of devices.
        clients: Its clients, by device.
        rounds_done: How far it has come.
    """

    family: Family
    demand: Demand
    clients: Mapping[str, str]
    rounds_done: int = 0
    _costs: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the job."""
        return self.family.name

    @property
    def num_rounds(self) -> int:
        """That it has."""
        return self.family.num_rounds

    @property
    def is_over(self) -> bool:
        """Whether it wants no more rounds."""
        return self.rounds_done == self.num_rounds

    def request(self) -> RoundRequest:
        """Return what devices its next round wants."""
        return self.demand.request(self.name)

    def costs(self) -> Mapping[str, Cost]:
        """Return what a round takes on every device."""
        if not self._costs:
            family = self.family
            self._costs = costs_of(family.tasks, self.demand, family.first, 1, self.clients)
        return self._costs

    def run_round(self, devices: Sequence[str], arrivals: Mapping[str, float]) -> None:
        """Count a round."""
        del devices, arrivals
        self.rounds_done += 1


@dataclass(frozen=True)
class PolicyPlan:
    """What a policy comes to.

    Attributes:
        policy: Its name.
        completion_seconds: Of each job, by its name; a figure a seed.
        device_hours: That devices were held, a figure a seed.
    """

    policy: str
    completion_seconds: Mapping[str, tuple[float, ...]]
    device_hours: tuple[float, ...]

    @property
    def means(self) -> tuple[float, ...]:
        """Mean completion time of all jobs, a figure a seed."""
        return tuple(map(statistics.fmean, zip(*self.completion_seconds.values(), strict=True)))


def plan_fleet(
    fleet: Fleet,
    policies: Sequence[str],
    seeds: Sequence[int],
    progress: Callable[[str, int, int], None] | None = None,
) -> list[PolicyPlan]:
    """Return what policies come to, over seeds of what they draw and what devices drop.

    Devices, and when they are there, are the same throughout.

    Raises:
        ConfigError: There is no such policy.
        FederationError: A job gets no devices.
    """
    plans = []
    for number, policy in enumerate(policies):
        found: dict[str, list[float]] = {family.name: [] for family in fleet.families}
        hours = []
        for done, seed in enumerate(seeds):
            if progress is not None:
                progress(policy, number * len(seeds) + done, len(policies) * len(seeds))
            history = make_loop(fleet, _jobs(fleet), policy, seed).run()
            for name, times in found.items():
                times.append(history.completions[name] - history.arrivals[name])
            hours.append(sum(each.ended - each.began for each in history.segments) / 3600)
        completions = {name: tuple(times) for name, times in found.items()}
        plans.append(PolicyPlan(policy, completions, tuple(hours)))
    return plans


def _jobs(fleet: Fleet) -> list[PlannedJob]:
    return [
        PlannedJob(family, fleet.demand(number), fleet.clients.clients_of(family.name))
        for number, family in enumerate(fleet.families)
    ]
