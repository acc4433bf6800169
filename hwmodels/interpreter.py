"""Runs a program on real numbers, on-chip addresses and all.

Memory is one flat array that starts out as NaN; buffers are views of it where they were placed. So
a program that reads too early, overwrites too soon, or waits too little gives wrong numbers, and a
test sees it. Slow, exact, and of no use but to prove schedules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.tasks import Block, Operation, SoftmaxArguments, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

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
            bool for a boolean mask. ``output`` is written, and ``scores`` where scores leave the
            chip.
        order: Task indices in the order to run them; any order that keeps the streams and the waits
            must give the same numbers. The schedule's own order by default.
    """
    element_bytes = machine.element_bytes
    memory = np.full(machine.on_chip_memory.capacity_bytes // element_bytes, np.nan)
    views = []
    for buffer, place in zip(program.schedule.buffer_list, program.placements, strict=True):
        start = place.offset_bytes // element_bytes
        view = memory[start : start + buffer.num_elements]
        views.append(view.reshape(buffer.rows, buffer.columns))
    tasks = program.schedule.tasks
    for index in range(len(tasks)) if order is None else order:
        _run(tasks[index], views, tensors, program.schedule.softmax)


def _run(
    task: Task,
    views: list[Matrix],
    tensors: Mapping[str, NDArray[Any]],
    arguments: SoftmaxArguments,
) -> None:
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
    elif task.operation is Operation.SOFTMAX:
        mask = operands[0] if operands else None
        result[...] = softmax_rows(result, mask, arguments, task.causal_offset)
    elif task.operation is Operation.EXPONENTIALS:
        state = _view(task.writes[1], views)
        before = operands.pop() if task.accumulates else None
        scores = mask_scores(result, operands[0] if operands else None, arguments)
        scores = hide_future(scores, task.causal_offset)
        result[...] = _exponentials(scores, state, before)
    elif task.operation is Operation.RESCALE:
        product, state = operands
        result[...] = result * state[:, 2:3] + product
    elif task.operation is Operation.MERGE:
        _merge(result, _view(task.writes[1], views), *operands)
    else:
        _normalize(result, operands[0], arguments)


def mask_scores(scores: Matrix, mask: Matrix | None, arguments: SoftmaxArguments) -> Matrix:
    """Return scaled and masked scores."""
    scores = scores * arguments.scale
    if mask is not None and arguments.mask == "boolean":
        return np.where(mask != 0, scores, arguments.masked_value)
    return scores if mask is None else scores + mask


def hide_future(scores: Matrix, causal_offset: int | None) -> Matrix:
    """Return scores with minus infinity where causality hides the key from the query."""
    if causal_offset is None:
        return scores
    last = np.arange(scores.shape[0])[:, None] + causal_offset
    return np.where(np.arange(scores.shape[1])[None, :] <= last, scores, -np.inf)


def softmax_rows(
    scores: Matrix, mask: Matrix | None, arguments: SoftmaxArguments, causal_offset: int | None
) -> Matrix:
    """Return scaled, masked and normalised rows of scores, as a SOFTMAX task computes them."""
    scores = hide_future(mask_scores(scores, mask, arguments), causal_offset)
    with np.errstate(invalid="ignore"):
        largest = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - largest)
        probabilities: Matrix = exponentials / exponentials.sum(axis=1, keepdims=True)
    if arguments.zero_masked_rows:
        probabilities[np.isneginf(largest[:, 0])] = 0.0
    return probabilities


def _exponentials(scores: Matrix, state: Matrix, before: Matrix | None) -> Matrix:
    """Return ``exp(scores - max)`` and write the rows' maximum, sum and factor."""
    largest = scores.max(axis=1)
    if before is not None:
        largest = np.maximum(largest, before[:, 0])
    # A row that is all minus infinity so far has no maximum to subtract.
    base = np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(invalid="ignore"):
        exponentials: Matrix = np.exp(scores - base[:, None])
    sums = exponentials.sum(axis=1)
    factor = np.zeros_like(sums)
    if before is not None:
        factor = np.exp(before[:, 0] - base)
        sums = sums + before[:, 1] * factor
    state[:, 0], state[:, 1], state[:, 2] = largest, sums, factor
    return exponentials


def _merge(output: Matrix, state: Matrix, other: Matrix, other_state: Matrix) -> None:
    largest = np.maximum(state[:, 0], other_state[:, 0])
    base = np.where(np.isneginf(largest), 0.0, largest)
    factor, other_factor = np.exp(state[:, 0] - base), np.exp(other_state[:, 0] - base)
    output[...] = output * factor[:, None] + other * other_factor[:, None]
    state[:, 1] = state[:, 1] * factor + other_state[:, 1] * other_factor
    state[:, 0], state[:, 2] = largest, factor


def _normalize(output: Matrix, state: Matrix, arguments: SoftmaxArguments) -> None:
    with np.errstate(invalid="ignore"):
        output[...] = output / state[:, 1:2]
    if arguments.zero_masked_rows:
        output[np.isneginf(state[:, 0])] = 0.0


def _view(block: Block, views: list[Matrix]) -> Matrix:
    return views[block.buffer][
        block.row : block.row + block.rows, block.column : block.column + block.columns
    ]
