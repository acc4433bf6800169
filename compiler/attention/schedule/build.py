"""A problem, a tiling and a dataflow in; a program with addresses out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule import movement as mv
from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.layout import FORMS, kv_limit, ring_table
from hocket.compiler.attention.schedule.row_blocks import row_blocks
from hocket.compiler.attention.tiling import cores_used
from hocket.compiler.problem import MaskedRows
from hocket.hwmodels.columns import TaskTable
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.tasks import SoftmaxArguments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel


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


def build_program(
    problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow, machine: HardwareModel
) -> Program:
    """Return the program of a problem under a tiling; see ``build_with_plan``."""
    return build_with_plan(problem, tiling, dataflow, machine)[0]


def build_with_plan(
    problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow, machine: HardwareModel
) -> tuple[Program, CachePlan]:
    """Return the program of a problem under a tiling, and what its memory plan overwrites.

    Whether it fits the machine is for ``layout.demand`` to say; it passes ``verify_program`` on a
    machine that it fits.

    Args:
        problem: What to compute.
        tiling: In which tiles.
        dataflow: In what order.
        machine: Its number of cores, element size, alignment and block of the matrix unit count;
            its speeds and the size of its memory do not.
    """
    machine = cores_used(tiling, machine)
    blocks = row_blocks(
        problem, tiling, machine, skips_future=dataflow.skips_future, tapers=dataflow.tapers
    )
    return build_blocks(problem, tiling, dataflow, machine, blocks)


def build_blocks(
    problem: AttentionProblem,
    tiling: Tiling,
    dataflow: Dataflow,
    machine: HardwareModel,
    blocks: NDArray[np.int64],
) -> tuple[Program, CachePlan]:
    """Return the program of some row blocks of a problem; see ``build_with_plan``."""
    machine = cores_used(tiling, machine)
    limit = kv_limit(problem, dataflow)
    columns = min(tiling.kv_columns, limit)
    stacked = bool((blocks[:, st.HEADS] > 1).any())
    is_per_head = stacked and (problem.is_causal or problem.mask_shape is not None)
    steps = st.order_steps(
        blocks,
        machine.num_cores,
        columns,
        tiling.fill_columns,
        _pieces_a_front(tiling, machine),
        FORMS[tiling.softmax.value],
        tiling.live_blocks,
        dataflow.pace,
        is_per_head,
    )
    rings = ring_table(tiling, problem, dataflow, machine)
    mask = problem.mask_shape or (0, 0, 0, 0)
    sizes = np.zeros(mv.NUM_SIZES, np.int64)
    sizes[
        [
            mv.NUM_CORES,
            mv.KV_MATRICES,
            mv.KV_LIMIT,
            mv.KV_COLUMNS,
            mv.FILL_COLUMNS,
            mv.HEAD_DIM,
            mv.VALUE_DIM,
            mv.QUERY_HEADS,
            mv.MASK_BATCH,
            mv.MASK_HEADS,
            mv.MASK_ROWS,
            mv.MASK_COLUMNS,
            mv.IS_CAUSAL,
            mv.PREFETCH_TURNS,
            mv.STORE_BLOCKS,
            mv.GUARD_STEPS,
            mv.SPILLS_SCORES,
            mv.SPILLS_PROBABILITIES,
        ]
    ] = (
        machine.num_cores,
        problem.batch * problem.kv_heads,
        limit,
        columns,
        tiling.fill_columns,
        problem.head_dim,
        problem.value_dim,
        problem.query_heads,
        *mask,
        problem.is_causal,
        tiling.prefetch_blocks,
        tiling.store_blocks,
        2 * machine.num_cores,
        dataflow.spills_scores,
        dataflow.spills_probabilities,
    )
    rows, wait_ends, waits, buffers, reloads = mv.move(steps, blocks, rings, sizes)
    schedule = Schedule(
        TaskTable(rows, wait_ends, waits),
        np.ascontiguousarray(buffers.reshape(-1, 5)[:, :3]),
        SoftmaxArguments(
            scale=problem.scale,
            mask=problem.mask.value,
            masked_value=problem.masked_value,
            zero_masked_rows=problem.masked_rows is MaskedRows.ZERO,
        ),
    )
    plan = CachePlan(
        num_tiles=2 * -(-limit // columns),
        resident_tiles=int(rings[mv.POOL, mv.RING_SLOTS]),
        kv_matrices=problem.batch * problem.kv_heads,
        element_bytes=machine.element_bytes,
        reloads=reloads.reshape(-1, 4),
    )
    return Program(schedule, np.ascontiguousarray(buffers.reshape(-1, 5)[:, 3:])), plan


def _pieces_a_front(tiling: Tiling, machine: HardwareModel) -> int:
    """Return how many pieces of keys are as many rows as the cores' row blocks have queries."""
    if not tiling.fill_columns:
        return 1
    rows = tiling.query_rows * tiling.heads * machine.num_cores
    return max(rows // tiling.fill_columns, 1)
