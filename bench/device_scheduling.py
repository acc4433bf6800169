"""How soon are many jobs done on one population of devices, by policy?

The workloads of Venn's evaluation, on traces drawn from 100 real FedScale clients: a SURROGATE, as
the whole traces could not be obtained. Simulated, not timed, but for the last notes. With `--part`
one question at a time:

- workloads: nine workloads, a tenth of the rounds, five seeds, our rules of rounds;
- published-rules: the same with the rules of Venn's simulator, and its jobs;
- reference: the published evaluation's own jobs beside the figures of its simulator;
- load: how speed-ups depend on how many devices there are for the jobs;
- full: all rounds of two workloads;
- scale: a million devices, and a thousand jobs;
- fairness: Venn's epsilon, and how long a request waits at most;
- speed: events, plans and live check-ins a second of CPU time, on one core.

Columns: mean job completion time over seeds of jobs and devices, and its standard deviation; how
many times faster than random and than Venn (under published rules, Venn's published planner), as
the mean over seeds, and the least of them; the published speed-up over random; jobs within their
fair share; waste; the longest that a round waited for devices. With `--json` each simulation is
written down as soon as it is done, and what the file holds already is not simulated again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import PACKAGES, Choices, choices_of, make_parser, report, stamp

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.types import Device
from hocket.fl.venn.lookahead import rank_jointly
from hocket.fl.venn.planning import plan_intersections, queue_by_group
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.simulator import OUR_RULES, PUBLISHED_RULES, Outcome, simulate
from hocket.fl.venn.traces import BUSY_SCALE, NUM_FEDSCALE_CLIENTS, Trace, surrogate_trace
from hocket.fl.venn.workloads import workload_named, workload_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUESTION = "how soon are many jobs done, by policy (simulated on surrogate traces)?"

SEEDS = (None, 11, 12, 13, 14)
"""Of jobs; None: the seed of the evaluation. Their positions are the seeds of traces."""

PUBLISHED = {
    "even": (1.38, 1.69, 1.87),
    "small": (1.48, 1.68, 1.78),
    "large": (1.64, 1.57, 1.72),
    "low": (1.55, 1.66, 1.88),
    "high": (1.42, 1.41, 1.63),
    "general": (1.46, 1.78, 1.94),
    "comp_heavy": (1.73, 2.08, 2.23),
    "mem_heavy": (1.68, 2.05, 2.27),
    "res_intensive": (1.65, 1.90, 2.01),
}
"""Speed-up over random of FIFO, SRSF and Venn: the paper's tables 1 and 4."""

REFERENCE = {"fifo": 508_260, "srsf": 409_276, "published": 393_566}
"""Mean JCT of Venn's simulator: Even, rounds / 10, 1.4 times the check-ins, seed 10."""

PARTS = (
    "workloads",
    "published-rules",
    "reference",
    "load",
    "full",
    "scale",
    "fairness",
    "speed",
)

COLUMNS = {
    "part": "",
    "case": "",
    "policy": "",
    "mean_jct_seconds": ",.0f",
    "spread_seconds": ",.0f",
    "over_random": ".2f",
    "over_venn": ".3f",
    "least_over_venn": ".3f",
    "published": "",
    "fair_share": ".0%",
    "waste": ".0%",
    "longest_wait_hours": ".1f",
}


@dataclass(frozen=True)
class Case:
    """One simulation.

    Attributes:
        part: The question that it is for.
        workload: Whose jobs come.
        policy: By name.
        seed: Position in ``SEEDS``.
        round_share: Part of each job's rounds.
        jobs: How many come.
        clients: Size of the population.
        scale: Check-ins of as many clients as FedScale has, times those in Venn's trace file.
        fairness: Venn's epsilon.
    """

    part: str
    workload: str
    policy: str
    seed: int = 0
    round_share: float = 0.1
    jobs: int = 50
    clients: int = NUM_FEDSCALE_CLIENTS
    scale: float = BUSY_SCALE
    fairness: float = 0.0

    @property
    def is_published(self) -> bool:
        """Whether rounds go as in Venn's simulator."""
        return self.part in ("published-rules", "reference")

    @property
    def label(self) -> str:
        """What tells cases of a part apart, but for policy and seed."""
        match self.part:
            case "load":
                return f"{self.workload}, {self.scale:g} x check-ins"
            case "scale":
                return f"{self.workload}, {self.clients:,} devices, {self.jobs} jobs"
            case "fairness":
                return f"{self.workload}, epsilon {self.fairness:g}"
            case _:
                return self.workload


