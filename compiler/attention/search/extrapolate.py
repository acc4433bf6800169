"""What programs take that are too long to build: measured on windows of them, and added up.

How much there is to compute is known exactly (``work.py``). Unknown are the time and what is loaded
again, and these repeat themselves: heads go through the machine one like the other, and so do the
row blocks of a long head (with causality each adds a little more than the one before). A window,
some heads or some turns of a head, is built and simulated, and so is one twice as long; what the
second half adds, counts for every part around. No estimate is below what any program must take.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hocket.compiler.attention.bounds import (
    compulsory_loads_by_tensor,
    compulsory_stores,
    lower_bounds,
)
from hocket.compiler.attention.schedule import layout
from hocket.compiler.attention.schedule.build import build_blocks
from hocket.compiler.attention.schedule.row_blocks import RowBlockOrder
from hocket.compiler.attention.search.work import work_of
from hocket.compiler.attention.tiling import Split, cores_used
from hocket.hwmodels import columns as col
from hocket.hwmodels.cost import PICO, machine_figures, task_costs
from hocket.hwmodels.estimate import Estimate
from hocket.hwmodels.happens_before import MAX_MARKS
from hocket.hwmodels.simulate import simulated_cycles
from hocket.hwmodels.tasks import TENSORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.cache_overwrite import CachePlan
    from hocket.compiler.attention.search.space import TilingSpace
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

    Floats = NDArray[np.float64]

MAX_TASKS = 300_000
"""Longer programs are not built as a whole."""

WINDOW_TASKS = 30_000
"""A window has about so many, if its row blocks are not longer."""

MAX_SIMULATED_TASKS = 1 << 22
"""Where windows would have more, as single row blocks are as long, nothing is estimated."""

_PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
_CUT_PLACES = 8
"""Where blocks grow along a head, a window is at most such a part of it; else a half."""

_SAMPLES = 4096
"""Turns at which what a turn adds is looked up, evenly over a head."""


def most_tasks(machine: HardwareModel) -> int:
    """Return how many tasks a program may have to be built as a whole, and verified."""
    num_streams = 2 + 2 * machine.num_cores
    return min(MAX_TASKS, MAX_MARKS // num_streams)


class LeastTotals(NamedTuple):
    """What is known of a program before any of it is built.

    Attributes:
        cycles: It takes at least so many.
        num_tasks: It has about so many.
        simulated_tasks: About so many are simulated to evaluate it.
    """

    cycles: float
    num_tasks: float
    simulated_tasks: float


class LongEstimate(NamedTuple):
    """What a program takes that is too long to build, and how it begins.

    Attributes:
        estimate: Of the whole program.
        program: Of the first row blocks of each core.
        plan: What that one loads again.
        num_tasks: Tasks simulated to find out.
    """

    estimate: Estimate
    program: Program
    plan: CachePlan
    num_tasks: int


class Windows(NamedTuple):
    """Which windows to build; of one tiling, or arrays of many.

    Attributes:
        is_of_heads: Whether a window is some rounds of heads; else it is some turns of one.
        length: How many rounds or turns the shorter window has; the other one has twice as many.
        num_tasks: About how many tasks all windows have together.
    """

    is_of_heads: Any
    length: Any
    num_tasks: Any


def plan_windows(
    num_tasks: Any, num_rounds: Any, num_turns: Any, live_blocks: Any, *, is_cut: bool
) -> Windows:
    """Return the windows of programs that are too long to build.

    Args:
        num_tasks: Of the program.
        num_rounds: How often all cores take up a head each, or one together.
        num_turns: Row blocks of each core in a round.
        live_blocks: As in ``Tiling``; a window must be longer than what is under way at a time.
        is_cut: Whether row blocks grow along a head, so that it is looked at in several places.
    """
    a_round = num_tasks / num_rounds
    rounds = np.clip(WINDOW_TASKS // a_round, 1, np.maximum(num_rounds // 2, 1))
    a_turn = a_round / num_turns
    fewest = 2 * live_blocks + 2
    turns = np.maximum(fewest, WINDOW_TASKS // a_turn)
    turns = np.clip(turns, 1, np.maximum(num_turns // (_CUT_PLACES if is_cut else 2), 1))
    num_places = len(_PLACES) if is_cut else 1
    # Turns of a short head are never all alike.
    is_of_heads = (a_round <= WINDOW_TASKS) | (num_turns < 2 * fewest)
    is_of_heads = is_of_heads & (num_rounds >= 2)
    return Windows(
        is_of_heads,
        np.where(is_of_heads, rounds, turns),
        3 * np.where(is_of_heads, rounds * a_round, num_places * turns * a_turn),
    )


def estimate_long(space: TilingSpace, tiling: Tiling, least: LeastTotals) -> LongEstimate:
    """Return what the program of a tiling takes without building it."""
    # Only the first head begins as a wave front; the windows stand for all.
    windows = _Measurement(space, dataclasses.replace(tiling, fill_columns=0), least.num_tasks)
    cycles, loads, stores = windows.totals()
    return LongEstimate(
        _estimate(space, tiling, least.cycles, cycles, loads, stores),
        windows.program,
        windows.plan,
        windows.num_tasks,
    )


class _Measurement:
    """Windows of a program: built, simulated, and added up to the whole."""

    def __init__(self, space: TilingSpace, tiling: Tiling, num_tasks: float) -> None:
        problem = space.problem
        self.space, self.tiling = space, tiling
        self.used = cores_used(tiling, space.machine)
        self.skips_future = space.dataflow.skips_future
        self.is_cut = problem.is_causal and self.skips_future
        matrices = problem.batch * problem.kv_heads
        # Cores with heads of their own get one each in a round, else all work on one.
        has_own = tiling.split is Split.HEADS and matrices >= self.used.num_cores
        self.heads_a_round = self.used.num_cores if has_own else 1
        self.num_rounds = matrices / self.heads_a_round
        self.round = _some_heads(problem, self.heads_a_round)
        self.order = self._order_of(self.round)
        self.windows = plan_windows(
            num_tasks,
            self.num_rounds,
            self.order.num_turns,
            tiling.live_blocks,
            is_cut=self.is_cut,
        )
        self.num_tasks = 0

    def totals(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Return the cycles of the whole, and the bytes of each tensor it loads and stores."""
        whole = self._add_rounds() if self.windows.is_of_heads else self._add_turns()
        loads, stores = np.maximum(whole[1:], 0.0).reshape(2, -1).tolist()
        return (
            float(whole[0]),
            dict(zip(TENSORS, loads, strict=True)),
            dict(zip(TENSORS, stores, strict=True)),
        )

    def _add_rounds(self) -> Floats:
        """Add up windows of whole heads."""
        length = int(self.windows.length)
        short, long = (
            self._measure(order := self._order_of(some), some, 0, order.num_turns)
            for some in (
                _some_heads(self.space.problem, self.heads_a_round * rounds)
                for rounds in (length, 2 * length)
            )
        )
        each = (long - short) / length
        whole: Floats = short + each * (self.num_rounds - length)
        return whole

    def _add_turns(self) -> Floats:
        """Add up windows of turns of one head."""
        turns, num_turns = int(self.windows.length), self.order.num_turns
        places = sorted({round(each * max(num_turns - 2 * turns, 0)) for each in _PLACES})
        if not self.is_cut:
            places = places[:1]
        each, begins = [], []
        for place in places:
            short, long = (
                self._measure(self.order, self.round, place, length)
                for length in (turns, 2 * turns)
            )
            each.append((long - short) / min(turns, max(num_turns - place - turns, 1)))
            begins.append(short - min(turns, num_turns - place) * each[-1])
        # What a turn adds grows evenly from one place to the next.
        centres = np.array(places, dtype=float) + 1.5 * turns
        at = (np.arange(_SAMPLES) + 0.5) * num_turns / _SAMPLES
        mean = np.array([np.interp(at, centres, column).mean() for column in np.stack(each, 1)])
        count = self._num_turns()
        whole: Floats = self.num_rounds * (count * mean + begins[0])
        # Only the first head has to wait for its keys: the next ones' are loaded beside work.
        whole[0] = self.num_rounds * count * mean[0] + max(begins[0][0], 0.0)
        return whole

    def _num_turns(self) -> float:
        """Return the turns of a round, a last one that is cut short as the part that it is."""
        problem, tiling = self.round, self.tiling
        if tiling.split is Split.HEADS and self.heads_a_round == 1 and self.is_cut:
            return float(self.order.num_turns)  # cores have unequal numbers of unequal blocks
        stacks = problem.kv_heads * problem.group_size / min(tiling.heads, problem.group_size)
        count = stacks * problem.query_length / min(tiling.query_rows, problem.query_length)
        return count if tiling.split is Split.KEYS else count / self.used.num_cores

    def _order_of(self, problem: AttentionProblem) -> RowBlockOrder:
        return RowBlockOrder(problem, self.tiling, self.used, skips_future=self.skips_future)

    def _measure(
        self, order: RowBlockOrder, problem: AttentionProblem, first: int, count: int
    ) -> Floats:
        """Build some turns; return cycles, and the bytes loaded and stored by tensor.

        The first and longest window stays at hand.
        """
        machine = self.space.machine
        program, plan = build_blocks(
            problem, self.tiling, self.space.dataflow, machine, order.turns(first, count)
        )
        if first == 0:
            self.program, self.plan = program, plan
        schedule = program.schedule
        self.num_tasks += schedule.num_tasks
        costs = task_costs(schedule, machine)
        rows = schedule.table.rows
        moved = [
            np.bincount(
                rows[chosen, col.TENSOR], weights=costs.outer_bytes[chosen], minlength=len(TENSORS)
            )
            for chosen in (rows[:, col.OPERATION] == kind for kind in (col.LOAD, col.STORE))
        ]
        return np.concatenate([[simulated_cycles(schedule, costs, machine)], *moved])


