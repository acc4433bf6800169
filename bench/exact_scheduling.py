"""How far are a dataflow's order of work and its use of memory from the best for its tiles?

A solver orders and places the same tasks anew, and proves how good any order or placement can be.
Small problems only: what it takes grows fast.

Columns: lane-cycles of softmax a score (cost); cycles of the dataflow's program, of the best order
the solver found (best), its proved lower bound for these tiles (proved), the bound for any tiling
(closed); by how much the program exceeds the proved one (above); on-chip bytes of the dataflow's
slots, of the same program after ``compact``, of the best placement found, and proved.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from harness import Choices, run_bench
from workloads import attention, with_vector_cost

from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.memory.exact import (
    Effort,
    ExactPlacement,
    PlacementLimits,
    place_exactly,
)
from hocket.compiler.attention.memory.planner import compact
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS as BY_NAME
from hocket.compiler.attention.search.exact_schedule import Limits, as_program, schedule_exactly
from hocket.hwmodels.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.liveness import LiveRange
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

    Longs = NDArray[np.int64]

PROBLEMS = ((1, 64, 16), (2, 64, 32), (1, 128, 32), (2, 128, 32))
"""Heads, length and head size."""

COSTS = (5.0, 64.0)
"""Lane-cycles of softmax a score: cheap, and as much as the products of a head of 32."""

DATAFLOWS = ("flat", "tileflow", "fusemax", "mas", "hocket")
QUICK_DATAFLOWS = ("flat", "mas", "hocket")

COLUMNS = {
    "problem": "",
    "cores": "",
    "cost": ".0f",
    "dataflow": "",
    "tasks": "",
    "cycles": ",.0f",
    "best": ",.0f",
    "proved": ",.0f",
    "closed": ",.0f",
    "above": ".1%",
    "slot_bytes": ",",
    "compact_bytes": ",",
    "least_bytes": ",",
    "proved_bytes": ",",
    "seconds": ".1f",
}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a problem, machine and dataflow."""
    limits = Limits(effort=Effort(0.3 if choices.quick else 10.0))
    return [
        _row(problem, cores, cost, dataflow, limits)
        for problem in (PROBLEMS[:2] if choices.quick else PROBLEMS)
        for cores in (1, 2)
        for cost in (COSTS[1:] if choices.quick else COSTS)
        for dataflow in (QUICK_DATAFLOWS if choices.quick else DATAFLOWS)
    ]


def _row(
    sizes: tuple[int, int, int], cores: int, cost: float, dataflow: str, limits: Limits
) -> dict[str, Any]:
    machine = dataclasses.replace(with_vector_cost(cost), num_cores=cores)
    found = lower_attention(attention(*sizes), machine, dataflow=dataflow).best
    slots = build_program(attention(*sizes), found.tiling, BY_NAME[dataflow], machine)
    start = time.perf_counter()
    exact = schedule_exactly(slots, machine, limits)
    best = simulate(as_program(exact), machine).cycles
    placement = _least_memory(slots, machine, limits.effort)
    return {
        "problem": "{}x{}x{}".format(*sizes),
        "cores": cores,
        "cost": cost,
        "dataflow": dataflow,
        "tasks": found.program.schedule.num_tasks,
        "cycles": found.estimate.cycles,
        "best": best,
        "proved": exact.bound_cycles,
        "closed": found.estimate.bound_cycles,
        # Rounded, as sums of floats in different orders differ in their last digits.
        "above": round(found.estimate.cycles / exact.bound_cycles - 1, 9) + 0.0,
        "slot_bytes": slots.peak_on_chip_bytes,
        "compact_bytes": found.program.peak_on_chip_bytes,
        "least_bytes": placement.peak_bytes,
        "proved_bytes": placement.bound_bytes,
        "seconds": time.perf_counter() - start,
    }


def _least_memory(program: Program, machine: HardwareModel, effort: Effort) -> ExactPlacement:
    """Return the placement of a program's buffers, each alive as long as it is in its timeline."""
    found: list[ExactPlacement] = []

    def place(buffers: Longs, ranges: Sequence[LiveRange | None], machine: HardwareModel) -> Longs:
        found.append(place_exactly(buffers, ranges, machine, PlacementLimits(effort=effort)))
        return found[0].places

    compact(program, machine, place)
    return found[0]


if __name__ == "__main__":
    run_bench(
        "a dataflow's order and memory against a solver's, same tiles (mas-edge, simulated)",
        COLUMNS,
        measure,
    )
