"""What has to be moved for steps in a given order, and when: steps become tasks with buffers.

On-chip memory is cut into *rings*, each a few equal slots for one kind of buffer; a buffer takes
the slot whose turn it is. Keys and values have a pool of slots instead, which works as a cache: the
order of work is known, so the victim of a load can be the copy that is needed again latest.

All state of the walk over the steps lies in one array, by region, because compiled code pays for
each array it hands to a function; the small readers and writers below give the regions shape.

Everything depends on the order of steps and the numbers of slots alone, not on how fast the machine
is or how much memory it has. So more of either never makes a program slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.schedule import steps as st
from hocket.hwmodels import columns as col
from hocket.hwmodels.tasks import STATE_COLUMNS, TENSORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int32]
    Longs = NDArray[np.int64]

QUERY, KEY, VALUE, MASK, SCORES, OUTPUT, STATE, PARTIAL = (
    TENSORS.index(name)
    for name in ("query", "key", "value", "mask", "scores", "output", "state", "partial")
)

# Rings, and columns of the table of rings: first slot, slots (of each core), bytes of a slot, byte
# at which the ring begins. The pool of keys and values and the fill area serve all cores.
(QUERIES, POOL, FILL, MASKS, SCORE_ROWS, OUTPUTS, STATES, PARTIALS) = range(8)
NUM_RINGS = 8
RING_FIRST, RING_SLOTS, RING_BYTES, RING_BASE = range(4)

# Of ``sizes``: what of a problem and a tiling movement depends on.
(
    NUM_CORES,
    KV_MATRICES,
    KV_LIMIT,
    KV_COLUMNS,
    FILL_COLUMNS,
    HEAD_DIM,
    VALUE_DIM,
    QUERY_HEADS,
    MASK_BATCH,
    MASK_HEADS,
    MASK_ROWS,
    MASK_COLUMNS,
    IS_CAUSAL,
    PREFETCH_TURNS,
    STORE_BLOCKS,
    GUARD_STEPS,
    SPILLS_SCORES,
    SPILLS_PROBABILITIES,
) = range(18)
NUM_SIZES = 18

NEVER = 1 << 40

# What waits and is waited for, before tasks have numbers: 3 * index + kind.
_STEP, _LOAD, _STORE = range(3)

# Regions of the state, by their place in ``at``; and counts that are kept there, too.
(
    _STEPS,  # the steps, the row blocks, the rings and the sizes, as given
    _BLOCKS,
    _RINGS,
    _SIZES,
    _USES,  # of each step: the pooled tile it reads, -1 for none; the next step that does; and
    # the step before which its loads may be issued
    _COUNTS,
    _LOAD_AT,  # before which step a load stands
    _STORE_AT,  # after which step a store stands
    _WAITS,  # pairs: who waits, and for whom
    _BUFFERS,  # five numbers each: tensor, rows, columns, first byte, bytes
    _RELOADS,  # four numbers each
    _SLOTS,  # of each slot: buffer, mask key, last writer, its stream; then, by stream, the last
    # task that touched it since, and whether the stream has waited for the writer
    _TAKEN,  # slots of each ring handed out so far, by core
    _POOL,  # of each slot of the pool: its tile, when that is needed next, when it was last used
    _TILES,  # of each tile: its slot of the pool or -1, and whether it was ever loaded
    _FILLED,  # whether a tile of the fill area is there
    _UNDER_WAY,  # of each row block: its slots, stores and steps to come; then slots of its tiles
    _DONE,  # of each core: blocks whose output is done; of the latest, first store and how many
    _OPERANDS,  # of the step under way: slot, row, column, rows, columns, whether written
    _END,
) = range(20)

# Counts.
_LOADS_MADE, _STORES_MADE, _WAITS_MADE, _BUFFERS_MADE, _RELOADS_MADE = range(5)
_IS_ONLINE, _FILL_TILES, _NUM_STREAMS, _SLOT_WIDTH, _BLOCK_WIDTH, _NUM_STEPS, _NUM_BLOCKS = range(
    5, 12
)
_MAX_LOADS, _MAX_STORES, _NUM_COUNTS = range(12, 15)

# Of a slot.
_BUFFER, _MASK_KEY, _WRITER, _WRITER_STREAM, _TOUCHED = range(5)

# Of a row block under way.
(
    _QUERY,
    _SCORES,
    _OUTPUT,
    _STATE,
    _STATE_BEFORE,
    _PARTIAL,
    _STORED_SCORES,
    _STORED_PROBABILITIES,
    _SCORES_LEFT,
    _SOFTMAX_LEFT,
    _OUTPUTS_LEFT,
    _NORMALIZE_LEFT,
    _TILE_SLOTS,
) = range(13)

_OPERAND_WIDTH = 6


@njit(cache=True, error_model="numpy")
def _step(m: Longs, at: Longs, i: int, field: int) -> int:
    return int(m[at[_STEPS] + i * st.NUM_STEP_COLUMNS + field])


@njit(cache=True, error_model="numpy")
def _block(m: Longs, at: Longs, b: int, field: int) -> int:
    return int(m[at[_BLOCKS] + b * st.NUM_BLOCK_COLUMNS + field])


@njit(cache=True, error_model="numpy")
def _ring(m: Longs, at: Longs, ring: int, field: int) -> int:
    return int(m[at[_RINGS] + ring * 4 + field])


@njit(cache=True, error_model="numpy")
def _size(m: Longs, at: Longs, which: int) -> int:
    return int(m[at[_SIZES] + which])


@njit(cache=True, error_model="numpy")
def _count(m: Longs, at: Longs, which: int) -> int:
    return int(m[at[_COUNTS] + which])


@njit(cache=True, error_model="numpy")
def _slot_at(m: Longs, at: Longs, slot: int) -> int:
    return int(at[_SLOTS] + slot * m[at[_COUNTS] + _SLOT_WIDTH])


@njit(cache=True, error_model="numpy")
def _block_at(m: Longs, at: Longs, b: int) -> int:
    return int(at[_UNDER_WAY] + b * m[at[_COUNTS] + _BLOCK_WIDTH])


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
    m, at = _begin(steps, blocks, rings, sizes)
    num_cores = sizes[NUM_CORES]
    num_rows = len(steps) + _count(m, at, _MAX_LOADS) + _count(m, at, _MAX_STORES)
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
        newest[core, unit] = 3 * i + _STEP
        if steps[i, st.STEP_SYNC] and before_turn[core, 1 - unit] >= 0:
            _wait(m, at, 3 * i + _STEP, before_turn[core, 1 - unit])
        _prepare(m, at, rows, i)
        for number in range(4):
            operand = at[_OPERANDS] + number * _OPERAND_WIDTH
            slot = m[operand]
            if slot >= 0:
                first = col.READ + 5 * number
                rows[i, first] = m[_slot_at(m, at, slot) + _BUFFER]
                for part in range(1, 5):
                    rows[i, first + part] = m[operand + part]
                stream = 2 + 2 * core + unit
                _touch(m, at, slot, stream, 3 * i + _STEP, m[operand + 5] == 1)
        _store_what_is_done(m, at, rows, i)
    return _put_together(m, at, rows)


@njit(cache=True, error_model="numpy")
def _begin(steps: Longs, blocks: Longs, rings: Longs, sizes: Longs) -> tuple[Longs, Longs]:
    """Return the state before the first step, and where its regions begin."""
    num_steps, num_blocks, num_cores = len(steps), len(blocks), sizes[NUM_CORES]
    num_streams = 2 + 2 * num_cores
    num_tiles = (sizes[KV_LIMIT] + sizes[KV_COLUMNS] - 1) // sizes[KV_COLUMNS]
    fill = sizes[FILL_COLUMNS]
    fill_tiles = (sizes[KV_LIMIT] + fill - 1) // fill if fill > 0 else 0
    num_pooled = 2 * sizes[KV_MATRICES] * num_tiles
    num_slots = 0
    for ring in range(NUM_RINGS):
        shared = ring in (POOL, FILL)
        last = rings[ring, RING_FIRST] + rings[ring, RING_SLOTS] * (1 if shared else num_cores)
        num_slots = max(num_slots, last)
    is_online, heads = _is_online(steps, blocks), 0
    for b in range(num_blocks):
        heads += blocks[b, st.HEADS]
    # Upper bounds: a step loads a tile or a mask; a head its queries, and its scores twice. Each
    # touch is waited for at most once by a later writer, and waits at most once as a reader.
    max_loads, max_stores = num_steps + 3 * heads, 3 * heads
    max_waits = 2 * (4 * num_steps + max_loads + max_stores) + num_steps + max_loads
    slot_width = _TOUCHED + 2 * num_streams
    # Online: of each tile the slots of its scores and of the state behind it.
    block_width = _TILE_SLOTS + 2 * is_online * num_tiles
    lengths = np.array(
        [
            num_steps * st.NUM_STEP_COLUMNS,
            num_blocks * st.NUM_BLOCK_COLUMNS,
            NUM_RINGS * 4,
            NUM_SIZES,
            3 * num_steps,
            _NUM_COUNTS,
            max_loads,
            max_stores,
            2 * max_waits,
            5 * (4 * num_steps + 6 * num_blocks),
            4 * num_steps,
            num_slots * slot_width,
            NUM_RINGS * num_cores,
            3 * rings[POOL, RING_SLOTS],
            2 * num_pooled,
            2 * fill_tiles,
            num_blocks * block_width,
            num_cores * (1 + 2 * sizes[STORE_BLOCKS]),
            4 * _OPERAND_WIDTH,
            0,
        ]
    )
    at = np.zeros(_END + 1, np.int64)
    for region in range(_END):
        at[region + 1] = at[region] + lengths[region]
    m = np.zeros(at[_END], np.int64)
    m[at[_STEPS] : at[_BLOCKS]] = steps.ravel()
    m[at[_BLOCKS] : at[_RINGS]] = blocks.ravel()
    m[at[_RINGS] : at[_SIZES]] = rings.ravel()
    m[at[_SIZES] : at[_USES]] = sizes
    counts = m[at[_COUNTS] : at[_LOAD_AT]]
    counts[_IS_ONLINE], counts[_FILL_TILES], counts[_NUM_STREAMS] = (
        is_online,
        fill_tiles,
        num_streams,
    )
    counts[_SLOT_WIDTH], counts[_BLOCK_WIDTH] = slot_width, block_width
    counts[_NUM_STEPS], counts[_NUM_BLOCKS] = num_steps, num_blocks
    counts[_MAX_LOADS], counts[_MAX_STORES] = max_loads, max_stores
    _find_uses(m[at[_USES] : at[_COUNTS]], steps, blocks, sizes, num_tiles)
    _look_ahead(m[at[_USES] : at[_COUNTS]], steps, num_cores, sizes[PREFETCH_TURNS])
    _clear(m, at, steps, num_slots)
    return m, at


@njit(cache=True, error_model="numpy")
def _is_online(steps: Longs, blocks: Longs) -> int:
    """Return 1 if some softmax works on a part of its row block's keys only, else 0."""
    for i in range(len(steps)):
        b, operation = steps[i, st.STEP_BLOCK], steps[i, st.STEP_OPERATION]
        is_part = steps[i, st.STEP_COLUMNS] < blocks[b, st.END] - blocks[b, st.BEGIN]
        if is_part and operation in (col.SOFTMAX, col.EXPONENTIALS):
            return 1
    return 0


