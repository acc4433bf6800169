"""The machine's language: tasks on streams, the buffers they share, and where those lie.

A schedule is a list of tasks in an order in which they could run one after the other. Each task
belongs to one unit; the tasks of one unit are its stream, and a unit works through its stream in
order. Every core has a matrix and a vector unit; the machine has one queue of loads and one of
stores. Between streams only ``waits`` order anything. A program is a schedule whose buffers have
addresses.

Schedules run to a million tasks, so they are kept as columns of integers (``columns.py``);
``Schedule.tasks`` shows them as objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.columns import TaskTable
from hocket.hwmodels.tasks import TENSORS, SoftmaxArguments, Task, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Buffer:
    """A row-major matrix in on-chip memory.

    Attributes:
        tensor: One of ``TENSORS``.
        rows, columns: Its size in elements.
    """

    tensor: str
    rows: int
    columns: int

    @property
    def num_elements(self) -> int:
        """Elements in it."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Stream:
    """The tasks of one unit, by index, in the order in which it works.

    ``core`` is 0 for the queues of loads and stores, which serve all cores.
    """

    unit: Unit
    core: int
    tasks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Tasks and the buffers they share, without addresses.

    Attributes:
        table: The tasks, in an order in which they could run one after the other.
        buffers: Tensor (index into ``TENSORS``), rows and columns of each buffer, ``[buffers, 3]``
            in int64; tasks refer to them by index.
        softmax: Of all softmax tasks.
    """

    table: TaskTable
    buffers: NDArray[np.int64]
    softmax: SoftmaxArguments = field(default_factory=SoftmaxArguments)

    @classmethod
    def from_tasks(
        cls,
        tasks: Sequence[Task],
        buffers: Sequence[Buffer],
        softmax: SoftmaxArguments | None = None,
    ) -> Schedule:
        """Build a schedule of objects."""
        rows = [[TENSORS.index(each.tensor), each.rows, each.columns] for each in buffers]
        return cls(
            TaskTable.from_tasks(tasks),
            np.array(rows, dtype=np.int64).reshape(-1, 3),
            softmax or SoftmaxArguments(),
        )

    @property
    def num_tasks(self) -> int:
        """How many tasks there are."""
        return len(self.table.rows)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks as objects; for looking at, not for a million of them."""
        return self.table.to_tasks()

    @cached_property
    def buffer_list(self) -> tuple[Buffer, ...]:
        """The buffers as objects."""
        return tuple(
            Buffer(TENSORS[tensor], rows, columns)
            for tensor, rows, columns in self.buffers.tolist()
        )

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The streams, by core and then unit; a unit without tasks has none."""
        found: dict[tuple[int, str], list[int]] = {}
        for index, task in enumerate(self.tasks):
            core = 0 if task.unit.is_transfer else task.core
            found.setdefault((core, task.unit.value), []).append(index)
        return tuple(
            Stream(Unit(unit), core, tuple(tasks)) for (core, unit), tasks in sorted(found.items())
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Schedule)
            and self.table == other.table
            and np.array_equal(self.buffers, other.buffers)
            and self.softmax == other.softmax
        )

    def __hash__(self) -> int:
        return hash((self.table, self.buffers.tobytes(), self.softmax))

    def __str__(self) -> str:
        return f"{self.num_tasks} tasks, {len(self.buffers)} buffers"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a buffer lies: its first byte in on-chip memory, and how many it takes."""

    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, eq=False)
class Program:
    """A schedule with an address for every buffer.

    Attributes:
        schedule: Its waits include those that the sharing of addresses asks for.
        places: First byte and size in bytes of each buffer, ``[buffers, 2]`` in int64.
    """

    schedule: Schedule
    places: NDArray[np.int64]

    @classmethod
    def from_placements(cls, schedule: Schedule, placements: Sequence[Placement]) -> Program:
        """Build a program of objects."""
        rows = [[place.offset_bytes, place.size_bytes] for place in placements]
        return cls(schedule, np.array(rows, dtype=np.int64).reshape(-1, 2))

    @property
    def placements(self) -> tuple[Placement, ...]:
        """The places as objects."""
        return tuple(Placement(offset, size) for offset, size in self.places.tolist())

    @cached_property
    def peak_on_chip_bytes(self) -> int:
        """One past the highest byte in use."""
        return int(self.places.sum(axis=1).max()) if len(self.places) else 0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Program)
            and self.schedule == other.schedule
            and np.array_equal(self.places, other.places)
        )

    def __hash__(self) -> int:
        return hash((self.schedule, self.places.tobytes()))

    def __str__(self) -> str:
        return f"{self.schedule}, {self.peak_on_chip_bytes} bytes on chip"
