"""What one task costs on a machine, alone: cycles of its unit, and joules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.program import Operation, Task
from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel

PICO = 1e-12


@dataclass(frozen=True, slots=True)
class TaskCost:
    """Cost of one task.

    Attributes:
        cycles: How long its unit, or the DMA port, is busy with it.
        compute_joules: Energy of the arithmetic.
        on_chip_joules: Energy of reading and writing on-chip memory.
        outer_joules: Energy of reading and writing the outer memory.
        outer_bytes: Bytes that cross the DMA port.
    """

    cycles: float
    compute_joules: float = 0.0
    on_chip_joules: float = 0.0
    outer_joules: float = 0.0
    outer_bytes: int = 0

    @property
    def joules(self) -> float:
        """Energy of all kinds."""
        return self.compute_joules + self.on_chip_joules + self.outer_joules


def task_cost(task: Task, machine: HardwareModel) -> TaskCost:
    """Return the cost of a task on one core of a machine."""
    if task.operation in (Operation.SCORES, Operation.OUTPUT):
        left = task.reads[0]
        product = task.writes[0]
        return _product_cost(product.rows, product.columns, left.columns, task.accumulates, machine)
    block = task.writes[0] if task.writes else task.reads[0]
    if task.operation is Operation.SOFTMAX:
        num_mask_elements = sum(mask.rows * mask.columns for mask in task.reads)
        return _softmax_cost(block.rows, block.columns, num_mask_elements, machine)
    return _transfer_cost(block.rows * block.columns, task.operation, machine)


def product_cycles(rows: int, columns: int, depth: int, machine: HardwareModel) -> float:
    """Return the cycles of a ``[rows, depth] x [depth, columns]`` product.

    The unit makes the product block by block, each block with its whole depth (output stationary);
    a block that is cut short takes as long as a whole one.
    """
    unit = machine.matrix_unit
    blocks = ceil_div(rows, unit.block_rows) * ceil_div(columns, unit.block_columns)
    macs = blocks * unit.block_rows * unit.block_columns * depth
    return unit.startup_cycles + macs / unit.macs_per_cycle


def softmax_cycles(rows: int, columns: int, is_masked: bool, machine: HardwareModel) -> float:
    """Return the cycles of scaling, masking and normalising ``[rows, columns]`` scores."""
    unit = machine.vector_unit
    lane_cycles = unit.softmax_lane_cycles + (unit.mask_lane_cycles if is_masked else 0.0)
    return unit.startup_cycles + lane_cycles * rows * columns / unit.lanes


def _product_cost(
    rows: int, columns: int, depth: int, accumulates: bool, machine: HardwareModel
) -> TaskCost:
    unit, memory = machine.matrix_unit, machine.on_chip_memory
    # Each block of the product reads its rows of the left operand and columns of the right one.
    reads = rows * depth * ceil_div(columns, unit.block_columns)
    reads += columns * depth * ceil_div(rows, unit.block_rows)
    writes = rows * columns
    if accumulates:
        reads += rows * columns
    return TaskCost(
        cycles=product_cycles(rows, columns, depth, machine),
        compute_joules=rows * columns * depth * unit.pj_per_mac * PICO,
        on_chip_joules=machine.element_bytes
        * (reads * memory.read_pj_per_byte + writes * memory.write_pj_per_byte)
        * PICO,
    )


def _softmax_cost(
    rows: int, columns: int, num_mask_elements: int, machine: HardwareModel
) -> TaskCost:
    unit, memory = machine.vector_unit, machine.on_chip_memory
    elements = rows * columns
    cycles = softmax_cycles(rows, columns, num_mask_elements > 0, machine)
    reads = unit.softmax_reads_per_element * elements + num_mask_elements
    writes = unit.softmax_writes_per_element * elements
    lane_cycles = (cycles - unit.startup_cycles) * unit.lanes
    return TaskCost(
        cycles=cycles,
        compute_joules=lane_cycles * unit.pj_per_lane_cycle * PICO,
        on_chip_joules=machine.element_bytes
        * (reads * memory.read_pj_per_byte + writes * memory.write_pj_per_byte)
        * PICO,
    )


def _transfer_cost(num_elements: int, operation: Operation, machine: HardwareModel) -> TaskCost:
    outer, inner = machine.outer_memory, machine.on_chip_memory
    num_bytes = num_elements * machine.element_bytes
    if operation is Operation.LOAD:
        outer_pj, inner_pj = outer.read_pj_per_byte, inner.write_pj_per_byte
    else:
        outer_pj, inner_pj = outer.write_pj_per_byte, inner.read_pj_per_byte
    return TaskCost(
        cycles=num_bytes / machine.bandwidth_bytes_per_cycle,
        on_chip_joules=num_bytes * inner_pj * PICO,
        outer_joules=num_bytes * outer_pj * PICO,
        outer_bytes=num_bytes,
    )
