"""How soon are many jobs done on one population of devices, by policy?

The workloads of Venn's evaluation with a tenth of the rounds, on traces drawn from 100 real
FedScale clients with 1.4 times the check-ins of Venn's file: a SURROGATE, as the whole traces could
not be obtained. Simulated, not timed, but for the last notes.

Columns: mean job completion time over seeds of jobs and devices, and its standard deviation; how
many times faster than random and than venn (intersections alone), as the mean over seeds; the
published speed-up over random; jobs within their fair share; waste. Further parts in the notes and
the JSON: the reference simulator's figures in its own mode; the gap to exact solutions of small
instances; speeds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import PACKAGES, Choices, parse_choices, report, stamp

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.types import Device
from hocket.fl.venn.exact import solve_exactly
from hocket.fl.venn.planning import plan_intersections, queue_by_group
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.simulator import PUBLISHED_RULES, simulate
from hocket.fl.venn.traces import phone_models, surrogate_trace
from hocket.fl.venn.workloads import CLASSES, workload_named, workload_names

NAMES = ("random", "fifo", "srsf", "total", "venn", "venn-tiers", "foresight")
SEEDS = (None, 11, 12, 13, 14)
"""None: the seed of the evaluation."""

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

COLUMNS = {
    "workload": "",
    "policy": "",
    "mean_jct_seconds": ",.0f",
    "spread_seconds": ",.0f",
    "over_random": ".2f",
    "over_venn": ".3f",
    "published": "",
    "fair_share": ".0%",
    "waste": ".0%",
}

# Requirements of the four classes, as attributes of devices.
MINIMUM = (
    {"fp16": 10.0},
    {"fp16": 10.0, "cpu": 7.0},
    {"fp16": 1000.0},
    {"fp16": 1000.0, "cpu": 7.0},
)


def measure_workloads(choices: Choices) -> list[dict[str, Any]]:
    """Return a row a workload and policy."""
    seeds = SEEDS[:1] if choices.quick else SEEDS
    workloads = ("low",) if choices.quick else workload_names()
    share = 0.02 if choices.quick else 0.1
    found: dict[tuple[str, str], list[Any]] = {}
    for number, seed in enumerate(seeds):
        trace = surrogate_trace(seed=number)
        for workload in workloads:
            jobs = workload_named(workload).draw(seed=seed, round_share=share)
            for name in NAMES:
                outcome = simulate(trace, jobs, POLICIES[name], seed=number)
                found.setdefault((workload, name), []).append(outcome)
    rows = []
    for (workload, name), outcomes in found.items():
        means, random, venn = (
            np.array([each.mean_seconds for each in found[workload, other]])
            for other in (name, "random", "venn")
        )
        published = dict(zip(("fifo", "srsf", "venn-tiers"), PUBLISHED[workload], strict=True))
        rows.append(
            {
                "part": "workloads",
                "workload": workload,
                "policy": name,
                "mean_jct_seconds": means.mean(),
                "spread_seconds": means.std(),
                "over_random": (random / means).mean(),
                "over_venn": (venn / means).mean(),
                "least_over_venn": (venn / means).min(),
                "published": str(published.get(name, "")),
                "fair_share": float(np.mean([each.fair_share for each in outcomes])),
                "waste": float(np.mean([each.waste for each in outcomes])),
                "completed_jobs": [each.completed_jobs for each in outcomes],
                "mean_jct_seconds_by_seed": means.tolist(),
            }
        )
    return rows


def measure_reference(choices: Choices) -> list[dict[str, Any]]:
    """Return our figures in the published mode beside the reference simulator's."""
    if choices.quick:
        return []
    trace = surrogate_trace()
    jobs = workload_named("even").draw(round_share=0.1)
    rows = []
    for name, expected in REFERENCE.items():
        ours = simulate(trace, jobs, POLICIES[name], rules=PUBLISHED_RULES, seed=10)
        rows.append(
            {
                "part": "reference",
                "policy": name,
                "mean_jct_seconds": ours.mean_seconds,
                "reference_seconds": expected,
                "difference": ours.mean_seconds / expected - 1,
            }
        )
    return rows


def measure_gaps(choices: Choices) -> list[dict[str, Any]]:
    """Return by policy the mean completion over that of exact solutions of small instances."""
    num_instances = 5 if choices.quick else 200
    models, eligible = phone_models()
    names = ("random", "fifo", "srsf", "venn")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    num_proved = 0
    for seed in range(num_instances):
        generator = np.random.default_rng(seed)
        demands = generator.integers(2, 7, 5).tolist()
        groups = generator.integers(0, len(CLASSES), 5).tolist()
        types = models[generator.integers(0, models.size, 300)]
        # What was seen before tells of supply; then come just enough devices for all jobs.
        before, after = types[:200], _enough(types[200:], demands, groups, eligible)
        exact = solve_exactly(demands, groups, after.tolist(), eligible, work_limit=10.0)
        num_proved += exact.is_optimal
        for name in names:
            total = _serve(name, demands, groups, before, after, eligible, seed)
            ratios[name].append(total / exact.total)
    return [
        {
            "part": "gap",
            "policy": name,
            "instances": num_instances,
            "proved": num_proved,
            "mean_ratio": float(np.mean(found)),
            "worst_ratio": float(np.max(found)),
        }
        for name, found in ratios.items()
    ]


