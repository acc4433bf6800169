"""Programs as JSON, column by column: compact, diffable, and checked on the way in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels import columns as col
from hocket.hwmodels.columns import OPERATIONS, TaskTable
from hocket.hwmodels.errors import ProgramError
from hocket.hwmodels.program import Program, Schedule
from hocket.hwmodels.tasks import TENSORS, SoftmaxArguments

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TASKS = 1 << 20
MAX_WAITS = 1 << 24
_LARGEST = 1 << 48
_LARGEST_INT32 = int(np.iinfo(np.int32).max)

_MASKS = ("none", "additive", "boolean")


def program_to_json(program: Program) -> dict[str, Any]:
    """Return a program as a JSON object; ``program_from_json`` makes an equal one of it.

    ``tasks`` has one list a column of ``columns.py``, each with one number a task.

    Raises:
        ProgramError: It is so long that it would not be read again.
    """
    schedule = program.schedule
    _check_length(schedule.num_tasks, len(schedule.table.waits))
    softmax = schedule.softmax
    masked = softmax.masked_value
    return {
        "operations": [operation.value for operation in OPERATIONS],
        "tensors": list(TENSORS),
        "softmax": {
            "scale": softmax.scale,
            "mask": softmax.mask,
            "masked_value": str(masked) if math.isinf(masked) else masked,
            "zero_masked_rows": softmax.zero_masked_rows,
        },
        "tasks": schedule.table.rows.T.tolist(),
        "num_waits": np.diff(schedule.table.wait_ends).tolist(),
        "waits": schedule.table.waits.tolist(),
        "buffers": schedule.buffers.tolist(),
        "places": program.places.tolist(),
    }


def program_from_json(fields: object) -> Program:
    """Build a program from JSON that nobody has checked.

    The result is well typed; ``verify_program`` says whether it is well formed for a machine.

    Raises:
        ProgramError: The JSON is not a program.
    """
    try:
        return _program_from_json(fields)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"malformed program: {type(error).__name__}: {error}") from error


def _program_from_json(fields: Any) -> Program:
    if fields["operations"] != [operation.value for operation in OPERATIONS]:
        raise ProgramError(f"unknown operations {fields['operations']!r}")
    if fields["tensors"] != list(TENSORS):
        raise ProgramError(f"unknown tensors {fields['tensors']!r}")
    columns = fields["tasks"]
    if type(columns) is not list or len(columns) != col.NUM_COLUMNS:
        raise ProgramError(f"the task table must have {col.NUM_COLUMNS} columns")
    num_tasks = len(columns[0])
    _check_length(num_tasks, len(fields["waits"]))
    low = np.iinfo(np.int32).min
    listed = [_integers(each, "tasks", low, _LARGEST_INT32, num_tasks) for each in columns]
    rows = np.ascontiguousarray(np.stack(listed, axis=1, dtype=np.int32))
    _check_range(rows[:, col.OPERATION], len(OPERATIONS), "operation")
    _check_range(rows[:, col.TENSOR] + 1, len(TENSORS) + 1, "outer tensor")
    _check_range(rows[:, col.ACCUMULATES], 2, "accumulates")
    # Numbers this small have a sum that 64 bits hold.
    num_waits = _integers(fields["num_waits"], "num_waits", 0, MAX_WAITS, num_tasks)
    waits = _integers(fields["waits"], "waits", 0, _LARGEST_INT32)
    _check_range(waits, num_tasks, "wait")
    if num_waits.sum() != len(waits):
        raise ProgramError(f"num_waits says {num_waits.sum()} waits, there are {len(waits)}")
    ends = np.concatenate([[0], np.cumsum(num_waits)]).astype(np.int64)
    buffers = _table(fields["buffers"], "buffers", 3, _LARGEST_INT32)
    _check_range(buffers[:, 0], len(TENSORS), "tensor of a buffer")
    if (buffers[:, 1:] < 1).any():
        raise ProgramError("a buffer has no rows or columns")
    places = _table(fields["places"], "places", 2, _LARGEST - 1)
    if (places[:, 1:] < 1).any():
        raise ProgramError("a buffer takes no bytes")
    schedule = Schedule(
        TaskTable(rows, ends, waits.astype(np.int32)), buffers, _softmax(fields["softmax"])
    )
    return Program(schedule, places)


def _check_length(num_tasks: int, num_waits: int) -> None:
    if num_tasks > MAX_TASKS or num_waits > MAX_WAITS:
        raise ProgramError(
            f"{num_tasks} tasks with {num_waits} waits are too many; a program may have "
            f"{MAX_TASKS} with {MAX_WAITS}"
        )


def _softmax(fields: dict[str, Any]) -> SoftmaxArguments:
    if fields["mask"] not in _MASKS:
        raise ProgramError(f"unknown mask {fields['mask']!r}")
    if type(fields["zero_masked_rows"]) is not bool:
        raise ProgramError(f"zero_masked_rows is {fields['zero_masked_rows']!r}")
    masked = fields["masked_value"]
    return SoftmaxArguments(
        scale=_number(fields["scale"], "scale"),
        mask=fields["mask"],
        masked_value=float(masked)
        if masked in ("inf", "-inf")
        else _number(masked, "masked_value"),
        zero_masked_rows=fields["zero_masked_rows"],
    )


def _number(value: object, name: str) -> float:
    if type(value) is int and abs(value) < _LARGEST:
        return float(value)
    if type(value) is not float:
        raise ProgramError(f"{name}: want a number")
    return value


def _table(value: object, name: str, width: int, largest: int) -> NDArray[np.int64]:
    if type(value) is not list or any(type(row) is not list or len(row) != width for row in value):
        raise ProgramError(f"{name} must be a list of lists of {width} numbers")
    flat = _integers([number for row in value for number in row], name, 0, largest)
    return flat.reshape(-1, width)


def _integers(
    value: object, name: str, smallest: int, largest: int, length: int | None = None
) -> NDArray[np.int64]:
    """Return a list of integers as an array; anything else, also true and 1.0, is refused."""
    if type(value) is not list or any(type(number) is not int for number in value):
        raise ProgramError(f"{name}: want a list of integers")
    if length is not None and len(value) != length:
        raise ProgramError(f"{name}: {len(value)} numbers for {length} tasks")
    if value and not (smallest <= min(value) and max(value) <= largest):
        raise ProgramError(f"{name}: a number is out of range; want {smallest} to {largest}")
    return np.array(value, dtype=np.int64)


def _check_range(values: NDArray[Any], length: int, name: str) -> None:
    if ((values < 0) | (values >= length)).any():
        raise ProgramError(f"{name}: an index is past the end of a table of {length}")