def cases_of(part: str, *, is_quick: bool) -> list[Case]:
    """Return the simulations of a part, those on the same devices together."""
    if is_quick:
        few = ("random", "venn", "foresight") if part == "workloads" else ()
        return [Case(part, "low", policy, round_share=0.02) for policy in few]
    compared = ("random", "fifo", "srsf", "venn", "foresight")
    match part:
        case "workloads":
            ours = [name for name in POLICIES if name != "published"]
            found = [
                Case(part, *each, seed)
                for seed in range(len(SEEDS))
                for each in product(workload_names(), ours)
            ]
        case "published-rules":
            theirs = ("random", "fifo", "srsf", "published", "foresight")
            found = [Case(part, *each) for each in product(workload_names(), theirs)]
        case "reference":
            found = [Case(part, "even", policy) for policy in REFERENCE]
        case "load":
            found = [
                Case(part, workload, policy, scale=scale)
                for scale in (0.7, 1.4, 2.8)
                for workload, policy in product(("even", "low"), compared)
            ]
        case "full":
            names = product(("even", "low"), compared)
            found = [Case(part, *each, round_share=1.0) for each in names]
        case "scale":
            many = [Case(part, "even", each, jobs=1000, round_share=0.02) for each in compared]
            large = [Case(part, "even", each, jobs=200, clients=1_000_000) for each in compared]
            found = many + large
        case "fairness":
            found = [
                Case(part, "even", policy, fairness=fairness)
                for policy in ("random", "venn", "foresight")
                for fairness in (0.0, 0.5, 1.0, 2.0, 4.0)
            ]
        case _:
            found = []
    return found


@lru_cache(maxsize=1)
def _trace(scale: float, seed: int, clients: int) -> Trace:
    return surrogate_trace(scale, seed, num_clients=clients)


def run_case(case: Case) -> dict[str, Any]:
    """Return a case's row."""
    chosen = workload_named(case.workload)
    jobs = chosen.draw(case.jobs, seed=SEEDS[case.seed], round_share=case.round_share)
    policy = replace(POLICIES[case.policy], fairness=case.fairness)
    rules = PUBLISHED_RULES if case.is_published else OUR_RULES
    if case.round_share == 1 or case.jobs > 50:
        rules = replace(rules, num_days=1000.0)
    seed = 10 if case.part == "reference" else case.seed
    trace = _trace(case.scale, case.seed, case.clients)
    outcome = simulate(trace, jobs, policy, rules=rules, seed=seed)
    command = f"python bench/device_scheduling.py --part {case.part}"
    return {"row": "run", **asdict(case), **_figures(outcome), "command": command}


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "mean_jct_seconds": outcome.mean_seconds,
        "completed_jobs": outcome.completed_jobs,
        "scheduling_seconds": outcome.mean_scheduling_seconds,
        "response_seconds": outcome.mean_response_seconds,
        "rounds_done": int(outcome.rounds_done.sum()),
        "rounds_aborted": int(outcome.rounds_aborted.sum()),
        "fair_share": outcome.fair_share,
        "waste": outcome.waste,
        "longest_wait_hours": float(outcome.longest_wait_seconds.max()) / 3600,
        "num_checkins": outcome.num_checkins,
        "num_ineligible": outcome.num_ineligible,
    }


def measure_cases(
    parts: tuple[str, ...], choices: Choices, others: list[dict[str, Any]], about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of all simulations, those that are there already among them.

    Args:
        parts: The questions.
        choices: Of the command line.
        others: Rows of other kinds, which stay beside them in the file.
        about: The stamp.
    """
    rows = _read_rows(choices.json_path, "run")
    there = {_key(row) for row in rows}
    for part in parts:
        for case in cases_of(part, is_quick=choices.quick):
            if _key(asdict(case)) not in there:
                rows.append(run_case(case))
                _write_rows([*others, *rows], choices, about)
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Case.__dataclass_fields__)


def _read_rows(path: Path | None, kind: str) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [row for row in found if row["row"] == kind]


def _write_rows(rows: list[dict[str, Any]], choices: Choices, about: dict[str, Any]) -> None:
    if choices.json_path is not None:
        content = {"question": QUESTION, "stamp": about, "rows": rows}
        choices.json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a part, case and policy, over seeds."""
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]] = {}
    for row in rows:
        case = Case(*_key(row))
        by_policy = found.setdefault((case.part, case.label), {})
        by_policy.setdefault(case.policy, {})[case.seed] = row
    summary = []
    for (part, label), by_policy in found.items():
        for policy, by_seed in by_policy.items():
            means = _means(by_seed, by_seed)
            random = _means(by_policy.get("random", {}), by_seed)
            venn = _means(by_policy.get("venn", by_policy.get("published", {})), by_seed)
            summary.append(
                {
                    "row": "summary",
                    "part": part,
                    "case": label,
                    "policy": policy,
                    "seeds": len(by_seed),
                    "mean_jct_seconds": means.mean(),
                    "spread_seconds": means.std(),
                    "over_random": (random / means).mean(),
                    "over_venn": (venn / means).mean(),
                    "least_over_venn": (venn / means).min(),
                    "published": _published(part, label, policy),
                    **{
                        name: float(np.mean([row[name] for row in by_seed.values()]))
                        for name in ("fair_share", "waste")
                    },
                    "longest_wait_hours": max(r["longest_wait_hours"] for r in by_seed.values()),
                    "completed_jobs": [row["completed_jobs"] for row in by_seed.values()],
                }
            )
    return summary


