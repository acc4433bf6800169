"""Slots, loads, stores and waits: what ``movement.py`` does with the state of its walk.

Tasks have no numbers yet; who waits for whom is written down as ``3 * index + kind``, with the
kinds ``BY_STEP``, ``BY_LOAD`` and ``BY_STORE`` of ``walk.py``, until ``put_together`` gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule import walk as wk
from hocket.hwmodels import columns as col

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int32]
    Longs = NDArray[np.int64]


@njit(cache=True, error_model="numpy")
def store_what_is_done(m: Longs, at: Longs, rows: Integers, i: int) -> None:
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
        name_slice(rows, row, tensor, matrix, wk.block_of(m, at, b, st.ROW), column)
        touch(m, at, slot, 1, 3 * store + wk.BY_STORE, False)
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
def take_slot(m: Longs, at: Longs, ring: int, core: int) -> int:
    """Return the slot of a core's ring whose turn it is."""
    count = wk.ring_of(m, at, ring, wk.RING_SLOTS)
    taken = at[wk.AT_TAKEN] + ring * wk.size_of(m, at, wk.NUM_CORES) + core
    slot = wk.ring_of(m, at, ring, wk.RING_FIRST) + core * count + m[taken] % count
    m[taken] += 1
    return int(slot)


@njit(cache=True, error_model="numpy")
def new_buffer(
    m: Longs, at: Longs, ring: int, slot: int, tensor: int, rows: int, columns: int
) -> None:
    """Write down a buffer in a slot of a ring."""
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
def earliest_step(m: Longs, at: Longs, i: int, slot: int) -> int:
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
def add_load(
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
    touch(m, at, slot, 0, 3 * n + wk.BY_LOAD, True)
    return int(row)


@njit(cache=True, error_model="numpy")
def name_slice(
    rows: Integers, row: int, tensor: int, matrix: int, first_row: int, column: int
) -> None:
    """Write down which slice of an outer tensor a transfer moves."""
    rows[row, col.TENSOR] = tensor
    rows[row, col.MATRIX] = matrix
    rows[row, col.ROW] = first_row
    rows[row, col.COLUMN] = column


@njit(cache=True, error_model="numpy")
def store_before(m: Longs, at: Longs, slot: int, i: int) -> None:
    """Have a slot's old content stored before a step takes the slot over."""
    last = m[wk.slot_at(m, at, slot) + wk.SLOT_TOUCHED + 1]
    if last >= 0:
        store = last // 3
        # All stores of one content follow each other.
        while store >= 0 and m[at[wk.AT_STORE_AT] + store] >= i:
            m[at[wk.AT_STORE_AT] + store] = i - 1
            store -= 1


@njit(cache=True, error_model="numpy")
def set_operand(
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
    """Say which block of which slot the step under way reads or writes."""
    operand = at[wk.AT_OPERANDS] + number * wk.OPERAND_WIDTH
    m[operand] = slot
    m[operand + 1] = row
    m[operand + 2] = column
    m[operand + 3] = height
    m[operand + 4] = columns
    m[operand + 5] = is_written


@njit(cache=True, error_model="numpy")
def add_wait(m: Longs, at: Longs, owner: int, awaited: int) -> None:
    """Write down that one task waits for another."""
    n = wk.count_of(m, at, wk.COUNT_WAITS_MADE)
    m[at[wk.AT_COUNTS] + wk.COUNT_WAITS_MADE] = n + 1
    m[at[wk.AT_WAITS] + 2 * n] = owner
    m[at[wk.AT_WAITS] + 2 * n + 1] = awaited


@njit(cache=True, error_model="numpy")
def touch(m: Longs, at: Longs, slot: int, stream: int, me: int, is_write: bool) -> None:
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
                    add_wait(m, at, me, last)
            m[touched + other] = -1
        for other in range(num_streams):
            m[seen + other] = 0
        m[begin + wk.SLOT_WRITER] = me
        m[begin + wk.SLOT_WRITER_STREAM] = stream
    elif writer_stream != stream and m[seen + stream] == 0:
        add_wait(m, at, me, writer)
        m[seen + stream] = 1
    m[touched + stream] = me


@njit(cache=True, error_model="numpy")
def put_together(
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
