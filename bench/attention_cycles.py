"""How many cycles and joules does attention take, by network, dataflow and machine?

Simulated, so exact: the twelve workloads of MAS-Attention under every dataflow. The short form is
also compared to ``bench/expected.json``: each tiling found there must still take exactly as many
cycles, and the search must still find one as good. ``--update`` writes that file anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from harness import ROOT, Choices, parse_choices, report
from workloads import QUICK, WORKLOADS, attention

from hocket.compiler.attention.bounds import compulsory_bytes
from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import simulate

if TYPE_CHECKING:
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

EXPECTED = ROOT / "bench" / "expected.json"
TARGETS = ("mas-edge", "flat-edge", "flat-cloud", "davinci-lite", "davinci-tiny", "ethos-u85-512")
TOLERANCE = 1e-3
"""By how much a search may be worse than expected: tilings so close count as equally fast."""

COLUMNS = {
    "target": "",
    "network": "",
    "dataflow": "",
    "cycles": ",.0f",
    "of_bound": ".3f",
    "speedup_over_flat": ".2f",
    "millijoules": ".3f",
    "dram_of_floor": ".2f",
    "matrix_utilization": ".0%",
    "vector_utilization": ".0%",
    "search_seconds": ".2f",
}


def main() -> None:
    """Print and write the table; in short form, compare it to what is expected."""
    question = "cycles and energy of attention, every dataflow (simulated)"
    choices, extra = parse_choices(question, switches=("--update",))
    rows = measure(choices)
    report(question, rows, COLUMNS, choices)
    if "--update" in extra:
        kept = ("target", "network", "dataflow", "cycles", "millijoules", "tiling")
        content = [{key: row[key] for key in kept} for row in rows]
        EXPECTED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    elif choices.quick:
        differences = compare(rows, json.loads(EXPECTED.read_text(encoding="utf-8")))
        if differences:
            sys.exit("not as bench/expected.json has it:\n  " + "\n  ".join(differences))
        print("as bench/expected.json has it")


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a machine, network and dataflow; what does not fit is left out."""
    rows = []
    for target in TARGETS[:1] if choices.quick else TARGETS:
        machine = load_target(target)
        for network in QUICK if choices.quick else WORKLOADS:
            problem = attention(*WORKLOADS[network])
            found = [measure_one(problem, machine, dataflow) for dataflow in DATAFLOWS]
            flat = next((row["cycles"] for row in found if row and row["dataflow"] == "flat"), None)
            rows += [
                {
                    "target": target,
                    "network": network,
                    "problem": list(WORKLOADS[network]),
                    **row,
                    "speedup_over_flat": flat / row["cycles"] if flat else float("nan"),
                }
                for row in found
                if row
            ]
    return rows


def measure_one(
    problem: AttentionProblem, machine: HardwareModel, dataflow: str
) -> dict[str, Any] | None:
    """Return the figures of the best program of a dataflow; None if none fits."""
    begin = time.perf_counter()
    try:
        result = lower_attention(problem, machine, dataflow=dataflow)
    except InfeasibleError:
        return None
    estimate = result.best.estimate
    return {
        "dataflow": dataflow,
        "cycles": estimate.cycles,
        "bound_cycles": estimate.bound_cycles,
        "of_bound": estimate.of_bound,
        "millijoules": estimate.joules * 1e3,
        "dram_bytes": estimate.dram_bytes,
        "dram_of_floor": estimate.dram_bytes / compulsory_bytes(problem, machine),
        "matrix_utilization": estimate.matrix_utilization,
        "vector_utilization": estimate.vector_utilization,
        "peak_on_chip_bytes": estimate.peak_on_chip_bytes,
        "search_seconds": time.perf_counter() - begin,
        "is_optimal": result.is_optimal,
        "tiling": dataclasses.asdict(result.best.tiling)
        | {"softmax": str(result.best.tiling.softmax), "split": str(result.best.tiling.split)},
    }


def compare(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> list[str]:
    """Return how rows differ from expected ones, one sentence each."""
    found = {(row["target"], row["network"], row["dataflow"]): row for row in rows}
    differences = []
    for wanted in expected:
        key = (wanted["target"], wanted["network"], wanted["dataflow"])
        row = found.pop(key, None)
        if row is None:
            differences.append(f"{key} is missing")
            continue
        again = simulate_again(wanted)
        if again != wanted["cycles"]:
            differences.append(f"{key}: its tiling takes {again}, not {wanted['cycles']} cycles")
        if row["cycles"] > wanted["cycles"] * (1 + TOLERANCE):
            differences.append(f"{key}: found {row['cycles']}, expected {wanted['cycles']} cycles")
    return differences + [f"{key} is new" for key in found]


def simulate_again(wanted: dict[str, Any]) -> float:
    """Return the cycles of an expected row's tiling."""
    fields = dict(wanted["tiling"])
    softmax, split = Softmax(fields.pop("softmax")), Split(fields.pop("split"))
    machine = load_target(wanted["target"])
    program = build_program(
        attention(*WORKLOADS[wanted["network"]]),
        Tiling(**fields, softmax=softmax, split=split),
        DATAFLOWS[wanted["dataflow"]],
        machine,
    )
    return simulate(program, machine).cycles


if __name__ == "__main__":
    main()
