"""Turns row blocks into tasks and buffers; dataflows only say in which order.

A core's work is a list of stages: scores, softmax or output of one row block. The builder issues
their compute tasks in that order, finds out what must be loaded for each, and issues every transfer
``prefetch_tasks`` compute tasks ahead of its first use.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hocket.compiler.attention.schedule.row_blocks import (
    RowBlock,
    kv_matrix,
    kv_tiles,
    mask_matrix,
)
from hocket.compiler.problem import MaskedRows
from hocket.hwmodels.program import (
    Block,
    Buffer,
    Operation,
    Schedule,
    Slice,
    SoftmaxArguments,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem


class Stage(enum.Enum):
    """What a row block goes through, in this order."""

    SCORES = "scores"
    SOFTMAX = "softmax"
    OUTPUT = "output"


@dataclass(slots=True)
class _Step:
    """A compute task or store in the making: waits are steps, loads are not issued yet."""

    task: Task
    waits: list[_Step]
    loads: list[_Step]
    index: int = -1


class CoreBuilder:
    """Collects the tasks of one core.

    Args:
        problem: What to compute.
        tiling: In which tiles.
        core: The core's number.
        buffers: The schedule's buffers so far; the builder adds its own.
    """

    def __init__(
        self, problem: AttentionProblem, tiling: Tiling, core: int, buffers: list[Buffer]
    ) -> None:
        self._problem = problem
        self._tiling = tiling
        self._core = core
        self._buffers = buffers
        self._steps: list[_Step] = []
        # Loaded tiles by what they hold, with the step that loads them.
        self._keys: dict[tuple[int, int], tuple[int, _Step]] = {}
        self._values: dict[tuple[int, int], tuple[int, _Step]] = {}
        self._masks: dict[tuple[int, int], tuple[int, _Step]] = {}
        # Scores of the row blocks under way: their buffer and the last step that wrote it.
        self._scores: dict[tuple[int, int], tuple[int, _Step]] = {}

    def add(self, stage: Stage, block: RowBlock) -> None:
        """Issue the tasks of one stage of a row block."""
        issue = {
            Stage.SCORES: self._add_scores,
            Stage.SOFTMAX: self._add_softmax,
            Stage.OUTPUT: self._add_output,
        }[stage]
        issue(block)

    def finish(self) -> list[_Step]:
        """Return all steps, transfers put ahead of their first use."""
        issued: list[_Step] = []
        ahead = 0
        for position, step in enumerate(self._steps):
            while ahead < len(self._steps) and ahead <= position + self._tiling.prefetch_tasks:
                issued.extend(self._steps[ahead].loads)
                ahead += 1
            issued.append(step)
        return issued

    def _add_scores(self, block: RowBlock) -> None:
        problem = self._problem
        self._forget(self._keys, block)
        for matrix in block.matrices:
            query = self._new_buffer("query", block.rows, problem.head_dim)
            query_load = self._load(
                query, Slice("query", matrix, block.row, 0, block.rows, problem.head_dim)
            )
            scores = self._new_buffer("scores", block.rows, block.columns)
            for column, columns in kv_tiles(block.columns, self._tiling.kv_columns):
                key, key_load, is_new = self._kv_tile("key", matrix, column)
                loads = [key_load] if is_new else []
                if column == 0:
                    loads.insert(0, query_load)
                step = self._compute(
                    Task(
                        Operation.SCORES,
                        self._core,
                        reads=(
                            Block(query, 0, 0, block.rows, problem.head_dim),
                            Block(key, 0, 0, columns, problem.head_dim),
                        ),
                        writes=(Block(scores, 0, column, block.rows, columns),),
                    ),
                    waits=[key_load, *([query_load] if column == 0 else [])],
                    loads=loads,
                )
                self._scores[matrix, block.row] = (scores, step)

    def _add_softmax(self, block: RowBlock) -> None:
        problem = self._problem
        arguments = SoftmaxArguments(
            scale=problem.scale,
            mask=problem.mask.value,
            masked_value=problem.masked_value,
            zero_masked_rows=problem.masked_rows is MaskedRows.ZERO,
            causal_row=block.row if problem.is_causal else None,
        )
        for matrix in block.matrices:
            scores, made = self._scores[matrix, block.row]
            waits, loads = [made], []
            reads: tuple[Block, ...] = ()
            if problem.mask_shape is not None:
                mask, mask_load, is_new = self._mask_rows(matrix, block)
                buffer = self._buffers[mask]
                waits.append(mask_load)
                loads = [mask_load] if is_new else []
                columns = min(buffer.columns, block.columns)
                reads = (Block(mask, 0, 0, buffer.rows, columns),)
            step = self._compute(
                Task(
                    Operation.SOFTMAX,
                    self._core,
                    reads=reads,
                    writes=(Block(scores, 0, 0, block.rows, block.columns),),
                    softmax=arguments,
                ),
                waits,
                loads,
            )
            self._scores[matrix, block.row] = (scores, step)

    def _add_output(self, block: RowBlock) -> None:
        problem = self._problem
        self._forget(self._values, block)
        for matrix in block.matrices:
            scores, normalised = self._scores.pop((matrix, block.row))
            output = self._new_buffer("output", block.rows, problem.value_dim)
            whole = Block(output, 0, 0, block.rows, problem.value_dim)
            step = normalised
            for column, columns in kv_tiles(block.columns, self._tiling.kv_columns):
                value, value_load, is_new = self._kv_tile("value", matrix, column)
                step = self._compute(
                    Task(
                        Operation.OUTPUT,
                        self._core,
                        reads=(
                            Block(scores, 0, column, block.rows, columns),
                            Block(value, 0, 0, columns, problem.value_dim),
                        ),
                        writes=(whole,),
                        accumulates=column > 0,
                    ),
                    waits=[value_load, *([normalised] if column == 0 else [])],
                    loads=[value_load] if is_new else [],
                )
            store = Task(
                Operation.STORE,
                self._core,
                reads=(whole,),
                writes=(),
                outer=Slice("output", matrix, block.row, 0, block.rows, problem.value_dim),
            )
            self._compute(store, waits=[step], loads=[])

    def _kv_tile(self, tensor: str, matrix: int, column: int) -> tuple[int, _Step, bool]:
        """Return the buffer of a key or value tile, its load, and whether that is new."""
        problem = self._problem
        tiles = self._keys if tensor == "key" else self._values
        width = problem.head_dim if tensor == "key" else problem.value_dim
        source = kv_matrix(matrix, problem)
        if (source, column) in tiles:
            buffer, load = tiles[source, column]
            return buffer, load, False
        # Whole tiles also for a row block that causality cuts short: the next one needs the rest.
        rows = min(self._tiling.kv_columns, problem.kv_length - column)
        buffer = self._new_buffer(tensor, rows, width)
        load = self._load(buffer, Slice(tensor, source, column, 0, rows, width))
        tiles[source, column] = (buffer, load)
        return buffer, load, True

    def _mask_rows(self, matrix: int, block: RowBlock) -> tuple[int, _Step, bool]:
        """Return the buffer of a mask's rows, its load, and whether that is new."""
        shape = self._problem.mask_shape
        if shape is None:
            raise ValueError("the problem has no mask")
        source = mask_matrix(matrix, self._problem)
        row = block.row if shape[2] > 1 else 0
        rows = block.rows if shape[2] > 1 else 1
        # One row for all queries is worth keeping whole; a block of rows is used once a head.
        columns = shape[3] if rows == 1 else min(shape[3], block.columns)
        if (source, row) in self._masks:
            buffer, load = self._masks[source, row]
            return buffer, load, False
        self._masks.clear()
        buffer = self._new_buffer("mask", rows, columns)
        load = self._load(buffer, Slice("mask", source, row, 0, rows, columns))
        self._masks[source, row] = (buffer, load)
        return buffer, load, True

    def _forget(self, tiles: dict[tuple[int, int], tuple[int, _Step]], block: RowBlock) -> None:
        """Drop the tiles that this row block does not share with the one before."""
        if self._tiling.keeps_kv:
            wanted = {kv_matrix(matrix, self._problem) for matrix in block.matrices}
            for key in [key for key in tiles if key[0] not in wanted]:
                del tiles[key]
        else:
            tiles.clear()

    def _new_buffer(self, tensor: str, rows: int, columns: int) -> int:
        self._buffers.append(Buffer(tensor, rows, columns))
        return len(self._buffers) - 1

    def _load(self, buffer: int, outer: Slice) -> _Step:
        whole = Block(buffer, 0, 0, outer.rows, outer.columns)
        task = Task(Operation.LOAD, self._core, reads=(), writes=(whole,), outer=outer)
        return _Step(task, [], [])

    def _compute(self, task: Task, waits: list[_Step], loads: list[_Step]) -> _Step:
        step = _Step(task, waits, loads)
        self._steps.append(step)
        return step


def assemble_schedule(cores: Iterable[CoreBuilder], buffers: list[Buffer]) -> Schedule:
    """Weave the cores' tasks into one list, each core's work spread evenly over it."""
    woven: list[tuple[float, int, int, _Step]] = []
    for number, core in enumerate(cores):
        steps = core.finish()
        woven.extend(
            ((position + 1) / len(steps), number, position, step)
            for position, step in enumerate(steps)
        )
    woven.sort(key=lambda entry: entry[:3])
    tasks = []
    for index, (_, _, _, step) in enumerate(woven):
        step.index = index
        waits = tuple(sorted({wait.index for wait in step.waits}))
        tasks.append(replace(step.task, waits=waits))
    return Schedule(tuple(tasks), tuple(buffers))
