"""The attention wing's front: a problem and a machine in, the best program found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, natural_dataflow
from hocket.compiler.attention.search.exhaustive import ExhaustiveSearcher
from hocket.compiler.attention.search.objective import LatencyThenEnergy
from hocket.compiler.attention.tiling import TilingSpace
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel


def lower_attention(
    problem: AttentionProblem,
    machine: HardwareModel,
    *,
    dataflow: str = "auto",
    max_candidates: int = 12,
    seed: int = 0,
    verify: bool = False,
) -> SearchResult:
    """Return the best program found for an attention problem on a machine.

    Args:
        problem: What to compute.
        machine: What to compute it on.
        dataflow: Key of ``DATAFLOWS``, or ``auto`` for the one that suits the machine.
        max_candidates: Programs to simulate at most.
        seed: For searchers that draw at random.
        verify: Whether to check that the program found is well formed.

    Raises:
        ValueError: No such dataflow.
        InfeasibleError: Not even the smallest tiling fits the machine.
    """
    if dataflow != "auto" and dataflow not in DATAFLOWS:
        raise ValueError(f"unknown dataflow {dataflow!r}; there are auto, {', '.join(DATAFLOWS)}")
    chosen = natural_dataflow(machine) if dataflow == "auto" else DATAFLOWS[dataflow]
    result = ExhaustiveSearcher().search(
        TilingSpace(problem, machine, chosen.num_live_row_blocks),
        chosen,
        LatencyThenEnergy(),
        max_candidates,
        seed,
    )
    if verify:
        verify_program(result.best.program, machine)
    return result
