"""Workloads of Venn's evaluation: which jobs come when, and what they ask for."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from hocket.fl.core.errors import ConfigError

CLASSES = ("general", "compute_rich", "memory_rich", "high_performance")
"""Venn's four requirements; a job's group is the position of its own."""

FIRST_ARRIVAL_SECONDS = 3600.0
MEAN_GAP_SECONDS = 1800.0


@dataclass(frozen=True)
class Job:
    """One federated job.

    Attributes:
        arrival_seconds: When it comes.
        demand: Devices a round.
        rounds: To be completed.
        deadline_seconds: For a round's reports.
        group: Position in ``CLASSES`` of what its devices must be.
    """

    arrival_seconds: float
    demand: int
    rounds: int
    deadline_seconds: float
    group: int

    def __post_init__(self) -> None:
        if self.demand < 1 or self.rounds < 1 or self.deadline_seconds <= 0:
            raise ConfigError(
                "a job wants 1 or more devices, 1 or more rounds and a deadline above 0, "
                f"got {self.demand}, {self.rounds} and {self.deadline_seconds}"
            )


@dataclass(frozen=True)
class Workload:
    """How the jobs of an evaluation are drawn.

    Attributes:
        name: Of the workload.
        seed: That the published evaluation draws with.
        num_days: Length of the published run.
        class_shares: Of each requirement; None where jobs have them in turns.
        templates: Demand, rounds and deadline of the jobs that may be drawn.
        is_drawn: Whether each of all templates may be; drawing counts the others, too.
    """

    name: str
    seed: int
    num_days: int
    class_shares: tuple[float, ...] | None
    templates: tuple[tuple[int, int, float], ...]
    is_drawn: tuple[bool, ...]

    def draw(
        self, num_jobs: int = 50, *, seed: int | None = None, round_share: float = 1.0
    ) -> tuple[Job, ...]:
        """Return jobs, by arrival.

        With the seed of the evaluation they are the published ones. Its biased workloads list class
        shares that its code never reads; here they count.

        Args:
            num_jobs: How many.
            seed: Another than the evaluation's.
            round_share: Part of each job's rounds, so that a run takes less.
        """
        if num_jobs < 1 or not 0 < round_share <= 1:
            raise ConfigError(
                "want 1 or more jobs and a share of rounds above 0 and up to 1, "
                f"got {num_jobs} and {round_share}"
            )
        # The old generator: with it, a seed gives the jobs that the published code draws.
        generator = np.random.RandomState(self.seed if seed is None else seed)
        gaps = generator.exponential(scale=MEAN_GAP_SECONDS, size=num_jobs - 1)
        arrivals = FIRST_ARRIVAL_SECONDS + np.concatenate([[0.0], np.cumsum(gaps)])
        shares = np.array(self.is_drawn, np.float64)
        chosen = generator.choice(len(shares), num_jobs, p=shares / shares.sum())
        groups = np.arange(num_jobs) % len(CLASSES)
        if self.class_shares is not None:
            groups = generator.choice(len(CLASSES), num_jobs, p=self.class_shares)
        jobs = []
        for arrival, template, group in zip(arrivals, chosen, groups, strict=True):
            demand, rounds, deadline = self.templates[template]
            few = max(1, int(rounds * round_share))
            jobs.append(Job(float(arrival), demand, few, deadline, int(group)))
        return tuple(jobs)


def workload_named(name: str) -> Workload:
    """Return a workload of Venn's evaluation.

    Raises:
        ConfigError: There is none of that name.
    """
    found = _load_workloads()
    if name not in found:
        raise ConfigError(f"no workload {name!r}; there are {', '.join(found)}")
    return found[name]


def workload_names() -> tuple[str, ...]:
    """Return the names of all workloads."""
    return tuple(_load_workloads())


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of ``data``."""
    text = files("hocket.fl.venn.data").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


ORDER = (
    "even",
    "small",
    "large",
    "low",
    "high",
    "general",
    "comp_heavy",
    "mem_heavy",
    "res_intensive",
)


@cache
def _load_workloads() -> dict[str, Workload]:
    rows = read_table("venn_job_templates.csv")
    templates = tuple(
        (int(row["participants"]), int(row["rounds"]), float(row["deadline"])) for row in rows
    )
    found = {}
    for row in read_table("venn_workloads.csv"):
        name = row["workload"]
        shares = tuple(float(share) for share in row["eligibility_prob"].split()) or None
        found[name] = Workload(
            name,
            int(row["random_seed"]),
            int(row["period_days"]) * int(row["periods"]),
            shares,
            templates,
            tuple(bool(int(each[f"in_{name}"])) for each in rows),
        )
    return {name: found[name] for name in ORDER}
