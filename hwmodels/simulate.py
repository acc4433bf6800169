"""A program in virtual time: when each task runs, and what it waited for.

Discrete events. Each stream works through its tasks in order; a task starts when the one before it
on its stream is over, every task it waits for has finished, and the unit is free. The DMA port is
shared by the cores and serves transfers in the order in which they become ready. On a machine
without concurrent units, the matrix and vector tasks of a core share one stream.
"""

from __future__ import annotations

import enum
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.cost import TaskCost, task_cost
from hocket.hwmodels.estimate import Estimate
from hocket.hwmodels.program import Program, Schedule, Task, Unit

if TYPE_CHECKING:
    from hocket.hwmodels.machine import HardwareModel


class Stall(enum.Enum):
    """Why a unit stood idle before a task.

    Each names what came last: data from memory, the other compute unit, the port taken by another
    core's transfer, or an earlier task of this same unit's results still on their way.
    """

    NONE = "none"
    DMA = "waits for a transfer"
    MATRIX = "waits for the matrix unit"
    VECTOR = "waits for the vector unit"
    PORT = "waits for the DMA port"

    def __str__(self) -> str:
        return self.value


_STALL_BY_UNIT = {Unit.DMA: Stall.DMA, Unit.MATRIX: Stall.MATRIX, Unit.VECTOR: Stall.VECTOR}


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


@dataclass(frozen=True)
class Timeline:
    """A simulated program: the program, the machine, and one span a task, by task index."""

    program: Program
    machine: HardwareModel
    spans: tuple[Span, ...]

    @property
    def cycles(self) -> float:
        """Cycles until the last task has finished."""
        return max((span.finish for span in self.spans), default=0.0)

    def stall_cycles(self) -> dict[Unit, dict[Stall, float]]:
        """Return the idle cycles between tasks of each unit, over all cores, by reason."""
        totals: dict[Unit, dict[Stall, float]] = {}
        for task, span in zip(self.program.schedule.tasks, self.spans, strict=True):
            if span.idle_cycles > 0:
                reasons = totals.setdefault(task.unit, {})
                reasons[span.stall] = reasons.get(span.stall, 0.0) + span.idle_cycles
        return totals


def simulate(program: Program, machine: HardwareModel) -> Timeline:
    """Run a program in virtual time.

    Deterministic: transfers that become ready at the same cycle are served in task order.
    """
    schedule = program.schedule
    tasks = schedule.tasks
    costs = task_costs(schedule, machine)
    previous = _previous_on_stream(tasks, machine)
    dependents: list[list[int]] = [[] for _ in tasks]
    pending = [0] * len(tasks)
    for index, task in enumerate(tasks):
        befores = set(task.waits)
        if previous[index] >= 0:
            befores.add(previous[index])
        pending[index] = len(befores)
        for before in befores:
            dependents[before].append(index)

    spans: list[Span | None] = [None] * len(tasks)
    port_free = 0.0
    ready = [(0.0, index) for index in range(len(tasks)) if not pending[index]]
    heapq.heapify(ready)
    while ready:
        # Whatever becomes ready later is ready at a later cycle, so the port's order is right.
        ready_cycle, index = heapq.heappop(ready)
        task, cycles = tasks[index], costs[index].cycles
        start = ready_cycle
        latency = 0.0
        if task.unit is Unit.DMA:
            start = max(ready_cycle, port_free)
            port_free = start + cycles
            latency = machine.dma.latency_cycles
        end = start + cycles
        spans[index] = _make_span(index, start, end, end + latency, tasks, previous, spans)
        for dependent in dependents[index]:
            pending[dependent] -= 1
            if not pending[dependent]:
                cycle = _ready_cycle(dependent, tasks[dependent], previous, spans)
                heapq.heappush(ready, (cycle, dependent))
    return Timeline(program, machine, tuple(span for span in spans if span is not None))


def task_costs(schedule: Schedule, machine: HardwareModel) -> list[TaskCost]:
    """Return the cost of each task; tasks alike in kind and size are costed once."""
    known: dict[object, TaskCost] = {}
    costs = []
    for task in schedule.tasks:
        key = (
            task.operation,
            task.accumulates,
            tuple((block.rows, block.columns) for block in task.blocks),
        )
        if key not in known:
            known[key] = task_cost(task, machine)
        costs.append(known[key])
    return costs


def estimate_program(
    program: Program, machine: HardwareModel, bound_cycles: float
) -> tuple[Estimate, Timeline]:
    """Simulate a program and add up what it takes.

    Args:
        program: A verified program.
        machine: The machine to run it on.
        bound_cycles: Lower bound to state beside the result.
    """
    timeline = simulate(program, machine)
    busy = dict.fromkeys(Unit, 0.0)
    joules = 0.0
    dram_bytes = 0
    costs = task_costs(program.schedule, machine)
    for task, cost in zip(program.schedule.tasks, costs, strict=True):
        busy[task.unit] += cost.cycles
        joules += cost.joules
        dram_bytes += cost.outer_bytes
    seconds = timeline.cycles / machine.clock_hz
    estimate = Estimate(
        cycles=timeline.cycles,
        seconds=seconds,
        joules=joules + machine.leakage_watts * seconds,
        dram_bytes=dram_bytes,
        peak_on_chip_bytes=program.peak_on_chip_bytes,
        matrix_busy_cycles=busy[Unit.MATRIX],
        vector_busy_cycles=busy[Unit.VECTOR],
        dma_busy_cycles=busy[Unit.DMA],
        bound_cycles=bound_cycles,
        num_cores=machine.num_cores,
    )
    return estimate, timeline


def _previous_on_stream(tasks: tuple[Task, ...], machine: HardwareModel) -> list[int]:
    """Return for each task the one before it on its stream, -1 for the first."""
    last: dict[tuple[int, bool, Unit], int] = {}
    previous = []
    for index, task in enumerate(tasks):
        is_compute = task.unit is not Unit.DMA
        shares = is_compute and not machine.has_concurrent_units
        key = (task.core, is_compute, Unit.MATRIX if shares else task.unit)
        previous.append(last.get(key, -1))
        last[key] = index
    return previous


def _ready_cycle(index: int, task: Task, previous: list[int], spans: list[Span | None]) -> float:
    cycle = max((span.finish for wait in task.waits if (span := spans[wait])), default=0.0)
    before = spans[previous[index]] if previous[index] >= 0 else None
    return max(cycle, before.end) if before else cycle


def _make_span(
    index: int,
    start: float,
    end: float,
    finish: float,
    tasks: tuple[Task, ...],
    previous: list[int],
    spans: list[Span | None],
) -> Span:
    before = spans[previous[index]] if previous[index] >= 0 else None
    free = before.end if before else 0.0
    idle = start - free
    stall = Stall.NONE
    if idle > 0:
        stall = Stall.PORT
        for wait in tasks[index].waits:
            span = spans[wait]
            if span is not None and span.finish >= start:
                stall = _STALL_BY_UNIT[tasks[wait].unit]
    return Span(index, start, end, finish, idle, stall)
