"""Closed-form scores of whole arrays of tilings, to choose which are worth simulating.

One numpy expression a quantity, over all candidates at once. Row blocks are counted exactly; what
the forms leave out is who waits for whom, which is the simulator's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.tiling import is_masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class AnalyticCost:
    """Closed-form cost of each candidate, arrays of one length.

    Attributes:
        cycles: The busiest resource, and the fill and drain that nothing hides.
        dma_bytes: Bytes across the DMA port.
        num_tasks: Compute tasks.
    """

    cycles: Array
    dma_bytes: Array
    num_tasks: Array


def analytic_cost(
    tilings: Sequence[Tiling],
    problem: AttentionProblem,
    machine: HardwareModel,
    overlaps_units: bool,
) -> AnalyticCost:
    """Score tilings without building their schedules.

    Args:
        tilings: What to score.
        problem, machine: For what.
        overlaps_units: Whether the dataflow runs the matrix and the vector unit side by side.
    """
    heads = np.array([tiling.heads for tiling in tilings], dtype=float)
    rows = np.array([tiling.query_rows for tiling in tilings], dtype=float)
    columns = np.array([tiling.kv_columns for tiling in tilings], dtype=float)
    keeps = np.array([tiling.keeps_kv for tiling in tilings], dtype=bool)
    num_matrices = problem.batch * problem.query_heads
    blocks = np.ceil(problem.query_length / rows)  # row blocks of one matrix
    length = _mean_columns(rows, blocks, problem)
    tiles = np.ceil(length / columns)

    matrix = _matrix_cycles(rows, columns, blocks, length, tiles, problem, machine)
    vector = _vector_cycles(rows, blocks, length, problem, machine)
    cores = float(machine.num_cores)
    # Work is handed out in row blocks of `heads` matrices; the core with most of them is last.
    num_row_blocks = np.ceil(num_matrices / heads) * blocks
    imbalance = np.ceil(num_row_blocks / cores) * cores / num_row_blocks
    matrix_total = matrix * num_matrices / cores * imbalance
    vector_total = vector * num_matrices / cores * imbalance

    dma_bytes = _dma_bytes(heads, blocks, length, keeps, problem, machine)
    dma = dma_bytes / machine.bandwidth_bytes_per_cycle
    one_block = heads / blocks
    if machine.has_concurrent_units and overlaps_units:
        compute = np.maximum(matrix_total, vector_total)
        # The first scores, the last softmax and output have nothing beside them.
        fill = one_block * (matrix + np.minimum(matrix, vector))
    else:
        compute = matrix_total + vector_total
        fill = np.zeros_like(compute)
    num_tasks = num_matrices * blocks * (2.0 * tiles + 1.0)
    return AnalyticCost(np.maximum(compute, dma) + fill, dma_bytes, num_tasks)


def _mean_columns(rows: Array, blocks: Array, problem: AttentionProblem) -> Array:
    """Return the key rows a row block sees, averaged over the row blocks of a matrix."""
    if not problem.is_causal:
        return np.full_like(rows, float(problem.kv_length))
    # Row blocks end at rows, 2 rows, ...; each sees that many keys, but not more than there are.
    limit = float(min(problem.kv_length, problem.query_length))
    whole = np.minimum(np.floor(limit / rows), blocks)
    seen = rows * whole * (whole + 1) / 2 + (blocks - whole) * limit
    mean: Array = seen / blocks
    return mean


def _matrix_cycles(
    rows: Array,
    columns: Array,
    blocks: Array,
    length: Array,
    tiles: Array,
    problem: AttentionProblem,
    machine: HardwareModel,
) -> Array:
    """Return the matrix cycles of one attention matrix."""
    unit = machine.matrix_unit
    cycles_per_depth = unit.block_rows * unit.block_columns / unit.macs_per_cycle
    full_rows = np.floor(problem.query_length / rows)
    tail_rows = problem.query_length - full_rows * rows
    row_groups = full_rows * np.ceil(rows / unit.block_rows) + np.ceil(tail_rows / unit.block_rows)
    full_tiles = np.floor(length / columns)
    tail_columns = length - full_tiles * columns
    column_groups = full_tiles * np.ceil(columns / unit.block_columns) + np.ceil(
        tail_columns / unit.block_columns
    )
    value_groups = np.ceil(problem.value_dim / unit.block_columns)
    scores = row_groups * column_groups * problem.head_dim * cycles_per_depth
    output = row_groups * value_groups * length * cycles_per_depth
    total: Array = scores + output + 2 * unit.startup_cycles * blocks * tiles
    return total


def _vector_cycles(
    rows: Array, blocks: Array, length: Array, problem: AttentionProblem, machine: HardwareModel
) -> Array:
    """Return the vector cycles of one attention matrix."""
    unit = machine.vector_unit
    lane_cycles = unit.softmax_lane_cycles + (unit.mask_lane_cycles if is_masked(problem) else 0.0)
    scores = np.minimum(rows * blocks, problem.query_length) * length
    total: Array = lane_cycles * scores / unit.lanes + unit.startup_cycles * blocks
    return total


def _dma_bytes(
    heads: Array,
    blocks: Array,
    length: Array,
    keeps: NDArray[np.bool_],
    problem: AttentionProblem,
    machine: HardwareModel,
) -> Array:
    """Return the bytes all cores move."""
    num_matrices = problem.batch * problem.query_heads
    dims = problem.head_dim + problem.value_dim
    query_and_output = num_matrices * problem.query_length * dims
    limit = min(problem.kv_length, problem.query_length) if problem.is_causal else problem.kv_length
    kept = problem.batch * problem.kv_heads * limit * dims
    # Streamed tiles are shared by the heads of one row block that read the same ones.
    sharing = np.minimum(heads, problem.group_size)
    streamed = num_matrices / sharing * blocks * length * dims
    elements = query_and_output + np.where(keeps, kept, streamed)
    if problem.mask_shape is not None:
        if problem.mask_shape[2] == 1:
            elements = elements + problem.batch * problem.mask_shape[3]
        else:
            sharers = heads if problem.mask_shape[1] == 1 else np.ones_like(heads)
            elements = elements + num_matrices / sharers * problem.query_length * length
    total: Array = elements * machine.element_bytes
    return total
