"""Why a program takes as long as it does: what separates it from the bound, and what would help.

The gap between a program's cycles and the lower bound is taken apart on the resource that binds: a
unit that must be busy for so many cycles anyway is, beyond these, either idle (at the beginning, at
the end, or because it waits) or busy with more than it must be. The parts add up to the gap.

Of a program too long to build only the beginning is at hand. What recurs in it is scaled to the
extrapolated total, and what does not add up then is a part of its own.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.bounds import compulsory_loads, compulsory_stores, lower_bounds
from hocket.compiler.attention.tiling import is_masked
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.simulate import STALLS, Stall, simulate, simulated_cycles
from hocket.hwmodels.tasks import TENSORS, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from hocket.compiler.attention.bounds import Bounds
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program
    from hocket.hwmodels.simulate import Timeline

    Floats = NDArray[np.float64]

AT_THE_BOUND = 1.01
"""Up to this ratio to the bound, only a faster machine is worth naming as the next lever."""

SATURATED = 0.9
"""From this share of the time on, a unit counts as busy throughout."""

_SCORES = TENSORS.index("scores")
_TRANSFER_STALLS = (Stall.LOAD, Stall.STORE, Stall.PORT)


class Resource(enum.Enum):
    """What can bind: a unit of each core, both where they take turns, or the way to DRAM."""

    MATRIX = "matrix unit"
    VECTOR = "vector unit"
    CORE = "core (its units take turns)"
    DRAM = "DRAM port"

    def __str__(self) -> str:
        return self.value


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


@dataclass(frozen=True)
class Explanation:
    """What separates a program from the bound.

    Attributes:
        cycles: What the program takes.
        bound_cycles: What no program for this problem on this machine beats.
        binding: The resource that gives this bound.
        matrix_utilization, vector_utilization, dma_utilization: Share of the time in which the
            units of all cores, and the busier DMA port, work.
        binding_utilization: The same of the resource that binds.
        losses: Parts of the gap, largest first; they add up to it.
        next_lever: What to change first, in words and numbers.
        doubled_bound_cycles: The bound on a machine with twice as much of the binding resource.
    """

    cycles: float
    bound_cycles: float
    binding: Resource
    matrix_utilization: float
    vector_utilization: float
    dma_utilization: float
    binding_utilization: float
    losses: tuple[Loss, ...]
    next_lever: str
    doubled_bound_cycles: float

    @property
    def of_bound(self) -> float:
        """Cycles over the bound; 1 is the limit."""
        return self.cycles / self.bound_cycles if self.bound_cycles else 1.0

    @property
    def gap_cycles(self) -> float:
        """Cycles beyond the bound."""
        return self.cycles - self.bound_cycles

    def __str__(self) -> str:
        return (
            f"{_ratio(self.of_bound)} of the bound; {self.binding} busy "
            f"{self.binding_utilization:.0%}; next lever: {self.next_lever}"
        )


def explain(result: SearchResult, problem: AttentionProblem, machine: HardwareModel) -> Explanation:
    """Return why the best program of a search takes as long as it does."""
    return explain_program(result.best.program, result.best.estimate, problem, machine)


def explain_program(
    program: Program,
    estimate: Estimate,
    problem: AttentionProblem,
    machine: HardwareModel,
    timeline: Timeline | None = None,
) -> Explanation:
    """Return why a program takes as long as it does.

    Args:
        program: The program; the beginning of it if the estimate is not simulated.
        estimate: What the whole program takes.
        problem: What it computes.
        machine: What it runs on.
        timeline: The program in virtual time, if that is at hand.
    """
    bounds = lower_bounds(problem, machine)
    analysis = _Analysis(timeline or simulate(program, machine), estimate, problem, bounds)
    losses = analysis.losses()
    doubled, text = _double(analysis.binding, problem, machine, bounds)
    named = [loss for loss in losses if loss.cause is not Cause.REST and loss.cycles > 0]
    if named and estimate.cycles > AT_THE_BOUND * bounds.cycles:
        largest = named[0]
        part = largest.cycles / (estimate.cycles - bounds.cycles)
        share = f"{largest.cycles:,.0f} cycles, {part:.0%} of the gap"
        text = f"{largest.cause} ({share}): {analysis.advice(largest.cause)}"
    return Explanation(
        cycles=estimate.cycles,
        bound_cycles=bounds.cycles,
        binding=analysis.binding,
        matrix_utilization=estimate.matrix_utilization,
        vector_utilization=estimate.vector_utilization,
        dma_utilization=estimate.dma_utilization,
        binding_utilization=analysis.utilization(analysis.binding),
        losses=losses,
        next_lever=text,
        doubled_bound_cycles=doubled.cycles,
    )


def binding_resource(bounds: Bounds, machine: HardwareModel) -> Resource:
    """Return the resource that gives the bound."""
    compute = max(bounds.matrix_cycles, bounds.vector_cycles)
    if not machine.has_concurrent_units:
        compute = bounds.matrix_cycles + bounds.vector_cycles
    if bounds.dma_cycles > compute:
        return Resource.DRAM
    if not machine.has_concurrent_units:
        return Resource.CORE
    is_matrix = bounds.matrix_cycles >= bounds.vector_cycles
    return Resource.MATRIX if is_matrix else Resource.VECTOR


def _double(
    binding: Resource, problem: AttentionProblem, machine: HardwareModel, bounds: Bounds
) -> tuple[Bounds, str]:
    """Return the bounds with twice as much of the binding resource, and a sentence on it."""
    doubled = binding
    if binding is Resource.CORE:
        is_matrix = bounds.matrix_cycles >= bounds.vector_cycles
        doubled = Resource.MATRIX if is_matrix else Resource.VECTOR
    matrix, vector, dma = machine.matrix_unit, machine.vector_unit, machine.dma
    if doubled is Resource.MATRIX:
        what = "multiply-accumulates a cycle"
        faster = dataclasses.replace(
            machine,
            matrix_unit=dataclasses.replace(matrix, macs_per_cycle=2 * matrix.macs_per_cycle),
        )
    elif doubled is Resource.VECTOR:
        what = "vector lanes"
        faster = dataclasses.replace(
            machine, vector_unit=dataclasses.replace(vector, lanes=2 * vector.lanes)
        )
    else:
        what = "DRAM bandwidth"
        twice = 2 * dma.bandwidth_bytes_per_second
        faster = dataclasses.replace(
            machine, dma=dataclasses.replace(dma, bandwidth_bytes_per_second=twice)
        )
    then = lower_bounds(problem, faster)
    gain = bounds.cycles / then.cycles if then.cycles else 1.0
    next_one = binding_resource(then, faster)
    binds = f"the {next_one} still binds" if next_one is binding else f"then the {next_one} binds"
    return then, (
        f"more {what}: x2 would bring the bound from {bounds.cycles:,.0f} to {then.cycles:,.0f} "
        f"cycles ({gain:.2f}x; {binds})"
    )


class _Analysis:
    """A program in virtual time, taken apart on the resource that binds."""

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
        self.table = self.schedule.table
        self.rows = self.table.rows
        self.operations = self.rows[:, col.OPERATION]
        self.units = self.table.units
        self.costs = task_costs(self.schedule, self.machine)
        self.cores = self.machine.num_cores
        self.binding = binding_resource(bounds, self.machine)
        self.tasks = self._tasks_of_binding()
        busy = float(self.costs.cycles[self.tasks].sum())
        # How much more there is in the whole than in the part that was simulated.
        self.scale = 1.0 if estimate.is_simulated or not busy else self._busy_cycles() / busy

    def losses(self) -> tuple[Loss, ...]:
        """Return the parts of the gap that are not nothing, largest first."""
        is_dram = self.binding is Resource.DRAM
        parts = self._dram_losses() if is_dram else self._compute_losses()
        gap = self.estimate.cycles - self.bounds.cycles
        _add(parts, Cause.REST, gap - sum(parts.values()))
        # Rounding of sums over many tasks leaves crumbs.
        crumb = 1e-9 * self.estimate.cycles
        found = [Loss(cause, cycles) for cause, cycles in parts.items() if abs(cycles) > crumb]
        causes = list(Cause)
        return tuple(sorted(found, key=lambda loss: (-loss.cycles, causes.index(loss.cause))))

    def utilization(self, resource: Resource) -> float:
        """Return the share of the time in which a resource works."""
        estimate = self.estimate
        return {
            Resource.MATRIX: estimate.matrix_utilization,
            Resource.VECTOR: estimate.vector_utilization,
            Resource.CORE: estimate.matrix_utilization + estimate.vector_utilization,
            Resource.DRAM: estimate.dma_utilization,
        }[resource]

    def _busy_cycles(self) -> float:
        """Return how long all units of the binding resource work, in the whole program."""
        estimate = self.estimate
        return {
            Resource.MATRIX: estimate.matrix_busy_cycles,
            Resource.VECTOR: estimate.vector_busy_cycles,
            Resource.CORE: estimate.matrix_busy_cycles + estimate.vector_busy_cycles,
            Resource.DRAM: estimate.dma_busy_cycles,
        }[self.binding]

    def _tasks_of_binding(self) -> NDArray[np.bool_]:
        """Return which tasks the binding resource does; of two DMA ports the one that binds."""
        wanted: tuple[Unit, ...] = {
            Resource.MATRIX: (Unit.MATRIX,),
            Resource.VECTOR: (Unit.VECTOR,),
            Resource.CORE: (Unit.MATRIX, Unit.VECTOR),
            Resource.DRAM: (Unit.LOAD, Unit.STORE),
        }[self.binding]
        if self.binding is Resource.DRAM and self.machine.dma.has_separate_write_port:
            wanted = (Unit.LOAD,) if self._loads_bind() else (Unit.STORE,)
        return np.isin(self.units, [col.UNITS.index(unit) for unit in wanted])

    def _loads_bind(self) -> bool:
        loads = compulsory_loads(self.problem, self.machine)
        return loads >= compulsory_stores(self.problem, self.machine)

    def _compute_losses(self) -> dict[Cause, float]:
        """Take the gap apart on the streams of the unit that binds, averaged over the cores."""
        parts = self._idle_of_streams()
        is_matrix = self.units == col.UNITS.index(Unit.MATRIX)
        is_vector = self.units == col.UNITS.index(Unit.VECTOR)
        # The same tasks on machines with one hindrance less each: what a hindrance costs is the
        # difference, so the rules of what a task costs stay in one place.
        stages = [self.costs.cycles]
        stages.extend(
            task_costs(self.schedule, easier).cycles for easier in self._easier_machines()
        )
        sums = [float(stage[self.tasks].sum()) * self.scale / self.cores for stage in stages]
        for cause, before, after in zip(
            (Cause.PORT, Cause.STARTUPS, Cause.PADDING), sums, sums[1:], strict=False
        ):
            _add(parts, cause, before - after)
        for cause, cycles in self._superfluous(stages[-1], is_matrix, is_vector).items():
            _add(parts, cause, cycles)
        self._blame_traffic(parts)
        return parts

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

    def _superfluous(
        self, cycles: Floats, is_matrix: NDArray[np.bool_], is_vector: NDArray[np.bool_]
    ) -> dict[Cause, float]:
        """Return by cause the work beyond what the bound counts, free of all hindrances."""
        parts: dict[Cause, float] = {}
        is_causal = self.problem.is_causal
        if is_causal and self.binding in (Resource.MATRIX, Resource.CORE):
            done = float(cycles[is_matrix].sum()) * self.scale / self.cores
            _add(parts, Cause.HIDDEN_SCORES, done - self.bounds.matrix_cycles)
        if self.binding in (Resource.VECTOR, Resource.CORE):
            done = float(cycles[is_vector].sum()) * self.scale / self.cores
            hidden, division = self._softmax_beyond()
            _add(parts, Cause.HIDDEN_SCORES, hidden if is_causal else 0.0)
            _add(parts, Cause.DIVISION, division)
            rescaling = done - self.bounds.vector_cycles - hidden - division
            _add(parts, Cause.RESCALING, rescaling)
        return parts

    def _softmax_beyond(self) -> tuple[float, float]:
        """Return the cycles of scores that causality hides, and of dividing more than is needed."""
        problem, vector = self.problem, self.machine.vector_unit
        elements = self.rows[:, col.WRITE + 3].astype(np.float64) * self.rows[:, col.WRITE + 4]
        is_softmax = self.operations == col.SOFTMAX
        scores = (
            float(elements[is_softmax | (self.operations == col.EXPONENTIALS)].sum()) * self.scale
        )
        divided = (
            float(elements[is_softmax | (self.operations == col.NORMALIZE)].sum()) * self.scale
        )
        outputs = problem.batch * problem.query_heads * problem.query_length * problem.value_dim
        per_score = vector.exponentials_lane_cycles
        if is_masked(problem):
            per_score += vector.mask_lane_cycles
        lanes = vector.lanes * self.cores
        hidden = (scores - problem.num_score_elements) * per_score / lanes
        needed = min(problem.num_score_elements, outputs)
        return hidden, (divided - needed) * vector.divide_lane_cycles / lanes

    def _idle_of_streams(self) -> dict[Cause, float]:
        """Return the idle cycles of the binding unit, averaged over the cores."""
        streams = self.table.stream_numbers()
        if self.binding is Resource.CORE:
            streams = np.where(streams >= 2, streams & ~1, streams)
        first_stream = 3 if self.binding is Resource.VECTOR else 2
        chosen = [np.flatnonzero(streams == first_stream + 2 * core) for core in range(self.cores)]
        last = max(
            (float(self.timeline.ends[tasks[-1]]) for tasks in chosen if len(tasks)), default=0.0
        )
        parts: dict[Cause, float] = {}
        for tasks in chosen:
            if not len(tasks):
                _add(parts, Cause.IMBALANCE, last * self.scale / self.cores)
                continue
            _add(parts, Cause.FILL, float(self.timeline.starts[tasks[0]]) / self.cores)
            own_end = float(self.timeline.ends[tasks[-1]])
            _add(parts, Cause.IMBALANCE, (last - own_end) / self.cores)
            self._add_waits(parts, tasks[1:], self.timeline.idle_cycles[tasks[1:]] / self.cores)
        _add(parts, Cause.DRAIN, self.timeline.cycles - last)
        return parts

    def _add_waits(self, parts: dict[Cause, float], tasks: NDArray[np.int64], idle: Floats) -> None:
        totals = np.bincount(self.timeline.stalls[tasks], weights=idle, minlength=len(STALLS))
        for stall, cycles in zip(STALLS, totals.tolist(), strict=True):
            if stall is not Stall.NONE:
                _add(parts, Cause(str(stall)), cycles * self.scale)

    def _blame_traffic(self, parts: dict[Cause, float]) -> None:
        """Turn waits for transfers into reloads and spills, as far as these are to blame.

        To blame is what the program would gain if such transfers took no time.
        """
        cycles, before = self.costs.cycles.copy(), self.timeline.cycles
        for cause, chosen in (
            (Cause.SPILLS, self._spills()),
            (Cause.RELOADS, self._reloads()),
        ):
            if not chosen.any():
                continue
            cycles[chosen] = 0.0
            easier = dataclasses.replace(self.costs, cycles=cycles)
            after = simulated_cycles(self.schedule, easier, self.machine)
            blame = max(before - after, 0.0) * self.scale
            before = after
            for stall in _TRANSFER_STALLS:
                wait = Cause(str(stall))
                part = min(blame, parts.get(wait, 0.0))
                _add(parts, wait, -part)
                _add(parts, cause, part)
                blame -= part

    def _spills(self) -> NDArray[np.bool_]:
        """Return which tasks move scores or probabilities."""
        spills: NDArray[np.bool_] = self.rows[:, col.TENSOR] == _SCORES
        return spills

    def _reloads(self) -> NDArray[np.bool_]:
        """Return which tasks load what was on chip before."""
        loads = np.flatnonzero((self.operations == col.LOAD) & ~self._spills())
        again = np.zeros(len(self.rows), dtype=np.bool_)
        again[loads] = True
        _, first = np.unique(
            self.rows[loads, col.TENSOR : col.COLUMN + 1], axis=0, return_index=True
        )
        again[loads[first]] = False
        return again

    def _dram_losses(self) -> dict[Cause, float]:
        """Take the gap apart on the DMA port that binds."""
        machine = self.machine
        must_load = compulsory_loads(self.problem, machine)
        must_store = compulsory_stores(self.problem, machine)
        must = must_load + must_store
        if machine.dma.has_separate_write_port:
            must = max(must_load, must_store)
        tasks = np.flatnonzero(self.tasks)
        tasks = tasks[np.argsort(self.timeline.starts[tasks], kind="stable")]
        parts: dict[Cause, float] = {}
        starts, ends = self.timeline.starts[tasks], self.timeline.ends[tasks]
        busy_until = np.maximum.accumulate(ends)
        _add(parts, Cause.FILL, float(starts[0]))
        _add(parts, Cause.DRAIN, self.timeline.cycles - float(busy_until[-1]))
        self._add_waits(parts, tasks[1:], np.maximum(starts[1:] - busy_until[:-1], 0.0))
        per_cycle = machine.bandwidth_bytes_per_cycle
        spilled = float(self.costs.outer_bytes[self.tasks & self._spills()].sum()) * self.scale
        moved = float(self.costs.outer_bytes[self.tasks].sum()) * self.scale
        _add(parts, Cause.SPILLS, spilled / per_cycle)
        _add(parts, Cause.RELOADS, (moved - spilled - must) / per_cycle)
        return parts

    def advice(self, cause: Cause) -> str:
        """Return what to do about a loss, with the figures that matter."""
        advisers = {
            Cause.FILL: self._advise_fill,
            Cause.DRAIN: self._advise_drain,
            Cause.IMBALANCE: self._advise_imbalance,
            Cause.STARTUPS: self._advise_startups,
            Cause.PADDING: self._advise_padding,
            Cause.PORT: self._advise_port,
            Cause.HIDDEN_SCORES: self._advise_hidden_scores,
            Cause.DIVISION: self._advise_division,
            Cause.RESCALING: self._advise_rescaling,
            Cause.RELOADS: self._advise_reloads,
            Cause.SPILLS: self._advise_spills,
            Cause.WAIT_LOAD: self._advise_wait_load,
            Cause.WAIT_STORE: self._advise_wait_store,
            Cause.WAIT_MATRIX: self._advise_wait_matrix,
            Cause.WAIT_VECTOR: self._advise_wait_vector,
            Cause.WAIT_PORT: self._advise_wait_port,
        }
        return advisers[cause]()

    def _advise_fill(self) -> str:
        starts = self.timeline.starts[self.tasks]
        is_before = (self.units == col.UNITS.index(Unit.LOAD)) & (
            self.timeline.starts < float(starts.min(initial=np.inf))
        )
        loaded = int(self.costs.outer_bytes[is_before].sum())
        return (
            f"the {self.binding} begins when {loaded:,} bytes have been loaded; smaller first "
            "tiles or more DRAM bandwidth would let it begin earlier"
        )

    def _advise_drain(self) -> str:
        last = float(self.timeline.ends[self.tasks].max(initial=0.0))
        is_after = self.timeline.ends > last
        stored = int(self.costs.outer_bytes[is_after].sum())
        if not is_after.any():
            return "only the latency of the last transfer is left; a DMA engine with less of it"
        return (
            f"after the {self.binding} is done, {int(is_after.sum())} tasks are left and "
            f"{stored:,} bytes move; smaller last row blocks would leave less"
        )

    def _advise_imbalance(self) -> str:
        used = len(np.unique(self.rows[self.tasks, col.CORE]))
        if used < self.cores:
            peak = self.timeline.program.peak_on_chip_bytes
            capacity = self.machine.on_chip_memory.capacity_bytes
            return (
                f"only {used} of {self.cores} cores work; more on-chip memory ({peak:,} of "
                f"{capacity:,} bytes are in use), or a dataflow whose cores share heads (hocket)"
            )
        return (
            f"the {self.cores} cores finish at different times; row blocks that share out evenly, "
            "or cores that share rows in place of heads"
        )

    def _advise_startups(self) -> str:
        chosen = self.tasks
        mean = float(self.costs.cycles[chosen].mean())
        return f"{int(chosen.sum()):,} tasks of {mean:,.0f} cycles each; larger tiles, fewer tasks"

    def _advise_padding(self) -> str:
        unit, problem = self.machine.matrix_unit, self.problem
        is_scores = self.operations == col.SCORES
        sizes = self.rows[is_scores, col.WRITE + 3 : col.WRITE + 5]
        kinds, counts = np.unique(sizes, axis=0, return_counts=True)
        rows, columns = kinds[counts.argmax()].tolist()
        text = (
            f"most products are of {rows}x{columns} scores, and the matrix unit makes blocks of "
            f"{unit.block_rows}x{unit.block_columns}"
        )
        lengths = {
            f"{problem.query_length} query rows": problem.query_length % unit.block_rows,
            f"{problem.kv_length} keys": problem.kv_length % unit.block_columns,
            f"{problem.value_dim} columns": problem.value_dim % unit.block_columns,
        }
        odd = " and ".join(name for name, rest in lengths.items() if rest)
        if odd:
            return f"{text}, into which {odd} do not go; stacking heads, or smaller blocks"
        return f"{text}; tiles that are multiples of these, given on-chip memory for them"

    def _advise_port(self) -> str:
        return "operands come too slowly from on-chip memory; larger tiles, or wider ports"

    def _advise_hidden_scores(self) -> str:
        is_scores = self.operations == col.SCORES
        elements = self.rows[:, col.WRITE + 3].astype(np.float64) * self.rows[:, col.WRITE + 4]
        made = float(elements[is_scores].sum()) * self.scale
        return (
            f"{made / self.problem.num_score_elements:.2f}x the scores that causality leaves are "
            "computed; smaller query and key tiles, or a dataflow that leaves them out (hocket)"
        )

    def _advise_division(self) -> str:
        return (
            "probabilities are divided although the output is narrower; a deferred softmax "
            "(dataflow hocket)"
        )

    def _advise_rescaling(self) -> str:
        kinds = (col.RESCALE, col.MERGE)
        count = int(np.isin(self.operations, kinds).sum())
        return f"{count:,} outputs are rescaled or merged; larger key tiles ask for fewer"

    def _advise_reloads(self) -> str:
        num_bytes = int(self.costs.outer_bytes[self._reloads()].sum() * self.scale)
        capacity = self.machine.on_chip_memory.capacity_bytes
        peak = self.timeline.program.peak_on_chip_bytes
        return (
            f"{num_bytes:,} bytes are loaded again; more on-chip memory ({peak:,} of {capacity:,} "
            "bytes are in use), or more query rows in a row block"
        )

    def _advise_spills(self) -> str:
        num_bytes = int(self.costs.outer_bytes[self._spills()].sum() * self.scale)
        return (
            f"{num_bytes:,} bytes of scores and probabilities go to DRAM and back; a dataflow that "
            "keeps them on chip"
        )

    def _advise_wait_load(self) -> str:
        busy = self.utilization(Resource.DRAM)
        if busy >= SATURATED:
            return f"the DRAM port is busy {busy:.0%}; more DRAM bandwidth"
        return (
            f"the DRAM port is busy {busy:.0%} of the time; loads further ahead, or more tiles "
            "kept on chip"
        )

    def _advise_wait_port(self) -> str:
        if self.machine.dma.has_separate_write_port:
            return self._advise_wait_load()
        return f"{self._advise_wait_load()}, or a port of their own for stores"

    def _advise_wait_store(self) -> str:
        return "buffers are free only when they are stored; more output rows on chip"

    def _advise_wait_matrix(self) -> str:
        return self._advise_wait_for(Resource.MATRIX)

    def _advise_wait_vector(self) -> str:
        return self._advise_wait_for(Resource.VECTOR)

    def _advise_wait_for(self, other: Resource) -> str:
        busy = self.utilization(other)
        if busy >= SATURATED:
            return f"the {other} is busy {busy:.0%}; less work for it, or more of it"
        if self.binding is Resource.DRAM:
            return (
                f"the {other} is busy {busy:.0%} of the time and holds buffers that the next "
                "transfer needs; loads further ahead, or more buffers on chip"
            )
        return (
            f"the {other} is busy {busy:.0%} of the time, so the units take turns; more row blocks "
            "in flight would let them work side by side"
        )


def _add(parts: dict[Cause, float], cause: Cause, cycles: float) -> None:
    parts[cause] = parts.get(cause, 0.0) + cycles


def _ratio(ratio: float) -> str:
    """Return a ratio to the bound; close to 1 with one more digit."""
    return f"{ratio:.3f}x" if ratio < AT_THE_BOUND else f"{ratio:.2f}x"
