"""The attention problems and machines that several benches share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

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
"""Heads, length and head size of each network's attention, batch 1: those of MAS-Attention."""

QUICK = ("BERT-Base", "T5-Mini", "ViT-H/16")


def attention(heads: int, length: int, dim: int, **changes: object) -> AttentionProblem:
    """Return self-attention of one sequence."""
    problem = AttentionProblem(1, heads, heads, length, length, dim, dim, DType.FLOAT16, dim**-0.5)
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def with_vector_cost(lane_cycles: float, target: str = "mas-edge") -> HardwareModel:
    """Return a machine with this many lane-cycles a score for softmax, its steps in proportion."""
    machine = load_target(target)
    vector = machine.vector_unit
    scale = lane_cycles / vector.softmax_lane_cycles
    steps = ("max", "subtract", "exp", "sum", "divide")
    costs = {f"{step}_lane_cycles": getattr(vector, f"{step}_lane_cycles") for step in steps}
    scaled = {name: cost * scale for name, cost in costs.items()}
    return dataclasses.replace(machine, vector_unit=dataclasses.replace(vector, **scaled))


def with_on_chip_bytes(num_bytes: int, machine: HardwareModel) -> HardwareModel:
    """Return a machine with another amount of on-chip memory."""
    memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=num_bytes)
    return dataclasses.replace(machine, on_chip_memory=memory)


def without_overheads(machine: HardwareModel) -> HardwareModel:
    """Return a machine without start-up and latency, which some models of others leave out."""
    return dataclasses.replace(
        machine,
        matrix_unit=dataclasses.replace(machine.matrix_unit, startup_cycles=0),
        vector_unit=dataclasses.replace(machine.vector_unit, startup_cycles=0),
        dma=dataclasses.replace(machine.dma, latency_cycles=0),
    )
