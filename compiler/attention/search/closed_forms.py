"""Closed forms for whole arrays of tilings: what each takes at least, and about.

One numpy expression a quantity, over all tilings at once, on top of the exact sums of ``work.py``.
What is called *least* may never exceed what the simulator says, as the exhaustive search leaves
tilings out because of it.

All bounds rest on the core that has most to do in some respect: it has no less than the average
over cores. Which core that is nobody knows, so what comes before its first task of a kind and after
its last one is taken from the smallest row block there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.bounds import compulsory_loads, compulsory_stores
from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.layout import SPLITS, kv_limit, spilled_elements
from hocket.compiler.attention.search.extrapolate import LeastTotals, most_tasks, plan_windows
from hocket.compiler.attention.search.work import Work, work_of
from hocket.hwmodels.cost import PICO, MachineFigures, machine_figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.layout import TilingArrays
    from hocket.compiler.attention.search.space import TilingSpace

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_ROUNDING = 1e-9
"""Bounds are lowered by this share: sums of another order round differently, by less."""


@dataclass(frozen=True)
class ClosedForms:
    """What tilings take, arrays of one length.

    Attributes:
        least_cycles: A lower bound: the busiest resource, and the fill and drain it cannot avoid.
        about_cycles: A guess, to know where to begin.
        least_joules: A lower bound of the energy.
        program_tasks: About how many tasks its program has.
        num_tasks: About how many tasks are simulated to evaluate it: these, or those of windows.
    """

    least_cycles: Floats
    about_cycles: Floats
    least_joules: Floats
    program_tasks: Floats
    num_tasks: Floats

    def of(self, index: int) -> LeastTotals:
        """Return what is known of one tiling's program."""
        return LeastTotals(
            float(self.least_cycles[index]),
            float(self.program_tasks[index]),
            float(self.num_tasks[index]),
        )


def closed_forms(space: TilingSpace, tilings: TilingArrays) -> ClosedForms:
    """Return the closed forms of tilings of a space."""
    forms = _Forms(space, tilings)
    least = np.maximum(forms.compute(), forms.transfers()) * (1 - _ROUNDING)
    about = np.maximum(
        forms.compute() + forms.block_cycles(), forms.port_cycles + forms.reload_cycles()
    )
    joules = forms.joules(least) * (1 - _ROUNDING)
    program_tasks = forms.program_tasks()
    num_tasks = forms.simulated_tasks(program_tasks)
    return ClosedForms(least, np.maximum(least, about), joules, program_tasks, num_tasks)


