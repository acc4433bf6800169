"""The machine's language: tasks on streams, the buffers they share, and where those lie.

A schedule is a list of tasks in an order in which they could run one after the other. Each task
belongs to one unit of one core; the tasks of one unit of one core are its stream, and a unit works
through its stream in order. Between streams only ``waits`` order anything. A program is a schedule
whose buffers have addresses.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property


class Unit(enum.Enum):
    """A part of a core that works on its own."""

    MATRIX = "matrix"
    VECTOR = "vector"
    DMA = "dma"

    def __str__(self) -> str:
        return self.value


class Operation(enum.Enum):
    """What a task does.

    LOAD copies a slice of an outer tensor into a buffer, STORE the other way. SCORES writes
    ``a @ b.T`` and OUTPUT writes ``a @ b`` (added to what is there if the task accumulates); both
    read ``a`` and ``b`` in this order. SOFTMAX scales, masks and normalises whole rows in place.
    """

    LOAD = "load"
    STORE = "store"
    SCORES = "scores"
    SOFTMAX = "softmax"
    OUTPUT = "output"

    @property
    def unit(self) -> Unit:
        """The unit that can do it."""
        return _UNIT_OF[self]

    def __str__(self) -> str:
        return self.value


_UNIT_OF = {
    Operation.LOAD: Unit.DMA,
    Operation.STORE: Unit.DMA,
    Operation.SCORES: Unit.MATRIX,
    Operation.OUTPUT: Unit.MATRIX,
    Operation.SOFTMAX: Unit.VECTOR,
}


@dataclass(frozen=True, slots=True)
class Buffer:
    """A row-major matrix in on-chip memory.

    Attributes:
        tensor: What it holds a part of: ``query``, ``key``, ``value``, ``mask``, ``scores`` or
            ``output``.
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
class Block:
    """A rectangle of a buffer: ``rows`` x ``columns`` from (``row``, ``column``) on."""

    buffer: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A rectangle of one matrix of an outer tensor.

    ``matrix`` counts the tensor's leading axes flattened: ``batch * heads + head``; for a mask it
    counts the axes as stored.
    """

    tensor: str
    matrix: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class SoftmaxArguments:
    """What a SOFTMAX task needs to know besides its rows.

    Attributes:
        scale: Factor on each score, before the mask.
        mask: ``none``, ``additive`` or ``boolean``.
        masked_value: Score put where a boolean mask is false.
        zero_masked_rows: Whether a row of scores that are all minus infinity becomes zeros; else it
            becomes NaN.
        causal_row: With causality, the row of the whole scores at which this block begins: column
            ``j`` of row ``i`` counts only if ``j <= i + causal_row``. None without causality.
    """

    scale: float
    mask: str = "none"
    masked_value: float = float("-inf")
    zero_masked_rows: bool = False
    causal_row: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work of one unit.

    Attributes:
        operation: What it does; that also says on which unit.
        core: Which core.
        reads, writes: Blocks of buffers. A SOFTMAX reads its mask block, if any, and then works on
            the block it writes.
        outer: The slice of the outer tensor, of LOAD and STORE.
        waits: Indices of earlier tasks that must have finished.
        accumulates: Of OUTPUT, whether the product is added to what is there.
        softmax: Of SOFTMAX.
    """

    operation: Operation
    core: int
    reads: tuple[Block, ...]
    writes: tuple[Block, ...]
    outer: Slice | None = None
    waits: tuple[int, ...] = ()
    accumulates: bool = False
    softmax: SoftmaxArguments | None = None

    @property
    def unit(self) -> Unit:
        """The unit that does it."""
        return self.operation.unit

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block it touches."""
        return self.reads + self.writes

    def __str__(self) -> str:
        where = f" {self.outer.tensor}[{self.outer.matrix}]" if self.outer else ""
        size = self.writes[0] if self.writes else self.reads[0]
        return f"{self.operation}{where} {size.rows}x{size.columns} on core {self.core}"


@dataclass(frozen=True, slots=True)
class Stream:
    """The tasks of one unit of one core, by index, in the order in which it works."""

    unit: Unit
    core: int
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Tasks and the buffers they share, without addresses.

    Attributes:
        tasks: In an order in which they could run one after the other.
        buffers: Referred to by index.
    """

    tasks: tuple[Task, ...]
    buffers: tuple[Buffer, ...]

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The streams, by core and then unit; a unit without tasks has none."""
        found: dict[tuple[int, str], list[int]] = {}
        for index, task in enumerate(self.tasks):
            found.setdefault((task.core, task.unit.value), []).append(index)
        return tuple(
            Stream(Unit(unit), core, tuple(tasks)) for (core, unit), tasks in sorted(found.items())
        )

    def __str__(self) -> str:
        return (
            f"{len(self.tasks)} tasks on {len(self.streams)} streams, {len(self.buffers)} buffers"
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a buffer lies: its first byte in on-chip memory, and how many it takes."""

    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        """One past its last byte."""
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True)
class Program:
    """A schedule with an address for every buffer.

    Attributes:
        schedule: Its waits include those that the sharing of addresses asks for.
        placements: One a buffer, in the order of ``schedule.buffers``.
    """

    schedule: Schedule
    placements: tuple[Placement, ...]

    @cached_property
    def peak_on_chip_bytes(self) -> int:
        """One past the highest byte in use."""
        return max((placement.end_bytes for placement in self.placements), default=0)

    def __str__(self) -> str:
        return f"{self.schedule}, {self.peak_on_chip_bytes} bytes on chip"
