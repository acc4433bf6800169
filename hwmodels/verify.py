"""The executable definition of a well-formed program.

Every producer of programs is tested through ``verify_program``; the driver calls it between passes
when asked to, and the runtime before it believes an artifact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.program import Block, Operation, Program, Schedule, Task, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.hwmodels.machine import HardwareModel

_NUM_OPERANDS = {
    Operation.LOAD: ((0,), 1),
    Operation.STORE: ((1,), 0),
    Operation.SCORES: ((2,), 1),
    Operation.OUTPUT: ((2,), 1),
    Operation.SOFTMAX: ((0, 1), 1),
}


def verify_schedule(schedule: Schedule, machine: HardwareModel) -> None:
    """Check each task on its own, and that every read sees a buffer somebody has written before.

    Raises:
        ProgramError: Names the task and what is wrong.
    """
    written: set[int] = set()
    for index, task in enumerate(schedule.tasks):
        try:
            _check_task(task, index, schedule, machine)
        except ProgramError as error:
            raise ProgramError(f"task {index} ({task.operation}): {error}") from None
        for block in task.reads:
            if block.buffer not in written:
                raise ProgramError(
                    f"task {index} ({task.operation}): reads buffer {block.buffer} "
                    f"({schedule.buffers[block.buffer].tensor}) before anything is written to it"
                )
        written.update(block.buffer for block in task.writes)


def verify_program(program: Program, machine: HardwareModel) -> None:
    """Check that a program is well formed and that no order its streams allow can go wrong.

    Beyond ``verify_schedule``: every buffer lies inside on-chip memory and is aligned; tasks that
    touch the same buffer are ordered unless both read; and a buffer that takes over addresses is
    touched only after the one that had them is done with. Order means happens-before: by streams
    and waits alone, not by luck.

    Raises:
        ProgramError: Names the tasks or buffers and what is wrong.
    """
    schedule = program.schedule
    verify_schedule(schedule, machine)
    _check_placements(program, machine)
    order = HappensBefore(schedule)
    accesses = buffer_accesses(schedule)
    for buffer, indices in enumerate(accesses):
        _check_buffer_races(schedule, buffer, indices, order)
    _check_address_reuse(program, accesses, order)


class HappensBefore:
    """Which task is certain to have finished before another starts, by streams and waits.

    Each task carries a vector clock: how far along each stream everything before it reaches.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._stream: list[int] = [0] * len(schedule.tasks)
        self._position: list[int] = [0] * len(schedule.tasks)
        num_streams = len(schedule.streams)
        for number, stream in enumerate(schedule.streams):
            for position, index in enumerate(stream.tasks):
                self._stream[index] = number
                self._position[index] = position + 1
        last: list[list[int]] = [[0] * num_streams for _ in range(num_streams)]
        self._clocks: list[list[int]] = []
        for index, task in enumerate(schedule.tasks):
            number = self._stream[index]
            clock = list(last[number])
            for wait in task.waits:
                clock = [max(pair) for pair in zip(clock, self._clocks[wait], strict=True)]
            clock[number] = self._position[index]
            self._clocks.append(clock)
            last[number] = clock

    def is_ordered(self, first: int, second: int) -> bool:
        """Return whether task ``first`` has surely finished before task ``second`` starts."""
        if first == second:
            return False
        reached = self._clocks[second][self._stream[first]]
        return reached >= self._position[first]


def buffer_accesses(schedule: Schedule) -> list[list[int]]:
    """Return for each buffer the indices of the tasks that touch it, ascending."""
    accesses: list[list[int]] = [[] for _ in schedule.buffers]
    for index, task in enumerate(schedule.tasks):
        for buffer in {block.buffer for block in task.blocks}:
            accesses[buffer].append(index)
    return accesses


def _check_task(task: Task, index: int, schedule: Schedule, machine: HardwareModel) -> None:
    if not 0 <= task.core < machine.num_cores:
        raise ProgramError(f"core {task.core} does not exist; the machine has {machine.num_cores}")
    for wait in task.waits:
        if not 0 <= wait < index:
            raise ProgramError(f"waits for task {wait}, which does not come before it")
    for block in task.blocks:
        _check_block(block, schedule)
    num_reads, num_writes = _NUM_OPERANDS[task.operation]
    if len(task.reads) not in num_reads or len(task.writes) != num_writes:
        raise ProgramError(f"has {len(task.reads)} reads and {len(task.writes)} writes")
    if (task.outer is not None) != (task.unit is Unit.DMA):
        raise ProgramError("an outer slice goes with LOAD and STORE, and with nothing else")
    if (task.softmax is not None) != (task.operation is Operation.SOFTMAX):
        raise ProgramError("softmax arguments go with SOFTMAX, and with nothing else")
    if task.accumulates and task.operation is not Operation.OUTPUT:
        raise ProgramError("only OUTPUT accumulates")
    _check_sizes(task)


