"""How far from the best possible are policies, on instances small enough to be solved exactly?

One round; five jobs of any class, 2 to 6 devices each, all there from the start. The optimum knows
which devices will check in, so nothing that does not see the future reaches it. Device types are as
frequent as among AI-Benchmark's phone models; 200 check-ins before tell of supply.

Columns: mean over instances of the sum of completion times over the optimum's, and the worst. The
published planner may hand out devices that are not eligible; where it does, here the smallest
request that may use them has them. With `--json` each exact solution is written down as soon as it
is found, and what the file holds already is not solved again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import PACKAGES, Choices, parse_choices, report, stamp

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.types import Device
from hocket.fl.venn.exact import solve_exactly
from hocket.fl.venn.planning import NOBODY
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.published import heads_as_published
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.traces import phone_models
from hocket.fl.venn.workloads import CLASSES

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    Ints = np.ndarray[Any, np.dtype[np.int64]]

QUESTION = "how far from the optimum are policies, on small instances?"

NUM_INSTANCES = 200
NUM_BEFORE = 200
WORK_LIMIT = 30.0

LIVE = ("random", "fifo", "srsf", "venn", "lookahead", "foresight")

COLUMNS = {
    "policy": "",
    "instances": "",
    "proved": "",
    "mean_ratio": ".3f",
    "worst_ratio": ".2f",
}

# Requirements of the four classes, and a device that meets just those.
MINIMUM = tuple({name: 1.0} for name in CLASSES)


class Instance:
    """Jobs, and the check-ins before and after they came.

    Args:
        seed: The same gives the same instance.
    """

    def __init__(self, seed: int) -> None:
        models, self.eligible = phone_models()
        generator = np.random.default_rng(seed)
        self.demands = generator.integers(2, 7, 5)
        self.groups = generator.integers(0, len(CLASSES), 5)
        types = models[generator.integers(0, models.size, NUM_BEFORE + 100)].astype(np.int64)
        self.before = types[:NUM_BEFORE]
        self.after = self._enough(types[NUM_BEFORE:])

    def _enough(self, types: Ints) -> Ints:
        """Return so many check-ins that any order of service is done within them."""
        wanted = int(self.demands.sum())
        for length in range(wanted, types.size):
            able = self.eligible[:, types[:length]].sum(axis=1)
            if np.all(able[self.groups] >= wanted):
                return types[:length]
        return types

    def total_of(self, policy: str, seed: int) -> int:
        """Return the sum over jobs of the check-ins until each has its devices."""
        heads = self._published() if policy == "published" else self._live(policy, seed)
        left, total = self.demands.copy(), 0
        next(heads)
        for time, atom in enumerate(self.after.tolist()):
            job = heads.send(atom)
            if job != NOBODY:
                left[job] -= 1
                total += 0 if left[job] else time + 1
        if left.any():
            raise RuntimeError("an instance has too few check-ins")
        return total

    def _live(self, policy: str, seed: int) -> Generator[int, int, None]:
        """Say who gets each check-in, by the scheduler of live devices."""
        scheduler = VennScheduler(POLICIES[policy], seed=seed)
        devices = [
            Device(
                f"type {atom}",
                {name: float(able) for name, able in zip(CLASSES, column, strict=True)},
            )
            for atom, column in enumerate(self.eligible.T)
        ]
        for atom in self.before.tolist():
            scheduler.offer(devices[atom])
        for job, (demand, group) in enumerate(zip(self.demands, self.groups, strict=True)):
            scheduler.submit(DeviceRequest(str(job), int(demand), MINIMUM[group]))
        job = NOBODY
        while True:
            atom = yield job
            found = scheduler.offer(devices[atom])
            job = NOBODY if found is None else int(found)

    def _published(self) -> Generator[int, int, None]:
        """Say who gets each check-in, by the plan of Venn's simulator."""
        num_atoms = self.eligible.shape[1]
        supply = np.bincount(self.before, minlength=num_atoms).astype(np.float64)
        wanted, heads = self.demands.copy(), np.zeros(num_atoms, np.int64)
        job, is_stale = NOBODY, True
        while True:
            atom = yield job
            if is_stale:
                asked = np.where(wanted > 0, self.demands, 0)
                heads_as_published(supply, self.eligible, asked, wanted, self.groups, heads)
            supply[atom] += 1
            job = int(heads[atom])
            if job == NOBODY or not self.eligible[self.groups[job], atom]:
                able = np.flatnonzero((wanted > 0) & self.eligible[self.groups, atom])
                job = int(able[np.argmin(wanted[able])]) if able.size else NOBODY
            if job != NOBODY:
                wanted[job] -= 1
            is_stale = job != NOBODY and not wanted[job]


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return a row an instance: the optimum, and what each policy makes of it."""
    rows = _read_rows(choices.json_path)
    for seed in range(5 if choices.quick else NUM_INSTANCES):
        instance = Instance(seed)
        is_new = seed not in rows
        if is_new:
            rows[seed] = {"row": "instance", "seed": seed, **_solve(instance)}
        rows[seed] |= {name: instance.total_of(name, seed) for name in (*LIVE, "published")}
        if is_new:
            _write_rows(list(rows.values()), choices)
    return list(rows.values())


def _solve(instance: Instance) -> dict[str, Any]:
    exact = solve_exactly(
        instance.demands.tolist(),
        instance.groups.tolist(),
        instance.after.tolist(),
        instance.eligible,
        work_limit=WORK_LIMIT,
    )
    return {"optimum": exact.total, "is_proved": exact.is_optimal}


def _read_rows(path: Path | None) -> dict[int, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["seed"]: row for row in rows if row["row"] == "instance"}


def _write_rows(rows: list[dict[str, Any]], choices: Choices) -> None:
    if choices.json_path is not None:
        content = {"question": QUESTION, "stamp": stamp(), "rows": rows}
        choices.json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a policy."""
    summary = []
    for policy in (*LIVE, "published"):
        ratios = np.array([row[policy] / row["optimum"] for row in rows])
        summary.append(
            {
                "row": "summary",
                "policy": policy,
                "instances": len(rows),
                "proved": sum(row["is_proved"] for row in rows),
                "mean_ratio": float(ratios.mean()),
                "worst_ratio": float(ratios.max()),
            }
        )
    return summary


def main() -> None:
    """Be the bench."""
    choices, _ = parse_choices(QUESTION)
    rows = measure(choices)
    summary = summarise(rows)
    about = stamp((*PACKAGES, "ortools"))
    report(QUESTION, [*summary, *rows], COLUMNS, choices, shown=summary, about=about)


if __name__ == "__main__":
    main()
