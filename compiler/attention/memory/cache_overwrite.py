"""The cache-overwrite pass: which keys and values are on chip, and which are written over.

Where fewer tiles of keys and values find room than a head has, some are loaded again for every row
block. MAS-Attention (arXiv 2411.17720) halts the matrix stream and overwrites keys while it makes
outputs, and values while it makes scores; probabilities, which would have to be written back, are
never touched. Here the order of work is known, so the slots for tiles work as a cache with
foresight: the victim is the clean copy that is needed again latest (Belady's rule, which loads
least), and its reload is issued ahead of its use, beside the vector stream, as soon as the slot is
free. How many slots there are is a choice of the search, which weighs reloads against smaller row
blocks and against an online softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from hocket.compiler.attention.schedule import steps as st
from hocket.hwmodels import columns as col

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]

NEVER = 1 << 40
"""The step that needs a tile which is not needed again."""


@dataclass(frozen=True, slots=True)
class Overwrite:
    """One reload of the cache-overwrite pass.

    Attributes:
        step: Before which compute step the tile had to be back.
        tensor, matrix, tile: What was loaded again: ``key`` or ``value``, which matrix, which tile.
        victim: The same of the copy it was written over, or None if that slot was free.
        num_bytes: How much was loaded.
    """

    step: int
    tensor: str
    matrix: int
    tile: int
    victim: tuple[str, int, int] | None
    num_bytes: int


@dataclass(frozen=True, eq=False)
class CachePlan:
    """What was overwritten and loaded again, for people and tests; the program has its effect.

    Attributes:
        num_tiles: Key and value tiles of one head.
        resident_tiles: Slots for them, over all cores.
        reloads: ``[reloads, 4]`` in int64: step, tile loaded, tile overwritten (-1 for none), and
            elements. Tiles are numbered ``(is_value * kv_matrices + matrix) * tiles + tile``.
    """

    num_tiles: int
    resident_tiles: int
    kv_matrices: int
    element_bytes: int
    reloads: NDArray[np.int64]

    @property
    def reload_bytes(self) -> int:
        """Bytes loaded again, beyond once for each tile."""
        return int(self.reloads[:, 3].sum()) * self.element_bytes

    @property
    def overwrites(self) -> tuple[Overwrite, ...]:
        """Every reload as an object."""
        return tuple(
            Overwrite(
                step,
                *self._tile(tile),
                None if victim < 0 else self._tile(victim),
                elements * self.element_bytes,
            )
            for step, tile, victim, elements in self.reloads.tolist()
        )

    def _tile(self, number: int) -> tuple[str, int, int]:
        per_head = self.num_tiles // 2
        matrix, tile = divmod(number, per_head)
        is_value, matrix = divmod(matrix, self.kv_matrices)
        return ("value" if is_value else "key", matrix, tile)


@njit(cache=True, error_model="numpy")
def find_uses(
    uses: Longs,
    steps: Longs,
    blocks: Longs,
    kv_matrices: int,
    kv_columns: int,
    num_tiles: int,
    skips_first: bool,
) -> None:
    """Write down the tile each step reads, -1 for none, and the next step that reads it.

    Args:
        uses: ``[3 * steps]``: tile, next step, and a number that is left alone.
        steps: As ``order_steps`` returns them.
        blocks: The row blocks they speak of.
        kv_matrices: Key-value matrices; tiles of keys are numbered before those of values.
        kv_columns: Keys of a tile.
        num_tiles: Tiles of one matrix.
        skips_first: Whether the first matrix is kept elsewhere, and has no tiles here.
    """
    coming = np.full(2 * kv_matrices * num_tiles, NEVER, np.int64)
    for i in range(len(steps) - 1, -1, -1):
        uses[3 * i] = -1
        uses[3 * i + 1] = NEVER
        operation = steps[i, st.STEP_OPERATION]
        if operation not in (col.SCORES, col.OUTPUT):
            continue
        matrix = blocks[steps[i, st.STEP_BLOCK], st.KV_MATRIX]
        if skips_first and matrix == blocks[0, st.KV_MATRIX]:
            continue
        tile = steps[i, st.STEP_COLUMN] // kv_columns
        is_value = 1 if operation == col.OUTPUT else 0
        key = (is_value * kv_matrices + matrix) * num_tiles + tile
        uses[3 * i] = key
        uses[3 * i + 1] = coming[key]
        coming[key] = i


@njit(cache=True, error_model="numpy")
def choose_victim(pool: Longs, step: int, guard: int) -> int:
    """Return the slot of the pool to fill: an empty one, else the copy needed again latest.

    Copies used within the last ``guard`` steps are spared where possible, so that the load need not
    wait for them; among copies never needed again the one longest out of use goes first.

    Args:
        pool: Of each slot its tile or -1, the step that needs it next, the step that used it last.
        step: The step that needs another tile.
        guard: Steps.
    """
    for is_guarded in (True, False):
        best = -1
        for slot in range(len(pool) // 3):
            tile, needed, used = pool[3 * slot], pool[3 * slot + 1], pool[3 * slot + 2]
            if tile < 0:
                return slot
            if is_guarded and used > step - guard:
                continue
            if (
                best < 0
                or needed > pool[3 * best + 1]
                or (needed == pool[3 * best + 1] and used < pool[3 * best + 2])
            ):
                best = slot
        if best >= 0:
            return best
    return 0
