"""The state of one walk over steps: everything in one array, by region.

Compiled code pays for each array it hands to a function, so what ``movement.py`` keeps in mind lies
in one, ``m``; ``at`` says where its regions begin, and the small readers below give them shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.memory.cache_overwrite import find_uses
from hocket.compiler.attention.schedule import steps as st
from hocket.hwmodels import columns as col
from hocket.hwmodels.tasks import TENSORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


# What waits and is waited for, before tasks have numbers: 3 * index + kind.
BY_STEP, BY_LOAD, BY_STORE = range(3)

# Regions of the state, by their place in ``at``; and counts that are kept there, too.
(
    AT_STEPS,  # the steps, the row blocks, the rings and the sizes, as given
    AT_BLOCKS,
    AT_RINGS,
    AT_SIZES,
    AT_USES,  # of each step: the pooled tile it reads, -1 for none; the next step that does; and
    # the step before which its loads may be issued
    AT_COUNTS,
    AT_LOAD_AT,  # before which step a load stands
    AT_STORE_AT,  # after which step a store stands
    AT_WAITS,  # pairs: who waits, and for whom
    AT_BUFFERS,  # five numbers each: tensor, rows, columns, first byte, bytes
    AT_RELOADS,  # four numbers each
    AT_SLOTS,  # of each slot: buffer, mask key, last writer, its stream; then, by stream, the last
    # task that touched it since, and whether the stream has waited for the writer
    AT_TAKEN,  # slots of each ring handed out so far, by core
    AT_POOL,  # of each slot of the pool: its tile, when that is needed next, when it was last used
    AT_TILES,  # of each tile: its slot of the pool or -1, and whether it was ever loaded
    AT_FILLED,  # whether a tile of the fill area is there
    AT_UNDER_WAY,  # of each row block: its slots, stores and steps to come; then slots of its tiles
    AT_DONE,  # of each core: blocks whose output is done; of the latest, first store and how many
    AT_OPERANDS,  # of the step under way: slot, row, column, rows, columns, whether written
    AT_END,
) = range(20)

# Counts.
(
    COUNT_LOADS_MADE,
    COUNT_STORES_MADE,
    COUNT_WAITS_MADE,
    COUNT_BUFFERS_MADE,
    COUNT_RELOADS_MADE,
    COUNT_IS_ONLINE,
    COUNT_FILL_TILES,
    COUNT_NUM_STREAMS,
    COUNT_SLOT_WIDTH,
    COUNT_BLOCK_WIDTH,
    COUNT_NUM_STEPS,
    COUNT_NUM_BLOCKS,
    COUNT_MAX_LOADS,
    COUNT_MAX_STORES,
    NUM_COUNTS,
) = range(15)

# Of a slot.
SLOT_BUFFER, SLOT_MASK_KEY, SLOT_WRITER, SLOT_WRITER_STREAM, SLOT_TOUCHED = range(5)

# Of a row block under way.
(
    OWN_QUERY,
    OWN_SCORES,
    OWN_OUTPUT,
    OWN_STATE,
    OWN_STATE_BEFORE,
    OWN_PARTIAL,
    OWN_STORED_SCORES,
    OWN_STORED_PROBABILITIES,
    OWN_SCORES_LEFT,
    OWN_SOFTMAX_LEFT,
    OWN_OUTPUTS_LEFT,
    OWN_NORMALIZE_LEFT,
    OWN_TILE_SLOTS,
) = range(13)

OPERAND_WIDTH = 6


@njit(cache=True, error_model="numpy")
def step_of(m: Longs, at: Longs, i: int, field: int) -> int:
    """Return a field of a step."""
    return int(m[at[AT_STEPS] + i * st.NUM_STEP_COLUMNS + field])


@njit(cache=True, error_model="numpy")
def block_of(m: Longs, at: Longs, b: int, field: int) -> int:
    """Return a field of a row block."""
    return int(m[at[AT_BLOCKS] + b * st.NUM_BLOCK_COLUMNS + field])


@njit(cache=True, error_model="numpy")
def ring_of(m: Longs, at: Longs, ring: int, field: int) -> int:
    """Return a field of a ring."""
    return int(m[at[AT_RINGS] + ring * 4 + field])


@njit(cache=True, error_model="numpy")
def size_of(m: Longs, at: Longs, which: int) -> int:
    """Return one of the sizes."""
    return int(m[at[AT_SIZES] + which])


@njit(cache=True, error_model="numpy")
def count_of(m: Longs, at: Longs, which: int) -> int:
    """Return one of the counts."""
    return int(m[at[AT_COUNTS] + which])


@njit(cache=True, error_model="numpy")
def slot_at(m: Longs, at: Longs, slot: int) -> int:
    """Return where the fields of a slot begin."""
    return int(at[AT_SLOTS] + slot * m[at[AT_COUNTS] + COUNT_SLOT_WIDTH])


@njit(cache=True, error_model="numpy")
def block_at(m: Longs, at: Longs, b: int) -> int:
    """Return where the fields of a row block under way begin."""
    return int(at[AT_UNDER_WAY] + b * m[at[AT_COUNTS] + COUNT_BLOCK_WIDTH])


@njit(cache=True, error_model="numpy")
def begin_walk(steps: Longs, blocks: Longs, rings: Longs, sizes: Longs) -> tuple[Longs, Longs]:
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
    slot_width = SLOT_TOUCHED + 2 * num_streams
    # Online: of each tile the slots of its scores and of the state behind it.
    block_width = OWN_TILE_SLOTS + 2 * is_online * num_tiles
    lengths = np.array(
        [
            num_steps * st.NUM_STEP_COLUMNS,
            num_blocks * st.NUM_BLOCK_COLUMNS,
            NUM_RINGS * 4,
            NUM_SIZES,
            3 * num_steps,
            NUM_COUNTS,
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
            4 * OPERAND_WIDTH,
            0,
        ]
    )
    at = np.zeros(AT_END + 1, np.int64)
    for region in range(AT_END):
        at[region + 1] = at[region] + lengths[region]
    m = np.zeros(at[AT_END], np.int64)
    m[at[AT_STEPS] : at[AT_BLOCKS]] = steps.ravel()
    m[at[AT_BLOCKS] : at[AT_RINGS]] = blocks.ravel()
    m[at[AT_RINGS] : at[AT_SIZES]] = rings.ravel()
    m[at[AT_SIZES] : at[AT_USES]] = sizes
    counts = m[at[AT_COUNTS] : at[AT_LOAD_AT]]
    counts[COUNT_IS_ONLINE], counts[COUNT_FILL_TILES], counts[COUNT_NUM_STREAMS] = (
        is_online,
        fill_tiles,
        num_streams,
    )
    counts[COUNT_SLOT_WIDTH], counts[COUNT_BLOCK_WIDTH] = slot_width, block_width
    counts[COUNT_NUM_STEPS], counts[COUNT_NUM_BLOCKS] = num_steps, num_blocks
    counts[COUNT_MAX_LOADS], counts[COUNT_MAX_STORES] = max_loads, max_stores
    find_uses(
        m[at[AT_USES] : at[AT_COUNTS]],
        steps,
        blocks,
        sizes[KV_MATRICES],
        sizes[KV_COLUMNS],
        num_tiles,
        fill > 0,
    )
    look_ahead(m[at[AT_USES] : at[AT_COUNTS]], steps, num_cores, sizes[PREFETCH_TURNS])
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
    slot_width, block_width = count_of(m, at, COUNT_SLOT_WIDTH), count_of(m, at, COUNT_BLOCK_WIDTH)
    touched = SLOT_TOUCHED + count_of(m, at, COUNT_NUM_STREAMS)
    for slot in range(num_slots):
        begin = at[AT_SLOTS] + slot * slot_width
        m[begin : begin + touched] = -1
    for slot in range((at[AT_TILES] - at[AT_POOL]) // 3):
        m[at[AT_POOL] + 3 * slot] = -1
        m[at[AT_POOL] + 3 * slot + 2] = -1
    m[at[AT_TILES] : at[AT_FILLED] : 2] = -1
    m[at[AT_UNDER_WAY] : at[AT_DONE]] = -1
    for b in range(count_of(m, at, COUNT_NUM_BLOCKS)):
        begin = at[AT_UNDER_WAY] + b * block_width
        m[begin + OWN_SCORES_LEFT : begin + OWN_TILE_SLOTS] = 0
    for i in range(len(steps)):
        begin = at[AT_UNDER_WAY] + steps[i, st.STEP_BLOCK] * block_width
        operation = steps[i, st.STEP_OPERATION]
        if operation in (col.OUTPUT, col.RESCALE):
            m[begin + OWN_OUTPUTS_LEFT] += 1
        elif operation == col.NORMALIZE:
            m[begin + OWN_NORMALIZE_LEFT] += 1
        elif operation == col.SCORES:
            m[begin + OWN_SCORES_LEFT] += 1
        elif operation != col.MERGE:
            m[begin + OWN_SOFTMAX_LEFT] += 1


@njit(cache=True, error_model="numpy")
def look_ahead(uses: Longs, steps: Longs, num_cores: int, turns: int) -> None:
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
