"""The dual-stream dataflow of MAS-Attention: two voices, one row block apart.

Three row blocks are under way on a core. While the vector unit is in the softmax of one, the matrix
unit finishes the output of the one before and then makes the scores of the one after::

    matrix   C0 | C1    | O0 C2 | O1 C3 | O2 | O3
    vector      | P0    | P1    | P2    | P3 |

Output comes before scores within a round, so that the scores of the new row block can take over the
memory of the probabilities just used up: two row blocks on chip suffice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule.builder import CoreBuilder, Stage, assemble_schedule
from hocket.compiler.attention.schedule.row_blocks import row_blocks, split_over_cores

if TYPE_CHECKING:
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Buffer, Schedule


def schedule_dual_stream(
    problem: AttentionProblem, tiling: Tiling, machine: HardwareModel
) -> Schedule:
    """Return the dual-stream schedule of a problem.

    Source: MAS-Attention (arXiv 2411.17720), the warm-up, steady and final rounds. The paper keeps
    three row blocks in step per round; here the streams run free and only data order them.
    """
    buffers: list[Buffer] = []
    cores = []
    shares = split_over_cores(row_blocks(problem, tiling), machine.num_cores)
    for core, blocks in enumerate(shares):
        builder = CoreBuilder(problem, tiling, core, buffers)
        for turn in range(len(blocks) + 2):
            if turn >= 2:
                builder.add(Stage.OUTPUT, blocks[turn - 2])
            if turn < len(blocks):
                builder.add(Stage.SCORES, blocks[turn])
            if 1 <= turn <= len(blocks):
                builder.add(Stage.SOFTMAX, blocks[turn - 1])
        cores.append(builder)
    return assemble_schedule(cores, buffers)
