"""How do our programs compare with what other tools plan for the same attention?

The peers' figures were read off the tools themselves, run on these workloads: Stream 2.1.1 (single
heads, defaults), AccelForge 1.0.467 (its best fused and unfused mappings), TileFlow at commit
d72d278 (its own dataflow, no softmax; 40 to 60 s of search) and Arm Vela 5.2.0 (int8, Ethos-U85-512
in its default memory mode). Each is compared on the machine it was given: two cores as on
mas-edge; for Stream, which charges neither start-up nor latency, a machine without them; for
TileFlow a softmax that costs nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness import Choices, run_bench
from workloads import attention, with_vector_cost, without_overheads

from hocket.compiler.attention.bounds import compulsory_bytes
from hocket.compiler.attention.lower import lower_attention
from hocket.hwmodels.loader import load_target

# Peer, case, heads, length, head size, its cycles.
CASES = (
    ("Stream", "single head", 1, 512, 64, 105_504),
    ("Stream", "single head", 1, 256, 64, 28_003),
    ("Stream", "single head", 1, 196, 64, 19_393),
    ("Stream", "single head", 1, 512, 128, 268_832),
    ("Stream", "single head", 1, 512, 32, 65_154),
    ("Stream", "single head", 1, 256, 80, 61_424),
    ("AccelForge", "fused, softmax 5", 12, 512, 64, 817_152),
    ("AccelForge", "fused, softmax 128", 12, 512, 64, 1_572_864),
    ("AccelForge", "unfused", 12, 512, 64, 3_538_944),
    ("AccelForge", "fused, softmax 5", 16, 256, 80, 337_920),
    ("AccelForge", "fused, softmax 5", 8, 512, 128, 1_069_056),
    ("TileFlow", "no softmax", 12, 512, 64, 786_432),
    ("TileFlow", "no softmax", 12, 256, 64, 196_608),
    ("TileFlow", "no softmax", 16, 256, 80, 327_680),
    ("TileFlow", "no softmax", 8, 512, 128, 1_048_576),
    ("TileFlow", "no softmax", 8, 512, 32, 262_144),
    ("TileFlow", "no softmax", 16, 512, 64, 1_048_576),
    ("TileFlow", "no softmax", 32, 512, 128, 4_194_304),
    ("Vela", "Ethos-U85-512", 12, 512, 64, 18_790_000),
    ("Vela", "Ethos-U85-512", 12, 196, 64, 3_400_000),
    ("Vela", "Ethos-U85-512", 8, 512, 32, 13_310_000),
    ("Vela", "Ethos-U85-512", 8, 512, 128, 16_070_000),
)
QUICK_CASES = (CASES[0], CASES[6], CASES[18])

COLUMNS = {
    "peer": "",
    "case": "",
    "problem": "",
    "peer_cycles": ",.0f",
    "our_cycles": ",.0f",
    "peer_over_ours": ".2f",
    "of_bound": ".3f",
    "dram_of_floor": ".2f",
    "dataflow": "",
}


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a case."""
    rows = []
    for peer, case, heads, length, dim, cycles in QUICK_CASES if choices.quick else CASES:
        machine = load_target("mas-edge")
        dataflow = "hocket"
        if peer == "Vela":
            machine = load_target("ethos-u85-512")
        elif peer == "Stream":
            machine = without_overheads(machine)
        elif peer == "TileFlow":
            machine = without_overheads(with_vector_cost(0.0))
            machine = dataclasses.replace(
                machine,
                vector_unit=dataclasses.replace(machine.vector_unit, rescale_lane_cycles=0.0),
            )
        elif case.endswith("128"):
            machine = with_vector_cost(128.0)
        elif case == "unfused":
            dataflow = "layerwise"
        problem = attention(heads, length, dim)
        estimate = lower_attention(problem, machine, dataflow=dataflow).best.estimate
        rows.append(
            {
                "peer": peer,
                "case": case,
                "problem": f"{heads},{length},{dim}",
                "peer_cycles": cycles,
                "our_cycles": estimate.cycles,
                "peer_over_ours": cycles / estimate.cycles,
                "bound_cycles": estimate.bound_cycles,
                "of_bound": estimate.of_bound,
                "dram_of_floor": estimate.dram_bytes / compulsory_bytes(problem, machine),
                "dataflow": dataflow,
            }
        )
    return rows


if __name__ == "__main__":
    run_bench("attention as other tools plan it, and as we do (simulated)", COLUMNS, measure)
