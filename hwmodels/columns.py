"""Tasks as columns of integers: what builders write, and the simulator and the verifier read.

One row a task. The waits of all tasks stand in one array, task by task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.tasks import TENSORS, Block, Operation, Slice, Task, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int32]

OPERATIONS = tuple(Operation)
UNITS = tuple(Unit)

# Columns of a row. A block is five of them: buffer (-1 for none), row, column, rows, columns.
OPERATION = 0
CORE = 1
READ = 2
SECOND_READ = 7
WRITE = 12
SECOND_WRITE = 17
TENSOR = 22
MATRIX = 23
ROW = 24
COLUMN = 25
ACCUMULATES = 26
CAUSAL_OFFSET = 27
NUM_COLUMNS = 28

NOTHING = -1
NO_CAUSALITY = -(2**31)

# Numbers of the operations and units, as compile-time constants for compiled code.
LOAD = OPERATIONS.index(Operation.LOAD)
STORE = OPERATIONS.index(Operation.STORE)
SCORES = OPERATIONS.index(Operation.SCORES)
SOFTMAX = OPERATIONS.index(Operation.SOFTMAX)
EXPONENTIALS = OPERATIONS.index(Operation.EXPONENTIALS)
OUTPUT = OPERATIONS.index(Operation.OUTPUT)
RESCALE = OPERATIONS.index(Operation.RESCALE)
MERGE = OPERATIONS.index(Operation.MERGE)
NORMALIZE = OPERATIONS.index(Operation.NORMALIZE)

UNIT_OF_OPERATION = np.array([UNITS.index(each.unit) for each in OPERATIONS], dtype=np.int32)


@dataclass(frozen=True, eq=False)
class TaskTable:
    """Tasks and their waits.

    Attributes:
        rows: ``[tasks, NUM_COLUMNS]`` in int32.
        wait_ends: ``[tasks + 1]`` in int64; the waits of task ``i`` are
            ``waits[wait_ends[i]:wait_ends[i + 1]]``.
        waits: Indices of tasks, int32.
    """

    rows: Integers
    wait_ends: NDArray[np.int64]
    waits: Integers

    @classmethod
    def from_tasks(cls, tasks: Sequence[Task]) -> TaskTable:
        """Build a table of task objects."""
        rows = np.full((len(tasks), NUM_COLUMNS), NOTHING, dtype=np.int32)
        for row, task in zip(rows, tasks, strict=True):
            row[OPERATION] = OPERATIONS.index(task.operation)
            row[CORE] = task.core
            for first, blocks in ((READ, task.reads), (WRITE, task.writes)):
                for number, block in enumerate(blocks):
                    at = first + 5 * number
                    row[at : at + 5] = _block_row(block)
            if task.outer is not None:
                outer = task.outer
                row[TENSOR] = TENSORS.index(outer.tensor)
                row[MATRIX : COLUMN + 1] = (outer.matrix, outer.row, outer.column)
            row[ACCUMULATES] = task.accumulates
            offset = task.causal_offset
            row[CAUSAL_OFFSET] = NO_CAUSALITY if offset is None else offset
        ends = np.cumsum([0, *(len(task.waits) for task in tasks)], dtype=np.int64)
        waits = [wait for task in tasks for wait in task.waits]
        return cls(rows, ends, np.array(waits, dtype=np.int32))

    def to_tasks(self) -> tuple[Task, ...]:
        """Return the tasks as objects."""
        ends, waits = self.wait_ends.tolist(), self.waits.tolist()
        tasks = []
        for index, row in enumerate(self.rows.tolist()):
            reads = tuple(_block(row, at) for at in (READ, SECOND_READ) if row[at] != NOTHING)
            writes = tuple(_block(row, at) for at in (WRITE, SECOND_WRITE) if row[at] != NOTHING)
            outer = None
            if row[TENSOR] != NOTHING:
                block = (writes or reads)[0]
                outer = Slice(
                    TENSORS[row[TENSOR]],
                    row[MATRIX],
                    row[ROW],
                    row[COLUMN],
                    block.rows,
                    block.columns,
                )
            tasks.append(
                Task(
                    OPERATIONS[row[OPERATION]],
                    row[CORE],
                    reads,
                    writes,
                    outer,
                    tuple(waits[ends[index] : ends[index + 1]]),
                    bool(row[ACCUMULATES]),
                    None if row[CAUSAL_OFFSET] == NO_CAUSALITY else row[CAUSAL_OFFSET],
                )
            )
        return tuple(tasks)

    @property
    def units(self) -> Integers:
        """Unit of each task, as an index into ``UNITS``."""
        return UNIT_OF_OPERATION[self.rows[:, OPERATION]]

    def stream_numbers(self) -> Integers:
        """Return the stream of each task, int32.

        Streams 0 and 1 are the queues of loads and stores; ``2 + 2 * core`` is a core's matrix and
        ``3 + 2 * core`` its vector unit.
        """
        units = self.units
        compute = 2 + 2 * self.rows[:, CORE] + (units == UNITS.index(Unit.VECTOR))
        is_load, is_store = units == UNITS.index(Unit.LOAD), units == UNITS.index(Unit.STORE)
        return np.where(is_load, 0, np.where(is_store, 1, compute)).astype(np.int32)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TaskTable)
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.wait_ends, other.wait_ends)
            and np.array_equal(self.waits, other.waits)
        )

    def __hash__(self) -> int:
        return hash((self.rows.tobytes(), self.waits.tobytes()))


def _block_row(block: Block) -> tuple[int, int, int, int, int]:
    return (block.buffer, block.row, block.column, block.rows, block.columns)


def _block(row: list[int], at: int) -> Block:
    return Block(*row[at : at + 5])
