"""How many tasks a second are built into programs, simulated, and verified?

Timed, unlike what the simulator says.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from harness import Choices, run_bench
from workloads import WORKLOADS, attention

from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.tiling import Tiling
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import estimate_program
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from collections.abc import Callable

TILINGS = {
    "1 k": Tiling(64, 128, 64),
    "7 k": Tiling(16, 64, 64),
    "100 k": Tiling(8, 8, 256),
}

COLUMNS = {"program": "", "tasks": ",", "built": ".2f", "simulated": ".1f", "verified": ".1f"}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a program."""
    machine = load_target("mas-edge")
    problem, dataflow = attention(*WORKLOADS["BERT-Base"]), DATAFLOWS["mas"]
    repeats = 5 if choices.quick else 31
    rows = []
    for name, tiling in TILINGS.items():
        program = build_program(problem, tiling, dataflow, machine)
        num_tasks = program.schedule.num_tasks

        def rate(action: Callable[[], object], num_tasks: int = num_tasks) -> float:
            action()
            return num_tasks / median_seconds(action, repeats) / 1e6

        def build(tiling: Tiling = tiling) -> object:
            return build_program(problem, tiling, dataflow, machine)

        rows.append(
            {
                "program": name,
                "tasks": num_tasks,
                "built": rate(build),
                "simulated": rate(lambda program=program: estimate_program(program, machine, 0.0)),
                "verified": rate(lambda program=program: verify_program(program, machine)),
            }
        )
    return rows


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the median time of an action."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    run_bench("million tasks a second, BERT-Base on mas-edge (timed, medians)", COLUMNS, measure)
