"""How an attention problem is cut into tiles, what a cut asks of a machine's memory."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.problem import MaskKind

if TYPE_CHECKING:
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel


class Softmax(enum.Enum):
    """How rows are normalised.

    FULL_ROW needs a whole row of scores and divides its probabilities, as softmax is written.
    DEFERRED needs a whole row, too, but divides the output, which is narrower. ONLINE works tile by
    tile with a running maximum and sum, so that rows may be longer than memory; outputs made before
    the maximum grew are rescaled.
    """

    FULL_ROW = "full-row"
    DEFERRED = "deferred"
    ONLINE = "online"

    def __str__(self) -> str:
        return self.value


class Split(enum.Enum):
    """What the cores of a machine share out.

    HEADS gives each core heads of its own, as far as they go round. ROWS has all cores work on the
    rows of one head, so that its keys and values are on chip once. KEYS has them work on the same
    rows, each on a part of the keys, and merges their outputs: for few rows, as in decoding.
    """

    HEADS = "heads"
    ROWS = "rows"
    KEYS = "keys"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Tiling:
    """The choices that turn a dataflow into one schedule.

    Attributes:
        query_rows: Query rows of each head in a row block.
        kv_columns: Keys, or values, of one product.
        resident_tiles: Tiles of keys and values, of ``kv_columns`` each, that are on chip at once,
            for all cores together. Fewer than a head has are loaded again for each row block.
        heads: Query heads whose rows are stacked in a row block; they share keys and values.
        live_blocks: Row blocks of a core (with an online softmax: tiles of one) whose scores are on
            chip at once. With one, the units take turns.
        prefetch_blocks: How many row blocks ahead of its use a transfer is issued.
        store_blocks: How many row blocks after its making an output is stored at the latest; loads
            go first meanwhile.
        softmax: How rows are normalised.
        split: What the cores share out.
        fill_columns: Keys of one product while the first head is read in; 0 for ``kv_columns``.
        cores: How many cores take part; 0 for all.
    """

    query_rows: int
    kv_columns: int
    resident_tiles: int
    heads: int = 1
    live_blocks: int = 2
    prefetch_blocks: int = 1
    store_blocks: int = 1
    softmax: Softmax = Softmax.FULL_ROW
    split: Split = Split.HEADS
    fill_columns: int = 0
    cores: int = 0

    def __post_init__(self) -> None:
        for name in ("query_rows", "kv_columns", "resident_tiles", "heads", "live_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("prefetch_blocks", "store_blocks", "fill_columns", "cores"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def __str__(self) -> str:
        heads = f"{self.heads} heads x " if self.heads > 1 else ""
        fill = f", fill {self.fill_columns}" if self.fill_columns else ""
        cores = f"{self.cores} cores" if self.cores else "cores"
        return (
            f"{heads}{self.query_rows} query rows, {self.kv_columns} kv columns, "
            f"{self.resident_tiles} resident tiles, {self.live_blocks} live blocks, "
            f"{self.softmax} softmax, {cores} share {self.split}, "
            f"prefetch {self.prefetch_blocks}, store {self.store_blocks}{fill}"
        )


def cores_used(tiling: Tiling, machine: HardwareModel) -> HardwareModel:
    """Return the machine with no more cores than a tiling uses."""
    if not tiling.cores or tiling.cores >= machine.num_cores:
        return machine
    return dataclasses.replace(machine, num_cores=tiling.cores)


def is_masked(problem: AttentionProblem) -> bool:
    """Return whether the vector unit has a mask to apply to each score."""
    return problem.mask is not MaskKind.NONE
