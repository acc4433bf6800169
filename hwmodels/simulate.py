"""A program in virtual time: when each task runs, and what it waited for.

A program fixes the order of work on every unit and on the DMA engine, so nothing is left to chance:
a task starts when the one before it on its stream is over, every task it waits for has finished,
and its port is free. Its time is a longest path, and so it never grows when any unit gets faster or
any transfer shorter. The DMA engine serves transfers in the order of the program: one at a time on
a machine with one port, a load and a store at once on a machine with a port for each. On a machine
without concurrent units, the matrix and vector tasks of a core take turns in program order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import PICO, TaskCosts, task_costs
from hocket.hwmodels.estimate import Estimate
from hocket.hwmodels.tasks import TENSORS, Unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program, Schedule

    Floats = NDArray[np.float64]


class Stall(enum.Enum):
    """Why a unit stood idle before a task: what came last before it could start."""

    NONE = "none"
    LOAD = "waits for a load"
    STORE = "waits for a store"
    MATRIX = "waits for the matrix unit"
    VECTOR = "waits for the vector unit"
    PORT = "waits for the DMA port"

    def __str__(self) -> str:
        return self.value


STALLS = tuple(Stall)

# A stall's number by the stream, of four kinds, that caused it.
_STALL_OF_LOAD, _STALL_OF_STORE, _STALL_OF_MATRIX, _STALL_OF_VECTOR, _STALL_OF_PORT = range(1, 6)


@dataclass(frozen=True, slots=True)
class Span:
    """One task in time.

    Attributes:
        task: Its index in the schedule.
        start, end: Cycles in which its unit is busy with it.
        finish: Cycle from which others may use what it made; later than ``end`` by the latency of
            a transfer.
        idle_cycles: How long its unit stood idle before it.
        stall: Why.
    """

    task: int
    start: float
    end: float
    finish: float
    idle_cycles: float
    stall: Stall


@dataclass(frozen=True, eq=False)
class Timeline:
    """A simulated program.

    Attributes:
        program: The program.
        machine: The machine.
        starts, ends, idle_cycles: Cycles, one a task.
        stalls: Index into ``STALLS``, one a task.
    """

    program: Program
    machine: HardwareModel
    starts: Floats
    ends: Floats
    idle_cycles: Floats
    stalls: NDArray[np.int8]

    @property
    def cycles(self) -> float:
        """Cycles until the last task has finished."""
        return float(self.finishes.max()) if len(self.ends) else 0.0

    @cached_property
    def finishes(self) -> Floats:
        """Cycle from which others may use what each task made."""
        units = self.program.schedule.table.units
        is_transfer = np.isin(units, [col.UNITS.index(unit) for unit in Unit if unit.is_transfer])
        return self.ends + np.where(is_transfer, self.machine.dma.latency_cycles, 0)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """One object a task; for looking at, not for a million of them."""
        fields = (self.starts, self.ends, self.finishes, self.idle_cycles)
        numbers = zip(*(each.tolist() for each in fields), self.stalls.tolist(), strict=True)
        return tuple(
            Span(index, start, end, finish, idle, STALLS[stall])
            for index, (start, end, finish, idle, stall) in enumerate(numbers)
        )

    def stall_cycles(self) -> dict[Unit, dict[Stall, float]]:
        """Return the idle cycles between tasks of each unit, over all cores, by reason."""
        units = self.program.schedule.table.units
        totals: dict[Unit, dict[Stall, float]] = {}
        for number, unit in enumerate(col.UNITS):
            for reason, stall in enumerate(STALLS):
                chosen = (units == number) & (self.stalls == reason) & (self.idle_cycles > 0)
                if chosen.any():
                    totals.setdefault(unit, {})[stall] = float(self.idle_cycles[chosen].sum())
        return totals


def simulate(program: Program, machine: HardwareModel) -> Timeline:
    """Run a program in virtual time."""
    costs = task_costs(program.schedule, machine)
    return _timeline(program, machine, costs)


def estimate_program(
    program: Program, machine: HardwareModel, bound_cycles: float
) -> tuple[Estimate, Timeline]:
    """Simulate a program and add up what it takes.

    Args:
        program: A verified program.
        machine: The machine to run it on.
        bound_cycles: Lower bound to state beside the result.
    """
    costs = task_costs(program.schedule, machine)
    timeline = _timeline(program, machine, costs)
    estimate = add_up(
        program.schedule, costs, timeline.cycles, program.peak_on_chip_bytes, machine, bound_cycles
    )
    return estimate, timeline


def add_up(
    schedule: Schedule,
    costs: TaskCosts,
    cycles: float,
    peak_on_chip_bytes: int,
    machine: HardwareModel,
    bound_cycles: float,
) -> Estimate:
    """Return the estimate of a schedule whose cycles are known."""
    busy = np.bincount(schedule.table.units, weights=costs.cycles, minlength=len(col.UNITS))
    seconds = cycles / machine.clock_hz
    compute, on_chip, outer = (costs.picojoules.sum(axis=0) * PICO).tolist()
    leakage = machine.leakage_watts * seconds
    tensors = schedule.table.rows[:, col.TENSOR]
    moved = tensors != col.NOTHING
    by_tensor = np.bincount(
        tensors[moved], weights=costs.outer_bytes[moved], minlength=len(TENSORS)
    )
    return Estimate(
        cycles=cycles,
        seconds=seconds,
        compute_joules=compute,
        on_chip_joules=on_chip,
        dram_joules=outer,
        leakage_joules=leakage,
        dram_bytes_by_tensor=tuple(
            (tensor, int(count)) for tensor, count in zip(TENSORS, by_tensor, strict=True) if count
        ),
        peak_on_chip_bytes=peak_on_chip_bytes,
        matrix_busy_cycles=float(busy[col.UNITS.index(Unit.MATRIX)]),
        vector_busy_cycles=float(busy[col.UNITS.index(Unit.VECTOR)]),
        load_busy_cycles=float(busy[col.UNITS.index(Unit.LOAD)]),
        store_busy_cycles=float(busy[col.UNITS.index(Unit.STORE)]),
        bound_cycles=bound_cycles,
        num_cores=machine.num_cores,
        num_dma_ports=2 if machine.dma.has_separate_write_port else 1,
    )


def simulated_cycles(schedule: Schedule, costs: TaskCosts, machine: HardwareModel) -> float:
    """Return only how long a schedule takes."""
    cycles: float = _simulate(*_arguments(schedule, costs, machine))[0]
    return cycles


def _timeline(program: Program, machine: HardwareModel, costs: TaskCosts) -> Timeline:
    found = _simulate(*_arguments(program.schedule, costs, machine))
    return Timeline(program, machine, *found[1:])


def _arguments(schedule: Schedule, costs: TaskCosts, machine: HardwareModel) -> tuple[Any, ...]:
    table = schedule.table
    streams = table.stream_numbers()
    if not machine.has_concurrent_units:
        streams = np.where(streams >= 2, streams & ~1, streams).astype(np.int32)
    return (
        streams,
        table.stream_numbers(),
        table.wait_ends,
        table.waits,
        costs.cycles,
        float(machine.dma.latency_cycles),
        machine.dma.has_separate_write_port,
    )


@njit(cache=True, error_model="numpy")
def _simulate(
    streams: NDArray[np.int32],
    kinds: NDArray[np.int32],
    wait_ends: NDArray[np.int64],
    waits: NDArray[np.int32],
    cycles: Floats,
    latency: float,
    has_separate_write_port: bool,
) -> tuple[float, Floats, Floats, Floats, NDArray[np.int8]]:
    num_tasks = len(streams)
    starts = np.empty(num_tasks)
    ends = np.empty(num_tasks)
    idle = np.empty(num_tasks)
    stalls = np.zeros(num_tasks, np.int8)
    free = np.zeros(streams.max() + 1 if num_tasks else 1)
    port_free = 0.0
    last = 0.0
    for i in range(num_tasks):
        stream = streams[i]
        before = free[stream]
        start = before
        reason = 0
        if stream < 2 and not has_separate_write_port and port_free > start:
            start = port_free
            reason = _STALL_OF_PORT
        for at in range(wait_ends[i], wait_ends[i + 1]):
            wait = waits[at]
            kind = kinds[wait]
            finish = ends[wait] + latency if kind < 2 else ends[wait]
            if finish > start:
                start = finish
                if kind < 2:
                    reason = _STALL_OF_LOAD if kind == 0 else _STALL_OF_STORE
                else:
                    reason = _STALL_OF_MATRIX if kind % 2 == 0 else _STALL_OF_VECTOR
        end = start + cycles[i]
        starts[i] = start
        ends[i] = end
        idle[i] = start - before
        stalls[i] = reason
        free[stream] = end
        finish = end
        if stream < 2:
            port_free = max(port_free, end)
            finish = end + latency
        last = max(last, finish)
    return last, starts, ends, idle, stalls
