"""Small instances of Intersection Resource Scheduling, solved exactly by OR-Tools' CP-SAT.

One round, all jobs there from the start, and check-ins known ahead: what no scheduler that does not
see the future can beat. A job is done when the last of its devices checks in; minimised is the sum
of these times. One Boolean says whether a job still waits before a check-in, one whether it gets
it; the issue is NP-hard, and some 6 jobs and 100 check-ins are what a second is enough for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ExactSolution:
    """The best assignment found.

    Attributes:
        total: Sum over jobs of the number of check-ins until each has its devices.
        bound: What no assignment is below; equal to ``total`` where it is proved the best.
        jobs: Who gets each check-in; -1 for nobody.
    """

    total: int
    bound: float
    jobs: tuple[int, ...]

    @property
    def is_optimal(self) -> bool:
        """Whether it is proved that nothing is better."""
        return self.total <= self.bound + 0.5


def solve_exactly(
    demands: Sequence[int],
    groups: Sequence[int],
    atoms: Sequence[int],
    eligible: NDArray[np.bool_],
    *,
    work_limit: float = 30.0,
) -> ExactSolution:
    """Return the assignment that has all jobs served soonest, on average.

    Args:
        demands: Devices that each job wants.
        groups: Of each job.
        atoms: The type of each check-in, in order.
        eligible: Whether a group may use a type, ``[groups, atoms]``.
        work_limit: Deterministic effort of the solver, about seconds.

    Raises:
        ConfigError: The check-ins do not suffice, or the effort does not, for any assignment.
    """
    model = cp_model.CpModel()
    num_checkins = len(atoms)
    given: dict[tuple[int, int], cp_model.IntVar] = {}
    waits: list[cp_model.IntVar] = []
    for job, group in enumerate(groups):
        before = None
        for time, atom in enumerate(atoms):
            waiting = model.new_bool_var(f"waits_{job}_{time}")
            waits.append(waiting)
            if before is not None:
                model.add_implication(waiting, before)
            before = waiting
            if eligible[group, atom]:
                gets = model.new_bool_var(f"gets_{job}_{time}")
                given[job, time] = gets
                model.add_implication(gets, waiting)
        mine = [given[job, time] for time in range(num_checkins) if (job, time) in given]
        model.add(sum(mine) == demands[job])
    for time in range(num_checkins):
        takers = [given[job, time] for job in range(len(demands)) if (job, time) in given]
        model.add_at_most_one(takers)
    model.minimize(sum(waits))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = work_limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise ConfigError(
            f"{num_checkins} check-ins do not suffice for {len(demands)} jobs, or an effort of "
            f"{work_limit:g} does not: {solver.status_name(status)}"
        )
    jobs = [-1] * num_checkins
    for (job, time), gets in given.items():
        if solver.value(gets):
            jobs[time] = job
    return ExactSolution(round(solver.objective_value), solver.best_objective_bound, tuple(jobs))
