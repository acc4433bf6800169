"""What programs take that are too long to build: measured on windows of them, and added up.

The row blocks of a head go through the machine one like the other, so that after the first ones
each adds as much as the one before (with causality, a little more than the one before). Windows of
the program are built and simulated, some blocks and twice as many, from several places of one head
on; what the second half adds, counts for every block around.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule.build import build_blocks
from hocket.compiler.attention.schedule.layout import kv_limit
from hocket.compiler.attention.schedule.row_blocks import row_blocks
from hocket.compiler.attention.tiling import Softmax, Split, cores_used
from hocket.hwmodels.cost import task_costs
from hocket.hwmodels.simulate import add_up, simulated_cycles
from hocket.hwmodels.units import ceil_div

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.memory.cache_overwrite import CachePlan
    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program

MAX_TASKS = 300_000
"""Longer programs are not built as a whole."""

WINDOW_TASKS = 30_000
"""A window has about so many, if its blocks are not longer."""

_PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)

_TOTALS = (
    "cycles",
    "compute_joules",
    "on_chip_joules",
    "dram_joules",
    "matrix_busy_cycles",
    "vector_busy_cycles",
    "load_busy_cycles",
    "store_busy_cycles",
)


def about_num_tasks(problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow) -> float:
    """Return about how many tasks the program of a tiling has."""
    return _num_blocks(problem, tiling) * _tasks_a_block(problem, tiling, dataflow)


def estimate_long(
    problem: AttentionProblem,
    tiling: Tiling,
    dataflow: Dataflow,
    machine: HardwareModel,
    bound_cycles: float,
) -> tuple[Estimate, Program, CachePlan, int]:
    """Return what a program takes that is too long to build, and how it begins.

    Returns:
        The estimate; the program of the first row blocks of each core, and its plan; and how many
        tasks were simulated for it.
    """
    # Only the first head begins as a wave front; the windows stand for all.
    tiling = dataclasses.replace(tiling, fill_columns=0)
    used = cores_used(tiling, machine)
    matrices = problem.batch * problem.kv_heads
    # Cores with heads of their own get one each, else all work on one.
    together = 1
    if tiling.split is Split.HEADS and matrices >= used.num_cores:
        together = used.num_cores
    one = _some_heads(problem, together)
    blocks = row_blocks(one, tiling, used, skips_future=dataflow.skips_future, tapers=False)
    ordinals = _ordinals(blocks, used.num_cores)
    num_turns = int(ordinals.max()) + 1
    per_block = _tasks_a_block(problem, tiling, dataflow) * used.num_cores
    turns = max(2 * tiling.live_blocks + 2, int(WINDOW_TASKS / per_block))
    is_cut = problem.is_causal and dataflow.skips_future
    turns = max(min(turns, num_turns // (8 if is_cut else 2)), 1)
    places = sorted({round(each * max(num_turns - 2 * turns, 0)) for each in _PLACES})
    num_tasks = 0
    marginal = []
    begins = []
    for place in places if is_cut else places[:1]:
        measured = []
        for length in (turns, 2 * turns):
            window = blocks[(ordinals >= place) & (ordinals < place + length)]
            program, plan = build_blocks(one, tiling, dataflow, machine, _renumber(window))
            measured.append(_measure(program, machine, bound_cycles))
            num_tasks += program.schedule.num_tasks
        short, long = (_totals(each) for each in measured)
        marginal.append((long - short) / turns)
        begins.append((program, plan, measured[1], short - turns * marginal[-1]))
    program, plan, estimate, once = begins[0]
    # What a turn adds grows evenly from one place to the next; a last block that is cut short, or
    # has no other beside it, counts as the part of a turn that it is.
    centres = np.array(places[: len(marginal)], dtype=float) + 1.5 * turns
    at = np.arange(num_turns) + 0.5
    each = [np.interp(at, centres, column).mean() for column in np.stack(marginal, axis=1)]
    rows = one.query_length * one.kv_heads * one.group_size / min(tiling.heads, one.group_size)
    count = rows / min(tiling.query_rows, one.query_length)
    if tiling.split is not Split.KEYS:
        count /= used.num_cores
    rounds = matrices / together
    mean = np.array(each)
    whole = rounds * (count * mean + once)
    # Only the first head has to wait for its keys: the next ones' are loaded beside work.
    whole[0] = max(rounds * count * mean[0] + max(once[0], 0.0), bound_cycles)
    totals = dict(zip(_TOTALS, np.maximum(whole[: len(_TOTALS)], 0.0).tolist(), strict=True))
    seconds = totals["cycles"] / machine.clock_hz
    names = [tensor for tensor, _ in estimate.dram_bytes_by_tensor]
    moved = np.maximum(whole[len(_TOTALS) :], 0.0).round().astype(int).tolist()
    whole_estimate = dataclasses.replace(
        estimate,
        **totals,
        seconds=seconds,
        leakage_joules=machine.leakage_watts * seconds,
        dram_bytes_by_tensor=tuple(zip(names, moved, strict=True)),
        is_simulated=False,
    )
    return whole_estimate, program, plan, num_tasks


def _num_blocks(problem: AttentionProblem, tiling: Tiling) -> int:
    stacks = problem.batch * problem.kv_heads
    stacks *= ceil_div(problem.group_size, min(tiling.heads, problem.group_size))
    return stacks * ceil_div(problem.query_length, tiling.query_rows)


def _tasks_a_block(problem: AttentionProblem, tiling: Tiling, dataflow: Dataflow) -> float:
    limit = kv_limit(problem, dataflow)
    tiles = ceil_div(limit, min(tiling.kv_columns, limit))
    if problem.is_causal and dataflow.skips_future:
        tiles = ceil_div(tiles + 1, 2)
    return tiles * (5.0 if tiling.softmax is Softmax.ONLINE else 3.0) + 4.0


def _some_heads(problem: AttentionProblem, kv_heads: int) -> AttentionProblem:
    """Return the problem of some key-value heads and the query heads that share each."""
    shape = problem.mask_shape
    heads = kv_heads * problem.group_size
    if shape is not None:
        shape = (1, heads if shape[1] > 1 else 1, shape[2], shape[3])
    return dataclasses.replace(
        problem, batch=1, kv_heads=kv_heads, query_heads=heads, mask_shape=shape
    )


def _ordinals(blocks: NDArray[np.int64], num_cores: int) -> NDArray[np.int64]:
    """Return which block of its core each one is, counted from 0."""
    ordinals = np.zeros(len(blocks), np.int64)
    for core in range(num_cores):
        mine = blocks[:, st.CORE] == core
        ordinals[mine] = np.arange(int(mine.sum()))
    return ordinals


def _renumber(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row blocks that name what they are merged into by its place among them."""
    _, first, group = np.unique(blocks[:, st.MAIN], return_index=True, return_inverse=True)
    renumbered = blocks.copy()
    renumbered[:, st.MAIN] = first[group]
    return renumbered


def _measure(program: Program, machine: HardwareModel, bound_cycles: float) -> Estimate:
    costs = task_costs(program.schedule, machine)
    cycles = simulated_cycles(program.schedule, costs, machine)
    peak = program.peak_on_chip_bytes
    return add_up(program.schedule, costs, cycles, peak, machine, bound_cycles)


def _totals(estimate: Estimate) -> NDArray[np.float64]:
    moved = [float(count) for _, count in estimate.dram_bytes_by_tensor]
    return np.array([*(getattr(estimate, name) for name in _TOTALS), *moved])
