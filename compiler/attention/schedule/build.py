"""A problem, a tiling and a dataflow in; a program with addresses out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.memory.cache_overwrite import CachePlan
from hocket.compiler.attention.schedule import movement
from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule import walk as wk
from hocket.compiler.attention.schedule.layout import FORMS, kv_limit, ring_table
from hocket.compiler.attention.schedule.row_blocks import row_blocks
from hocket.compiler.attention.tiling import cores_used
from hocket.compiler.problem import MaskedRows
from hocket.hwmodels.columns import TaskTable
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.tasks import SoftmaxArguments
from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel


def build_program(
    problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow, machine: HardwareModel
) -> Program:
    """Return the program of a problem under a tiling; see ``build_with_plan``."""
    return build_with_plan(problem, tiling, dataflow, machine)[0]


def build_with_plan(
    problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow, machine: HardwareModel
) -> tuple[Program, CachePlan]:
    """Return the program of a problem under a tiling, and what its memory plan overwrites.

    Whether it fits the machine is for ``layout.demand`` to say; it passes ``verify_program`` on a
    machine that it fits.

    Args:
        problem: What to compute.
        tiling: In which tiles.
        dataflow: In what order.
        machine: Its number of cores, element size, alignment and block of the matrix unit count;
            its speeds and the size of its memory do not.
    """
    machine = cores_used(tiling, machine)
    blocks = row_blocks(
        problem, tiling, machine, skips_future=dataflow.skips_future, tapers=dataflow.tapers
    )
    return build_blocks(problem, tiling, dataflow, machine, blocks)


def build_blocks(
    problem: AttentionProblem,
    tiling: Tiling,
    dataflow: Dataflow,
    machine: HardwareModel,
    blocks: NDArray[np.int64],
) -> tuple[Program, CachePlan]:
    """Return the program of some row blocks of a problem; see ``build_with_plan``."""
    machine = cores_used(tiling, machine)
    limit = kv_limit(problem, dataflow)
    columns = min(tiling.kv_columns, limit)
    stacked = bool((blocks[:, st.HEADS] > 1).any())
    is_per_head = stacked and (problem.is_causal or problem.mask_shape is not None)
    steps = st.order_steps(
        blocks,
        machine.num_cores,
        columns,
        tiling.fill_columns,
        _pieces_a_front(tiling, machine),
        FORMS[tiling.softmax.value],
        tiling.live_blocks,
        dataflow.pace,
        is_per_head,
    )
    rings = ring_table(tiling, problem, dataflow, machine)
    mask = problem.mask_shape or (0, 0, 0, 0)
    sizes = np.zeros(wk.NUM_SIZES, np.int64)
    sizes[
        [
            wk.NUM_CORES,
            wk.KV_MATRICES,
            wk.KV_LIMIT,
            wk.KV_COLUMNS,
            wk.FILL_COLUMNS,
            wk.HEAD_DIM,
            wk.VALUE_DIM,
            wk.QUERY_HEADS,
            wk.MASK_BATCH,
            wk.MASK_HEADS,
            wk.MASK_ROWS,
            wk.MASK_COLUMNS,
            wk.IS_CAUSAL,
            wk.PREFETCH_TURNS,
            wk.STORE_BLOCKS,
            wk.GUARD_STEPS,
            wk.SPILLS_SCORES,
            wk.SPILLS_PROBABILITIES,
        ]
    ] = (
        machine.num_cores,
        problem.batch * problem.kv_heads,
        limit,
        columns,
        tiling.fill_columns,
        problem.head_dim,
        problem.value_dim,
        problem.query_heads,
        *mask,
        problem.is_causal,
        tiling.prefetch_blocks,
        tiling.store_blocks,
        2 * machine.num_cores,
        dataflow.spills_scores,
        dataflow.spills_probabilities,
    )
    rows, wait_ends, waits, buffers, reloads = movement.move(steps, blocks, rings, sizes)
    schedule = Schedule(
        TaskTable(rows, wait_ends, waits),
        np.ascontiguousarray(buffers.reshape(-1, 5)[:, :3]),
        SoftmaxArguments(
            scale=problem.scale,
            mask=problem.mask.value,
            masked_value=problem.masked_value,
            zero_masked_rows=problem.masked_rows is MaskedRows.ZERO,
        ),
    )
    plan = CachePlan(
        num_tiles=2 * ceil_div(limit, columns),
        resident_tiles=int(rings[wk.POOL, wk.RING_SLOTS]),
        kv_matrices=problem.batch * problem.kv_heads,
        element_bytes=machine.element_bytes,
        reloads=reloads.reshape(-1, 4),
    )
    return Program(schedule, np.ascontiguousarray(buffers.reshape(-1, 5)[:, 3:])), plan


def _pieces_a_front(tiling: Tiling, machine: HardwareModel) -> int:
    """Return how many pieces of keys are as many rows as the cores' row blocks have queries."""
    if not tiling.fill_columns:
        return 1
    rows = tiling.query_rows * tiling.heads * machine.num_cores
    return max(rows // tiling.fill_columns, 1)
