"""The row blocks of a problem under a tiling, in the order of work, and which core has which."""

from __future__ import annotations

import bisect
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule import steps as st
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
    order = RowBlockOrder(problem, tiling, machine, skips_future=skips_future)
    blocks = order.blocks(np.arange(order.num_blocks))
    if tapers and tiling.split is not Split.HEADS:
        blocks = _taper(blocks, machine.num_cores, machine.matrix_unit.block_rows)
        order.set_keys(blocks)
    return order.share_out(blocks, np.arange(len(blocks)))


class RowBlockOrder:
    """The row blocks of a problem by their numbers in the order of work, all of equal height.

    Made to look at parts of orders too long to be written out: a *turn* is what all cores do side
    by side, a row block each.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        tiling: Tiling,
        machine: HardwareModel,
        *,
        skips_future: bool,
    ) -> None:
        """Take the arguments of ``row_blocks``."""
        self.problem, self.tiling = problem, tiling
        self.num_cores = machine.num_cores
        self.is_cut = problem.is_causal and skips_future
        self.heads = min(tiling.heads, problem.group_size)
        self.rows = min(tiling.query_rows, problem.query_length)
        self.blocks_a_stack = ceil_div(problem.query_length, self.rows)
        stacks = ceil_div(problem.group_size, self.heads)
        self.blocks_a_matrix = stacks * self.blocks_a_stack
        self.num_blocks = problem.batch * problem.kv_heads * self.blocks_a_matrix

    @cached_property
    def num_turns(self) -> int:
        """Turns until the core with most row blocks has done all of its own."""
        if self.tiling.split is Split.KEYS:
            return self.num_blocks
        if self.tiling.split is Split.ROWS:
            return ceil_div(self.num_blocks, self.num_cores)
        return max(end - start for start, end in self._runs)

    def blocks(self, numbers: Longs) -> Longs:
        """Return the row blocks of some numbers, of no core yet."""
        problem = self.problem
        matrix, rest = np.divmod(numbers, self.blocks_a_matrix)
        stack, place = np.divmod(rest, self.blocks_a_stack)
        head = stack * self.heads
        blocks = np.zeros((len(numbers), st.NUM_BLOCK_COLUMNS), np.int64)
        blocks[:, st.KV_MATRIX] = matrix
        blocks[:, st.MATRIX] = matrix * problem.group_size + head
        blocks[:, st.HEADS] = np.minimum(self.heads, problem.group_size - head)
        blocks[:, st.ROW] = place * self.rows
        blocks[:, st.ROWS] = np.minimum(self.rows, problem.query_length - blocks[:, st.ROW])
        self.set_keys(blocks)
        return blocks

    def set_keys(self, blocks: Longs) -> None:
        """Write down which keys row blocks see."""
        blocks[:, st.END] = self.problem.kv_length
        if self.is_cut:
            last = blocks[:, st.ROW] + blocks[:, st.ROWS]
            blocks[:, st.END] = np.minimum(self.problem.kv_length, last)

    def turns(self, first: int, count: int) -> Longs:
        """Return the row blocks of some turns, shared out, as a program of their own."""
        split, end = self.tiling.split, first + count
        if split is Split.KEYS:
            numbers = np.arange(first, min(end, self.num_blocks))
        elif split is Split.ROWS:
            cores = self.num_cores
            numbers = np.arange(first * cores, min(end * cores, self.num_blocks))
        else:
            parts = [np.arange(run + first, min(run + end, last)) for run, last in self._runs]
            numbers = np.concatenate(parts)
        return self.share_out(self.blocks(numbers), numbers)

    def share_out(self, blocks: Longs, numbers: Longs) -> Longs:
        """Return row blocks with their cores; where cores share keys, a part of each for each."""
        split = self.tiling.split
        if split is Split.KEYS:
            return _split_keys(blocks, self.tiling, self.num_cores)
        blocks[:, st.MAIN] = np.arange(len(blocks))
        if split is Split.ROWS:
            blocks[:, st.CORE] = numbers % self.num_cores
        else:
            starts = [start for start, _ in self._runs]
            blocks[:, st.CORE] = np.searchsorted(starts, numbers, side="right") - 1
        return blocks

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """First row block of each core and the one after its last, all of about equal work.

        They follow each other, so that as few heads as possible are needed by two cores.
        """
        total = 2 * self._work_before(self.num_blocks)
        starts = [
            bisect.bisect_left(
                range(self.num_blocks),
                core * total,
                key=lambda number: self._work_to_middle(number) * self.num_cores,
            )
            for core in range(self.num_cores)
        ]
        return list(zip(starts, [*starts[1:], self.num_blocks], strict=True))

    def _work_to_middle(self, number: int) -> int:
        """Return twice the work up to the middle of a row block."""
        return self._work_before(number) + self._work_before(number + 1)

    def _work_before(self, number: int) -> int:
        """Return the scores, as far as they are not cut off, of all row blocks before one."""
        problem = self.problem
        matrix, rest = divmod(number, self.blocks_a_matrix)
        stack, place = divmod(rest, self.blocks_a_stack)
        whole = self._stack_work(self.blocks_a_stack)
        heads = matrix * problem.group_size + stack * self.heads
        in_stack = min(self.heads, problem.group_size - stack * self.heads)
        return heads * whole + in_stack * self._stack_work(place)

    def _stack_work(self, count: int) -> int:
        """Return the scores of one head in the first ``count`` row blocks."""
        length, keys, rows = self.problem.query_length, self.problem.kv_length, self.rows
        if not self.is_cut:
            return min(count * rows, length) * keys
        whole = min(count, length // rows)
        # Up to the last one that ends before the keys do, each sees more than the one before.
        growing = min(whole, keys // rows)
        work = rows * rows * growing * (growing + 1) // 2 + (whole - growing) * rows * keys
        if count > whole:
            work += (length - whole * rows) * min(keys, length)
        return work


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
    tiles = ceil_div(parts[:, st.END], tiling.kv_columns)
    parts[:, st.BEGIN] = np.minimum(tiles * core // num_cores * tiling.kv_columns, parts[:, st.END])
    parts[:, st.END] = np.minimum(
        tiles * (core + 1) // num_cores * tiling.kv_columns, parts[:, st.END]
    )
    parts[:, st.CORE] = core
    parts[:, st.MAIN] = np.repeat(np.arange(len(blocks)) * num_cores, num_cores)
    return parts