def _enough(
    types: np.ndarray, demands: list[int], groups: list[int], eligible: np.ndarray
) -> np.ndarray:
    """Return so many check-ins that any order of service is done within them."""
    wanted = sum(demands)
    for length in range(wanted, types.size):
        if all(eligible[group, types[:length]].sum() >= wanted for group in set(groups)):
            return types[:length]
    return types


def _serve(
    name: str,
    demands: list[int],
    groups: list[int],
    before: np.ndarray,
    after: np.ndarray,
    eligible: np.ndarray,
    seed: int,
) -> int:
    """Return the sum over jobs of the check-ins until each has its devices."""
    scheduler = VennScheduler(POLICIES[name], seed=seed)
    devices = [_device_of(eligible[:, atom]) for atom in range(eligible.shape[1])]
    for atom in before:
        scheduler.offer(devices[atom])
    for job, (demand, group) in enumerate(zip(demands, groups, strict=True)):
        scheduler.submit(DeviceRequest(str(job), demand, MINIMUM[group]))
    left, total = list(demands), 0
    for time_, atom in enumerate(after):
        job = scheduler.offer(devices[atom])
        if job is not None:
            left[int(job)] -= 1
            total += 0 if left[int(job)] else time_ + 1
    if any(left):
        raise RuntimeError("an instance has too few check-ins")
    return total


def _device_of(classes: np.ndarray) -> Device:
    general, compute, memory, _ = classes
    fp16 = 2000.0 if memory else 100.0 if general else 1.0
    return Device("d", {"fp16": fp16, "cpu": 10.0 if compute else 2.0})


def measure_speed(choices: Choices) -> list[dict[str, Any]]:
    """Return events, plans and live check-ins a second, the best of some tries."""
    trace = surrogate_trace()
    jobs = workload_named("low" if choices.quick else "even").draw(round_share=0.05)
    tries = range(2 if choices.quick else 5)
    rows = []
    for name in ("fifo", "venn", "foresight"):
        rates = [simulate(trace, jobs, POLICIES[name]).events_per_second for _ in tries]
        rows.append({"part": "speed", "what": f"events a second, {name}", "value": max(rates)})
    generator = np.random.default_rng(0)
    eligible = generator.random((1000, 1000)) < 0.5
    supply = generator.random(1000)
    wanted = generator.integers(1, 1500, 1000)
    seconds = []
    for num_groups in (1000, 100):
        groups = np.arange(1000) % num_groups
        for _ in range(len(tries) + 1):
            start = time.perf_counter()
            queue = queue_by_group(wanted, groups, num_groups)
            plan_intersections(supply, eligible[:num_groups], *queue, np.ones(num_groups))
            seconds.append(time.perf_counter() - start)
        what = f"ms a plan, 1000 jobs in {num_groups} groups, 1000 atoms"
        rows.append({"part": "speed", "what": what, "value": min(seconds) * 1e3})
        seconds.clear()
    scheduler = VennScheduler()
    for number in range(1000):
        scheduler.submit(DeviceRequest(f"j{number}", 10**6, MINIMUM[number % 4]))
    devices = [_device_of(column) for column in phone_models()[1].T]
    count = 20_000
    for _ in tries:
        start = time.perf_counter()
        for number in range(count):
            scheduler.offer(devices[number % len(devices)])
        seconds.append(time.perf_counter() - start)
    what = "live check-ins a second, 1000 jobs"
    rows.append({"part": "speed", "what": what, "value": count / min(seconds)})
    return rows


def main() -> None:
    """Be the bench."""
    question = "how soon are many jobs done, by policy (simulated on surrogate traces)?"
    choices, _ = parse_choices(question)
    shown = measure_workloads(choices)
    reference, gaps, speed = (
        measure(choices) for measure in (measure_reference, measure_gaps, measure_speed)
    )
    notes = [
        *(
            f"published mode, Even, {row['policy']}: {row['mean_jct_seconds']:,.0f} s; reference "
            f"{row['reference_seconds']:,} s ({row['difference']:+.1%})"
            for row in reference
        ),
        *(
            f"{row['policy']}: {row['mean_ratio']:.3f} of the optimum on average, "
            f"{row['worst_ratio']:.2f} at worst, over {row['instances']} small instances "
            f"({row['proved']} proved)"
            for row in gaps
        ),
        *(f"{row['what']}: {row['value']:,.4g}" for row in speed),
    ]
    rows = [*shown, *reference, *gaps, *speed]
    about = stamp((*PACKAGES, "ortools"))
    report(question, rows, COLUMNS, choices, shown=shown, notes=tuple(notes), about=about)


if __name__ == "__main__":
    main()
