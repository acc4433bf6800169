"""How much there is to compute under each tiling of a space: exact, without building a program.

Steps and their shapes follow from the row blocks alone, and few row blocks differ: a sum over the
kinds of row blocks, each times its number, gives what a sum over all tasks would give. Where a head
is cut by causality into more than ``MAX_KINDS`` row blocks, the sum is a little less, never more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.layout import SPLITS, kv_limit
from hocket.hwmodels.cost import machine_figures, product_cost, softmax_cost, vector_cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.layout import TilingArrays
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.hwmodels.cost import MachineFigures

    Floats = NDArray[np.float64]
    Longs = NDArray[np.int64]

MAX_KINDS = 4096
"""Of longer heads with causality, runs of row blocks count as many of the smallest one of them."""

# What of a problem, a dataflow and a machine the work depends on, besides the machine's figures.
(
    _QUERY_LENGTH,
    _LIMIT,
    _IS_CUT,
    _IS_PER_HEAD,
    _HEAD_DIM,
    _VALUE_DIM,
    _NUM_CORES,
    _KV_MATRICES,
    _GROUP,
    _MASK_ROWS,
    _MASK_COLUMNS,
    _TAPERS,
    _BLOCK_ROWS,
) = range(13)
_NUM_SIZES = 13

# What of a tiling it depends on.
_ROWS, _COLUMNS, _HEADS, _FORM, _SPLIT, _FILL = range(6)

# Sums, in the order of the fields of ``Work``; the last two are minima.
(
    _SCORES,
    _SOFTMAX,
    _OUTPUTS,
    _LATER,
    _COMPUTE,
    _ON_CHIP,
    _STEPS,
    _SOFTMAX_STEPS,
    _BLOCKS,
    _LEAST_ROWS,
    _LEAST_KEYS,
) = range(11)
_NUM_SUMS = 11


@dataclass(frozen=True)
class Work:
    """What all cores compute under each tiling, arrays of one length.

    Attributes:
        scores_cycles, output_cycles: Matrix unit cycles of either product, over all cores.
        softmax_cycles: Vector unit cycles of softmax, as far as outputs wait for it.
        later_cycles: Other vector unit cycles: rescaling, merging, and the division of outputs.
        compute_picojoules, on_chip_picojoules: Energy of arithmetic, and of the on-chip memory that
            is read and written for it.
        num_steps: Tasks of matrix and vector units.
        num_softmaxes: Those of them that are the softmax of a tile or of a row.
        num_blocks: Row blocks.
        least_rows: Rows of the smallest row block, all its heads together.
        least_keys: Keys that the row block sees that sees fewest, or the part of them a core has.
    """

    scores_cycles: Floats
    softmax_cycles: Floats
    output_cycles: Floats
    later_cycles: Floats
    compute_picojoules: Floats
    on_chip_picojoules: Floats
    num_steps: Floats
    num_softmaxes: Floats
    num_blocks: Floats
    least_rows: Floats
    least_keys: Floats

    @property
    def picojoules(self) -> Floats:
        """Energy of the tasks of all kinds."""
        return self.compute_picojoules + self.on_chip_picojoules


def work_of(space: TilingSpace, tilings: TilingArrays) -> Work:
    """Return what tilings of a space have the cores compute."""
    problem, machine, dataflow = space.problem, space.machine, space.dataflow
    limit = kv_limit(problem, dataflow)
    _, _, mask_rows, mask_columns = problem.mask_shape or (0, 0, 0, 0)
    sizes = np.zeros(_NUM_SIZES, np.int64)
    sizes[_QUERY_LENGTH], sizes[_LIMIT] = problem.query_length, limit
    sizes[_IS_CUT] = problem.is_causal and dataflow.skips_future
    sizes[_IS_PER_HEAD] = problem.is_causal or problem.mask_shape is not None
    sizes[_HEAD_DIM], sizes[_VALUE_DIM] = problem.head_dim, problem.value_dim
    sizes[_NUM_CORES], sizes[_BLOCK_ROWS] = machine.num_cores, machine.matrix_unit.block_rows
    sizes[_KV_MATRICES] = problem.batch * problem.kv_heads
    sizes[_GROUP] = problem.group_size
    sizes[_MASK_ROWS], sizes[_MASK_COLUMNS] = mask_rows, mask_columns
    sizes[_TAPERS] = dataflow.tapers
    keys = np.stack(
        [
            np.minimum(tilings.query_rows, problem.query_length),
            np.minimum(tilings.kv_columns, limit),
            np.minimum(tilings.heads, problem.group_size),
            tilings.softmax,
            tilings.split,
            tilings.fill_columns,
        ],
        axis=1,
    ).astype(np.int64)
    sums: Floats = _sum_up(keys, sizes, machine_figures(machine))
    return Work(*sums.T)


@njit(cache=True, error_model="numpy")
def _sum_up(keys: Longs, sizes: Longs, figures: MachineFigures) -> Floats:
    """Return the sums of each tiling; neighbours that have the same work share it."""
    sums = np.zeros((len(keys), _NUM_SUMS))
    latest = np.full(2, -1, np.int64)
    for i in range(len(keys)):
        kind = 1 if keys[i, _FILL] > 0 else 0
        if latest[kind] >= 0 and (keys[latest[kind]] == keys[i]).all():
            sums[i] = sums[latest[kind]]
        else:
            _add_blocks(sums[i], keys[i], sizes, figures)
        latest[kind] = i
    return sums


@njit(cache=True, error_model="numpy")
def _add_blocks(sums: Floats, key: Longs, sizes: Longs, figures: MachineFigures) -> None:
    """Add up the work of all row blocks, kind by kind; mirrors ``row_blocks.py``."""
    rows, length = key[_ROWS], sizes[_QUERY_LENGTH]
    sums[_LEAST_ROWS] = sums[_LEAST_KEYS] = np.inf
    blocks = (length + rows - 1) // rows
    stacks = (sizes[_GROUP] + key[_HEADS] - 1) // key[_HEADS]
    num_blocks = stacks * sizes[_KV_MATRICES] * blocks
    # Blocks of the first key-value matrix come first; with a wave front they have tiles of another
    # width. The last ones are tapered.
    num_filling = stacks * blocks if key[_FILL] > 0 else 0
    num_whole = num_blocks
    if sizes[_TAPERS] and key[_SPLIT] != 0:
        num_whole -= min(sizes[_NUM_CORES], num_blocks)
    j = 0
    run = (blocks + MAX_KINDS - 1) // MAX_KINDS
    while j < blocks:
        height = min(rows, length - j * rows)
        # All row blocks but the last one of a head are alike, as far as they see all keys.
        last = j
        if j < blocks - 1:
            is_growing = sizes[_IS_CUT] and j * rows + height < sizes[_LIMIT]
            last = min(j + run - 1, blocks - 2) if is_growing else blocks - 2
        filling = _num_between(min(num_filling, num_whole), j, last, blocks)
        others = _num_between(num_whole, j, last, blocks) - filling
        end = _end(sizes, j * rows + height)
        _add_block(sums, filling, height, end, key[_FILL], key, sizes, figures)
        _add_block(sums, others, height, end, key[_COLUMNS], key, sizes, figures)
        j = last + 1
    block_rows = sizes[_BLOCK_ROWS]
    for n in range(num_whole, num_blocks):
        width = key[_FILL] if n < num_filling else key[_COLUMNS]
        row = n % blocks * rows
        left = min(rows, length - row)
        while left > 0:
            size = left
            if left > block_rows:
                half = ((left + 1) // 2 + block_rows - 1) // block_rows * block_rows
                size = min(half, left)
            row, left = row + size, left - size
            _add_block(sums, 1, size, _end(sizes, row), width, key, sizes, figures)


@njit(cache=True, error_model="numpy")
def _num_between(total: int, first: int, last: int, period: int) -> int:
    """Return how many of 0 to ``total`` - 1 are ``first`` to ``last`` modulo ``period``."""
    whole, rest = total // period, total % period
    return int(whole * (last - first + 1) + max(min(rest, last + 1) - first, 0))


@njit(cache=True, error_model="numpy")
def _end(sizes: Longs, row: int) -> int:
    """Return how many keys the rows before ``row`` look at."""
    return int(min(sizes[_LIMIT], row) if sizes[_IS_CUT] else sizes[_LIMIT])


@njit(cache=True, error_model="numpy")
def _add_block(
    sums: Floats,
    count: int,
    height: int,
    end: int,
    width: int,
    key: Longs,
    sizes: Longs,
    figures: MachineFigures,
) -> None:
    """Add ``count`` times a row block of ``height`` rows a head that sees keys 0 to ``end``."""
    if count == 0:
        return
    all_rows = key[_HEADS] * height
    sums[_BLOCKS] += count
    sums[_LEAST_ROWS] = min(sums[_LEAST_ROWS], all_rows)
    num_parts = 1
    if key[_SPLIT] == _BY_KEYS:
        tiles = (end + width - 1) // width
        num_parts = 0
        for core in range(sizes[_NUM_CORES]):
            first = tiles * core // sizes[_NUM_CORES] * width
            last = min(tiles * (core + 1) // sizes[_NUM_CORES] * width, end)
            if first < last:
                num_parts += 1
                _add_part(sums, count, height, last - first, width, key, sizes, figures)
    else:
        _add_part(sums, count, height, end, width, key, sizes, figures)
    if key[_FORM] == st.FULL_ROW:
        return
    elements = float(all_rows * sizes[_VALUE_DIM])
    reads = 2.0 * elements + 2.0 * all_rows
    merge = vector_cost(2.0 * elements * figures.rescale, reads, elements, figures)
    _add(sums, _LATER, count * (num_parts - 1), merge)
    reads = elements * figures.divide_reads + all_rows
    writes = elements * figures.divide_writes
    _add(sums, _LATER, count, vector_cost(elements * figures.divide, reads, writes, figures))


@njit(cache=True, error_model="numpy")
def _add_part(
    sums: Floats,
    count: int,
    height: int,
    keys: int,
    width: int,
    key: Longs,
    sizes: Longs,
    figures: MachineFigures,
) -> None:
    """Add products and softmax of a row block on ``keys`` keys, in tiles of ``width``."""
    sums[_LEAST_KEYS] = min(sums[_LEAST_KEYS], keys)
    all_rows = key[_HEADS] * height
    depth, columns = sizes[_HEAD_DIM], sizes[_VALUE_DIM]
    is_online = key[_FORM] == st.ONLINE
    whole = (keys - 1) // width
    tail = keys - whole * width
    for is_tail in range(2):
        number = count if is_tail else count * whole
        if number == 0:
            continue
        size = tail if is_tail else width
        # The first tile begins an output, the others go on with it.
        firsts = count if is_tail == (whole == 0) else 0
        scores = product_cost(all_rows, size, depth, False, figures)
        _add(sums, _SCORES, number, scores)
        begun = product_cost(all_rows, columns, size, False, figures)
        _add(sums, _OUTPUTS, number if is_online else firsts, begun)
        if is_online:
            _add_softmax(sums, firsts, height, size, False, key, sizes, figures)
            _add_softmax(sums, number - firsts, height, size, True, key, sizes, figures)
            elements = float(all_rows * columns)
            reads = 2.0 * elements + all_rows
            rescale = vector_cost(elements * figures.rescale, reads, elements, figures)
            _add(sums, _LATER, number - firsts, rescale)
        else:
            added = product_cost(all_rows, columns, size, True, figures)
            _add(sums, _OUTPUTS, number - firsts, added)
    if not is_online:
        _add_softmax(sums, count, height, keys, False, key, sizes, figures)


@njit(cache=True, error_model="numpy")
def _add_softmax(
    sums: Floats,
    count: int,
    height: int,
    keys: int,
    accumulates: bool,
    key: Longs,
    sizes: Longs,
    figures: MachineFigures,
) -> None:
    steps = key[_HEADS] if key[_HEADS] > 1 and sizes[_IS_PER_HEAD] else 1
    rows = key[_HEADS] * height // steps
    mask = 0
    if sizes[_MASK_ROWS] > 0:
        mask = (height if sizes[_MASK_ROWS] > 1 else 1) * (keys if sizes[_MASK_COLUMNS] > 1 else 1)
    divides = key[_FORM] == st.FULL_ROW
    cost = softmax_cost(rows, keys, mask, divides, accumulates, figures)
    _add(sums, _SOFTMAX, count * steps, cost)
    sums[_SOFTMAX_STEPS] += count * steps


@njit(cache=True, error_model="numpy")
def _add(sums: Floats, which: int, count: int, cost: tuple[float, float, float]) -> None:
    sums[which] += count * cost[0]
    sums[_COMPUTE] += count * cost[1]
    sums[_ON_CHIP] += count * cost[2]
    sums[_STEPS] += count


_BY_KEYS = SPLITS["keys"]