@njit(cache=True, error_model="numpy")
def _clear(m: Longs, at: Longs, steps: Longs, num_slots: int) -> None:
    """Set what is not nothing at the beginning: empty slots, and the steps still to come."""
    slot_width, block_width = _count(m, at, _SLOT_WIDTH), _count(m, at, _BLOCK_WIDTH)
    touched = _TOUCHED + _count(m, at, _NUM_STREAMS)
    for slot in range(num_slots):
        begin = at[_SLOTS] + slot * slot_width
        m[begin : begin + touched] = -1
    for slot in range((at[_TILES] - at[_POOL]) // 3):
        m[at[_POOL] + 3 * slot] = -1
        m[at[_POOL] + 3 * slot + 2] = -1
    m[at[_TILES] : at[_FILLED] : 2] = -1
    m[at[_UNDER_WAY] : at[_DONE]] = -1
    for b in range(_count(m, at, _NUM_BLOCKS)):
        begin = at[_UNDER_WAY] + b * block_width
        m[begin + _SCORES_LEFT : begin + _TILE_SLOTS] = 0
    for i in range(len(steps)):
        begin = at[_UNDER_WAY] + steps[i, st.STEP_BLOCK] * block_width
        operation = steps[i, st.STEP_OPERATION]
        if operation in (col.OUTPUT, col.RESCALE):
            m[begin + _OUTPUTS_LEFT] += 1
        elif operation == col.NORMALIZE:
            m[begin + _NORMALIZE_LEFT] += 1
        elif operation == col.SCORES:
            m[begin + _SCORES_LEFT] += 1
        elif operation != col.MERGE:
            m[begin + _SOFTMAX_LEFT] += 1


@njit(cache=True, error_model="numpy")
def _find_uses(uses: Longs, steps: Longs, blocks: Longs, sizes: Longs, num_tiles: int) -> None:
    """Write down the pooled tile each step reads, and the next step that reads it."""
    coming = np.full(2 * sizes[KV_MATRICES] * num_tiles, NEVER, np.int64)
    for i in range(len(steps) - 1, -1, -1):
        uses[3 * i] = -1
        uses[3 * i + 1] = NEVER
        operation = steps[i, st.STEP_OPERATION]
        if operation not in (col.SCORES, col.OUTPUT):
            continue
        matrix = blocks[steps[i, st.STEP_BLOCK], st.KV_MATRIX]
        if sizes[FILL_COLUMNS] > 0 and matrix == blocks[0, st.KV_MATRIX]:
            continue
        tile = steps[i, st.STEP_COLUMN] // sizes[KV_COLUMNS]
        is_value = 1 if operation == col.OUTPUT else 0
        key = (is_value * sizes[KV_MATRICES] + matrix) * num_tiles + tile
        uses[3 * i] = key
        uses[3 * i + 1] = coming[key]
        coming[key] = i


@njit(cache=True, error_model="numpy")
def _look_ahead(uses: Longs, steps: Longs, num_cores: int, turns: int) -> None:
    """Write down for each step the first one of its core that is at most ``turns`` before it."""
    for core in range(num_cores):
        first = 0
        for i in range(len(steps)):
            if steps[i, st.STEP_CORE] != core:
                continue
            while (
                steps[first, st.STEP_CORE] != core
                or steps[first, st.STEP_TURN] < steps[i, st.STEP_TURN] - turns
            ):
                first += 1
            is_start = steps[i, st.STEP_TURN] <= turns
            uses[3 * i + 2] = 0 if is_start else first


@njit(cache=True, error_model="numpy")
def choose_victim(pool: Longs, step: int, guard: int) -> int:
    """Return the slot of the pool to fill: an empty one, else the copy needed again latest.

    Copies used within the last ``guard`` steps are spared where possible, so that the load need not
    wait for them; among copies never needed again the one longest out of use goes first.

    Args:
        pool: Of each slot its tile or -1, the step that needs it next, the step that used it last.
        step: The step that needs another tile.
        guard: Steps.
    """
    for is_guarded in (True, False):
        best = -1
        for slot in range(len(pool) // 3):
            tile, needed, used = pool[3 * slot], pool[3 * slot + 1], pool[3 * slot + 2]
            if tile < 0:
                return slot
            if is_guarded and used > step - guard:
                continue
            if (
                best < 0
                or needed > pool[3 * best + 1]
                or (needed == pool[3 * best + 1] and used < pool[3 * best + 2])
            ):
                best = slot
        if best >= 0:
            return best
    return 0


@njit(cache=True, error_model="numpy")
def _prepare(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Find or make room for all that a step touches, and load what is not there."""
    b, operation = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_OPERATION)
    all_rows = _block(m, at, b, st.HEADS) * _block(m, at, b, st.ROWS)
    value_dim = _size(m, at, VALUE_DIM)
    rows[i, col.OPERATION] = operation
    rows[i, col.CORE] = _step(m, at, i, st.STEP_CORE)
    rows[i, col.ACCUMULATES] = 0
    rows[i, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
    for number in range(4):
        m[at[_OPERANDS] + number * _OPERAND_WIDTH] = -1
    mine = _block_at(m, at, b)
    if operation == col.SCORES:
        _prepare_scores(m, at, rows, i)
    elif operation == col.OUTPUT:
        _prepare_output(m, at, rows, i)
    elif operation in (col.SOFTMAX, col.EXPONENTIALS):
        _prepare_softmax(m, at, rows, i)
    elif operation == col.RESCALE:
        tile = _step(m, at, i, st.STEP_COLUMN) // _size(m, at, KV_COLUMNS)
        state = m[mine + _TILE_SLOTS + 2 * tile + 1]
        _set(m, at, 0, m[mine + _PARTIAL], 0, 0, all_rows, value_dim, 0)
        _set(m, at, 1, state, 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[mine + _OUTPUT], 0, 0, all_rows, value_dim, 1)
        m[mine + _OUTPUTS_LEFT] -= 1
    elif operation == col.MERGE:
        main = _block_at(m, at, _block(m, at, b, st.MAIN))
        _set(m, at, 0, m[mine + _OUTPUT], 0, 0, all_rows, value_dim, 0)
        _set(m, at, 1, m[mine + _STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[main + _OUTPUT], 0, 0, all_rows, value_dim, 1)
        _set(m, at, 3, m[main + _STATE], 0, 0, all_rows, STATE_COLUMNS, 1)
    else:
        _set(m, at, 0, m[mine + _STATE], 0, 0, all_rows, STATE_COLUMNS, 0)
        _set(m, at, 2, m[mine + _OUTPUT], 0, 0, all_rows, value_dim, 1)


@njit(cache=True, error_model="numpy")
def _prepare_scores(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, columns = _step(m, at, i, st.STEP_COLUMN), _step(m, at, i, st.STEP_COLUMNS)
    heads, height = _block(m, at, b, st.HEADS), _block(m, at, b, st.ROWS)
    depth = _size(m, at, HEAD_DIM)
    mine = _block_at(m, at, b)
    if m[mine + _QUERY] < 0:
        slot = _take_slot(m, at, QUERIES, core)
        m[mine + _QUERY] = slot
        _new_buffer(m, at, QUERIES, slot, QUERY, heads * height, depth)
        earliest = _earliest(m, at, i, slot)
        for head in range(heads):
            load = _load(m, at, rows, i, earliest, core, slot, head * height, height, depth)
            matrix = _block(m, at, b, st.MATRIX) + head
            _name_slice(rows, load, QUERY, matrix, _block(m, at, b, st.ROW), 0)
    _set(m, at, 0, m[mine + _QUERY], 0, 0, heads * height, depth, 0)
    _prepare_tile(m, at, rows, i)
    is_online = _count(m, at, _IS_ONLINE)
    place = mine + _SCORES
    if is_online:
        place = mine + _TILE_SLOTS + 2 * (first // _size(m, at, KV_COLUMNS))
    if m[place] < 0:
        slot = _take_slot(m, at, SCORE_ROWS, core)
        m[place] = slot
        _store_before(m, at, slot, i)
        width = columns
        if not is_online:
            width = _block(m, at, b, st.END) - _block(m, at, b, st.BEGIN)
        _new_buffer(m, at, SCORE_ROWS, slot, SCORES, heads * height, width)
    begin = 0 if is_online else first - _block(m, at, b, st.BEGIN)
    _set(m, at, 2, m[place], 0, begin, heads * height, columns, 1)
    m[mine + _SCORES_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_output(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, columns = _step(m, at, i, st.STEP_COLUMN), _step(m, at, i, st.STEP_COLUMNS)
    all_rows = _block(m, at, b, st.HEADS) * _block(m, at, b, st.ROWS)
    width = _size(m, at, VALUE_DIM)
    mine, begin = _block_at(m, at, b), _block(m, at, b, st.BEGIN)
    is_online = _count(m, at, _IS_ONLINE)
    if is_online:
        slot = m[mine + _TILE_SLOTS + 2 * (first // _size(m, at, KV_COLUMNS))]
        _set(m, at, 0, slot, 0, 0, all_rows, columns, 0)
    else:
        slot = _scores_back(m, at, rows, i, _STORED_PROBABILITIES)
        _set(m, at, 0, slot, 0, first - begin, all_rows, columns, 0)
    _prepare_tile(m, at, rows, i)
    if is_online and first > begin:
        slot = _take_slot(m, at, PARTIALS, core)
        m[mine + _PARTIAL] = slot
        _new_buffer(m, at, PARTIALS, slot, PARTIAL, all_rows, width)
    else:
        if m[mine + _OUTPUT] < 0:
            slot = _take_slot(m, at, OUTPUTS, core)
            m[mine + _OUTPUT] = slot
            _store_before(m, at, slot, i)
            _new_buffer(m, at, OUTPUTS, slot, OUTPUT, all_rows, width)
        slot = m[mine + _OUTPUT]
        rows[i, col.ACCUMULATES] = 1 if first > begin else 0
    _set(m, at, 2, slot, 0, 0, all_rows, width, 1)
    m[mine + _OUTPUTS_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_softmax(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, _core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, columns = _step(m, at, i, st.STEP_COLUMN), _step(m, at, i, st.STEP_COLUMNS)
    head, rows_a_head = _step(m, at, i, st.STEP_HEAD), _block(m, at, b, st.ROWS)
    all_rows = _block(m, at, b, st.HEADS) * rows_a_head
    height = rows_a_head if head >= 0 else all_rows
    top = max(head, 0) * rows_a_head
    mine = _block_at(m, at, b)
    if _count(m, at, _IS_ONLINE):
        slot = m[mine + _TILE_SLOTS + 2 * (first // _size(m, at, KV_COLUMNS))]
    else:
        slot = _scores_back(m, at, rows, i, _STORED_SCORES)
    _set(m, at, 2, slot, top, 0, height, columns, 1)
    if _size(m, at, IS_CAUSAL):
        rows[i, col.CAUSAL_OFFSET] = _block(m, at, b, st.ROW) - first
    if _step(m, at, i, st.STEP_OPERATION) == col.EXPONENTIALS:
        _prepare_state(m, at, rows, i, top, height)
    if _size(m, at, MASK_ROWS) > 0:
        _prepare_mask(m, at, rows, i)
    m[mine + _SOFTMAX_LEFT] -= 1


@njit(cache=True, error_model="numpy")
def _prepare_state(m: Longs, at: Longs, rows: Integers, i: int, top: int, height: int) -> None:
    """Give a tile's softmax a state of its own, behind that of the tile before it."""
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, begin = _step(m, at, i, st.STEP_COLUMN), _block(m, at, b, st.BEGIN)
    mine = _block_at(m, at, b)
    if _step(m, at, i, st.STEP_HEAD) <= 0:  # the first head, or all at once
        m[mine + _STATE_BEFORE] = m[mine + _STATE]
        slot = _take_slot(m, at, STATES, core)
        m[mine + _STATE] = slot
        all_rows = _block(m, at, b, st.HEADS) * _block(m, at, b, st.ROWS)
        _new_buffer(m, at, STATES, slot, STATE, all_rows, STATE_COLUMNS)
        if _count(m, at, _IS_ONLINE):
            tile = first // _size(m, at, KV_COLUMNS)
            m[mine + _TILE_SLOTS + 2 * tile + 1] = slot
    _set(m, at, 3, m[mine + _STATE], top, 0, height, STATE_COLUMNS, 1)
    if first > begin:
        rows[i, col.ACCUMULATES] = 1
        place = 1 if _size(m, at, MASK_ROWS) > 0 else 0
        _set(m, at, place, m[mine + _STATE_BEFORE], top, 0, height, STATE_COLUMNS, 0)


@njit(cache=True, error_model="numpy")
def _prepare_tile(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Find the key or value tile a product reads, or load it, over another one if need be."""
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, columns = _step(m, at, i, st.STEP_COLUMN), _step(m, at, i, st.STEP_COLUMNS)
    is_value = 1 if _step(m, at, i, st.STEP_OPERATION) == col.OUTPUT else 0
    depth = _size(m, at, VALUE_DIM) if is_value else _size(m, at, HEAD_DIM)
    tensor = VALUE if is_value else KEY
    key = m[at[_USES] + 3 * i]
    width = _size(m, at, KV_COLUMNS) if key >= 0 else _size(m, at, FILL_COLUMNS)
    begin = first // width * width
    height = min(width, _size(m, at, KV_LIMIT) - begin)
    if key < 0:
        ring = FILL
        place = is_value * _count(m, at, _FILL_TILES) + first // width
        is_missing = m[at[_FILLED] + place] == 0
        m[at[_FILLED] + place] = 1
    else:
        ring = POOL
        is_missing = m[at[_TILES] + 2 * key] < 0
        if is_missing:
            _overwrite(m, at, i, key, height * depth)
        place = m[at[_TILES] + 2 * key]
    slot = _ring(m, at, ring, RING_FIRST) + place
    if is_missing:
        _new_buffer(m, at, ring, slot, tensor, height, depth)
        earliest = _earliest(m, at, i, slot)
        load = _load(m, at, rows, i, earliest, core, slot, 0, height, depth)
        _name_slice(rows, load, tensor, _block(m, at, b, st.KV_MATRIX), begin, 0)
    if key >= 0:
        m[at[_POOL] + 3 * place + 1] = m[at[_USES] + 3 * i + 1]
        m[at[_POOL] + 3 * place + 2] = i
    _set(m, at, 1, slot, first - begin, 0, columns, depth, 0)


@njit(cache=True, error_model="numpy")
def _overwrite(m: Longs, at: Longs, i: int, key: int, elements: int) -> None:
    """Give a tile a slot of the pool, and note it down if it was there before."""
    place = choose_victim(m[at[_POOL] : at[_TILES]], i, _size(m, at, GUARD_STEPS))
    old = m[at[_POOL] + 3 * place]
    if old >= 0:
        m[at[_TILES] + 2 * old] = -1
    if m[at[_TILES] + 2 * key + 1]:
        n = _count(m, at, _RELOADS_MADE)
        m[at[_COUNTS] + _RELOADS_MADE] = n + 1
        reload = at[_RELOADS] + 4 * n
        m[reload] = i
        m[reload + 1] = key
        m[reload + 2] = old
        m[reload + 3] = elements
    m[at[_TILES] + 2 * key] = place
    m[at[_TILES] + 2 * key + 1] = 1
    m[at[_POOL] + 3 * place] = key


@njit(cache=True, error_model="numpy")
def _prepare_mask(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    first, columns = _step(m, at, i, st.STEP_COLUMN), _step(m, at, i, st.STEP_COLUMNS)
    query_matrix = _block(m, at, b, st.MATRIX) + max(_step(m, at, i, st.STEP_HEAD), 0)
    query_heads, mask_heads = _size(m, at, QUERY_HEADS), _size(m, at, MASK_HEADS)
    matrix = query_matrix // query_heads * mask_heads if _size(m, at, MASK_BATCH) > 1 else 0
    matrix += query_matrix % query_heads if mask_heads > 1 else 0
    is_row, is_column = _size(m, at, MASK_ROWS) == 1, _size(m, at, MASK_COLUMNS) == 1
    # One row for all queries is kept whole; a block of rows only as far as it is used.
    is_whole = is_row or is_column
    height = 1 if is_row else _block(m, at, b, st.ROWS)
    width = _size(m, at, MASK_COLUMNS) if is_whole else columns
    row = 0 if is_row else _block(m, at, b, st.ROW)
    begin = 0 if is_whole else first
    key = (matrix * (1 << 24) + row) * (1 << 24) + begin
    ring = _ring(m, at, MASKS, RING_FIRST) + core * _ring(m, at, MASKS, RING_SLOTS)
    slot = -1
    for candidate in range(ring, ring + _ring(m, at, MASKS, RING_SLOTS)):
        if m[_slot_at(m, at, candidate) + _MASK_KEY] == key:
            slot = candidate
    if slot < 0:
        slot = _take_slot(m, at, MASKS, core)
        m[_slot_at(m, at, slot) + _MASK_KEY] = key
        _new_buffer(m, at, MASKS, slot, MASK, height, width)
        earliest = _earliest(m, at, i, slot)
        load = _load(m, at, rows, i, earliest, core, slot, 0, height, width)
        _name_slice(rows, load, MASK, matrix, row, begin)
    read_from = first if is_row and not is_column else 0
    _set(m, at, 0, slot, 0, read_from, height, 1 if is_column else columns, 0)


@njit(cache=True, error_model="numpy")
def _scores_back(m: Longs, at: Longs, rows: Integers, i: int, which: int) -> int:
    """Return the slot of a block's scores; if they went to DRAM, load them into a new one."""
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    mine = _block_at(m, at, b)
    if m[mine + _SCORES] >= 0:
        return int(m[mine + _SCORES])
    heads, height = _block(m, at, b, st.HEADS), _block(m, at, b, st.ROWS)
    begin = _block(m, at, b, st.BEGIN)
    columns = _block(m, at, b, st.END) - begin
    stored = m[mine + which]
    for store in range(stored + 1 - heads, stored + 1):
        m[at[_STORE_AT] + store] = min(m[at[_STORE_AT] + store], i - 1)
    slot = _take_slot(m, at, SCORE_ROWS, core)
    m[mine + _SCORES] = slot
    _store_before(m, at, slot, i)
    earliest = max(_earliest(m, at, i, slot), m[at[_STORE_AT] + stored] + 1)
    _new_buffer(m, at, SCORE_ROWS, slot, SCORES, heads * height, columns)
    for head in range(heads):
        load = _load(m, at, rows, i, earliest, core, slot, head * height, height, columns)
        matrix = _block(m, at, b, st.MATRIX) + head
        _name_slice(rows, load, SCORES, matrix, _block(m, at, b, st.ROW), begin)
        _wait(m, at, 3 * (_count(m, at, _LOADS_MADE) - 1) + _LOAD, 3 * stored + _STORE)
    return slot


@njit(cache=True, error_model="numpy")
def _store_what_is_done(m: Longs, at: Longs, rows: Integers, i: int) -> None:
    """Add the stores of what leaves the chip after a step: outputs, or scores that are spilled."""
    b, core = _step(m, at, i, st.STEP_BLOCK), _step(m, at, i, st.STEP_CORE)
    operation = _step(m, at, i, st.STEP_OPERATION)
    mine = _block_at(m, at, b)
    main = _block_at(m, at, _block(m, at, b, st.MAIN))
    is_softmax = operation in (col.SOFTMAX, col.EXPONENTIALS)
    spill = -1
    if operation == col.SCORES and _size(m, at, SPILLS_SCORES) and not m[mine + _SCORES_LEFT]:
        spill = _STORED_SCORES
    elif is_softmax and _size(m, at, SPILLS_PROBABILITIES) and not m[mine + _SOFTMAX_LEFT]:
        spill = _STORED_PROBABILITIES
    is_done = operation == col.NORMALIZE
    if operation in (col.OUTPUT, col.RESCALE):
        is_done = m[mine + _OUTPUTS_LEFT] == 0 and m[main + _NORMALIZE_LEFT] == 0
    if spill < 0 and not is_done:
        return
    slot, tensor, column, width = m[mine + _OUTPUT], OUTPUT, 0, _size(m, at, VALUE_DIM)
    if spill >= 0:
        slot, tensor, column = m[mine + _SCORES], SCORES, _block(m, at, b, st.BEGIN)
        width = _block(m, at, b, st.END) - column
    height = _block(m, at, b, st.ROWS)
    num_heads, num_steps = _block(m, at, b, st.HEADS), _count(m, at, _NUM_STEPS)
    store_step = i if spill >= 0 else _release_store(m, at, core, i, num_heads)
    first = num_steps + _count(m, at, _MAX_LOADS)
    for head in range(num_heads):
        store = _count(m, at, _STORES_MADE)
        m[at[_COUNTS] + _STORES_MADE] = store + 1
        m[at[_STORE_AT] + store] = store_step
        row = first + store
        rows[row, col.OPERATION] = col.STORE
        rows[row, col.CORE] = core
        rows[row, col.READ] = m[_slot_at(m, at, slot) + _BUFFER]
        rows[row, col.READ + 1] = head * height
        rows[row, col.READ + 2] = 0
        rows[row, col.READ + 3] = height
        rows[row, col.READ + 4] = width
        rows[row, col.ACCUMULATES] = 0
        rows[row, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
        matrix = _block(m, at, b, st.MATRIX) + head
        _name_slice(rows, row, tensor, matrix, _block(m, at, b, st.ROW), column)
        _touch(m, at, slot, 1, 3 * store + _STORE, False)
        if spill >= 0:
            m[mine + spill] = store
    if spill >= 0:
        m[mine + _SCORES] = -1


@njit(cache=True, error_model="numpy")
def _release_store(m: Longs, at: Longs, core: int, i: int, num_stores: int) -> int:
    """Issue the stores of the core's output made STORE_BLOCKS before; return when this one's come.

    Without a later output they come after the last step.
    """
    delay = _size(m, at, STORE_BLOCKS)
    if delay == 0:
        return i
    end = _count(m, at, _NUM_STEPS) - 1
    done = at[_DONE] + core * (1 + 2 * delay)
    place = done + 1 + 2 * (m[done] % delay)
    if m[done] >= delay:
        for store in range(m[place], m[place] + m[place + 1]):
            m[at[_STORE_AT] + store] = min(m[at[_STORE_AT] + store], i)
    m[place] = _count(m, at, _STORES_MADE)
    m[place + 1] = num_stores
    m[done] += 1
    return end


@njit(cache=True, error_model="numpy")
def _take_slot(m: Longs, at: Longs, ring: int, core: int) -> int:
    """Return the slot of a core's ring whose turn it is."""
    count = _ring(m, at, ring, RING_SLOTS)
    taken = at[_TAKEN] + ring * _size(m, at, NUM_CORES) + core
    slot = _ring(m, at, ring, RING_FIRST) + core * count + m[taken] % count
    m[taken] += 1
    return int(slot)


@njit(cache=True, error_model="numpy")
def _new_buffer(
    m: Longs, at: Longs, ring: int, slot: int, tensor: int, rows: int, columns: int
) -> None:
    n = _count(m, at, _BUFFERS_MADE)
    m[at[_COUNTS] + _BUFFERS_MADE] = n + 1
    buffer = at[_BUFFERS] + 5 * n
    size = _ring(m, at, ring, RING_BYTES)
    m[buffer] = tensor
    m[buffer + 1] = rows
    m[buffer + 2] = columns
    m[buffer + 3] = _ring(m, at, ring, RING_BASE) + (slot - _ring(m, at, ring, RING_FIRST)) * size
    m[buffer + 4] = size
    m[_slot_at(m, at, slot) + _BUFFER] = n


@njit(cache=True, error_model="numpy")
def _earliest(m: Longs, at: Longs, i: int, slot: int) -> int:
    """Return before which step what a step needs may be loaded: ahead, but into a free slot."""
    earliest = m[at[_USES] + 3 * i + 2]
    touched = _slot_at(m, at, slot) + _TOUCHED
    for stream in range(_count(m, at, _NUM_STREAMS)):
        last = m[touched + stream]
        if last >= 0 and last % 3 == _STEP:
            earliest = max(earliest, last // 3 + 1)
        elif last >= 0 and last % 3 == _STORE:
            earliest = max(earliest, m[at[_STORE_AT] + last // 3] + 1)
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
    n = _count(m, at, _LOADS_MADE)
    m[at[_COUNTS] + _LOADS_MADE] = n + 1
    m[at[_LOAD_AT] + n] = min(earliest, i)
    row = _count(m, at, _NUM_STEPS) + n
    rows[row, col.OPERATION] = col.LOAD
    rows[row, col.CORE] = core
    rows[row, col.WRITE] = m[_slot_at(m, at, slot) + _BUFFER]
    rows[row, col.WRITE + 1] = top
    rows[row, col.WRITE + 2] = 0
    rows[row, col.WRITE + 3] = height
    rows[row, col.WRITE + 4] = columns
    rows[row, col.ACCUMULATES] = 0
    rows[row, col.CAUSAL_OFFSET] = col.NO_CAUSALITY
    _touch(m, at, slot, 0, 3 * n + _LOAD, True)
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
    last = m[_slot_at(m, at, slot) + _TOUCHED + 1]
    if last >= 0:
        store = last // 3
        # All stores of one content follow each other.
        while store >= 0 and m[at[_STORE_AT] + store] >= i:
            m[at[_STORE_AT] + store] = i - 1
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
    operand = at[_OPERANDS] + number * _OPERAND_WIDTH
    m[operand] = slot
    m[operand + 1] = row
    m[operand + 2] = column
    m[operand + 3] = height
    m[operand + 4] = columns
    m[operand + 5] = is_written


@njit(cache=True, error_model="numpy")
def _wait(m: Longs, at: Longs, owner: int, awaited: int) -> None:
    n = _count(m, at, _WAITS_MADE)
    m[at[_COUNTS] + _WAITS_MADE] = n + 1
    m[at[_WAITS] + 2 * n] = owner
    m[at[_WAITS] + 2 * n + 1] = awaited


@njit(cache=True, error_model="numpy")
def _touch(m: Longs, at: Longs, slot: int, stream: int, me: int, is_write: bool) -> None:
    """Note that ``me`` on ``stream`` reads or writes a slot, and what it must wait for.

    A reader waits for the last writer, once a stream; a writer for everyone since the last one.
    """
    begin, num_streams = _slot_at(m, at, slot), _count(m, at, _NUM_STREAMS)
    touched, seen = begin + _TOUCHED, begin + _TOUCHED + num_streams
    writer, writer_stream = m[begin + _WRITER], m[begin + _WRITER_STREAM]
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
        m[begin + _WRITER] = me
        m[begin + _WRITER_STREAM] = stream
    elif writer_stream != stream and m[seen + stream] == 0:
        _wait(m, at, me, writer)
        m[seen + stream] = 1
    m[touched + stream] = me


@njit(cache=True, error_model="numpy")
def _put_together(
    m: Longs, at: Longs, made: Integers
) -> tuple[Integers, Longs, Integers, Longs, Longs]:
    """Put loads and stores among the steps, and give every wait its task's number."""
    num_steps = _count(m, at, _NUM_STEPS)
    num_loads, num_stores = _count(m, at, _LOADS_MADE), _count(m, at, _STORES_MADE)
    first_store = num_steps + _count(m, at, _MAX_LOADS)
    num_tasks = num_steps + num_loads + num_stores
    rows = np.empty((num_tasks, col.NUM_COLUMNS), np.int32)
    load_at = m[at[_LOAD_AT] : at[_LOAD_AT] + num_loads]
    store_at = m[at[_STORE_AT] : at[_STORE_AT] + num_stores]
    load_order = np.argsort(load_at, kind="mergesort")
    store_order = np.argsort(store_at, kind="mergesort")
    index_of = np.zeros((max(num_steps, num_loads, num_stores), 3), np.int64)
    n = next_load = next_store = 0
    for i in range(num_steps):
        while next_load < num_loads and load_at[load_order[next_load]] <= i:
            which = load_order[next_load]
            rows[n] = made[num_steps + which]
            index_of[which, _LOAD] = n
            n, next_load = n + 1, next_load + 1
        rows[n] = made[i]
        index_of[i, _STEP] = n
        n += 1
        while next_store < num_stores and store_at[store_order[next_store]] <= i:
            which = store_order[next_store]
            rows[n] = made[first_store + which]
            index_of[which, _STORE] = n
            n, next_store = n + 1, next_store + 1
    num_waits = _count(m, at, _WAITS_MADE)
    pairs = m[at[_WAITS] : at[_WAITS] + 2 * num_waits]
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
    num_buffers, num_reloads = _count(m, at, _BUFFERS_MADE), _count(m, at, _RELOADS_MADE)
    return (
        rows,
        wait_ends,
        waits,
        m[at[_BUFFERS] : at[_BUFFERS] + 5 * num_buffers].copy(),
        m[at[_RELOADS] : at[_RELOADS] + 4 * num_reloads].copy(),
    )
