"""The executable definition of a well-formed program.

Every producer of programs is tested through ``verify_program``; the driver calls it between passes
when asked to, and the runtime before it believes an artifact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col
from hocket.hwmodels.columns import OPERATIONS
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.happens_before import HappensBefore, first_bad_takeover, first_race
from hocket.hwmodels.tasks import STATE_COLUMNS, TENSORS, Operation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program, Schedule

    Integers = NDArray[np.int32]
    Flags = NDArray[np.bool_]

# Blocks an operation may read and write, as (fewest reads, most reads, writes).
_NUM_OPERANDS = {
    Operation.LOAD: (0, 0, 1),
    Operation.STORE: (1, 1, 0),
    Operation.SCORES: (2, 2, 1),
    Operation.OUTPUT: (2, 2, 1),
    Operation.SOFTMAX: (0, 1, 1),
    Operation.EXPONENTIALS: (0, 2, 2),
    Operation.RESCALE: (2, 2, 1),
    Operation.MERGE: (2, 2, 2),
    Operation.NORMALIZE: (1, 1, 1),
}

_BLOCKS = (col.READ, col.SECOND_READ, col.WRITE, col.SECOND_WRITE)

_MAX_EXTENT = int(np.iinfo(np.int32).max)


def verify_schedule(schedule: Schedule, machine: HardwareModel) -> None:
    """Check each task on its own, and that every read sees a buffer somebody has written before.

    Raises:
        ProgramError: Names the task and what is wrong.
    """
    rows = schedule.table.rows
    cores = rows[:, col.CORE]
    _refuse(
        schedule,
        (cores < 0) | (cores >= machine.num_cores),
        f"its core does not exist; the machine has {machine.num_cores}",
    )
    _check_waits(schedule)
    _check_buffers(schedule)
    for at in _BLOCKS:
        _check_blocks(schedule, at)
    _check_operands(schedule)
    _check_sizes(schedule)
    task, buffer = _first_unwritten(rows, len(schedule.buffers))
    if task >= 0:
        raise ProgramError(
            f"{_name(schedule, task)}: reads buffer {buffer} "
            f"({_tensor(schedule, buffer)}) before anything is written to it"
        )


def verify_program(program: Program, machine: HardwareModel) -> None:
    """Check that a program is well formed and that no order its streams allow can go wrong.

    Beyond ``verify_schedule``: every buffer lies inside on-chip memory and is aligned; tasks that
    touch the same buffer are ordered unless both read; a buffer that takes over addresses is
    touched only after the one that had them is done with; and what is stored and loaded back is
    loaded only after. Order means happens-before: by streams and waits alone, not by luck.

    Raises:
        ProgramError: Names the tasks or buffers and what is wrong.
    """
    schedule = program.schedule
    verify_schedule(schedule, machine)
    _check_places(program, machine)
    order = HappensBefore(schedule)
    earlier, later, buffer = first_race(
        schedule.table.rows, len(schedule.buffers), order.streams, order.clocks
    )
    if earlier >= 0:
        raise ProgramError(
            f"tasks {earlier} and {later} race for buffer {buffer} "
            f"({_tensor(schedule, buffer)}); one must wait for the other"
        )
    _check_round_trips(schedule, order)
    earlier, later, old, new = first_bad_takeover(
        schedule.table.rows, program.places, order.streams, order.clocks
    )
    if earlier >= 0:
        raise ProgramError(
            f"task {later} may overwrite buffer {old} ({_tensor(schedule, old)}) "
            f"with buffer {new} ({_tensor(schedule, new)}) "
            f"before task {earlier} is done with it"
        )


def buffer_accesses(schedule: Schedule) -> list[list[int]]:
    """Return for each buffer the indices of the tasks that touch it, ascending."""
    accesses: list[list[int]] = [[] for _ in schedule.buffers]
    touched = schedule.table.rows[:, list(_BLOCKS)]
    for task, buffers in enumerate(touched.tolist()):
        for buffer in dict.fromkeys(buffers):
            if buffer != col.NOTHING:
                accesses[buffer].append(task)
    return accesses


def _name(schedule: Schedule, task: int) -> str:
    return f"task {task} ({OPERATIONS[schedule.table.rows[task, col.OPERATION]]})"


def _tensor(schedule: Schedule, buffer: int) -> str:
    return TENSORS[schedule.buffers[buffer, 0]]


def _refuse(schedule: Schedule, is_wrong: Flags, why: str) -> None:
    if is_wrong.any():
        raise ProgramError(f"{_name(schedule, int(is_wrong.argmax()))}: {why}")


def _check_waits(schedule: Schedule) -> None:
    table = schedule.table
    owners = np.repeat(np.arange(schedule.num_tasks), np.diff(table.wait_ends))
    is_wrong = (table.waits < 0) | (table.waits >= owners)
    if is_wrong.any():
        at = int(is_wrong.argmax())
        raise ProgramError(
            f"{_name(schedule, int(owners[at]))}: waits for task {table.waits[at]}, "
            "which does not come before it"
        )


def _check_buffers(schedule: Schedule) -> None:
    """Check that buffers have sizes whose products 64 bits hold."""
    sizes = schedule.buffers[:, 1:]
    is_wrong = ((sizes < 1) | (sizes > _MAX_EXTENT)).any(axis=1)
    if is_wrong.any():
        index = int(is_wrong.argmax())
        rows, columns = sizes[index].tolist()
        raise ProgramError(
            f"buffer {index} ({_tensor(schedule, index)}): its size {rows}x{columns} is out of "
            f"range; want 1 to {_MAX_EXTENT} rows and columns"
        )


def _check_blocks(schedule: Schedule, at: int) -> None:
    block = schedule.table.rows[:, at : at + 5].astype(np.int64)
    is_there = block[:, 0] != col.NOTHING
    beyond = (block[:, 0] < 0) | (block[:, 0] >= len(schedule.buffers))
    _refuse(schedule, is_there & beyond, "names a buffer that does not exist")
    _, row, column, rows, columns = block.T
    sizes = schedule.buffers[np.where(is_there, block[:, 0], 0)] if is_there.any() else block[:, :3]
    inside = (rows >= 1) & (columns >= 1) & (row >= 0) & (column >= 0)
    inside &= (row + rows <= sizes[:, 1]) & (column + columns <= sizes[:, 2])
    _refuse(schedule, is_there & ~inside, "a block lies outside its buffer")


def _check_operands(schedule: Schedule) -> None:
    rows = schedule.table.rows
    has = {at: rows[:, at] != col.NOTHING for at in _BLOCKS}
    num_reads = has[col.READ].astype(int) + has[col.SECOND_READ]
    num_writes = has[col.WRITE].astype(int) + has[col.SECOND_WRITE]
    is_gap = (has[col.SECOND_READ] & ~has[col.READ]) | (has[col.SECOND_WRITE] & ~has[col.WRITE])
    limits = np.array([_NUM_OPERANDS[each] for each in OPERATIONS])[rows[:, col.OPERATION]]
    is_wrong = (num_reads < limits[:, 0]) | (num_reads > limits[:, 1])
    _refuse(schedule, is_wrong | (num_writes != limits[:, 2]) | is_gap, "wrong number of operands")
    is_transfer = np.isin(rows[:, col.OPERATION], (col.LOAD, col.STORE))
    _refuse(
        schedule,
        (rows[:, col.TENSOR] != col.NOTHING) != is_transfer,
        "an outer slice goes with LOAD and STORE, and with nothing else",
    )
    is_negative = (rows[:, [col.MATRIX, col.ROW, col.COLUMN]] < 0).any(axis=1)
    _refuse(schedule, is_transfer & is_negative, "its outer slice begins before its tensor")
    may_accumulate = np.isin(rows[:, col.OPERATION], (col.OUTPUT, col.EXPONENTIALS))
    _refuse(
        schedule,
        (rows[:, col.ACCUMULATES] == 1) & ~may_accumulate,
        "only OUTPUT and EXPONENTIALS accumulate",
    )
    is_softmax = np.isin(rows[:, col.OPERATION], (col.SOFTMAX, col.EXPONENTIALS))
    # EXPONENTIALS that go on with a state read it last.
    goes_on = (rows[:, col.OPERATION] == col.EXPONENTIALS) & (rows[:, col.ACCUMULATES] == 1)
    wanted = int(schedule.softmax.mask != "none") + goes_on
    _refuse(
        schedule,
        is_softmax & (num_reads != wanted),
        "a mask block goes with a mask kind, and with nothing else",
    )
    _refuse(
        schedule,
        ~is_softmax & (rows[:, col.CAUSAL_OFFSET] != col.NO_CAUSALITY),
        "causality goes with softmax, and with nothing else",
    )


def _check_sizes(schedule: Schedule) -> None:
    rows = schedule.table.rows
    operation = rows[:, col.OPERATION]
    height = {at: rows[:, at + 3] for at in _BLOCKS}
    width = {at: rows[:, at + 4] for at in _BLOCKS}
    out, left, right, state = col.WRITE, col.READ, col.SECOND_READ, col.SECOND_WRITE
    scores = (width[left] == width[right]) & (width[out] == height[right])
    product = (width[left] == height[right]) & (width[out] == width[right])
    fits = np.where(operation == col.SCORES, scores, product) & (height[out] == height[left])
    is_product = np.isin(operation, (col.SCORES, col.OUTPUT))
    _refuse(schedule, is_product & ~fits, "the sizes of the product and its operands do not agree")

    is_masked = np.isin(operation, (col.SOFTMAX, col.EXPONENTIALS))
    is_masked &= schedule.softmax.mask != "none"
    fits = (height[left] == 1) | (height[left] == height[out])
    fits &= (width[left] == 1) | (width[left] == width[out])
    _refuse(schedule, is_masked & ~fits, "the mask does not broadcast to the scores")

    def is_state(at: int) -> Flags:
        found: Flags = (width[at] == STATE_COLUMNS) & (height[at] == height[out])
        return found

    same = (height[left] == height[out]) & (width[left] == width[out])
    goes_on = rows[:, col.ACCUMULATES] == 1
    before = right if schedule.softmax.mask != "none" else left
    wanted = {
        col.EXPONENTIALS: is_state(state) & (is_state(before) | ~goes_on),
        col.RESCALE: same & is_state(right),
        col.MERGE: same & is_state(right) & is_state(state),
        col.NORMALIZE: is_state(left),
    }
    for number, fits in wanted.items():
        _refuse(schedule, (operation == number) & ~fits, "its state or product has another size")


def _check_round_trips(schedule: Schedule, order: HappensBefore) -> None:
    """Check that what goes to the outer memory and comes back does so in this order."""
    rows = schedule.table.rows
    is_load, is_store = (rows[:, col.OPERATION] == each for each in (col.LOAD, col.STORE))
    written = np.unique(rows[is_store, col.TENSOR])
    if not np.isin(rows[is_load, col.TENSOR], written).any():
        return
    stores: dict[tuple[int, ...], int] = {}
    for task in np.flatnonzero(is_load | is_store).tolist():
        row = rows[task]
        at = col.READ if is_store[task] else col.WRITE
        part = (*row[col.TENSOR : col.COLUMN + 1].tolist(), *row[at + 3 : at + 5].tolist())
        if is_store[task]:
            stores[part] = task
        elif row[col.TENSOR] in written:
            before = stores.get(part)
            if before is None:
                raise ProgramError(f"{_name(schedule, task)}: loads what was not stored as it is")
            if not order.is_ordered(before, task):
                raise ProgramError(
                    f"{_name(schedule, task)}: may load back what task {before} has yet to store"
                )


def _check_places(program: Program, machine: HardwareModel) -> None:
    buffers, places = program.schedule.buffers, program.places
    if len(places) != len(buffers):
        raise ProgramError(f"{len(places)} placements for {len(buffers)} buffers")
    memory = machine.on_chip_memory
    offsets, sizes = places.T
    num_elements = buffers[:, 1] * buffers[:, 2]
    # Divided and subtracted, as products with, and sums of, numbers from strangers might wrap.
    checks = (
        (sizes // machine.element_bytes < num_elements, "is larger than its placement"),
        ((offsets < 0) | (offsets % machine.alignment_bytes != 0), "is not aligned"),
        (
            (sizes > memory.capacity_bytes) | (offsets > memory.capacity_bytes - sizes),
            f"ends past the {memory.capacity_bytes} of {memory.name}",
        ),
    )
    for is_wrong, why in checks:
        if is_wrong.any():
            index = int(is_wrong.argmax())
            offset, size = places[index].tolist()
            raise ProgramError(
                f"buffer {index} ({_tensor(program.schedule, index)}) at bytes "
                f"{offset} to {offset + size}: {why}"
            )


@njit(cache=True, error_model="numpy")
def _first_unwritten(rows: Integers, num_buffers: int) -> tuple[int, int]:
    """Return a task and the buffer it reads before any write, or -1 twice."""
    written = np.zeros(num_buffers, np.bool_)
    for i in range(len(rows)):
        for at in (col.READ, col.SECOND_READ):
            buffer = rows[i, at]
            if buffer >= 0 and not written[buffer]:
                return i, buffer
        # These work on what they write.
        operation = rows[i, col.OPERATION]
        works_in_place = (
            operation not in (col.LOAD, col.SCORES, col.OUTPUT) or rows[i, col.ACCUMULATES] == 1
        )
        buffer = rows[i, col.WRITE]
        if buffer >= 0:
            if works_in_place and not written[buffer]:
                return i, buffer
            written[buffer] = True
        buffer = rows[i, col.SECOND_WRITE]
        if buffer >= 0:
            if operation == col.MERGE and not written[buffer]:
                return i, buffer
            written[buffer] = True
    return -1, -1
