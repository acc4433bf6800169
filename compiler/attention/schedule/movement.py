"""What has to be moved for steps in a given order, and when: steps become tasks with buffers.

On-chip memory is cut into *rings*, each a few equal slots for one kind of buffer; a buffer takes
the slot whose turn it is. Keys and values have a pool of slots instead, which works as a cache: the
order of work is known, so the victim of a load can be the copy that is needed again latest.

Everything depends on the order of steps and the numbers of slots alone, not on how fast the machine
is or how much memory it has. So more of either never makes a program slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.memory.cache_overwrite import choose_victim
from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule import transfers as tr
from hocket.compiler.attention.schedule import walk as wk
from hocket.hwmodels import columns as col
from hocket.hwmodels.tasks import STATE_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int32]
    Longs = NDArray[np.int64]


@njit(cache=True, error_model="numpy")
def move(
    steps: Longs, blocks: Longs, rings: Longs, sizes: Longs
) -> tuple[Integers, Longs, Integers, Longs, Longs]:
    """Turn steps into tasks.

    Args:
        steps: As ``order_steps`` returns them.
        blocks: The row blocks they speak of.
        rings: ``[NUM_RINGS, 4]``, the layout of on-chip memory.
        sizes: ``[NUM_SIZES]``.

    Returns:
        The rows of a ``TaskTable``, where each task's waits end, the waits; five numbers a buffer:
        tensor, rows, columns, first byte, bytes; and four numbers a reload: the step that needs it,
        the tile, the tile it overwrites or -1, and its elements.
    """
    m, at = wk.begin_walk(steps, blocks, rings, sizes)
    num_cores = sizes[wk.NUM_CORES]
    num_rows = (
        len(steps)
        + wk.count_of(m, at, wk.COUNT_MAX_LOADS)
        + wk.count_of(m, at, wk.COUNT_MAX_STORES)
    )
    rows = np.full((num_rows, col.NUM_COLUMNS), col.NOTHING, np.int32)
    # Lock-step: the last task of each unit, and the one before the turn under way.
    turn = np.full(num_cores, -1, np.int64)
    newest = np.full((num_cores, 2), -1, np.int64)
    before_turn = np.full((num_cores, 2), -1, np.int64)
    for i in range(len(steps)):
        core, operation = steps[i, st.STEP_CORE], steps[i, st.STEP_OPERATION]
        unit = 0 if operation in (col.SCORES, col.OUTPUT) else 1
        if steps[i, st.STEP_TURN] != turn[core]:
            turn[core] = steps[i, st.STEP_TURN]
            before_turn[core, 0], before_turn[core, 1] = newest[core, 0], newest[core, 1]
        newest[core, unit] = 3 * i + wk.BY_STEP
        if steps[i, st.STEP_SYNC] and before_turn[core, 1 - unit] >= 0:
            tr.add_wait(m, at, 3 * i + wk.BY_STEP, before_turn[core, 1 - unit])
        _prepare(m, at, rows, i)
        for number in range(4):
            operand = at[wk.AT_OPERANDS] + number * wk.OPERAND_WIDTH
            slot = m[operand]
            if slot >= 0:
                first = col.READ + 5 * number
                rows[i, first] = m[wk.slot_at(m, at, slot) + wk.SLOT_BUFFER]
                for part in range(1, 5):
                    rows[i, first + part] = m[operand + part]
                stream = 2 + 2 * core + unit
                tr.touch(m, at, slot, stream, 3 * i + wk.BY_STEP, m[operand + 5] == 1)
        tr.store_what_is_done(m, at, rows, i)
    return tr.put_together(m, at, rows)


@njit(cache=True, error_model="numpy")
def _prepare(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Find or make room for all that a step touches, and load what is not there."""
    b, operation = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_OPERATION)
    all_rows = wk.block_of(m, at, b, st.HEADS) * wk.block_of(m, at, b, st.ROWS)
    value_dim = wk.size_of(m, at, wk.VALUE_DIM)
    rows[i, col.OPERATION] = operation
    rows[i, col.CORE] = wk.step_of(m, at, i, st.STEP_CORE)
    rows[i, col.ACCUMULATES] = 0
    rows[i, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
    for number in range(4):
        m[at[wk.AT_OPERANDS] + number * wk.OPERAND_WIDTH] = -1
    mine = wk.block_at(m, at, b)
    if operation == col.SCORES:
        _prepare_scores(m, at, rows, i)
    elif operation == col.OUTPUT:
        _prepare_output(m, at, rows, i)
    elif operation in (col.SOFTMAX, col.EXPONENTIALS):
        _prepare_softmax(m, at, rows, i)
    elif operation == col.RESCALE:
        tile = wk.step_of(m, at, i, st.STEP_COLUMN) // wk.size_of(m, at, wk.KV_COLUMNS)
        state = m[mine + wk.OWN_TILE_SLOTS + 2 * tile + 1]
        tr.set_operand(m, at, 0, m[mine + wk.OWN_PARTIAL], 0, 0, all_rows, value_dim, 0)
        tr.set_operand(m, at, 1, state, 0, 0, all_rows, STATE_COLUMNS, 0)
        tr.set_operand(m, at, 2, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)
        m[mine + wk.OWN_OUTPUTS_LEFT] -= 1
    elif operation == col.MERGE:
        main = wk.block_at(m, at, wk.block_of(m, at, b, st.MAIN))
        tr.set_operand(m, at, 0, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 0)
        tr.set_operand(m, at, 1, m[mine + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        tr.set_operand(m, at, 2, m[main + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)
        tr.set_operand(m, at, 3, m[main + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 1)
    else:
        tr.set_operand(m, at, 0, m[mine + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        tr.set_operand(m, at, 2, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)


@njit(cache=True, error_model="numpy")
def _prepare_scores(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    heads, height = wk.block_of(m, at, b, st.HEADS), wk.block_of(m, at, b, st.ROWS)
    depth = wk.size_of(m, at, wk.HEAD_DIM)
    mine = wk.block_at(m, at, b)
    if m[mine + wk.OWN_QUERY] < 0:
        slot = tr.take_slot(m, at, wk.QUERIES, core)
        m[mine + wk.OWN_QUERY] = slot
        tr.new_buffer(m, at, wk.QUERIES, slot, wk.QUERY, heads * height, depth)
        earliest = tr.earliest_step(m, at, i, slot)
        for head in range(heads):
            load = tr.add_load(m, at, rows, i, earliest, core, slot, head * height, height, depth)
            matrix = wk.block_of(m, at, b, st.MATRIX) + head
            tr.name_slice(rows, load, wk.QUERY, matrix, wk.block_of(m, at, b, st.ROW), 0)
    tr.set_operand(m, at, 0, m[mine + wk.OWN_QUERY], 0, 0, heads * height, depth, 0)
    _prepare_tile(m, at, rows, i)
    is_online = wk.count_of(m, at, wk.COUNT_IS_ONLINE)
    place = mine + wk.OWN_SCORES
    if is_online:
        place = mine + wk.OWN_TILE_SLOTS + 2 * (first // wk.size_of(m, at, wk.KV_COLUMNS))
    if m[place] < 0:
        slot = tr.take_slot(m, at, wk.SCORE_ROWS, core)
        m[place] = slot
        tr.store_before(m, at, slot, i)
        width = columns
        if not is_online:
            width = wk.block_of(m, at, b, st.END) - wk.block_of(m, at, b, st.BEGIN)
        tr.new_buffer(m, at, wk.SCORE_ROWS, slot, wk.SCORES, heads * height, width)
    begin = 0 if is_online else first - wk.block_of(m, at, b, st.BEGIN)
    tr.set_operand(m, at, 2, m[place], 0, begin, heads * height, columns, 1)
    m[mine + wk.OWN_SCORES_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_output(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    all_rows = wk.block_of(m, at, b, st.HEADS) * wk.block_of(m, at, b, st.ROWS)
    width = wk.size_of(m, at, wk.VALUE_DIM)
    mine, begin = wk.block_at(m, at, b), wk.block_of(m, at, b, st.BEGIN)
    is_online = wk.count_of(m, at, wk.COUNT_IS_ONLINE)
    if is_online:
        slot = m[mine + wk.OWN_TILE_SLOTS + 2 * (first // wk.size_of(m, at, wk.KV_COLUMNS))]
        tr.set_operand(m, at, 0, slot, 0, 0, all_rows, columns, 0)
    else:
        slot = _scores_back(m, at, rows, i, wk.OWN_STORED_PROBABILITIES)
        tr.set_operand(m, at, 0, slot, 0, first - begin, all_rows, columns, 0)
    _prepare_tile(m, at, rows, i)
    if is_online and first > begin:
        slot = tr.take_slot(m, at, wk.PARTIALS, core)
        m[mine + wk.OWN_PARTIAL] = slot
        tr.new_buffer(m, at, wk.PARTIALS, slot, wk.PARTIAL, all_rows, width)
    else:
        if m[mine + wk.OWN_OUTPUT] < 0:
            slot = tr.take_slot(m, at, wk.OUTPUTS, core)
            m[mine + wk.OWN_OUTPUT] = slot
            tr.store_before(m, at, slot, i)
            tr.new_buffer(m, at, wk.OUTPUTS, slot, wk.OUTPUT, all_rows, width)
        slot = m[mine + wk.OWN_OUTPUT]
        rows[i, col.ACCUMULATES] = 1 if first > begin else 0
    tr.set_operand(m, at, 2, slot, 0, 0, all_rows, width, 1)
    m[mine + wk.OWN_OUTPUTS_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_softmax(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, _core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    head, rows_a_head = wk.step_of(m, at, i, st.STEP_HEAD), wk.block_of(m, at, b, st.ROWS)
    all_rows = wk.block_of(m, at, b, st.HEADS) * rows_a_head
    height = rows_a_head if head >= 0 else all_rows
    top = max(head, 0) * rows_a_head
    mine = wk.block_at(m, at, b)
    if wk.count_of(m, at, wk.COUNT_IS_ONLINE):
        slot = m[mine + wk.OWN_TILE_SLOTS + 2 * (first // wk.size_of(m, at, wk.KV_COLUMNS))]
    else:
        slot = _scores_back(m, at, rows, i, wk.OWN_STORED_SCORES)
    tr.set_operand(m, at, 2, slot, top, 0, height, columns, 1)
    if wk.size_of(m, at, wk.IS_CAUSAL):
        rows[i, col.CAUSAL_OFFSET] = wk.block_of(m, at, b, st.ROW) - first
    if wk.step_of(m, at, i, st.STEP_OPERATION) == col.EXPONENTIALS:
        _prepare_state(m, at, rows, i, top, height)
    if wk.size_of(m, at, wk.MASK_ROWS) > 0:
        _prepare_mask(m, at, rows, i)
    m[mine + wk.OWN_SOFTMAX_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_state(m: Longs, at: Longs, rows: Integers, i: int, top: int, height: int) -> None:
    """Give a tile's softmax a state of its own, behind that of the tile before it."""
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, begin = wk.step_of(m, at, i, st.STEP_COLUMN), wk.block_of(m, at, b, st.BEGIN)
    mine = wk.block_at(m, at, b)
    if wk.step_of(m, at, i, st.STEP_HEAD) <= 0:  # the first head, or all at once
        m[mine + wk.OWN_STATE_BEFORE] = m[mine + wk.OWN_STATE]
        slot = tr.take_slot(m, at, wk.STATES, core)
        m[mine + wk.OWN_STATE] = slot
        all_rows = wk.block_of(m, at, b, st.HEADS) * wk.block_of(m, at, b, st.ROWS)
        tr.new_buffer(m, at, wk.STATES, slot, wk.STATE, all_rows, STATE_COLUMNS)
        if wk.count_of(m, at, wk.COUNT_IS_ONLINE):
            tile = first // wk.size_of(m, at, wk.KV_COLUMNS)
            m[mine + wk.OWN_TILE_SLOTS + 2 * tile + 1] = slot
    tr.set_operand(m, at, 3, m[mine + wk.OWN_STATE], top, 0, height, STATE_COLUMNS, 1)
    if first > begin:
        rows[i, col.ACCUMULATES] = 1
        place = 1 if wk.size_of(m, at, wk.MASK_ROWS) > 0 else 0
        tr.set_operand(
            m, at, place, m[mine + wk.OWN_STATE_BEFORE], top, 0, height, STATE_COLUMNS, 0
        )


@njit(cache=True, error_model="numpy")
def _prepare_tile(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Find the key or value tile a product reads, or load it, over another one if need be."""
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    is_value = 1 if wk.step_of(m, at, i, st.STEP_OPERATION) == col.OUTPUT else 0
    depth = wk.size_of(m, at, wk.VALUE_DIM) if is_value else wk.size_of(m, at, wk.HEAD_DIM)
    tensor = wk.VALUE if is_value else wk.KEY
    key = m[at[wk.AT_USES] + 3 * i]
    width = wk.size_of(m, at, wk.KV_COLUMNS) if key >= 0 else wk.size_of(m, at, wk.FILL_COLUMNS)
    begin = first // width * width
    height = min(width, wk.size_of(m, at, wk.KV_LIMIT) - begin)
    if key < 0:
        ring = wk.FILL
        place = is_value * wk.count_of(m, at, wk.COUNT_FILL_TILES) + first // width
        is_missing = m[at[wk.AT_FILLED] + place] == 0
        m[at[wk.AT_FILLED] + place] = 1
    else:
        ring = wk.POOL
        is_missing = m[at[wk.AT_TILES] + 2 * key] < 0
        if is_missing:
            _overwrite(m, at, i, key, height * depth)
        place = m[at[wk.AT_TILES] + 2 * key]
    slot = wk.ring_of(m, at, ring, wk.RING_FIRST) + place
    if is_missing:
        tr.new_buffer(m, at, ring, slot, tensor, height, depth)
        earliest = tr.earliest_step(m, at, i, slot)
        load = tr.add_load(m, at, rows, i, earliest, core, slot, 0, height, depth)
        tr.name_slice(rows, load, tensor, wk.block_of(m, at, b, st.KV_MATRIX), begin, 0)
    if key >= 0:
        m[at[wk.AT_POOL] + 3 * place + 1] = m[at[wk.AT_USES] + 3 * i + 1]
        m[at[wk.AT_POOL] + 3 * place + 2] = i
    tr.set_operand(m, at, 1, slot, first - begin, 0, columns, depth, 0)


@njit(cache=True, error_model="numpy")
def _overwrite(m: Longs, at: Longs, i: int, key: int, elements: int) -> None:
    """Give a tile a slot of the pool, and note it down if it was there before."""
    place = choose_victim(m[at[wk.AT_POOL] : at[wk.AT_TILES]], i, wk.size_of(m, at, wk.GUARD_STEPS))
    old = m[at[wk.AT_POOL] + 3 * place]
    if old >= 0:
        m[at[wk.AT_TILES] + 2 * old] = -1
    if m[at[wk.AT_TILES] + 2 * key + 1]:
        n = wk.count_of(m, at, wk.COUNT_RELOADS_MADE)
        m[at[wk.AT_COUNTS] + wk.COUNT_RELOADS_MADE] = n + 1
        reload = at[wk.AT_RELOADS] + 4 * n
        m[reload] = i
        m[reload + 1] = key
        m[reload + 2] = old
        m[reload + 3] = elements
    m[at[wk.AT_TILES] + 2 * key] = place
    m[at[wk.AT_TILES] + 2 * key + 1] = 1
    m[at[wk.AT_POOL] + 3 * place] = key


@njit(cache=True, error_model="numpy")
def _prepare_mask(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    query_matrix = wk.block_of(m, at, b, st.MATRIX) + max(wk.step_of(m, at, i, st.STEP_HEAD), 0)
    query_heads, mask_heads = wk.size_of(m, at, wk.QUERY_HEADS), wk.size_of(m, at, wk.MASK_HEADS)
    has_batch = wk.size_of(m, at, wk.MASK_BATCH) > 1
    matrix = query_matrix // query_heads * mask_heads if has_batch else 0
    matrix += query_matrix % query_heads if mask_heads > 1 else 0
    is_row, is_column = (
        wk.size_of(m, at, wk.MASK_ROWS) == 1,
        wk.size_of(m, at, wk.MASK_COLUMNS) == 1,
    )
    # One row for all queries is kept whole; a block of rows only as far as it is used.
    is_whole = is_row or is_column
    height = 1 if is_row else wk.block_of(m, at, b, st.ROWS)
    width = wk.size_of(m, at, wk.MASK_COLUMNS) if is_whole else columns
    row = 0 if is_row else wk.block_of(m, at, b, st.ROW)
    begin = 0 if is_whole else first
    key = (matrix * wk.size_of(m, at, wk.MASK_ROWS) + row) * wk.size_of(m, at, wk.MASK_COLUMNS)
    key += begin
    ring = wk.ring_of(m, at, wk.MASKS, wk.RING_FIRST) + core * wk.ring_of(
        m, at, wk.MASKS, wk.RING_SLOTS
    )
    slot = -1
    for candidate in range(ring, ring + wk.ring_of(m, at, wk.MASKS, wk.RING_SLOTS)):
        if m[wk.slot_at(m, at, candidate) + wk.SLOT_MASK_KEY] == key:
            slot = candidate
    if slot < 0:
        slot = tr.take_slot(m, at, wk.MASKS, core)
        m[wk.slot_at(m, at, slot) + wk.SLOT_MASK_KEY] = key
        tr.new_buffer(m, at, wk.MASKS, slot, wk.MASK, height, width)
        earliest = tr.earliest_step(m, at, i, slot)
        load = tr.add_load(m, at, rows, i, earliest, core, slot, 0, height, width)
        tr.name_slice(rows, load, wk.MASK, matrix, row, begin)
    read_from = first if is_row and not is_column else 0
    tr.set_operand(m, at, 0, slot, 0, read_from, height, 1 if is_column else columns, 0)


@njit(cache=True, error_model="numpy")
def _scores_back(m: Longs, at: Longs, rows: Integers, i: int, which: int) -> int:
    """Return the slot of a block's scores; if they went to DRAM, load them into a new one."""
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    mine = wk.block_at(m, at, b)
    if m[mine + wk.OWN_SCORES] >= 0:
        return int(m[mine + wk.OWN_SCORES])
    heads, height = wk.block_of(m, at, b, st.HEADS), wk.block_of(m, at, b, st.ROWS)
    begin = wk.block_of(m, at, b, st.BEGIN)
    columns = wk.block_of(m, at, b, st.END) - begin
    stored = m[mine + which]
    for store in range(stored + 1 - heads, stored + 1):
        m[at[wk.AT_STORE_AT] + store] = min(m[at[wk.AT_STORE_AT] + store], i - 1)
    slot = tr.take_slot(m, at, wk.SCORE_ROWS, core)
    m[mine + wk.OWN_SCORES] = slot
    tr.store_before(m, at, slot, i)
    earliest = max(tr.earliest_step(m, at, i, slot), m[at[wk.AT_STORE_AT] + stored] + 1)
    tr.new_buffer(m, at, wk.SCORE_ROWS, slot, wk.SCORES, heads * height, columns)
    for head in range(heads):
        load = tr.add_load(m, at, rows, i, earliest, core, slot, head * height, height, columns)
        matrix = wk.block_of(m, at, b, st.MATRIX) + head
        tr.name_slice(rows, load, wk.SCORES, matrix, wk.block_of(m, at, b, st.ROW), begin)
        tr.add_wait(
            m,
            at,
            3 * (wk.count_of(m, at, wk.COUNT_LOADS_MADE) - 1) + wk.BY_LOAD,
            3 * stored + wk.BY_STORE,
        )
    return slot
