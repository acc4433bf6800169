"""What a machine can do: the operations, the units that do them, and single tasks."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from hocket.hwmodels.errors import ProgramError


class Unit(enum.Enum):
    """A part of the machine that works on its own: two a core, and two queues for all cores."""

    MATRIX = "matrix"
    VECTOR = "vector"
    LOAD = "load"
    STORE = "store"

    def __str__(self) -> str:
        return self.value

    @property
    def is_transfer(self) -> bool:
        """Whether it is one of the DMA engine's queues."""
        return self in (Unit.LOAD, Unit.STORE)


class Operation(enum.Enum):
    """What a task does.

    LOAD copies a slice of an outer tensor into a buffer, STORE the other way. SCORES writes
    ``a @ b.T`` and OUTPUT writes ``a @ b`` (added to what is there if the task accumulates); both
    read ``a`` and ``b`` in this order. SOFTMAX scales, masks and normalises whole rows in place.

    Normalisation may be put off: EXPONENTIALS scales and masks rows and turns them into
    ``exp(score - max)`` in place, and keeps each row's maximum, sum, and the factor by which the
    maximum's growth shrinks what was made before, in a state of three columns; if it accumulates,
    it goes on from the state of earlier columns of the same rows (the online softmax). RESCALE
    multiplies an output by the factor and adds a further product; MERGE joins two outputs with a
    state each; NORMALIZE divides an output by the sum.
    """

    LOAD = "load"
    STORE = "store"
    SCORES = "scores"
    SOFTMAX = "softmax"
    EXPONENTIALS = "exponentials"
    OUTPUT = "output"
    RESCALE = "rescale"
    MERGE = "merge"
    NORMALIZE = "normalize"

    @property
    def unit(self) -> Unit:
        """The unit that can do it."""
        return _UNIT_OF[self]

    @property
    def is_softmax(self) -> bool:
        """Whether it needs ``SoftmaxArguments``."""
        return self in (Operation.SOFTMAX, Operation.EXPONENTIALS, Operation.NORMALIZE)

    def __str__(self) -> str:
        return self.value


_UNIT_OF = {
    Operation.LOAD: Unit.LOAD,
    Operation.STORE: Unit.STORE,
    Operation.SCORES: Unit.MATRIX,
    Operation.OUTPUT: Unit.MATRIX,
    Operation.SOFTMAX: Unit.VECTOR,
    Operation.EXPONENTIALS: Unit.VECTOR,
    Operation.RESCALE: Unit.VECTOR,
    Operation.MERGE: Unit.VECTOR,
    Operation.NORMALIZE: Unit.VECTOR,
}

TENSORS = ("query", "key", "value", "mask", "scores", "output", "state", "partial")
"""What buffers hold: outer tensors or parts of them; ``scores`` also holds probabilities,
``state`` the rows' maximum, sum and factor, ``partial`` a product not yet added to its output."""

STATE_COLUMNS = 3
"""Columns of a state: maximum, sum, factor."""


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
    """What softmax needs to know besides its rows; the same for all tasks of a schedule.

    Attributes:
        scale: Factor on each score, before the mask.
        mask: ``none``, ``additive`` or ``boolean``.
        masked_value: Score put where a boolean mask is false.
        zero_masked_rows: Whether a row of scores that are all minus infinity becomes zeros; else it
            becomes NaN.

    Raises:
        ProgramError: ``scale`` is not finite, or ``masked_value`` not a number.
    """

    scale: float = 1.0
    mask: str = "none"
    masked_value: float = float("-inf")
    zero_masked_rows: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ProgramError(f"scale must be finite, got {self.scale}")
        if math.isnan(self.masked_value):
            raise ProgramError("masked_value must be a number, got nan")


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work of one unit.

    Attributes:
        operation: What it does; that also says on which unit.
        core: Which core; of a transfer, the core for which it is made.
        reads, writes: Blocks of buffers. SOFTMAX reads its mask block, if any, and works on the
            block it writes; EXPONENTIALS likewise, writes its state, too, and, to go on with one,
            reads that last. RESCALE reads a
            product and a state, MERGE an output and its state, NORMALIZE a state; each works on
            the output it writes, and MERGE on that output's state.
        outer: The slice of the outer tensor, of LOAD and STORE.
        waits: Indices of earlier tasks that must have finished.
        accumulates: Of OUTPUT, whether the product is added to what is there; of EXPONENTIALS,
            whether it goes on from the state it reads.
        causal_offset: Of SOFTMAX and EXPONENTIALS, with causality: column ``j`` of the block's row
            ``i`` counts only if ``j <= i + causal_offset``. None without causality.
    """

    operation: Operation
    core: int
    reads: tuple[Block, ...]
    writes: tuple[Block, ...]
    outer: Slice | None = None
    waits: tuple[int, ...] = ()
    accumulates: bool = False
    causal_offset: int | None = None

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
