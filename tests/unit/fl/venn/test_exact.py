"""Exact solutions against enumeration, and the heuristic against exact solutions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.venn.exact import solve_exactly
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.scheduler import VennScheduler

ELIGIBLE = np.array([[True, True], [False, True]])


def by_enumeration(demands: list[int], groups: list[int], atoms: list[int]) -> int | None:
    """Return the least total over all orders of jobs at each check-in."""
    best = None
    for choice in itertools.product(range(-1, len(demands)), repeat=len(atoms)):
        left, total = list(demands), 0
        for time, (job, atom) in enumerate(zip(choice, atoms, strict=True)):
            if job < 0:
                continue
            if not ELIGIBLE[groups[job], atom] or not left[job]:
                break
            left[job] -= 1
            total += 0 if left[job] else time + 1
        else:
            if not any(left):
                best = total if best is None else min(best, total)
    return best


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=3),
    st.lists(st.integers(0, 1), min_size=3, max_size=7),
)
def test_the_solver_finds_what_enumeration_finds(jobs, atoms) -> None:
    demands, groups = (list(column) for column in zip(*jobs, strict=True))
    expected = by_enumeration(demands, groups, atoms)
    if expected is None:
        with pytest.raises(ConfigError, match="do not suffice"):
            solve_exactly(demands, groups, atoms, ELIGIBLE)
        return
    found = solve_exactly(demands, groups, atoms, ELIGIBLE)
    assert (found.total, found.is_optimal) == (expected, True)
    for time, job in enumerate(found.jobs):
        assert job < 0 or ELIGIBLE[groups[job], atoms[time]]
    assert [found.jobs.count(job) for job in range(len(demands))] == demands


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_venn_is_no_better_than_the_optimum_and_close_to_it(seed: int) -> None:
    generator = np.random.default_rng(seed)
    demands = generator.integers(2, 7, 4).tolist()
    groups = [0, 1, 0, 1]
    atoms = generator.integers(0, 2, 60).tolist()
    scheduler = VennScheduler(POLICIES["venn"])
    for job, (demand, group) in enumerate(zip(demands, groups, strict=True)):
        scheduler.submit(DeviceRequest(str(job), demand, {"memory": 1.0} if group else {}))
    last = dict.fromkeys(range(4), 0)
    for time, atom in enumerate(atoms):
        job = scheduler.offer(Device(f"d{time}", {"memory": float(atom)}))
        if job is not None:
            last[int(job)] = time + 1
    found = solve_exactly(demands, groups, atoms, ELIGIBLE)
    assert found.total <= sum(last.values()) <= 1.5 * found.total