def _estimate(
    space: TilingSpace,
    tiling: Tiling,
    least_cycles: float,
    cycles: float,
    loads: dict[str, float],
    stores: dict[str, float],
) -> Estimate:
    """Return an estimate from what windows add up to, and what is known exactly."""
    problem, machine, dataflow = space.problem, space.machine, space.dataflow
    figures = machine_figures(machine)
    spilled = layout.spilled_elements(problem, dataflow) * machine.element_bytes
    least_loads = compulsory_loads_by_tensor(problem, machine) | {"scores": spilled}
    least_stores = {"output": compulsory_stores(problem, machine), "scores": spilled}
    loaded = {name: max(round(loads[name]), least_loads.get(name, 0)) for name in TENSORS}
    stored = {name: max(round(stores[name]), least_stores.get(name, 0)) for name in TENSORS}
    num_loaded, num_stored = float(sum(loaded.values())), float(sum(stored.values()))
    work = work_of(space, layout.TilingArrays.of([tiling]))
    on_chip = float(work.on_chip_picojoules[0])
    on_chip += num_loaded * figures.on_chip_write_pj + num_stored * figures.on_chip_read_pj
    outer = num_loaded * figures.outer_read_pj + num_stored * figures.outer_write_pj
    bound = lower_bounds(problem, machine).cycles
    found = Estimate(
        cycles=cycles,
        seconds=0.0,
        compute_joules=float(work.compute_picojoules[0]) * PICO,
        on_chip_joules=on_chip * PICO,
        dram_joules=outer * PICO,
        leakage_joules=0.0,
        dram_bytes_by_tensor=tuple(
            (name, loaded[name] + stored[name]) for name in TENSORS if loaded[name] + stored[name]
        ),
        peak_on_chip_bytes=sum(layout.demand(tiling, problem, dataflow, machine).values()),
        matrix_busy_cycles=float(work.scores_cycles[0] + work.output_cycles[0]),
        vector_busy_cycles=float(work.softmax_cycles[0] + work.later_cycles[0]),
        load_busy_cycles=num_loaded / figures.bytes_per_cycle,
        store_busy_cycles=num_stored / figures.bytes_per_cycle,
        bound_cycles=bound,
        num_cores=machine.num_cores,
        num_dma_ports=2 if machine.dma.has_separate_write_port else 1,
        is_simulated=False,
    )
    # No unit of a core, and no port, works longer than the whole takes.
    units = (found.matrix_busy_cycles, found.vector_busy_cycles)
    busy = max(units) if machine.has_concurrent_units else sum(units)
    busy /= cores_used(tiling, machine).num_cores
    cycles = max(cycles, least_cycles, bound, busy, found.dma_busy_cycles)
    seconds = cycles / machine.clock_hz
    leakage = machine.leakage_watts * seconds
    return dataclasses.replace(found, cycles=cycles, seconds=seconds, leakage_joules=leakage)


def _some_heads(problem: AttentionProblem, kv_heads: int) -> AttentionProblem:
    """Return the problem of some key-value heads and the query heads that share each."""
    shape = problem.mask_shape
    heads = kv_heads * problem.group_size
    if shape is not None:
        shape = (1, heads if shape[1] > 1 else 1, shape[2], shape[3])
    return dataclasses.replace(
        problem, batch=1, kv_heads=kv_heads, query_heads=heads, mask_shape=shape
    )
