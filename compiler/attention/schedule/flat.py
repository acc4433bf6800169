"""The fused but sequential dataflow of FLAT: one row block at a time, one unit at a time.

Scores never leave the chip, but the units take turns::

    matrix   C0    O0 C1    O1 C2    O2
    vector      P0       P1       P2
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule.builder import CoreBuilder, Stage, assemble_schedule
from hocket.compiler.attention.schedule.row_blocks import row_blocks, split_over_cores

if TYPE_CHECKING:
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Buffer, Schedule


def schedule_flat(problem: AttentionProblem, tiling: Tiling, machine: HardwareModel) -> Schedule:
    """Return FLAT's row-block schedule of a problem (arXiv 2107.06419), transfers prefetched.

    Strictly one head's row block after the other: its scores, then its softmax, then its output.
    """
    buffers: list[Buffer] = []
    cores = []
    shares = split_over_cores(row_blocks(problem, tiling), machine.num_cores)
    for core, blocks in enumerate(shares):
        builder = CoreBuilder(problem, tiling, core, buffers)
        for block in blocks:
            for matrix in block.matrices:
                for stage in Stage:
                    builder.add(stage, replace(block, matrices=(matrix,)))
        cores.append(builder)
    return assemble_schedule(cores, buffers)
