"""Runs a program on real numbers, on-chip addresses and all.

Memory is one flat array that starts out as NaN; buffers are views of it where they were placed. So
a program that reads too early, overwrites too soon, or waits too little gives wrong numbers, and a
test sees it. Slow, exact, and of no use but to prove schedules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.program import Block, Operation, Program, SoftmaxArguments, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel

    Matrix = NDArray[np.float64]


def interpret(
    program: Program,
    machine: HardwareModel,
    tensors: Mapping[str, NDArray[Any]],
    order: Sequence[int] | None = None,
) -> None:
    """Run a program; STORE tasks write into ``tensors``.

    Args:
        program: A verified program.
        machine: The machine it was placed for; its memory size and element size are used.
        tensors: Outer tensors by name, each of shape ``[matrices, rows, columns]`` in float64, or
            bool for a boolean mask. ``output`` is written.
        order: Task indices in the order to run them; any order that keeps the streams and the waits
            must give the same numbers. The schedule's own order by default.
    """
    element_bytes = machine.element_bytes
    memory = np.full(machine.on_chip_memory.capacity_bytes // element_bytes, np.nan)
    views = []
    for buffer, placement in zip(program.schedule.buffers, program.placements, strict=True):
        start = placement.offset_bytes // element_bytes
        view = memory[start : start + buffer.num_elements]
        views.append(view.reshape(buffer.rows, buffer.columns))
    tasks = program.schedule.tasks
    for index in range(len(tasks)) if order is None else order:
        _run(tasks[index], views, tensors)


def _run(task: Task, views: list[Matrix], tensors: Mapping[str, NDArray[Any]]) -> None:
    if task.outer is not None:
        outer = task.outer
        rows = slice(outer.row, outer.row + outer.rows)
        columns = slice(outer.column, outer.column + outer.columns)
        place = tensors[outer.tensor][outer.matrix, rows, columns]
        if task.operation is Operation.LOAD:
            _view(task.writes[0], views)[...] = place
        else:
            place[...] = _view(task.reads[0], views)
        return
    result = _view(task.writes[0], views)
    operands = [_view(block, views) for block in task.reads]
    if task.operation is Operation.SCORES:
        result[...] = operands[0] @ operands[1].T
    elif task.operation is Operation.OUTPUT:
        product = operands[0] @ operands[1]
        result[...] = result + product if task.accumulates else product
    elif task.softmax is not None:
        mask = operands[0] if operands else None
        result[...] = softmax_rows(result, mask, task.softmax)


def softmax_rows(scores: Matrix, mask: Matrix | None, arguments: SoftmaxArguments) -> Matrix:
    """Return scaled, masked and normalised rows of scores, as a SOFTMAX task computes them."""
    scores = scores * arguments.scale
    if mask is not None and arguments.mask == "boolean":
        scores = np.where(mask != 0, scores, arguments.masked_value)
    elif mask is not None:
        scores = scores + mask
    if arguments.causal_row is not None:
        row = np.arange(scores.shape[0])[:, None] + arguments.causal_row
        scores = np.where(np.arange(scores.shape[1])[None, :] <= row, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        largest = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - largest)
        probabilities: Matrix = exponentials / exponentials.sum(axis=1, keepdims=True)
    if arguments.zero_masked_rows:
        probabilities[np.isneginf(largest[:, 0])] = 0.0
    return probabilities


def _view(block: Block, views: list[Matrix]) -> Matrix:
    return views[block.buffer][
        block.row : block.row + block.rows, block.column : block.column + block.columns
    ]
