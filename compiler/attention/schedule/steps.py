"""In which order the cores compute: row blocks become steps, the compute tasks to be.

A *step* is one task of a matrix or vector unit before anything is known of memory. Its block is a
*row block*: rows of one head, or of several query heads that share keys and values, stacked. What
is written here is an order; what has to be moved for it, ``movement.py`` finds out. The file is
longer than others, as all orders are made of the same few pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]

# Columns of a row block: its key-value matrix, first query matrix and how many of them are stacked;
# first query row and rows of each; the keys it sees, from BEGIN to END; its core; and the block
# whose output its own is merged into, itself unless keys are split over cores.
KV_MATRIX, MATRIX, HEADS, ROW, ROWS, BEGIN, END, CORE, MAIN = range(9)
NUM_BLOCK_COLUMNS = 9

# Columns of a step: core, operation, row block, first key column and how many; which stacked head,
# -1 for all; the turn it belongs to; whether it begins a turn in lock-step with the other unit.
(
    STEP_CORE,
    STEP_OPERATION,
    STEP_BLOCK,
    STEP_COLUMN,
    STEP_COLUMNS,
    STEP_HEAD,
    STEP_TURN,
    STEP_SYNC,
) = range(8)
NUM_STEP_COLUMNS = 8

# How a core goes through its row blocks; see ``dataflows.py``.
PIPELINE, LOCK_STEP, LAYERS, LAYERS_WITH_SOFTMAX = range(4)

# When the division of softmax is done, and on how many keys softmax works at a time.
FULL_ROW, DEFERRED, ONLINE = range(3)


@njit(cache=True, error_model="numpy")
def order_steps(
    blocks: Longs,
    num_cores: int,
    kv_columns: int,
    fill_columns: int,
    pieces_a_front: int,
    form: int,
    live_blocks: int,
    pace: int,
    is_per_head: bool,
) -> Longs:
    """Return the steps of all cores in an order in which they could run one after the other.

    Args:
        blocks: ``[blocks, NUM_BLOCK_COLUMNS]``, in the order of work.
        num_cores: Cores of the machine.
        kv_columns: Keys or values of one product.
        fill_columns: The same while the first key-value matrix is being read in; 0 for no
            difference. With it, the first row blocks of a core make their scores side by side, each
            on the keys that have arrived.
        pieces_a_front: So many ``fill_columns`` arrive while a row block of each core does.
        form: ``FULL_ROW``, ``DEFERRED`` or ``ONLINE``.
        live_blocks: Row blocks (of an online softmax: tiles of one) between scores and output.
        pace: ``PIPELINE``, ``LOCK_STEP``, ``LAYERS`` or ``LAYERS_WITH_SOFTMAX``.
        is_per_head: Whether softmax is a step of its own for each stacked head.
    """
    num_blocks = len(blocks)
    # Items: what goes through the stages together; a row block, or a tile of it (online). Where
    # blocks are merged, the parts of one have equally many, so that all cores keep in step.
    sizes = np.zeros(num_blocks, np.int64)
    for b in range(num_blocks):
        main = blocks[b, MAIN]
        sizes[main] = max(sizes[main], _num_items(blocks, b, kv_columns, form))
    counts = np.zeros(num_cores, np.int64)
    for b in range(num_blocks):
        counts[blocks[b, CORE]] += sizes[blocks[b, MAIN]]
    per_core = np.zeros((num_cores, counts.max(), 3), np.int64)
    filled = np.zeros(num_cores, np.int64)
    keeps_step = False
    for b in range(num_blocks):
        core = blocks[b, CORE]
        keeps_step = keeps_step or blocks[b, MAIN] != b
        for k in range(sizes[blocks[b, MAIN]]):
            begin, end = blocks[b, BEGIN], blocks[b, END]
            if form == ONLINE:
                # Tiles lie on one grid for all blocks, wherever the block's own keys begin.
                begin = min(max(begin, (begin // kv_columns + k) * kv_columns), end)
                end = min(end, (begin // kv_columns + 1) * kv_columns)
            item = per_core[core, filled[core]]
            item[0], item[1], item[2] = b, begin, end
            filled[core] += 1

    lists = [np.zeros((0, NUM_STEP_COLUMNS), np.int64) for _ in range(num_cores)]
    for core in range(num_cores):
        items = per_core[core, : counts[core]]
        steps = np.zeros(
            (_most_steps(items, blocks, kv_columns, fill_columns), NUM_STEP_COLUMNS), np.int64
        )
        n = 0
        if pace == PIPELINE:
            n = _pipeline(
                steps, items, blocks, kv_columns, fill_columns, pieces_a_front, form,
                live_blocks, is_per_head,
            )  # fmt: skip
        elif pace == LOCK_STEP:
            n = _lock_step(steps, items, blocks, kv_columns, form, is_per_head)
        else:
            n = _layers(steps, items, blocks, kv_columns, form, pace, is_per_head)
        lists[core] = steps[:n]
    return _finish(_weave(lists, keeps_step), blocks, form)


@njit(cache=True, error_model="numpy")
def _num_items(blocks: Longs, b: int, kv_columns: int, form: int) -> int:
    if form != ONLINE or blocks[b, BEGIN] == blocks[b, END]:
        return 1
    return int((blocks[b, END] - 1) // kv_columns - blocks[b, BEGIN] // kv_columns + 1)


@njit(cache=True, error_model="numpy")
def _most_steps(items: Longs, blocks: Longs, kv_columns: int, fill_columns: int) -> int:
    """Return at least how many steps the items of a core make, what ends a block not counted."""
    width = min(kv_columns, fill_columns) if fill_columns > 0 else kv_columns
    most = 0
    for item in items:
        tiles = (item[2] - item[1]) // width + 2
        # Two products a tile, and a rescaling; a softmax for each head.
        most += 3 * tiles + blocks[item[0], HEADS]
    return int(most)


@njit(cache=True, error_model="numpy")
def _add(
    steps: Longs,
    n: int,
    blocks: Longs,
    operation: int,
    block: int,
    column: int,
    columns: int,
    head: int,
    turn: int,
    sync: bool,
) -> int:
    """Write a step behind the ``n`` there are, and return how many that makes."""
    step = steps[n]
    step[STEP_CORE] = blocks[block, CORE]
    step[STEP_OPERATION] = operation
    step[STEP_BLOCK] = block
    step[STEP_COLUMN] = column
    step[STEP_COLUMNS] = columns
    step[STEP_HEAD] = head
    step[STEP_TURN] = turn
    step[STEP_SYNC] = sync
    return n + 1


@njit(cache=True, error_model="numpy")
def _add_product(
    steps: Longs,
    n: int,
    blocks: Longs,
    operation: int,
    item: Longs,
    width: int,
    first: int,
    last: int,
    form: int,
    turn: int,
    sync: bool,
) -> int:
    """Add the products of an item that begin in columns ``first`` to ``last``, tile by tile."""
    block = item[0]
    column = max(item[1], first)
    while column < min(item[2], last):
        end = min((column // width + 1) * width, item[2])
        n = _add(steps, n, blocks, operation, block, column, end - column, -1, turn, sync)
        sync = False
        if operation == col.OUTPUT and form == ONLINE and column > blocks[block, BEGIN]:
            n = _add(steps, n, blocks, col.RESCALE, block, column, end - column, -1, turn, False)
        column = end
    return n


@njit(cache=True, error_model="numpy")
def _add_softmax(
    steps: Longs,
    n: int,
    blocks: Longs,
    item: Longs,
    form: int,
    is_per_head: bool,
    turn: int,
    sync: bool,
) -> int:
    if item[1] == item[2]:
        return n
    operation = col.SOFTMAX if form == FULL_ROW else col.EXPONENTIALS
    heads = blocks[item[0], HEADS]
    for head in range(heads if is_per_head else 1):
        n = _add(
            steps,
            n,
            blocks,
            operation,
            item[0],
            item[1],
            item[2] - item[1],
            head if is_per_head else -1,
            turn,
            sync and head == 0,
        )
    return n


@njit(cache=True, error_model="numpy")
def _pipeline(  # noqa: PLR0912 - the wave front and the steady rounds share their loops
    steps: Longs,
    items: Longs,
    blocks: Longs,
    kv_columns: int,
    fill_columns: int,
    pieces_a_front: int,
    form: int,
    live: int,
    is_per_head: bool,
) -> int:
    """Outputs ``live`` items behind the scores; the units run free.

    With ``fill_columns`` the first items go through their scores as a wave front: the scores of
    item ``i`` on the ``k``-th keys come in the order of ``max(i, k)``, which is how queries and
    keys arrive. Their outputs begin likewise, values outermost up to the middle.
    """
    n = 0
    num_items = len(items)
    wave = 0
    middle = 0
    filling = blocks[0, KV_MATRIX]
    if fill_columns > 0:
        while wave < min(live, num_items) and blocks[items[wave, 0], KV_MATRIX] == filling:
            wave += 1
    if wave < 2:
        wave = 0
    if wave:
        end = 0
        for i in range(wave):
            end = max(end, items[i, 2])
        # As many pieces of the keys a front as arrive while a row block of each core does.
        width = pieces_a_front * fill_columns
        fronts = (end + width - 1) // width
        for front in range(max(wave, fronts)):
            for begin in range(front * width, min((front + 1) * width, end), fill_columns):
                for i in range(min(front, wave)):
                    n = _add_product(
                        steps, n, blocks, col.SCORES, items[i], fill_columns,
                        begin, begin + fill_columns, form, 0, False,
                    )  # fmt: skip
                    if begin == (items[i, 2] - 1) // fill_columns * fill_columns:
                        n = _add_softmax(steps, n, blocks, items[i], form, is_per_head, 0, False)
            if front < wave:
                last = (front + 1) * width
                n = _add_product(
                    steps, n, blocks, col.SCORES, items[front], fill_columns, 0, last,
                    form, 0, False,
                )  # fmt: skip
                if items[front, 2] <= last:
                    n = _add_softmax(steps, n, blocks, items[front], form, is_per_head, 0, False)
        pieces = (end + fill_columns - 1) // fill_columns
        middle = (pieces // 2) * fill_columns
        for begin in range(0, middle, fill_columns):
            for i in range(wave):
                n = _add_product(
                    steps, n, blocks, col.OUTPUT, items[i], fill_columns,
                    begin, begin + fill_columns, form, 0, False,
                )  # fmt: skip
    for turn in range(wave, num_items + live):
        ending = turn - live
        if ending >= 0 and ending < num_items:
            width = kv_columns
            begin = 0
            if fill_columns > 0 and blocks[items[ending, 0], KV_MATRIX] == filling:
                width = fill_columns
                begin = middle if ending < wave else 0
            n = _add_product(
                steps, n, blocks, col.OUTPUT, items[ending], width, begin, items[ending, 2],
                form, turn, False,
            )  # fmt: skip
        if turn < num_items:
            width = kv_columns
            if fill_columns > 0 and blocks[items[turn, 0], KV_MATRIX] == filling:
                width = fill_columns
            n = _add_product(
                steps, n, blocks, col.SCORES, items[turn], width, 0, items[turn, 2],
                form, turn, False,
            )  # fmt: skip
            n = _add_softmax(steps, n, blocks, items[turn], form, is_per_head, turn, False)
    return n


@njit(cache=True, error_model="numpy")
def _lock_step(
    steps: Longs,
    items: Longs,
    blocks: Longs,
    kv_columns: int,
    form: int,
    is_per_head: bool,
) -> int:
    """Three stages of a pipeline, one item apart; a turn ends when all three are done."""
    n = 0
    num_items = len(items)
    for turn in range(num_items + 2):
        if 1 <= turn <= num_items:
            n = _add_softmax(steps, n, blocks, items[turn - 1], form, is_per_head, turn, True)
        sync = True
        if turn < num_items:
            n = _add_product(
                steps, n, blocks, col.SCORES, items[turn], kv_columns, 0, items[turn, 2],
                form, turn, sync,
            )  # fmt: skip
            sync = False
        if turn >= 2:
            item = items[turn - 2]
            n = _add_product(
                steps, n, blocks, col.OUTPUT, item, kv_columns, 0, item[2], form, turn, sync
            )
    return n


@njit(cache=True, error_model="numpy")
def _layers(
    steps: Longs,
    items: Longs,
    blocks: Longs,
    kv_columns: int,
    form: int,
    pace: int,
    is_per_head: bool,
) -> int:
    """One operator after the other over all items; softmax along with the scores if so asked."""
    n = 0
    num_items = len(items)
    for i in range(num_items):
        n = _add_product(
            steps, n, blocks, col.SCORES, items[i], kv_columns, 0, items[i, 2], form, i, False
        )
        if pace == LAYERS_WITH_SOFTMAX:
            n = _add_softmax(steps, n, blocks, items[i], form, is_per_head, i, False)
    if pace == LAYERS:
        for i in range(num_items):
            n = _add_softmax(steps, n, blocks, items[i], form, is_per_head, num_items + i, i == 0)
    for i in range(num_items):
        n = _add_product(
            steps,
            n,
            blocks,
            col.OUTPUT,
            items[i],
            kv_columns,
            0,
            items[i, 2],
            form,
            2 * num_items + i,
            i == 0,
        )
    return n


@njit(cache=True, error_model="numpy")
def _weave(lists: list[Longs], keeps_step: bool) -> Longs:
    """Put the cores' steps into one list: each core's work spread evenly over it, or by turns."""
    total = 0
    for steps in lists:
        total += len(steps)
    woven = np.zeros((total, NUM_STEP_COLUMNS), np.int64)
    taken = np.zeros(len(lists), np.int64)
    for n in range(total):
        best = -1
        best_share = np.inf
        for core in range(len(lists)):
            if taken[core] < len(lists[core]):
                share = (taken[core] + 1) / len(lists[core])
                if keeps_step:
                    share = float(lists[core][taken[core], STEP_TURN])
                if share < best_share:
                    best, best_share = core, share
        woven[n] = lists[best][taken[best]]
        taken[best] += 1
    return woven


@njit(cache=True, error_model="numpy")
def _finish(woven: Longs, blocks: Longs, form: int) -> Longs:
    """Add what ends a block: outputs on several cores are merged, and divided if that is due."""
    if form == FULL_ROW:
        return woven
    num_blocks = len(blocks)
    remaining = np.zeros(num_blocks, np.int64)
    for n in range(len(woven)):
        if woven[n, STEP_OPERATION] in (col.OUTPUT, col.RESCALE):
            remaining[blocks[woven[n, STEP_BLOCK], MAIN]] += 1
    finished = np.zeros((len(woven) + num_blocks + 1, NUM_STEP_COLUMNS), np.int64)
    n = 0
    for k in range(len(woven)):
        step = woven[k]
        finished[n] = step
        n += 1
        if step[STEP_OPERATION] not in (col.OUTPUT, col.RESCALE):
            continue
        main = blocks[step[STEP_BLOCK], MAIN]
        remaining[main] -= 1
        if remaining[main]:
            continue
        # The blocks of one group follow each other.
        other = main + 1
        while other < num_blocks and blocks[other, MAIN] == main:
            if blocks[other, BEGIN] == blocks[other, END]:
                other += 1
                continue
            n = _add(finished, n, blocks, col.MERGE, other, 0, 0, -1, step[STEP_TURN], False)
            finished[n - 1, STEP_CORE] = blocks[main, CORE]
            other += 1
        n = _add(finished, n, blocks, col.NORMALIZE, main, 0, 0, -1, step[STEP_TURN], False)
    return finished[:n]