def _means(by_seed: dict[int, dict[str, Any]], seeds: dict[int, Any]) -> np.ndarray:
    return np.array([by_seed.get(s, {}).get("mean_jct_seconds", np.nan) for s in seeds])


def _published(part: str, workload: str, policy: str) -> str:
    if part == "reference":
        return f"{REFERENCE[policy]:,} s"
    if part not in ("workloads", "published-rules", "full"):
        return ""
    names = ("fifo", "srsf", "published" if part == "published-rules" else "venn")
    return str(dict(zip(names, PUBLISHED[workload], strict=True)).get(policy, ""))


# Requirements of the four classes, as attributes of devices, and a device of each type.
MINIMUM = (
    {"fp16": 10.0},
    {"fp16": 10.0, "cpu": 7.0},
    {"fp16": 1000.0},
    {"fp16": 1000.0, "cpu": 7.0},
)
DEVICES = tuple(
    Device(f"d{number}", {"fp16": fp16, "cpu": cpu})
    for number, (fp16, cpu) in enumerate(
        ((1.0, 2.0), (100.0, 2.0), (100.0, 10.0), (2000.0, 2.0), (2000.0, 10.0))
    )
)

NUM_OFFERS = 20_000


def measure_speed(choices: Choices) -> list[dict[str, Any]]:
    """Return events, plans and live check-ins a second of CPU time, the best of some tries."""
    trace = _trace(BUSY_SCALE, 0, NUM_FEDSCALE_CLIENTS)
    jobs = workload_named("low" if choices.quick else "even").draw(round_share=0.05)
    tries = range(2 if choices.quick else 5)
    found: dict[str, float] = {}
    for name in ("fifo", "venn", "lookahead", "foresight"):
        outcome = simulate(trace, jobs, POLICIES[name])
        again = partial(simulate, trace, jobs, POLICIES[name])
        milliseconds = _least_ms(again, len(tries))
        found[f"events a second, {name}"] = outcome.num_events / milliseconds * 1e3
    generator = np.random.default_rng(0)
    eligible = generator.random((1000, 1000)) < 0.5
    supply = generator.random(1000)
    wanted = generator.integers(1, 1500, 1000)
    for num_groups in (1000, 100):
        groups = np.arange(1000) % num_groups
        few, ones = eligible[:num_groups], np.ones(num_groups)
        sizes = f"1000 jobs in {num_groups} groups, 1000 atoms"
        found[f"ms a plan, {sizes}"] = _least_ms(
            lambda few=few, groups=groups, ones=ones: plan_intersections(
                supply, few, *queue_by_group(wanted, groups, len(few)), ones
            ),
            len(tries),
        )
        found[f"ms an order by look-ahead, {sizes}"] = _least_ms(
            lambda few=few, groups=groups: rank_jointly(
                supply, few, wanted * 50.0, wanted * 1.0, 100.0, groups
            ),
            len(tries),
        )
    for name in ("venn", "foresight"):
        scheduler = VennScheduler(POLICIES[name])
        for number in range(1000):
            scheduler.submit(DeviceRequest(f"j{number}", 10**6, MINIMUM[number % 4]))
        milliseconds = _least_ms(partial(_offer_all, scheduler), len(tries))
        found[f"live check-ins a second, 1000 jobs, {name}"] = NUM_OFFERS / milliseconds * 1e3
    return [{"row": "speed", "what": what, "value": value} for what, value in found.items()]


def _offer_all(scheduler: VennScheduler) -> None:
    for number in range(NUM_OFFERS):
        scheduler.offer(DEVICES[number % len(DEVICES)])


def _least_ms(run: Callable[[], object], tries: int) -> float:
    seconds = []
    for _ in range(tries):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds) * 1e3


def main() -> None:
    """Be the bench."""
    parser = make_parser(QUESTION)
    parser.add_argument("--part", choices=PARTS, action="append", help="all, unless given")
    found = parser.parse_args()
    choices = choices_of(found)
    parts = tuple(found.part or PARTS)
    about = stamp(PACKAGES)
    speed = _read_rows(choices.json_path, "speed")
    if "speed" in parts:
        speed = measure_speed(choices)
    rows = measure_cases(parts, choices, speed, about)
    summary = summarise(rows)
    notes = tuple(f"{row['what']}: {row['value']:,.4g}" for row in speed)
    shown = [row for row in summary if row["part"] in parts]
    everything = [*summary, *speed, *rows]
    report(QUESTION, everything, COLUMNS, choices, shown=shown, notes=notes, about=about)


if __name__ == "__main__":
    main()
