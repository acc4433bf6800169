"""Programs as JSON, column by column: compact, diffable, and checked on the way in."""

from __future__ import annotations

import math
from typing import Any

from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.program import (
    Block,
    Buffer,
    Operation,
    Placement,
    Program,
    Schedule,
    Slice,
    SoftmaxArguments,
    Task,
)

MAX_TASKS = 1 << 20
TENSORS = ("query", "key", "value", "mask", "scores", "output")

_OPERATIONS = tuple(Operation)
_BLOCK_FIELDS = 5
_SLICE_FIELDS = 6
_TASK_COLUMNS = ("operation", "core", "reads", "writes", "outer", "waits", "accumulates", "softmax")


def program_to_json(program: Program) -> dict[str, Any]:
    """Return a program as a JSON object; ``program_from_json`` makes an equal one of it.

    Softmax arguments, which most tasks share, are listed once and referred to by index.
    """
    arguments: dict[SoftmaxArguments, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in _TASK_COLUMNS}
    for task in program.schedule.tasks:
        columns["operation"].append(_OPERATIONS.index(task.operation))
        columns["core"].append(task.core)
        columns["reads"].append([_block_to_json(block) for block in task.reads])
        columns["writes"].append([_block_to_json(block) for block in task.writes])
        columns["outer"].append(None if task.outer is None else _slice_to_json(task.outer))
        columns["waits"].append(list(task.waits))
        columns["accumulates"].append(int(task.accumulates))
        softmax = task.softmax
        columns["softmax"].append(
            -1 if softmax is None else arguments.setdefault(softmax, len(arguments))
        )
    return {
        "operations": [operation.value for operation in _OPERATIONS],
        "tensors": list(TENSORS),
        "softmax_arguments": [_softmax_to_json(each) for each in arguments],
        "tasks": columns,
        "buffers": [
            [TENSORS.index(buffer.tensor), buffer.rows, buffer.columns]
            for buffer in program.schedule.buffers
        ],
        "placements": [[place.offset_bytes, place.size_bytes] for place in program.placements],
    }


def program_from_json(fields: object) -> Program:
    """Build a program from JSON that nobody has checked.

    The result is well typed; ``verify_program`` says whether it is well formed for a machine.

    Raises:
        ProgramError: The JSON is not a program.
    """
    try:
        return _program_from_json(fields)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"malformed program: {type(error).__name__}: {error}") from error


def _program_from_json(fields: Any) -> Program:
    if fields["operations"] != [operation.value for operation in _OPERATIONS]:
        raise ProgramError(f"unknown operations {fields['operations']!r}")
    if fields["tensors"] != list(TENSORS):
        raise ProgramError(f"unknown tensors {fields['tensors']!r}")
    arguments = [_softmax_from_json(each) for each in fields["softmax_arguments"]]
    columns = [fields["tasks"][name] for name in _TASK_COLUMNS]
    if len({len(column) for column in columns}) != 1 or len(columns[0]) > MAX_TASKS:
        raise ProgramError("the columns of the task table differ in length or are too long")
    tasks = tuple(
        Task(
            operation=_OPERATIONS[_index(operation, len(_OPERATIONS))],
            core=_integer(core),
            reads=tuple(_block_from_json(block) for block in reads),
            writes=tuple(_block_from_json(block) for block in writes),
            outer=None if outer is None else _slice_from_json(outer),
            waits=tuple(_integer(wait) for wait in waits),
            accumulates=bool(_index(accumulates, 2)),
            softmax=None if softmax == -1 else arguments[_index(softmax, len(arguments))],
        )
        for operation, core, reads, writes, outer, waits, accumulates, softmax in zip(
            *columns, strict=True
        )
    )
    buffers = tuple(
        Buffer(TENSORS[_index(tensor, len(TENSORS))], _positive(rows), _positive(width))
        for tensor, rows, width in fields["buffers"]
    )
    placements = tuple(
        Placement(_integer(offset), _positive(size)) for offset, size in fields["placements"]
    )
    return Program(Schedule(tasks, buffers), placements)


def _block_to_json(block: Block) -> list[int]:
    return [block.buffer, block.row, block.column, block.rows, block.columns]


def _block_from_json(fields: list[int]) -> Block:
    if len(fields) != _BLOCK_FIELDS:
        raise ProgramError(f"a block has {_BLOCK_FIELDS} numbers, got {fields!r}")
    return Block(*(_integer(field) for field in fields))


def _slice_to_json(part: Slice) -> list[int]:
    return [
        TENSORS.index(part.tensor),
        part.matrix,
        part.row,
        part.column,
        part.rows,
        part.columns,
    ]


def _slice_from_json(fields: list[int]) -> Slice:
    if len(fields) != _SLICE_FIELDS:
        raise ProgramError(f"a slice has {_SLICE_FIELDS} numbers, got {fields!r}")
    return Slice(
        TENSORS[_index(fields[0], len(TENSORS))], *(_integer(field) for field in fields[1:])
    )


def _softmax_to_json(arguments: SoftmaxArguments) -> dict[str, Any]:
    masked = arguments.masked_value
    return {
        "scale": arguments.scale,
        "mask": arguments.mask,
        "masked_value": str(masked) if math.isinf(masked) else masked,
        "zero_masked_rows": arguments.zero_masked_rows,
        "causal_row": arguments.causal_row,
    }


def _softmax_from_json(fields: dict[str, Any]) -> SoftmaxArguments:
    row = fields["causal_row"]
    if fields["mask"] not in ("none", "additive", "boolean"):
        raise ProgramError(f"unknown mask {fields['mask']!r}")
    return SoftmaxArguments(
        scale=float(fields["scale"]),
        mask=fields["mask"],
        masked_value=float(fields["masked_value"]),
        zero_masked_rows=bool(fields["zero_masked_rows"]),
        causal_row=None if row is None else _integer(row),
    )


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ProgramError(f"want a non-negative integer, got {value!r}")
    return value


def _positive(value: object) -> int:
    number = _integer(value)
    if number < 1:
        raise ProgramError(f"want a positive integer, got {value!r}")
    return number


def _index(value: object, length: int) -> int:
    number = _integer(value)
    if number >= length:
        raise ProgramError(f"index {number} is past the end of a table of {length}")
    return number