def _check_block(block: Block, schedule: Schedule) -> None:
    if not 0 <= block.buffer < len(schedule.buffers):
        raise ProgramError(f"buffer {block.buffer} does not exist")
    buffer = schedule.buffers[block.buffer]
    fits = (
        block.rows >= 1
        and block.columns >= 1
        and 0 <= block.row <= buffer.rows - block.rows
        and 0 <= block.column <= buffer.columns - block.columns
    )
    if not fits:
        raise ProgramError(f"{block} lies outside its {buffer.rows}x{buffer.columns} buffer")


def _check_sizes(task: Task) -> None:
    if task.operation in (Operation.LOAD, Operation.STORE):
        block = (task.writes or task.reads)[0]
        outer = task.outer
        if outer is None or (outer.rows, outer.columns) != (block.rows, block.columns):
            raise ProgramError("the outer slice and the block differ in size")
    elif task.operation is Operation.SOFTMAX:
        scores = task.writes[0]
        arguments = task.softmax
        if arguments is None or (arguments.mask != "none") != bool(task.reads):
            raise ProgramError("a mask block goes with a mask kind, and with nothing else")
        for mask in task.reads:
            if mask.rows not in (1, scores.rows) or mask.columns not in (1, scores.columns):
                raise ProgramError("the mask does not broadcast to the scores")
    else:
        left, right = task.reads
        product = task.writes[0]
        if task.operation is Operation.SCORES:
            fits = left.columns == right.columns and product.columns == right.rows
        else:
            fits = left.columns == right.rows and product.columns == right.columns
        if not fits or product.rows != left.rows:
            raise ProgramError("the sizes of the product and its operands do not agree")


def _check_placements(program: Program, machine: HardwareModel) -> None:
    buffers = program.schedule.buffers
    if len(program.placements) != len(buffers):
        raise ProgramError(f"{len(program.placements)} placements for {len(buffers)} buffers")
    for index, (buffer, placement) in enumerate(zip(buffers, program.placements, strict=True)):
        if placement.size_bytes < buffer.num_elements * machine.element_bytes:
            raise ProgramError(f"buffer {index} ({buffer.tensor}) is larger than its placement")
        if placement.offset_bytes < 0 or placement.offset_bytes % machine.alignment_bytes:
            raise ProgramError(f"buffer {index} lies at {placement.offset_bytes}, not aligned")
        if placement.end_bytes > machine.on_chip_memory.capacity_bytes:
            raise ProgramError(
                f"buffer {index} ({buffer.tensor}) ends at byte {placement.end_bytes}; "
                f"{machine.on_chip_memory.name} has {machine.on_chip_memory.capacity_bytes}"
            )


def _check_buffer_races(
    schedule: Schedule, buffer: int, indices: list[int], order: HappensBefore
) -> None:
    """Check that each write is ordered against every access since the write before it."""
    since_write: list[int] = []
    last_write: int | None = None
    for index in indices:
        is_write = any(block.buffer == buffer for block in schedule.tasks[index].writes)
        before = since_write if is_write else []
        if last_write is not None:
            before = [*before, last_write]
        for earlier in before:
            if not order.is_ordered(earlier, index):
                raise ProgramError(
                    f"tasks {earlier} and {index} race for buffer {buffer} "
                    f"({schedule.buffers[buffer].tensor}); one must wait for the other"
                )
        if is_write:
            last_write, since_write = index, []
        else:
            since_write.append(index)


def _check_address_reuse(program: Program, accesses: list[list[int]], order: HappensBefore) -> None:
    """Check that a buffer takes over addresses only from buffers that are done with."""
    owners: list[tuple[int, int, int]] = []  # (first byte, one past the last, buffer)
    touched = [buffer for buffer, indices in enumerate(accesses) if indices]
    for buffer in sorted(touched, key=lambda buffer: accesses[buffer][0]):
        placement = program.placements[buffer]
        start, end = placement.offset_bytes, placement.end_bytes
        kept: list[tuple[int, int, int]] = []
        for low, high, owner in owners:
            if high <= start or low >= end:
                kept.append((low, high, owner))
                continue
            _check_takeover(program.schedule, owner, buffer, accesses, order)
            if low < start:
                kept.append((low, start, owner))
            if high > end:
                kept.append((end, high, owner))
        owners = [*kept, (start, end, buffer)]


def _check_takeover(
    schedule: Schedule, old: int, new: int, accesses: list[list[int]], order: HappensBefore
) -> None:
    last = _outermost(schedule, reversed(accesses[old]))
    first = _outermost(schedule, iter(accesses[new]))
    for earlier in last:
        for later in first:
            if not order.is_ordered(earlier, later):
                raise ProgramError(
                    f"task {later} may overwrite buffer {old} ({schedule.buffers[old].tensor}) "
                    f"with buffer {new} ({schedule.buffers[new].tensor}) "
                    f"before task {earlier} is done with it"
                )


def _outermost(schedule: Schedule, indices: Iterable[int]) -> tuple[int, ...]:
    """Return the first index met of each stream."""
    found: dict[tuple[int, Unit], int] = {}
    for index in indices:
        task = schedule.tasks[index]
        found.setdefault((task.core, task.unit), index)
    return tuple(found.values())
