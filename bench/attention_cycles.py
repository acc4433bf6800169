"""How many cycles does attention take on the edge device, dual-stream and fused but sequential?

Simulated, so exact: the twelve workloads of MAS-Attention, at several costs of softmax.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from harness import Choices, parse_choices, report

from hocket.compiler.attention.lower import lower_attention
from hocket.compiler.problem import AttentionProblem
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel

WORKLOADS = {
    "BERT-Base": (12, 512, 64),
    "BERT-Large": (16, 512, 64),
    "BERT-Small": (8, 512, 64),
    "Llama3-8B": (32, 512, 128),
    "T5-Mini": (8, 512, 32),
    "ViT-B/14": (12, 256, 64),
    "ViT-L/14": (16, 256, 64),
    "ViT-H/14": (16, 256, 80),
    "ViT-B/16": (12, 196, 64),
    "ViT-L/16": (16, 196, 64),
    "ViT-H/16": (16, 196, 80),
    "XLM": (8, 512, 128),
}
"""Heads, length and head size of each network's attention, batch 1."""

QUICK = ("BERT-Base", "T5-Mini", "ViT-H/16")
VECTOR_COSTS = (5.0, 32.0, 128.0)


def main() -> None:
    """Print and write the table."""
    question = "cycles on mas-edge, dual-stream against fused but sequential (simulated)"
    choices = parse_choices(question)
    report(
        question,
        measure(choices),
        {
            "network": "",
            "vector_cost": ".0f",
            "dual_stream_cycles": ",.0f",
            "flat_cycles": ",.0f",
            "bound_cycles": ",.0f",
            "of_bound": ".3f",
            "speedup_over_flat": ".2f",
            "matrix_utilization": ".0%",
            "vector_utilization": ".0%",
            "dual_stream_millijoules": ".3f",
        },
        choices,
    )


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a network and vector cost."""
    rows = []
    for network in QUICK if choices.quick else WORKLOADS:
        heads, length, dim = WORKLOADS[network]
        problem = AttentionProblem(
            1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5
        )
        for cost in VECTOR_COSTS:
            machine = with_vector_cost(cost)
            dual, flat = (
                lower_attention(problem, machine, dataflow=name).best.estimate
                for name in ("dual_stream", "flat")
            )
            rows.append(
                {
                    "network": network,
                    "problem": [heads, length, dim],
                    "vector_cost": cost,
                    "dual_stream_cycles": dual.cycles,
                    "flat_cycles": flat.cycles,
                    "bound_cycles": dual.bound_cycles,
                    "of_bound": dual.cycles / dual.bound_cycles,
                    "speedup_over_flat": flat.cycles / dual.cycles,
                    "matrix_utilization": dual.matrix_utilization,
                    "vector_utilization": dual.vector_utilization,
                    "dual_stream_millijoules": dual.joules * 1e3,
                }
            )
    return rows


def with_vector_cost(lane_cycles: float) -> HardwareModel:
    """Return mas-edge with this many lane-cycles a score for softmax, split over its steps."""
    machine = load_target("mas-edge")
    vector = machine.vector_unit
    scale = lane_cycles / vector.softmax_lane_cycles
    steps = ("max", "subtract", "exp", "sum", "divide")
    costs = {f"{step}_lane_cycles": getattr(vector, f"{step}_lane_cycles") for step in steps}
    scaled = {name: cost * scale for name, cost in costs.items()}
    return dataclasses.replace(machine, vector_unit=dataclasses.replace(vector, **scaled))


if __name__ == "__main__":
    main()
