"""Where the cycles beyond the bound go: the gap of a program, taken apart by cause.

It is taken apart on the resource that binds: a unit that must be busy for so many cycles anyway is,
beyond these, either idle (at the beginning, at the end, or because it waits) or busy with more than
it must be. The parts add up to the gap.

Of a program too long to build only the beginning is at hand. What recurs in it is scaled to the
extrapolated total, and what does not add up then is a part of its own.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.bottleneck import Resource, binding_resource, busy_cycles
from hocket.compiler.attention.bounds import compulsory_loads, compulsory_stores
from hocket.compiler.attention.tiling import is_masked
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.simulate import STALLS, Stall, simulated_cycles
from hocket.hwmodels.tasks import TENSORS, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from hocket.compiler.attention.bounds import Bounds
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.simulate import Timeline

    Floats = NDArray[np.float64]
    Longs = NDArray[np.int64]
    Mask = NDArray[np.bool_]
    Parts = defaultdict["Cause", float]

_SCORES = TENSORS.index("scores")
_TRANSFER_STALLS = (Stall.LOAD, Stall.STORE, Stall.PORT)
_UNITS_OF = {
    Resource.MATRIX: (Unit.MATRIX,),
    Resource.VECTOR: (Unit.VECTOR,),
    Resource.CORE: (Unit.MATRIX, Unit.VECTOR),
    Resource.DRAM: (Unit.LOAD, Unit.STORE),
}


class Cause(enum.Enum):
    """Why the resource that binds is idle, or busy with more than it must be."""

    FILL = "fill"
    DRAIN = "drain"
    IMBALANCE = "uneven cores"
    STARTUPS = "start-ups"
    PADDING = "block padding"
    PORT = "on-chip port"
    HIDDEN_SCORES = "hidden scores"
    DIVISION = "division of probabilities"
    RESCALING = "rescaling"
    RELOADS = "reloads"
    SPILLS = "spilled scores"
    WAIT_LOAD = str(Stall.LOAD)
    WAIT_STORE = str(Stall.STORE)
    WAIT_MATRIX = str(Stall.MATRIX)
    WAIT_VECTOR = str(Stall.VECTOR)
    WAIT_PORT = str(Stall.PORT)
    REST = "extrapolation"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Loss:
    """One part of the gap.

    Attributes:
        cause: What it is.
        cycles: How much of the gap; averaged over the cores.
    """

    cause: Cause
    cycles: float

    def __str__(self) -> str:
        return f"{self.cause} {self.cycles:,.0f}"


class LossAnalysis:
    """A program in virtual time, taken apart on the resource that binds.

    Attributes:
        binding: That resource.
        tasks: Which tasks it does; of two DMA ports, those of the one that binds.
        scale: How much more there is in the whole than in the part that was simulated.
    """

    def __init__(
        self,
        timeline: Timeline,
        estimate: Estimate,
        problem: AttentionProblem,
        bounds: Bounds,
    ) -> None:
        self.timeline, self.estimate = timeline, estimate
        self.problem, self.bounds = problem, bounds
        self.machine = timeline.machine
        self.schedule = timeline.program.schedule
        self.rows = self.schedule.table.rows
        self.operations = self.rows[:, col.OPERATION]
        self.costs = task_costs(self.schedule, self.machine)
        self.must_load = compulsory_loads(problem, self.machine)
        self.must_store = compulsory_stores(problem, self.machine)
        self.binding = binding_resource(bounds, self.machine)
        units = _UNITS_OF[self.binding]
        if self.binding is Resource.DRAM and self.machine.dma.has_separate_write_port:
            units = (Unit.LOAD,) if self.must_load >= self.must_store else (Unit.STORE,)
        self.tasks = self.done_by(*units)
        busy, whole = (
            float(self.costs.cycles[self.tasks].sum()),
            busy_cycles(self.binding, estimate),
        )
        self.scale = 1.0 if estimate.is_simulated or not busy else whole / busy

    def losses(self) -> tuple[Loss, ...]:
        """Return the parts of the gap that are not nothing, largest first."""
        parts = self._dram_losses() if self.binding is Resource.DRAM else self._compute_losses()
        parts[Cause.REST] = self.estimate.cycles - self.bounds.cycles - sum(parts.values())
        # Rounding of sums over many tasks leaves crumbs.
        crumb = 1e-9 * self.estimate.cycles
        found = [Loss(cause, cycles) for cause, cycles in parts.items() if abs(cycles) > crumb]
        causes = list(Cause)
        return tuple(sorted(found, key=lambda loss: (-loss.cycles, causes.index(loss.cause))))

    def done_by(self, *units: Unit) -> Mask:
        """Return which tasks these units do."""
        return np.isin(self.schedule.table.units, [col.UNITS.index(unit) for unit in units])

    def spills(self) -> Mask:
        """Return which tasks move scores or probabilities."""
        spills: Mask = self.rows[:, col.TENSOR] == _SCORES
        return spills

    def reloads(self) -> Mask:
        """Return which tasks load what was on chip before."""
        loads = np.flatnonzero((self.operations == col.LOAD) & ~self.spills())
        again = np.zeros(len(self.rows), dtype=np.bool_)
        again[loads] = True
        _, first = np.unique(
            self.rows[loads, col.TENSOR : col.COLUMN + 1], axis=0, return_index=True
        )
        again[loads[first]] = False
        return again

    def moved_bytes(self, tasks: Mask) -> float:
        """Return the bytes that these tasks move to and from DRAM, in the whole program."""
        return float(self.costs.outer_bytes[tasks].sum()) * self.scale

    def written_elements(self, *operations: int) -> float:
        """Return the elements that these operations write, in the whole program."""
        elements = self.rows[:, col.WRITE + 3].astype(np.float64) * self.rows[:, col.WRITE + 4]
        return float(elements[np.isin(self.operations, operations)].sum()) * self.scale

    def _compute_losses(self) -> Parts:
        """Take the gap apart on the streams of the unit that binds, averaged over the cores."""
        parts = self._idle_of_streams()
        # The same tasks on machines with one hindrance less each: what a hindrance costs is the
        # difference, so the rules of what a task costs stay in one place.
        stages = [self.costs.cycles]
        stages.extend(
            task_costs(self.schedule, easier).cycles for easier in self._easier_machines()
        )
        sums = [self._cycles_a_core(stage, self.tasks) for stage in stages]
        for cause, before, after in zip(
            (Cause.PORT, Cause.STARTUPS, Cause.PADDING), sums, sums[1:], strict=False
        ):
            parts[cause] = before - after
        self._add_superfluous(parts, stages[-1])
        self._blame_traffic(parts)
        return parts

    def _cycles_a_core(self, cycles: Floats, tasks: Mask) -> float:
        return float(cycles[tasks].sum()) * self.scale / self.machine.num_cores

    def _easier_machines(self) -> Iterable[HardwareModel]:
        """Yield the machine without narrow ports, then without start-ups, too, then blocks."""
        machine = self.machine
        matrix = dataclasses.replace(machine.matrix_unit, port_bytes_per_cycle=0.0)
        vector = dataclasses.replace(machine.vector_unit, port_bytes_per_cycle=0.0)
        yield dataclasses.replace(machine, matrix_unit=matrix, vector_unit=vector)
        matrix = dataclasses.replace(matrix, startup_cycles=0)
        vector = dataclasses.replace(vector, startup_cycles=0)
        yield dataclasses.replace(machine, matrix_unit=matrix, vector_unit=vector)
        matrix = dataclasses.replace(matrix, block_rows=1, block_columns=1)
        yield dataclasses.replace(machine, matrix_unit=matrix, vector_unit=vector)

    def _add_superfluous(self, parts: Parts, cycles: Floats) -> None:
        """Add the work beyond what the bound counts, its cycles free of all hindrances."""
        is_causal = self.problem.is_causal
        if is_causal and self.binding in (Resource.MATRIX, Resource.CORE):
            done = self._cycles_a_core(cycles, self.done_by(Unit.MATRIX))
            parts[Cause.HIDDEN_SCORES] += done - self.bounds.matrix_cycles
        if self.binding in (Resource.VECTOR, Resource.CORE):
            done = self._cycles_a_core(cycles, self.done_by(Unit.VECTOR))
            hidden, division = self._softmax_beyond()
            parts[Cause.HIDDEN_SCORES] += hidden if is_causal else 0.0
            parts[Cause.DIVISION] = division
            parts[Cause.RESCALING] = done - self.bounds.vector_cycles - hidden - division

    def _softmax_beyond(self) -> tuple[float, float]:
        """Return the cycles of scores that causality hides, and of dividing more than is needed."""
        problem, vector = self.problem, self.machine.vector_unit
        scores = self.written_elements(col.SOFTMAX, col.EXPONENTIALS)
        divided = self.written_elements(col.SOFTMAX, col.NORMALIZE)
        outputs = problem.batch * problem.query_heads * problem.query_length * problem.value_dim
        per_score = vector.exponentials_lane_cycles
        if is_masked(problem):
            per_score += vector.mask_lane_cycles
        lanes = vector.lanes * self.machine.num_cores
        hidden = (scores - problem.num_score_elements) * per_score / lanes
        needed = min(problem.num_score_elements, outputs)
        return hidden, (divided - needed) * vector.divide_lane_cycles / lanes

    def _idle_of_streams(self) -> Parts:
        """Return the idle cycles of the binding unit, averaged over the cores."""
        starts, ends, cores = self.timeline.starts, self.timeline.ends, self.machine.num_cores
        of_core = self.rows[:, col.CORE]
        chosen = [np.flatnonzero(self.tasks & (of_core == core)) for core in range(cores)]
        last = max((float(ends[tasks[-1]]) for tasks in chosen if len(tasks)), default=0.0)
        parts: Parts = defaultdict(float)
        for tasks in chosen:
            if not len(tasks):
                parts[Cause.IMBALANCE] += last * self.scale / cores
                continue
            parts[Cause.FILL] += float(starts[tasks[0]]) / cores
            parts[Cause.IMBALANCE] += (last - float(ends[tasks[-1]])) / cores
            self._add_waits(parts, tasks[1:], self.timeline.idle_cycles[tasks[1:]] / cores)
        parts[Cause.DRAIN] = self.timeline.cycles - last
        return parts

    def _add_waits(self, parts: Parts, tasks: Longs, idle: Floats) -> None:
        totals = np.bincount(self.timeline.stalls[tasks], weights=idle, minlength=len(STALLS))
        for stall, cycles in zip(STALLS, totals.tolist(), strict=True):
            if stall is not Stall.NONE:
                parts[Cause(str(stall))] += cycles * self.scale

    def _blame_traffic(self, parts: Parts) -> None:
        """Turn waits for transfers into reloads and spills, as far as these are to blame.

        To blame is what the program would gain if such transfers took no time.
        """
        cycles, before = self.costs.cycles.copy(), self.timeline.cycles
        for cause, chosen in ((Cause.SPILLS, self.spills()), (Cause.RELOADS, self.reloads())):
            if not chosen.any():
                continue
            cycles[chosen] = 0.0
            easier = dataclasses.replace(self.costs, cycles=cycles)
            after = simulated_cycles(self.schedule, easier, self.machine)
            blame = max(before - after, 0.0) * self.scale
            before = after
            for stall in _TRANSFER_STALLS:
                wait = Cause(str(stall))
                part = min(blame, parts[wait])
                parts[wait] -= part
                parts[cause] += part
                blame -= part

    def _dram_losses(self) -> Parts:
        """Take the gap apart on the DMA port that binds."""
        must = self.must_load + self.must_store
        if self.machine.dma.has_separate_write_port:
            must = max(self.must_load, self.must_store)
        tasks = np.flatnonzero(self.tasks)
        tasks = tasks[np.argsort(self.timeline.starts[tasks], kind="stable")]
        starts, ends = self.timeline.starts[tasks], self.timeline.ends[tasks]
        busy_until = np.maximum.accumulate(ends)
        parts: Parts = defaultdict(float)
        parts[Cause.FILL] = float(starts[0])
        parts[Cause.DRAIN] = self.timeline.cycles - float(busy_until[-1])
        self._add_waits(parts, tasks[1:], np.maximum(starts[1:] - busy_until[:-1], 0.0))
        per_cycle = self.machine.bandwidth_bytes_per_cycle
        spilled = self.moved_bytes(self.tasks & self.spills())
        parts[Cause.SPILLS] = spilled / per_cycle
        parts[Cause.RELOADS] = (self.moved_bytes(self.tasks) - spilled - must) / per_cycle
        return parts
