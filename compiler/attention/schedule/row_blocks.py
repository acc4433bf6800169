"""The row blocks of a problem under a tiling, in the order of work, and which core has which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.layout import ceil_divide
from hocket.compiler.attention.tiling import Split
from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

    Longs = NDArray[np.int64]


def row_blocks(
    problem: AttentionProblem,
    tiling: Tiling,
    machine: HardwareModel,
    *,
    skips_future: bool,
    tapers: bool,
) -> Longs:
    """Return all row blocks, ``[blocks, NUM_BLOCK_COLUMNS]``.

    Heads are outermost, so that keys and values are used up in one go.

    Args:
        problem: What to compute.
        tiling: In which tiles.
        machine: On how many cores.
        skips_future: Whether scores that causality hides from a whole row block are left out.
        tapers: Whether the last row blocks get smaller and smaller, so that little is left to do
            when the units run out of work one after the other.
    """
    heads = min(tiling.heads, problem.group_size)
    groups = np.arange(problem.batch * problem.kv_heads)
    first_heads = np.arange(0, problem.group_size, heads)
    rows = min(tiling.query_rows, problem.query_length)
    starts = np.arange(0, problem.query_length, rows)
    kv, head, row = (
        each.ravel() for each in np.meshgrid(groups, first_heads, starts, indexing="ij")
    )
    blocks = np.zeros((len(kv), st.NUM_BLOCK_COLUMNS), np.int64)
    blocks[:, st.KV_MATRIX] = kv
    blocks[:, st.MATRIX] = kv * problem.group_size + head
    blocks[:, st.HEADS] = np.minimum(heads, problem.group_size - head)
    blocks[:, st.ROW] = row
    blocks[:, st.ROWS] = np.minimum(rows, problem.query_length - row)
    num_cores = machine.num_cores
    if tapers and tiling.split is not Split.HEADS:
        blocks = _taper(blocks, num_cores, machine.matrix_unit.block_rows)
    blocks[:, st.END] = problem.kv_length
    if problem.is_causal and skips_future:
        blocks[:, st.END] = np.minimum(problem.kv_length, blocks[:, st.ROW] + blocks[:, st.ROWS])
    if tiling.split is Split.KEYS:
        return _split_keys(blocks, tiling, num_cores)
    blocks[:, st.MAIN] = np.arange(len(blocks))
    if tiling.split is Split.ROWS:
        blocks[:, st.CORE] = np.arange(len(blocks)) % num_cores
    else:
        blocks[:, st.CORE] = _runs(blocks, num_cores)
    return blocks


def _runs(blocks: Longs, num_cores: int) -> Longs:
    """Return the core of each block: consecutive runs of about equal work.

    Consecutive, so that as few heads as possible are needed by two cores.
    """
    work = blocks[:, st.HEADS].astype(np.float64) * blocks[:, st.ROWS] * blocks[:, st.END]
    middle = np.cumsum(work) - work / 2
    cores: Longs = np.minimum(middle * num_cores / work.sum(), num_cores - 1).astype(np.int64)
    return cores


def _taper(blocks: Longs, num_cores: int, block_rows: int) -> Longs:
    """Cut the last block of each core into halves of what is left, down to ``block_rows``."""
    num_last = min(num_cores, len(blocks))
    last = blocks[-num_last:]
    pieces = []
    for block in last:
        begin, left = int(block[st.ROW]), int(block[st.ROWS])
        cut: list[Longs] = []
        while left > 0:
            size = left
            if left > block_rows:
                size = min(ceil_div(ceil_div(left, 2), block_rows) * block_rows, left)
            piece = block.copy()
            piece[st.ROW], piece[st.ROWS] = begin, size
            cut.append(piece)
            begin, left = begin + size, left - size
        pieces.append(cut)
    # Dealt out in turn: the first piece of each core, then the second.
    order = [
        cut[number]
        for number in range(max(map(len, pieces)))
        for cut in pieces
        if number < len(cut)
    ]
    return np.concatenate([blocks[:-num_last], np.stack(order)])


def _split_keys(blocks: Longs, tiling: Tiling, num_cores: int) -> Longs:
    """Return each block once a core, every time with another run of tiles; some runs are empty.

    The last core's part is never empty, so it comes first and is what the others are merged into.
    """
    parts = np.repeat(blocks, num_cores, axis=0)
    core = np.tile(np.arange(num_cores)[::-1], len(blocks))
    tiles = ceil_divide(parts[:, st.END], tiling.kv_columns)
    parts[:, st.BEGIN] = np.minimum(tiles * core // num_cores * tiling.kv_columns, parts[:, st.END])
    parts[:, st.END] = np.minimum(
        tiles * (core + 1) // num_cores * tiling.kv_columns, parts[:, st.END]
    )
    parts[:, st.CORE] = core
    parts[:, st.MAIN] = np.repeat(np.arange(len(blocks)) * num_cores, num_cores)
    return parts
