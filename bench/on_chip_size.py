"""Where does the cache-overwrite pass fire, and what does it save? By the size of on-chip memory.

For each size, the best program of MAS-Attention's dataflow with the pass; the best one whose keys
and values all stay (smaller tiles instead); the best one whose probabilities go to DRAM and back
(plain spilling); and ours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from harness import Choices, run_bench
from workloads import attention, with_on_chip_bytes

from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.objective import Latency
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

CASES = {"BERT-Base": (12, 512, 64), "4096 tokens": (8, 4096, 64), "16384 tokens": (2, 16384, 64)}
SIZES = (65_536, 131_072, 262_144, 524_288, 1_048_576, 2_097_152, 5_000_000, 20_000_000)
QUICK_SIZES = (131_072, 1_048_576)

COLUMNS = {
    "case": "",
    "on_chip_bytes": ",",
    "overwriting_of_bound": ".3f",
    "smaller_tiles_of_bound": ".3f",
    "spilling_of_bound": ".3f",
    "hocket_of_bound": ".3f",
    "hocket_over_flat": ".2f",
    "energy_saved_over_flat": ".0%",
    "reloaded_of_floor": ".2f",
    "saved": ".1%",
}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a case and size."""
    mas = DATAFLOWS["mas"]
    rows = []
    for case, sizes in list(CASES.items())[: 1 if choices.quick else None]:
        problem = attention(*sizes)
        for num_bytes in QUICK_SIZES if choices.quick else SIZES:
            machine = with_on_chip_bytes(num_bytes, load_target("mas-edge"))
            with_it = best(problem, machine, mas)
            without = best(problem, machine, dataclasses.replace(mas, overwrites=False))
            spilled = best(problem, machine, DATAFLOWS["soft_pipe"])
            ours = best(problem, machine, DATAFLOWS["hocket"])
            flat = best(problem, machine, DATAFLOWS["flat"])
            floor = 4 * sizes[0] * sizes[1] * sizes[2] * machine.element_bytes
            nan = float("nan")
            rows.append(
                {
                    "case": case,
                    "on_chip_bytes": num_bytes,
                    "overwriting_of_bound": of_bound(with_it),
                    "smaller_tiles_of_bound": of_bound(without),
                    "spilling_of_bound": of_bound(spilled),
                    "hocket_of_bound": of_bound(ours),
                    "hocket_over_flat": of_bound(flat) / of_bound(ours),
                    "energy_saved_over_flat": 1 - millijoules(ours) / millijoules(flat),
                    "reloaded_of_floor": with_it.best.plan.reload_bytes / floor if with_it else nan,
                    "saved": 1 - of_bound(with_it) / of_bound(without),
                }
            )
    return rows


def best(
    problem: AttentionProblem, machine: HardwareModel, dataflow: Dataflow
) -> SearchResult | None:
    """Return the best program found, None if none fits."""
    space = TilingSpace(problem, machine, dataflow)
    try:
        return SEARCHERS["exhaustive"].search(space, Latency(), Budget(), 0)
    except InfeasibleError:
        return None


def of_bound(result: SearchResult | None) -> float:
    """Return cycles over the bound, NaN for nothing."""
    return result.best.estimate.of_bound if result else float("nan")


def millijoules(result: SearchResult | None) -> float:
    """Return the energy, NaN for nothing."""
    return result.best.estimate.joules * 1e3 if result else float("nan")


if __name__ == "__main__":
    run_bench(
        "on-chip memory, overwriting, smaller tiles and spilling on mas-edge (simulated)",
        COLUMNS,
        measure,
    )
