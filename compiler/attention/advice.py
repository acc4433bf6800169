"""What to do about a loss, in words and with the figures that matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.bottleneck import Resource, utilization
from hocket.compiler.attention.losses import Cause
from hocket.hwmodels import columns as col
from hocket.hwmodels.tasks import Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.compiler.attention.losses import LossAnalysis

SATURATED = 0.9
"""From this share of the time on, a unit counts as busy throughout."""


def advise(cause: Cause, analysis: LossAnalysis) -> str:
    """Return what to do about what a cause loses in a program; for every cause but the rest."""
    advice = _ADVICE[cause]
    return advice if isinstance(advice, str) else advice(analysis)


def _fill(analysis: LossAnalysis) -> str:
    starts = analysis.timeline.starts
    is_before = analysis.done_by(Unit.LOAD) & (
        starts < float(starts[analysis.tasks].min(initial=np.inf))
    )
    loaded = int(analysis.costs.outer_bytes[is_before].sum())
    return (
        f"the {analysis.binding} begins when {loaded:,} bytes have been loaded; smaller first "
        "tiles or more DRAM bandwidth would let it begin earlier"
    )


def _drain(analysis: LossAnalysis) -> str:
    ends = analysis.timeline.ends
    is_after = ends > float(ends[analysis.tasks].max(initial=0.0))
    stored = int(analysis.costs.outer_bytes[is_after].sum())
    if not is_after.any():
        return "only the latency of the last transfer is left; a DMA engine with less of it"
    return (
        f"after the {analysis.binding} is done, {int(is_after.sum())} tasks are left and "
        f"{stored:,} bytes move; smaller last row blocks would leave less"
    )


def _imbalance(analysis: LossAnalysis) -> str:
    used = len(np.unique(analysis.rows[analysis.tasks, col.CORE]))
    cores = analysis.machine.num_cores
    if used < cores:
        return (
            f"only {used} of {cores} cores work; more on-chip memory ({_memory_use(analysis)}), or "
            "a dataflow whose cores share heads (hocket)"
        )
    return (
        f"the {cores} cores finish at different times; row blocks that share out evenly, or cores "
        "that share rows in place of heads"
    )


def _startups(analysis: LossAnalysis) -> str:
    count = int(analysis.tasks.sum())
    mean = float(analysis.costs.cycles[analysis.tasks].mean())
    return f"{count:,} tasks of {mean:,.0f} cycles each; larger tiles, fewer tasks"


def _padding(analysis: LossAnalysis) -> str:
    unit, problem = analysis.machine.matrix_unit, analysis.problem
    is_scores = analysis.operations == col.SCORES
    sizes = analysis.rows[is_scores, col.WRITE + 3 : col.WRITE + 5]
    kinds, counts = np.unique(sizes, axis=0, return_counts=True)
    rows, columns = kinds[counts.argmax()].tolist()
    text = (
        f"most products are of {rows}x{columns} scores, and the matrix unit makes blocks of "
        f"{unit.block_rows}x{unit.block_columns}"
    )
    lengths = {
        f"{problem.query_length} query rows": problem.query_length % unit.block_rows,
        f"{problem.kv_length} keys": problem.kv_length % unit.block_columns,
        f"{problem.value_dim} columns": problem.value_dim % unit.block_columns,
    }
    odd = " and ".join(name for name, rest in lengths.items() if rest)
    if odd:
        return f"{text}, into which {odd} do not go; stacking heads, or smaller blocks"
    return f"{text}; tiles that are multiples of these, given on-chip memory for them"


def _hidden_scores(analysis: LossAnalysis) -> str:
    made = analysis.written_elements(col.SCORES)
    return (
        f"{made / analysis.problem.num_score_elements:.2f}x the scores that causality leaves are "
        "computed; smaller query and key tiles, or a dataflow that leaves them out (hocket)"
    )


def _rescaling(analysis: LossAnalysis) -> str:
    count = int(np.isin(analysis.operations, (col.RESCALE, col.MERGE)).sum())
    return f"{count:,} outputs are rescaled or merged; larger key tiles ask for fewer"


def _reloads(analysis: LossAnalysis) -> str:
    num_bytes = int(analysis.moved_bytes(analysis.reloads()))
    return (
        f"{num_bytes:,} bytes are loaded again; more on-chip memory ({_memory_use(analysis)}), or "
        "more query rows in a row block"
    )


def _spills(analysis: LossAnalysis) -> str:
    num_bytes = int(analysis.moved_bytes(analysis.spills()))
    return (
        f"{num_bytes:,} bytes of scores and probabilities go to DRAM and back; a dataflow that "
        "keeps them on chip"
    )


def _wait_load(analysis: LossAnalysis) -> str:
    busy = utilization(Resource.DRAM, analysis.estimate)
    if busy >= SATURATED:
        return f"the DRAM port is busy {busy:.0%}; more DRAM bandwidth"
    return (
        f"the DRAM port is busy {busy:.0%} of the time; loads further ahead, or more tiles "
        "kept on chip"
    )


def _wait_port(analysis: LossAnalysis) -> str:
    text = _wait_load(analysis)
    if analysis.machine.dma.has_separate_write_port:
        return text
    return f"{text}, or a port of their own for stores"


def _wait_unit(unit: Resource, analysis: LossAnalysis) -> str:
    busy = utilization(unit, analysis.estimate)
    if busy >= SATURATED:
        return f"the {unit} is busy {busy:.0%}; less work for it, or more of it"
    if analysis.binding is Resource.DRAM:
        return (
            f"the {unit} is busy {busy:.0%} of the time and holds buffers that the next "
            "transfer needs; loads further ahead, or more buffers on chip"
        )
    return (
        f"the {unit} is busy {busy:.0%} of the time, so the units take turns; more row blocks "
        "in flight would let them work side by side"
    )


def _memory_use(analysis: LossAnalysis) -> str:
    peak = analysis.timeline.program.peak_on_chip_bytes
    capacity = analysis.machine.on_chip_memory.capacity_bytes
    return f"{peak:,} of {capacity:,} bytes are in use"


_ADVICE: dict[Cause, str | Callable[[LossAnalysis], str]] = {
    Cause.FILL: _fill,
    Cause.DRAIN: _drain,
    Cause.IMBALANCE: _imbalance,
    Cause.STARTUPS: _startups,
    Cause.PADDING: _padding,
    Cause.PORT: "operands come too slowly from on-chip memory; larger tiles, or wider ports",
    Cause.HIDDEN_SCORES: _hidden_scores,
    Cause.DIVISION: (
        "probabilities are divided although the output is narrower; a deferred softmax "
        "(dataflow hocket)"
    ),
    Cause.RESCALING: _rescaling,
    Cause.RELOADS: _reloads,
    Cause.SPILLS: _spills,
    Cause.WAIT_LOAD: _wait_load,
    Cause.WAIT_STORE: "buffers are free only when they are stored; more output rows on chip",
    Cause.WAIT_MATRIX: lambda analysis: _wait_unit(Resource.MATRIX, analysis),
    Cause.WAIT_VECTOR: lambda analysis: _wait_unit(Resource.VECTOR, analysis),
    Cause.WAIT_PORT: _wait_port,
}
