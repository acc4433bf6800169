"""The dataflows there are, by the name a user gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule.dual_stream import schedule_dual_stream
from hocket.compiler.attention.schedule.flat import schedule_flat

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Schedule


@dataclass(frozen=True)
class Dataflow:
    """A way to order the tiles of an attention problem.

    Attributes:
        name: What users call it.
        build: Makes the schedule of a problem under a tiling; it passes ``verify_schedule``.
        num_live_row_blocks: Row blocks of scores that are on chip at once on each core.
        overlaps_units: Whether the matrix and the vector unit work side by side.
    """

    name: str
    build: Callable[[AttentionProblem, Tiling, HardwareModel], Schedule]
    num_live_row_blocks: int
    overlaps_units: bool


DATAFLOWS = {
    dataflow.name: dataflow
    for dataflow in (
        Dataflow("dual_stream", schedule_dual_stream, num_live_row_blocks=2, overlaps_units=True),
        Dataflow("flat", schedule_flat, num_live_row_blocks=1, overlaps_units=False),
    )
}


def natural_dataflow(machine: HardwareModel) -> Dataflow:
    """Return the dataflow that suits a machine: dual-stream where there are two units to fill.

    Where matrix and vector work take turns anyway, a second live row block is memory for nothing.
    """
    return DATAFLOWS["dual_stream" if machine.has_concurrent_units else "flat"]
