"""Programs small enough to time by hand, and a machine with round numbers to time them on."""

from __future__ import annotations

import dataclasses
from typing import Any

from hocket.hwmodels.loader import load_target
from hocket.hwmodels.machine import HardwareModel
from hocket.hwmodels.program import Buffer, Placement, Program, Schedule
from hocket.hwmodels.tasks import Block, Operation, Slice, Task

SIZE = 16  # one block of the matrix unit
BLOCK_BYTES = SIZE * SIZE * 2

# What the buffers of a head hold, in the order of their numbers.
TENSORS = ("query", "key", "scores", "value", "output")


def make_machine(**changes: Any) -> HardwareModel:
    """mas-edge with round numbers: no start-up, 4 bytes a cycle, latency 10, softmax 5 cycles."""
    base = load_target("mas-edge")
    return dataclasses.replace(
        base,
        clock_hz=1e9,
        matrix_unit=dataclasses.replace(base.matrix_unit, startup_cycles=0),
        vector_unit=dataclasses.replace(base.vector_unit, startup_cycles=0),
        dma=dataclasses.replace(base.dma, bandwidth_bytes_per_second=4e9, latency_cycles=10),
        **changes,
    )


def whole(buffer: int) -> Block:
    """All of a buffer."""
    return Block(buffer, 0, 0, SIZE, SIZE)


def heads(*cores: int) -> list[Task]:
    """The tasks of one head for each core named, one head after the other.

    A head is one block: load, load, scores, softmax, load, output, store.
    """
    tasks: list[Task] = []
    for place, core in enumerate(cores):
        first = len(TENSORS) * place
        tasks += _one_head(core, range(first, first + len(TENSORS)), len(tasks))
    return tasks


def make_program(tasks: list[Task], num_buffers: int | None = None) -> Program:
    """A program of tasks on buffers of one block each, one behind the other.

    There are as many buffers as the tasks name, unless a number is given.
    """
    if num_buffers is None:
        num_buffers = 1 + max((block.buffer for task in tasks for block in task.blocks), default=-1)
    buffers = [Buffer(TENSORS[index % len(TENSORS)], SIZE, SIZE) for index in range(num_buffers)]
    places = [Placement(BLOCK_BYTES * index, BLOCK_BYTES) for index in range(num_buffers)]
    return Program.from_placements(Schedule.from_tasks(tasks, buffers), places)


def _one_head(core: int, buffers: range, first_task: int) -> list[Task]:
    query, key, scores, value, output = buffers
    at = first_task
    return [
        _load("query", query, core),
        _load("key", key, core),
        Task(
            Operation.SCORES,
            core,
            (whole(query), whole(key)),
            (whole(scores),),
            waits=(at, at + 1),
        ),
        Task(Operation.SOFTMAX, core, (), (whole(scores),), waits=(at + 2,)),
        _load("value", value, core),
        Task(
            Operation.OUTPUT,
            core,
            (whole(scores), whole(value)),
            (whole(output),),
            waits=(at + 3, at + 4),
        ),
        Task(
            Operation.STORE,
            core,
            (whole(output),),
            (),
            Slice("output", 0, 0, 0, SIZE, SIZE),
            waits=(at + 5,),
        ),
    ]


def _load(tensor: str, buffer: int, core: int) -> Task:
    outer = Slice(tensor, 0, 0, 0, SIZE, SIZE)
    return Task(Operation.LOAD, core, (), (whole(buffer),), outer)
