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
            _wait(m, at, 3 * i + wk.BY_STEP, before_turn[core, 1 - unit])
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
                _touch(m, at, slot, stream, 3 * i + wk.BY_STEP, m[operand + 5] == 1)
        _store_what_is_done(m, at, rows, i)
    return _put_together(m, at, rows)


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
        _set(m, at, 0, m[mine + wk.OWN_PARTIAL], 0, 0, all_rows, value_dim, 0)
        _set(m, at, 1, state, 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)
        m[mine + wk.OWN_OUTPUTS_LEFT] -= 1
    elif operation == col.MERGE:
        main = wk.block_at(m, at, wk.block_of(m, at, b, st.MAIN))
        _set(m, at, 0, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 0)
        _set(m, at, 1, m[mine + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[main + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)
        _set(m, at, 3, m[main + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 1)
    else:
        _set(m, at, 0, m[mine + wk.OWN_STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[mine + wk.OWN_OUTPUT], 0, 0, all_rows, value_dim, 1)


@njit(cache=True, error_model="numpy")
def _prepare_scores(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    first, columns = wk.step_of(m, at, i, st.STEP_COLUMN), wk.step_of(m, at, i, st.STEP_COLUMNS)
    heads, height = wk.block_of(m, at, b, st.HEADS), wk.block_of(m, at, b, st.ROWS)
    depth = wk.size_of(m, at, wk.HEAD_DIM)
    mine = wk.block_at(m, at, b)
    if m[mine + wk.OWN_QUERY] < 0:
        slot = _take_slot(m, at, wk.QUERIES, core)
        m[mine + wk.OWN_QUERY] = slot
        _new_buffer(m, at, wk.QUERIES, slot, wk.QUERY, heads * height, depth)
        earliest = _earliest(m, at, i, slot)
        for head in range(heads):
            load = _load(m, at, rows, i, earliest, core, slot, head * height, height, depth)
            matrix = wk.block_of(m, at, b, st.MATRIX) + head
            _name_slice(rows, load, wk.QUERY, matrix, wk.block_of(m, at, b, st.ROW), 0)
    _set(m, at, 0, m[mine + wk.OWN_QUERY], 0, 0, heads * height, depth, 0)
    _prepare_tile(m, at, rows, i)
    is_online = wk.count_of(m, at, wk.COUNT_IS_ONLINE)
    place = mine + wk.OWN_SCORES
    if is_online:
        place = mine + wk.OWN_TILE_SLOTS + 2 * (first // wk.size_of(m, at, wk.KV_COLUMNS))
    if m[place] < 0:
        slot = _take_slot(m, at, wk.SCORE_ROWS, core)
        m[place] = slot
        _store_before(m, at, slot, i)
        width = columns
        if not is_online:
            width = wk.block_of(m, at, b, st.END) - wk.block_of(m, at, b, st.BEGIN)
        _new_buffer(m, at, wk.SCORE_ROWS, slot, wk.SCORES, heads * height, width)
    begin = 0 if is_online else first - wk.block_of(m, at, b, st.BEGIN)
    _set(m, at, 2, m[place], 0, begin, heads * height, columns, 1)
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
        _set(m, at, 0, slot, 0, 0, all_rows, columns, 0)
    else:
        slot = _scores_back(m, at, rows, i, wk.OWN_STORED_PROBABILITIES)
        _set(m, at, 0, slot, 0, first - begin, all_rows, columns, 0)
    _prepare_tile(m, at, rows, i)
    if is_online and first > begin:
        slot = _take_slot(m, at, wk.PARTIALS, core)
        m[mine + wk.OWN_PARTIAL] = slot
        _new_buffer(m, at, wk.PARTIALS, slot, wk.PARTIAL, all_rows, width)
    else:
        if m[mine + wk.OWN_OUTPUT] < 0:
            slot = _take_slot(m, at, wk.OUTPUTS, core)
            m[mine + wk.OWN_OUTPUT] = slot
            _store_before(m, at, slot, i)
            _new_buffer(m, at, wk.OUTPUTS, slot, wk.OUTPUT, all_rows, width)
        slot = m[mine + wk.OWN_OUTPUT]
        rows[i, col.ACCUMULATES] = 1 if first > begin else 0
    _set(m, at, 2, slot, 0, 0, all_rows, width, 1)
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
    _set(m, at, 2, slot, top, 0, height, columns, 1)
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
        slot = _take_slot(m, at, wk.STATES, core)
        m[mine + wk.OWN_STATE] = slot
        all_rows = wk.block_of(m, at, b, st.HEADS) * wk.block_of(m, at, b, st.ROWS)
        _new_buffer(m, at, wk.STATES, slot, wk.STATE, all_rows, STATE_COLUMNS)
        if wk.count_of(m, at, wk.COUNT_IS_ONLINE):
            tile = first // wk.size_of(m, at, wk.KV_COLUMNS)
            m[mine + wk.OWN_TILE_SLOTS + 2 * tile + 1] = slot
    _set(m, at, 3, m[mine + wk.OWN_STATE], top, 0, height, STATE_COLUMNS, 1)
    if first > begin:
        rows[i, col.ACCUMULATES] = 1
        place = 1 if wk.size_of(m, at, wk.MASK_ROWS) > 0 else 0
        _set(m, at, place, m[mine + wk.OWN_STATE_BEFORE], top, 0, height, STATE_COLUMNS, 0)


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
        _new_buffer(m, at, ring, slot, tensor, height, depth)
        earliest = _earliest(m, at, i, slot)
        load = _load(m, at, rows, i, earliest, core, slot, 0, height, depth)
        _name_slice(rows, load, tensor, wk.block_of(m, at, b, st.KV_MATRIX), begin, 0)
    if key >= 0:
        m[at[wk.AT_POOL] + 3 * place + 1] = m[at[wk.AT_USES] + 3 * i + 1]
        m[at[wk.AT_POOL] + 3 * place + 2] = i
    _set(m, at, 1, slot, first - begin, 0, columns, depth, 0)


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
    key = (matrix * (1 << 24) + row) * (1 << 24) + begin
    ring = wk.ring_of(m, at, wk.MASKS, wk.RING_FIRST) + core * wk.ring_of(
        m, at, wk.MASKS, wk.RING_SLOTS
    )
    slot = -1
    for candidate in range(ring, ring + wk.ring_of(m, at, wk.MASKS, wk.RING_SLOTS)):
        if m[wk.slot_at(m, at, candidate) + wk.SLOT_MASK_KEY] == key:
            slot = candidate
    if slot < 0:
        slot = _take_slot(m, at, wk.MASKS, core)
        m[wk.slot_at(m, at, slot) + wk.SLOT_MASK_KEY] = key
        _new_buffer(m, at, wk.MASKS, slot, wk.MASK, height, width)
        earliest = _earliest(m, at, i, slot)
        load = _load(m, at, rows, i, earliest, core, slot, 0, height, width)
        _name_slice(rows, load, wk.MASK, matrix, row, begin)
    read_from = first if is_row and not is_column else 0
    _set(m, at, 0, slot, 0, read_from, height, 1 if is_column else columns, 0)


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
    slot = _take_slot(m, at, wk.SCORE_ROWS, core)
    m[mine + wk.OWN_SCORES] = slot
    _store_before(m, at, slot, i)
    earliest = max(_earliest(m, at, i, slot), m[at[wk.AT_STORE_AT] + stored] + 1)
    _new_buffer(m, at, wk.SCORE_ROWS, slot, wk.SCORES, heads * height, columns)
    for head in range(heads):
        load = _load(m, at, rows, i, earliest, core, slot, head * height, height, columns)
        matrix = wk.block_of(m, at, b, st.MATRIX) + head
        _name_slice(rows, load, wk.SCORES, matrix, wk.block_of(m, at, b, st.ROW), begin)
        _wait(
            m,
            at,
            3 * (wk.count_of(m, at, wk.COUNT_LOADS_MADE) - 1) + wk.BY_LOAD,
            3 * stored + wk.BY_STORE,
        )
    return slot


@njit(cache=True, error_model="numpy")
def _store_what_is_done(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Add the stores of what leaves the chip after a step: outputs, or scores that are spilled."""
    b, core = wk.step_of(m, at, i, st.STEP_BLOCK), wk.step_of(m, at, i, st.STEP_CORE)
    operation = wk.step_of(m, at, i, st.STEP_OPERATION)
    mine = wk.block_at(m, at, b)
    main = wk.block_at(m, at, wk.block_of(m, at, b, st.MAIN))
    is_softmax = operation in (col.SOFTMAX, col.EXPONENTIALS)
    spill = -1
    if (
        operation == col.SCORES
        and wk.size_of(m, at, wk.SPILLS_SCORES)
        and not m[mine + wk.OWN_SCORES_LEFT]
    ):
        spill = wk.OWN_STORED_SCORES
    elif (
        is_softmax
        and wk.size_of(m, at, wk.SPILLS_PROBABILITIES)
        and not m[mine + wk.OWN_SOFTMAX_LEFT]
    ):
        spill = wk.OWN_STORED_PROBABILITIES
    is_done = operation == col.NORMALIZE
    if operation in (col.OUTPUT, col.RESCALE):
        is_done = m[mine + wk.OWN_OUTPUTS_LEFT] == 0 and m[main + wk.OWN_NORMALIZE_LEFT] == 0
    if spill < 0 and not is_done:
        return
    slot, tensor, column, width = (
        m[mine + wk.OWN_OUTPUT],
        wk.OUTPUT,
        0,
        wk.size_of(m, at, wk.VALUE_DIM),
    )
    if spill >= 0:
        slot, tensor, column = m[mine + wk.OWN_SCORES], wk.SCORES, wk.block_of(m, at, b, st.BEGIN)
        width = wk.block_of(m, at, b, st.END) - column
    height = wk.block_of(m, at, b, st.ROWS)
    num_heads, num_steps = wk.block_of(m, at, b, st.HEADS), wk.count_of(m, at, wk.COUNT_NUM_STEPS)
    store_step = i if spill >= 0 else _release_store(m, at, core, i, num_heads)
    first = num_steps + wk.count_of(m, at, wk.COUNT_MAX_LOADS)
    for head in range(num_heads):
        store = wk.count_of(m, at, wk.COUNT_STORES_MADE)
        m[at[wk.AT_COUNTS] + wk.COUNT_STORES_MADE] = store + 1
        m[at[wk.AT_STORE_AT] + store] = store_step
        row = first + store
        rows[row, col.OPERATION] = col.STORE
        rows[row, col.CORE] = core
        rows[row, col.READ] = m[wk.slot_at(m, at, slot) + wk.SLOT_BUFFER]
        rows[row, col.READ + 1] = head * height
        rows[row, col.READ + 2] = 0
        rows[row, col.READ + 3] = height
        rows[row, col.READ + 4] = width
        rows[row, col.ACCUMULATES] = 0
        rows[row, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
        matrix = wk.block_of(m, at, b, st.MATRIX) + head
        _name_slice(rows, row, tensor, matrix, wk.block_of(m, at, b, st.ROW), column)
        _touch(m, at, slot, 1, 3 * store + wk.BY_STORE, False)
        if spill >= 0:
            m[mine + spill] = store
    if spill >= 0:
        m[mine + wk.OWN_SCORES] = -1


@njit(cache=True, error_model="numpy")
def _release_store(m: Longs, at: Longs, core: int, i: int, num_stores: int) -> int:
    """Issue the stores of the core's output made STORE_BLOCKS before; return when this one's come.

    Without a later output they come after the last step.
    """
    delay = wk.size_of(m, at, wk.STORE_BLOCKS)
    if delay == 0:
        return i
    end = wk.count_of(m, at, wk.COUNT_NUM_STEPS) - 1
    done = at[wk.AT_DONE] + core * (1 + 2 * delay)
    place = done + 1 + 2 * (m[done] % delay)
    if m[done] >= delay:
        for store in range(m[place], m[place] + m[place + 1]):
            m[at[wk.AT_STORE_AT] + store] = min(m[at[wk.AT_STORE_AT] + store], i)
    m[place] = wk.count_of(m, at, wk.COUNT_STORES_MADE)
    m[place + 1] = num_stores
    m[done] += 1
    return end


@njit(cache=True, error_model="numpy")
def _take_slot(m: Longs, at: Longs, ring: int, core: int) -> int:
    """Return the slot of a core's ring whose turn it is."""
    count = wk.ring_of(m, at, ring, wk.RING_SLOTS)
    taken = at[wk.AT_TAKEN] + ring * wk.size_of(m, at, wk.NUM_CORES) + core
    slot = wk.ring_of(m, at, ring, wk.RING_FIRST) + core * count + m[taken] % count
    m[taken] += 1
    return int(slot)


@njit(cache=True, error_model="numpy")
def _new_buffer(
    m: Longs, at: Longs, ring: int, slot: int, tensor: int, rows: int, columns: int
) -> None:
    n = wk.count_of(m, at, wk.COUNT_BUFFERS_MADE)
    m[at[wk.AT_COUNTS] + wk.COUNT_BUFFERS_MADE] = n + 1
    buffer = at[wk.AT_BUFFERS] + 5 * n
    size = wk.ring_of(m, at, ring, wk.RING_BYTES)
    m[buffer] = tensor
    m[buffer + 1] = rows
    m[buffer + 2] = columns
    m[buffer + 3] = (
        wk.ring_of(m, at, ring, wk.RING_BASE)
        + (slot - wk.ring_of(m, at, ring, wk.RING_FIRST)) * size
    )
    m[buffer + 4] = size
    m[wk.slot_at(m, at, slot) + wk.SLOT_BUFFER] = n


@njit(cache=True, error_model="numpy")
def _earliest(m: Longs, at: Longs, i: int, slot: int) -> int:
    """Return before which step what a step needs may be loaded: ahead, but into a free slot."""
    earliest = m[at[wk.AT_USES] + 3 * i + 2]
    touched = wk.slot_at(m, at, slot) + wk.SLOT_TOUCHED
    for stream in range(wk.count_of(m, at, wk.COUNT_NUM_STREAMS)):
        last = m[touched + stream]
        if last >= 0 and last % 3 == wk.BY_STEP:
            earliest = max(earliest, last // 3 + 1)
        elif last >= 0 and last % 3 == wk.BY_STORE:
            earliest = max(earliest, m[at[wk.AT_STORE_AT] + last // 3] + 1)
    return int(earliest)


@njit(cache=True, error_model="numpy")
def _load(
    m: Longs,
    at: Longs,
    rows: Integers,
    i: int,
    earliest: int,
    core: int,
    slot: int,
    top: int,
    height: int,
    columns: int,
) -> int:
    """Add a load of ``height`` rows from row ``top`` of a slot's buffer on; return its row."""
    n = wk.count_of(m, at, wk.COUNT_LOADS_MADE)
    m[at[wk.AT_COUNTS] + wk.COUNT_LOADS_MADE] = n + 1
    m[at[wk.AT_LOAD_AT] + n] = min(earliest, i)
    row = wk.count_of(m, at, wk.COUNT_NUM_STEPS) + n
    rows[row, col.OPERATION] = col.LOAD
    rows[row, col.CORE] = core
    rows[row, col.WRITE] = m[wk.slot_at(m, at, slot) + wk.SLOT_BUFFER]
    rows[row, col.WRITE + 1] = top
    rows[row, col.WRITE + 2] = 0
    rows[row, col.WRITE + 3] = height
    rows[row, col.WRITE + 4] = columns
    rows[row, col.ACCUMULATES] = 0
    rows[row, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
    _touch(m, at, slot, 0, 3 * n + wk.BY_LOAD, True)
    return int(row)


@njit(cache=True, error_model="numpy")
def _name_slice(
    rows: Integers, row: int, tensor: int, matrix: int, first_row: int, column: int
) -> None:
    rows[row, col.TENSOR] = tensor
    rows[row, col.MATRIX] = matrix
    rows[row, col.ROW] = first_row
    rows[row, col.COLUMN] = column


@njit(cache=True, error_model="numpy")
def _store_before(m: Longs, at: Longs, slot: int, i: int) -> None:
    """Have a slot's old content stored before a step takes the slot over."""
    last = m[wk.slot_at(m, at, slot) + wk.SLOT_TOUCHED + 1]
    if last >= 0:
        store = last // 3
        # All stores of one content follow each other.
        while store >= 0 and m[at[wk.AT_STORE_AT] + store] >= i:
            m[at[wk.AT_STORE_AT] + store] = i - 1
            store -= 1


@njit(cache=True, error_model="numpy")
def _set(
    m: Longs,
    at: Longs,
    number: int,
    slot: int,
    row: int,
    column: int,
    height: int,
    columns: int,
    is_written: int,
) -> None:
    operand = at[wk.AT_OPERANDS] + number * wk.OPERAND_WIDTH
    m[operand] = slot
    m[operand + 1] = row
    m[operand + 2] = column
    m[operand + 3] = height
    m[operand + 4] = columns
    m[operand + 5] = is_written


@njit(cache=True, error_model="numpy")
def _wait(m: Longs, at: Longs, owner: int, awaited: int) -> None:
    n = wk.count_of(m, at, wk.COUNT_WAITS_MADE)
    m[at[wk.AT_COUNTS] + wk.COUNT_WAITS_MADE] = n + 1
    m[at[wk.AT_WAITS] + 2 * n] = owner
    m[at[wk.AT_WAITS] + 2 * n + 1] = awaited


@njit(cache=True, error_model="numpy")
def _touch(m: Longs, at: Longs, slot: int, stream: int, me: int, is_write: bool) -> None:
    """Note that ``me`` on ``stream`` reads or writes a slot, and what it must wait for.

    A reader waits for the last writer, once a stream; a writer for everyone since the last one.
    """
    begin, num_streams = wk.slot_at(m, at, slot), wk.count_of(m, at, wk.COUNT_NUM_STREAMS)
    touched, seen = begin + wk.SLOT_TOUCHED, begin + wk.SLOT_TOUCHED + num_streams
    writer, writer_stream = m[begin + wk.SLOT_WRITER], m[begin + wk.SLOT_WRITER_STREAM]
    if is_write:
        for other in range(num_streams):
            last = m[touched + other]
            if other != stream and last >= 0:
                is_known = last == writer and writer_stream == other and m[seen + stream] == 1
                if not is_known:
                    _wait(m, at, me, last)
            m[touched + other] = -1
        for other in range(num_streams):
            m[seen + other] = 0
        m[begin + wk.SLOT_WRITER] = me
        m[begin + wk.SLOT_WRITER_STREAM] = stream
    elif writer_stream != stream and m[seen + stream] == 0:
        _wait(m, at, me, writer)
        m[seen + stream] = 1
    m[touched + stream] = me


@njit(cache=True, error_model="numpy")
def _put_together(
    m: Longs, at: Longs, made: Integers
) -> tuple[Integers, Longs, Integers, Longs, Longs]:
    """Put loads and stores among the steps, and give every wait its task's number."""
    num_steps = wk.count_of(m, at, wk.COUNT_NUM_STEPS)
    num_loads, num_stores = (
        wk.count_of(m, at, wk.COUNT_LOADS_MADE),
        wk.count_of(m, at, wk.COUNT_STORES_MADE),
    )
    first_store = num_steps + wk.count_of(m, at, wk.COUNT_MAX_LOADS)
    num_tasks = num_steps + num_loads + num_stores
    rows = np.empty((num_tasks, col.NUM_COLUMNS), np.int32)
    load_at = m[at[wk.AT_LOAD_AT] : at[wk.AT_LOAD_AT] + num_loads]
    store_at = m[at[wk.AT_STORE_AT] : at[wk.AT_STORE_AT] + num_stores]
    load_order = np.argsort(load_at, kind="mergesort")
    store_order = np.argsort(store_at, kind="mergesort")
    index_of = np.zeros((max(num_steps, num_loads, num_stores), 3), np.int64)
    n = next_load = next_store = 0
    for i in range(num_steps):
        while next_load < num_loads and load_at[load_order[next_load]] <= i:
            which = load_order[next_load]
            rows[n] = made[num_steps + which]
            index_of[which, wk.BY_LOAD] = n
            n, next_load = n + 1, next_load + 1
        rows[n] = made[i]
        index_of[i, wk.BY_STEP] = n
        n += 1
        while next_store < num_stores and store_at[store_order[next_store]] <= i:
            which = store_order[next_store]
            rows[n] = made[first_store + which]
            index_of[which, wk.BY_STORE] = n
            n, next_store = n + 1, next_store + 1
    num_waits = wk.count_of(m, at, wk.COUNT_WAITS_MADE)
    pairs = m[at[wk.AT_WAITS] : at[wk.AT_WAITS] + 2 * num_waits]
    wait_ends = np.zeros(num_tasks + 1, np.int64)
    for k in range(num_waits):
        wait_ends[index_of[pairs[2 * k] // 3, pairs[2 * k] % 3] + 1] += 1
    for task in range(num_tasks):
        wait_ends[task + 1] += wait_ends[task]
    filled = wait_ends[:num_tasks].copy()
    waits = np.empty(num_waits, np.int32)
    for k in range(num_waits):
        owner = index_of[pairs[2 * k] // 3, pairs[2 * k] % 3]
        waits[filled[owner]] = index_of[pairs[2 * k + 1] // 3, pairs[2 * k + 1] % 3]
        filled[owner] += 1
    num_buffers, num_reloads = (
        wk.count_of(m, at, wk.COUNT_BUFFERS_MADE),
        wk.count_of(m, at, wk.COUNT_RELOADS_MADE),
    )
    return (
        rows,
        wait_ends,
        waits,
        m[at[wk.AT_BUFFERS] : at[wk.AT_BUFFERS] + 5 * num_buffers].copy(),
        m[at[wk.AT_RELOADS] : at[wk.AT_RELOADS] + 4 * num_reloads].copy(),
    )