class _Forms:
    """The terms of the closed forms; every method returns one for all tilings."""

    def __init__(self, space: TilingSpace, tilings: TilingArrays) -> None:
        problem = space.problem
        self.problem, self.t = problem, tilings
        self.machine, self.dataflow = space.machine, space.dataflow
        self.f: MachineFigures = machine_figures(space.machine)
        self.latency = float(space.machine.dma.latency_cycles)
        num_cores = space.machine.num_cores
        used = np.where(tilings.cores > 0, np.minimum(tilings.cores, num_cores), num_cores)
        self.cores: Floats = used.astype(float)
        self.work: Work = work_of(space, tilings)
        self.is_cut = problem.is_causal and space.dataflow.skips_future
        self.limit = kv_limit(problem, space.dataflow)
        self.heads = np.minimum(tilings.heads, problem.group_size).astype(float)
        self.columns = np.minimum(tilings.kv_columns, self.limit).astype(float)
        self.is_full: Flags = tilings.softmax == st.FULL_ROW
        self.is_online: Flags = tilings.softmax == st.ONLINE
        self.by_keys: Flags = tilings.split == SPLITS["keys"]
        self.by_rows: Flags = tilings.split == SPLITS["rows"]
        # Keys that the first softmax of a core sees at least.
        keys = self.work.least_keys
        self.first_keys = np.where(self.is_online, np.minimum(self.columns, keys), keys)

    def compute(self) -> Floats:
        """Return the least cycles by the work of the units."""
        scores, softmax, outputs, later = (
            total / self.cores
            for total in (
                self.work.scores_cycles,
                self.work.softmax_cycles,
                self.work.output_cycles,
                self.work.later_cycles,
            )
        )
        matrix = self.fill + scores + outputs + self.after_matrix
        in_turn = self.fill + scores + softmax + outputs + self.after_matrix
        if not self.machine.has_concurrent_units:
            return self.fill + scores + softmax + outputs + later + self.drain
        if self.dataflow.pace == st.LAYERS:
            return in_turn
        if self.dataflow.pace == st.LAYERS_WITH_SOFTMAX:
            return np.maximum(matrix, self.vector_fill + softmax + outputs + self.after_matrix)
        together = np.maximum(matrix, self.vector_fill + softmax + later + self.after_vector)
        # With one row block alive, its softmax has no product beside it.
        is_alone = (self.t.live_blocks == 1) & (self.dataflow.pace == st.PIPELINE)
        return np.where(is_alone, np.maximum(in_turn, together), together)

    def transfers(self) -> Floats:
        """Return the least cycles by what the ports move, everything once."""
        if not self.machine.dma.has_separate_write_port:
            return self.port_cycles + self.latency
        # Something is stored after the last load, and something computed before the first store.
        first_store = self.fill + self._scores(self.work.least_keys)
        if not self.dataflow.spills_scores and not self.dataflow.spills_probabilities:
            first_store = first_store + self._outputs(self.work.least_keys)
        loads, stores = self._move(np.array(self.moved))
        least: Floats = np.maximum(loads + self.drain, first_store + stores) + self.latency
        return least

    @cached_property
    def moved(self) -> tuple[float, float]:
        """Elements loaded and stored at least."""
        problem, machine = self.problem, self.machine
        spilled = spilled_elements(problem, self.dataflow)
        return (
            compulsory_loads(problem, machine) / machine.element_bytes + spilled,
            compulsory_stores(problem, machine) / machine.element_bytes + spilled,
        )

    @cached_property
    def port_cycles(self) -> Floats:
        """Cycles in which the busier port moves data, everything moved once."""
        loads, stores = self.moved
        is_apart = self.machine.dma.has_separate_write_port
        total = max(loads, stores) if is_apart else loads + stores
        return self._move(np.full(len(self.columns), total))

    def _move(self, elements: Floats) -> Floats:
        return elements * (self.f.element_bytes / self.f.bytes_per_cycle)

    def _groups(self) -> Floats:
        """Return the blocks of the matrix unit that the rows of the smallest row block fill."""
        return np.ceil(self.work.least_rows / self.f.block_rows)

    def _scores(self, keys: Floats) -> Floats:
        """Return the cycles of the scores of the smallest row block on some keys."""
        blocks = self._groups() * np.ceil(keys / self.f.block_columns)
        total: Floats = self.f.matrix_startup + blocks * self.problem.head_dim * self._block
        return total

    def _outputs(self, keys: Floats) -> Floats:
        """Return the cycles of the output of the smallest row block from some keys."""
        blocks = self._groups() * np.ceil(self.problem.value_dim / self.f.block_columns)
        total: Floats = self.f.matrix_startup + blocks * keys * self._block
        return total

    @cached_property
    def _block(self) -> float:
        return self.f.block_rows * self.f.block_columns / self.f.macs_per_cycle

    @cached_property
    def fill(self) -> Floats:
        """When the first product of a core may start: query rows and a tile of keys are there."""
        tile = np.minimum(self.columns, self.limit)
        # Cores that share out keys may begin with the last tile, which may be smaller.
        tail = self.limit - (np.ceil(self.limit / self.columns) - 1) * self.columns
        tile = np.where(self.by_keys, tail, tile)
        fill = np.minimum(self.t.fill_columns, self.limit).astype(float)
        tile = np.where(self.t.fill_columns > 0, np.minimum(tile, fill), tile)
        elements = (self.work.least_rows + tile) * self.problem.head_dim
        return self._move(elements) + self.latency

    @cached_property
    def vector_fill(self) -> Floats:
        """When the first softmax of a core may start: its keys are there, and its scores made."""
        keys = self.first_keys
        masks = np.zeros_like(keys)
        if self.problem.mask_shape is not None:
            _, _, rows, columns = self.problem.mask_shape
            masks = np.where(rows > 1, self.work.least_rows / self.heads, 1.0)
            masks = masks * (keys if columns > 1 else 1.0)
        elements = (self.work.least_rows + keys) * self.problem.head_dim + masks
        return np.maximum(self._move(elements) + self.latency, self.fill + self._scores(keys))

    @cached_property
    def drain(self) -> Floats:
        """What comes after the last task of any unit: a row block is stored."""
        return self._move(self.work.least_rows * self.problem.value_dim) + self.latency

    @cached_property
    def after_matrix(self) -> Floats:
        """What comes after the last product of a core: its output may have to be divided."""
        elements = self.work.least_rows * self.problem.value_dim
        divide = self.f.vector_startup + elements * self.f.divide / self.f.lanes
        return np.where(self.is_full, 0.0, divide) + self.drain

    @cached_property
    def after_vector(self) -> Floats:
        """What comes after the last vector task of a core: an output, unless it divided one."""
        return np.where(self.is_full, self._outputs(self.work.least_keys), 0.0) + self.drain

    def block_cycles(self) -> Floats:
        """Guess how long the units wait for each other at both ends: some row blocks' work."""
        rows = np.minimum(self.t.query_rows, self.problem.query_length)
        work = self.work
        total = work.scores_cycles + work.softmax_cycles + work.output_cycles + work.later_cycles
        rounds = np.maximum(work.num_blocks, self.cores)
        keys = np.where(self.t.fill_columns > 0, 0.0, float(self.limit))
        keys = keys * np.where(self.by_rows, 1.0, self.cores)
        last = 0.3 if self.dataflow.tapers else 1.0
        elements = (keys + rows * self.cores) * self.problem.head_dim
        return self._move(elements) + last * total / rounds

    def reload_cycles(self) -> Floats:
        """Guess how long it takes to load again what few tiles stay on chip for."""
        problem = self.problem
        length = self.limit / 2 if self.is_cut else self.limit
        elements = problem.batch * problem.kv_heads * length
        elements = elements * (problem.head_dim + problem.value_dim)
        return self._move(elements * self.reloads)

    @cached_property
    def reloads(self) -> Floats:
        """A guess how often keys and values are loaded again, on average over all tiles."""
        problem = self.problem
        rows = np.minimum(self.t.query_rows, problem.query_length)
        tiles = np.ceil(self.limit / self.columns)
        matrices = float(problem.batch * problem.kv_heads)
        together = np.where(self.by_rows | self.by_keys, 1.0, np.minimum(self.cores, matrices))
        kept = self.t.resident_tiles / (2 * tiles * together)
        passes = np.ceil(problem.query_length / rows) * np.ceil(problem.group_size / self.heads)
        passes = np.where(self.by_rows, passes / self.cores, passes)
        missing: Floats = np.maximum(1.0 - kept, 0.0) * np.maximum(passes - 1, 0.0)
        return missing

    def joules(self, least_cycles: Floats) -> Floats:
        """Return the energy, from below: all that is computed, and everything moved once."""
        f = self.f
        loads, stores = self.moved
        moved = loads * (f.outer_read_pj + f.on_chip_write_pj)
        moved = moved + stores * (f.outer_write_pj + f.on_chip_read_pj)
        leakage = self.machine.leakage_watts * least_cycles / self.machine.clock_hz
        total: Floats = (self.work.picojoules + moved * f.element_bytes) * PICO + leakage
        return total

    def program_tasks(self) -> Floats:
        """Return about how many tasks there are; only what is loaded again is guessed."""
        problem, work = self.problem, self.work
        matrices = problem.batch * problem.kv_heads
        tiles = np.ceil(self.limit / self.columns)
        filled = np.ceil(self.limit / np.maximum(self.t.fill_columns, 1))
        first = np.where(self.t.fill_columns > 0, filled, tiles)
        seen = 0.5 if self.is_cut else 1.0
        loads = 2 * (first + tiles * (matrices - 1)) + 2 * tiles * matrices * seen * self.reloads
        # Each stacked head has its own rows of queries and outputs, and of what is spilled.
        rows = self.heads * work.num_blocks
        parts = np.where(self.by_keys, np.minimum(self.cores, tiles), 1.0)
        spills = 2 * (self.dataflow.spills_scores + self.dataflow.spills_probabilities)
        total: Floats = work.num_steps + loads + (parts + 1.0 + spills) * rows + self.mask_loads()
        return total

    def mask_loads(self) -> Floats:
        """Return how many blocks of a mask are loaded, at most."""
        problem = self.problem
        if problem.mask_shape is None:
            return np.zeros_like(self.columns)
        batch, heads, rows, _ = problem.mask_shape
        if rows > 1 or heads > 1:
            return self.work.num_softmaxes
        # One row for all queries stays on chip while it is used.
        return batch * self.cores

    def simulated_tasks(self, program_tasks: Floats) -> Floats:
        """Return how many tasks are simulated of programs of some length."""
        problem = self.problem
        matrices = problem.batch * problem.kv_heads
        has_own = ~self.by_rows & ~self.by_keys & (matrices >= self.cores)
        rounds = matrices / np.where(has_own, self.cores, 1.0)
        rows = np.minimum(self.t.query_rows, problem.query_length)
        turns = np.ceil(problem.query_length / rows) * np.ceil(problem.group_size / self.heads)
        turns = np.where(has_own | self.by_keys, turns, np.ceil(turns / self.cores))
        windows = plan_windows(program_tasks, rounds, turns, self.t.live_blocks, is_cut=self.is_cut)
        tasks: Floats = np.where(
            program_tasks > most_tasks(self.machine), windows.num_tasks, program_tasks
        )
        return tasks
