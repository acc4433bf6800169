"""What tasks cost on a machine, each alone: cycles of its unit or port, and energy.

The same scalar functions serve whole programs and compiled searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Schedule

    Floats = NDArray[np.float64]

PICO = 1e-12

# Columns of the energy array.
COMPUTE, ON_CHIP, OUTER = range(3)


class MachineFigures(NamedTuple):
    """The figures of a machine that costs depend on, as compiled code takes them: all floats."""

    element_bytes: float
    block_rows: float
    block_columns: float
    macs_per_cycle: float
    matrix_startup: float
    matrix_port: float
    pj_per_mac: float
    lanes: float
    vector_startup: float
    vector_port: float
    pj_per_lane_cycle: float
    exponentials: float
    divide: float
    mask: float
    rescale: float
    exponentials_reads: float
    exponentials_writes: float
    divide_reads: float
    divide_writes: float
    on_chip_read_pj: float
    on_chip_write_pj: float
    outer_read_pj: float
    outer_write_pj: float
    bytes_per_cycle: float


def machine_figures(machine: HardwareModel) -> MachineFigures:
    """Return the figures of a machine that costs depend on."""
    matrix, vector = machine.matrix_unit, machine.vector_unit
    inner, outer = machine.on_chip_memory, machine.outer_memory
    return MachineFigures(
        *map(
            float,
            (
                machine.element_bytes,
                matrix.block_rows,
                matrix.block_columns,
                matrix.macs_per_cycle,
                matrix.startup_cycles,
                matrix.port_bytes_per_cycle,
                matrix.pj_per_mac,
                vector.lanes,
                vector.startup_cycles,
                vector.port_bytes_per_cycle,
                vector.pj_per_lane_cycle,
                vector.exponentials_lane_cycles,
                vector.divide_lane_cycles,
                vector.mask_lane_cycles,
                vector.rescale_lane_cycles,
                vector.exponentials_reads_per_element,
                vector.exponentials_writes_per_element,
                vector.divide_reads_per_element,
                vector.divide_writes_per_element,
                inner.read_pj_per_byte,
                inner.write_pj_per_byte,
                outer.read_pj_per_byte,
                outer.write_pj_per_byte,
                machine.bandwidth_bytes_per_cycle,
            ),
        )
    )


@dataclass(frozen=True, eq=False)
class TaskCosts:
    """Cost of each task of a schedule.

    Attributes:
        cycles: ``[tasks]``, how long its unit, or its DMA port, is busy with it.
        picojoules: ``[tasks, 3]``: arithmetic, on-chip memory, outer memory.
        outer_bytes: ``[tasks]``, bytes that cross a DMA port.
    """

    cycles: Floats
    picojoules: Floats
    outer_bytes: NDArray[np.int64]

    @cached_property
    def joules(self) -> Floats:
        """Energy of all kinds, ``[tasks]``."""
        total: Floats = self.picojoules.sum(axis=1) * PICO
        return total


def task_costs(schedule: Schedule, machine: HardwareModel) -> TaskCosts:
    """Return the cost of every task on a machine."""
    return TaskCosts(*_task_costs(schedule.table.rows, machine_figures(machine)))


@njit(cache=True, error_model="numpy")
def product_cost(
    rows: int, columns: int, depth: int, accumulates: bool, figures: MachineFigures
) -> tuple[float, float, float]:
    """Return cycles, picojoules of arithmetic and of on-chip memory of one product.

    The unit makes the ``[rows, depth] x [depth, columns]`` product block by block, each block with
    its whole depth (output stationary); a block that is cut short takes as long as a whole one.
    Each block reads its rows of the left operand and its columns of the right one.
    """
    row_blocks = np.ceil(rows / figures.block_rows)
    column_blocks = np.ceil(columns / figures.block_columns)
    macs = row_blocks * column_blocks * figures.block_rows * figures.block_columns * depth
    reads = (rows * column_blocks + columns * row_blocks) * depth
    writes = float(rows * columns)
    if accumulates:
        reads += writes
    cycles = macs / figures.macs_per_cycle
    if figures.matrix_port > 0.0:
        cycles = max(cycles, (reads + writes) * figures.element_bytes / figures.matrix_port)
    on_chip = reads * figures.on_chip_read_pj + writes * figures.on_chip_write_pj
    return (
        figures.matrix_startup + cycles,
        rows * columns * depth * figures.pj_per_mac,
        on_chip * figures.element_bytes,
    )


@njit(cache=True, error_model="numpy")
def vector_cost(
    lane_cycles: float, reads: float, writes: float, figures: MachineFigures
) -> tuple[float, float, float]:
    """Return cycles, picojoules of arithmetic and of on-chip memory of work of the vector unit.

    Args:
        lane_cycles: Cycles of all lanes together.
        reads, writes: Elements read from and written to on-chip memory.
        figures: Of the machine.
    """
    cycles = lane_cycles / figures.lanes
    if figures.vector_port > 0.0:
        cycles = max(cycles, (reads + writes) * figures.element_bytes / figures.vector_port)
    on_chip = reads * figures.on_chip_read_pj + writes * figures.on_chip_write_pj
    return (
        figures.vector_startup + cycles,
        lane_cycles * figures.pj_per_lane_cycle,
        on_chip * figures.element_bytes,
    )


@njit(cache=True, error_model="numpy")
def softmax_cost(
    rows: int,
    columns: int,
    mask_elements: int,
    divides: bool,
    accumulates: bool,
    figures: MachineFigures,
) -> tuple[float, float, float]:
    """Return cycles and picojoules of SOFTMAX, or without ``divides`` of EXPONENTIALS.

    To go on with a state costs as much as one more column: the old maximum and the old sum take
    part, and the factor is one more exponential.
    """
    elements = float(rows * columns)
    lane_cycles = elements * figures.exponentials
    if mask_elements > 0:
        lane_cycles += elements * figures.mask
    reads = elements * figures.exponentials_reads + mask_elements
    writes = elements * figures.exponentials_writes
    if divides:
        lane_cycles += elements * figures.divide
        reads += elements * figures.divide_reads
        writes += elements * figures.divide_writes
    else:
        writes += 3.0 * rows
    if accumulates:
        lane_cycles += rows * figures.exponentials
        reads += 2.0 * rows
    return vector_cost(lane_cycles, reads, writes, figures)


@njit(cache=True, error_model="numpy")
def _task_costs(
    table: NDArray[np.int32], figures: MachineFigures
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    num_tasks = table.shape[0]
    cycles = np.zeros(num_tasks)
    energy = np.zeros((num_tasks, 3))
    outer_bytes = np.zeros(num_tasks, np.int64)
    for i in range(num_tasks):
        task = table[i]
        operation = task[col.OPERATION]
        at = col.READ if operation == col.STORE else col.WRITE
        rows, width = int(task[at + 3]), int(task[at + 4])
        if operation in (col.LOAD, col.STORE):
            num_bytes = rows * width * figures.element_bytes
            outer_bytes[i] = int(num_bytes)
            cycles[i] = num_bytes / figures.bytes_per_cycle
            if operation == col.LOAD:
                energy[i, 1] = num_bytes * figures.on_chip_write_pj
                energy[i, 2] = num_bytes * figures.outer_read_pj
            else:
                energy[i, 1] = num_bytes * figures.on_chip_read_pj
                energy[i, 2] = num_bytes * figures.outer_write_pj
            continue
        accumulates = task[col.ACCUMULATES] == 1
        if operation in (col.SCORES, col.OUTPUT):
            depth = int(task[col.READ + 4])
            cost = product_cost(rows, width, depth, accumulates, figures)
        elif operation in (col.SOFTMAX, col.EXPONENTIALS):
            mask = 0
            # The state gone on with stands last among the reads.
            second = task[col.SECOND_READ] != col.NOTHING
            if second or (task[col.READ] != col.NOTHING and not accumulates):
                mask = int(task[col.READ + 3]) * int(task[col.READ + 4])
            divides = operation == col.SOFTMAX
            cost = softmax_cost(rows, width, mask, divides, accumulates, figures)
        else:
            elements = float(rows * width)
            if operation == col.NORMALIZE:
                lane_cycles = elements * figures.divide
                reads = elements * figures.divide_reads + rows
                writes = elements * figures.divide_writes
            else:
                products = 2.0 if operation == col.MERGE else 1.0
                lane_cycles = products * elements * figures.rescale
                reads, writes = 2.0 * elements + products * rows, elements
            cost = vector_cost(lane_cycles, reads, writes, figures)
        cycles[i], energy[i, 0], energy[i, 1] = cost
    return cycles, energy, outer_bytes
