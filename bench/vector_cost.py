"""Where do two streams pay, and where can they not? Every workload, by the cost of softmax.

The vector unit's cost of softmax decides the story: two units side by side gain at most a factor of
two, where both have as much to do. Published for MAS-Attention over FLAT are up to 2.75x and 1.70x
on average; beside FLAT as we find it best, FLAT without prefetching is shown, whose transfers are
in turn, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness import Choices, run_bench
from workloads import QUICK, WORKLOADS, attention, with_vector_cost

from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.hwmodels.simulate import simulate

COSTS = (5.0, 16.0, 32.0, 64.0, 96.0, 128.0, 160.0, 180.0)
QUICK_COSTS = (5.0, 128.0)

COLUMNS = {
    "network": "",
    "vector_cost": ".0f",
    "bound_cycles": ",.0f",
    "hocket_of_bound": ".3f",
    "mas_of_bound": ".3f",
    "flat_of_bound": ".3f",
    "mas_over_flat": ".2f",
    "hocket_over_flat": ".2f",
    "hocket_over_serial_flat": ".2f",
    "energy_saved_over_flat": ".0%",
}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a network and cost."""
    rows = []
    for network in QUICK if choices.quick else WORKLOADS:
        problem = attention(*WORKLOADS[network])
        for cost in QUICK_COSTS if choices.quick else COSTS:
            machine = with_vector_cost(cost)
            found = {
                name: lower_attention(problem, machine, dataflow=name).best
                for name in ("hocket", "mas", "flat")
            }
            ours, mas, flat = (found[name].estimate for name in ("hocket", "mas", "flat"))
            # The same tiles, but nothing is loaded ahead of its row block or stored behind it.
            serial = dataclasses.replace(found["flat"].tiling, prefetch_blocks=0, store_blocks=0)
            program = build_program(problem, serial, DATAFLOWS["flat"], machine)
            rows.append(
                {
                    "network": network,
                    "problem": list(WORKLOADS[network]),
                    "vector_cost": cost,
                    "bound_cycles": ours.bound_cycles,
                    "hocket_of_bound": ours.of_bound,
                    "mas_of_bound": mas.of_bound,
                    "flat_of_bound": flat.of_bound,
                    "mas_over_flat": flat.cycles / mas.cycles,
                    "hocket_over_flat": flat.cycles / ours.cycles,
                    "hocket_over_serial_flat": simulate(program, machine).cycles / ours.cycles,
                    "energy_saved_over_flat": 1 - ours.joules / flat.joules,
                }
            )
    return rows


if __name__ == "__main__":
    run_bench("two streams by the cost of softmax on mas-edge (simulated)", COLUMNS, measure)
