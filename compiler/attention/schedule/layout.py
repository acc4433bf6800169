"""What a tiling asks of memory, before any schedule: how on-chip memory is cut into slots for it.

The demand is exact: a program takes these bytes and no more. A whole space is checked at once, in
floats: they are exact far beyond any memory, and do not wrap where integers would.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.schedule import walk as wk
from hocket.compiler.attention.tiling import cores_used
from hocket.hwmodels.tasks import STATE_COLUMNS
from hocket.hwmodels.units import align_up, ceil_div

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

    Array = NDArray[np.int64]
    Floats = NDArray[np.float64]

FORMS = {"full-row": st.FULL_ROW, "deferred": st.DEFERRED, "online": st.ONLINE}
SPLITS = {"heads": 0, "rows": 1, "keys": 2}

RING_NAMES = (
    "query rows",
    "keys and values",
    "keys and values of the first head",
    "mask rows",
    "scores",
    "output rows",
    "softmax state",
    "partial products",
)


@dataclass(frozen=True)
class TilingArrays:
    """The numbers of one or many tilings: arrays of one shape, int64.

    ``softmax`` and ``split`` are the numbers of ``FORMS`` and ``SPLITS``.
    """

    query_rows: Array
    kv_columns: Array
    resident_tiles: Array
    heads: Array
    live_blocks: Array
    prefetch_blocks: Array
    store_blocks: Array
    softmax: Array
    split: Array
    fill_columns: Array
    cores: Array

    @classmethod
    def of(cls, tilings: list[Tiling]) -> TilingArrays:
        """Collect the numbers of tilings."""

        def column(name: str) -> Array:
            return np.array([getattr(each, name) for each in tilings], dtype=np.int64)

        return cls(
            column("query_rows"),
            column("kv_columns"),
            column("resident_tiles"),
            column("heads"),
            column("live_blocks"),
            column("prefetch_blocks"),
            column("store_blocks"),
            np.array([FORMS[each.softmax.value] for each in tilings], dtype=np.int64),
            np.array([SPLITS[each.split.value] for each in tilings], dtype=np.int64),
            column("fill_columns"),
            column("cores"),
        )


def kv_limit(problem: AttentionProblem, dataflow: Dataflow) -> int:
    """Return how many keys there are that anyone looks at."""
    if problem.is_causal and dataflow.skips_future:
        return min(problem.kv_length, problem.query_length)
    return problem.kv_length


def spilled_elements(problem: AttentionProblem, dataflow: Dataflow) -> int:
    """Return how many scores and probabilities go to DRAM, and how many come back."""
    times = dataflow.spills_scores + dataflow.spills_probabilities
    return times * math.prod(problem.scores_shape)


def outer_demand(
    problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel
) -> dict[str, int]:
    """Return the bytes of outer memory that a problem takes, by tensor."""
    rows = problem.batch * problem.query_heads * problem.query_length
    kv_rows = problem.batch * problem.kv_heads * problem.kv_length
    spills = dataflow.spills_scores or dataflow.spills_probabilities
    elements = {
        "query": rows * problem.head_dim,
        "key": kv_rows * problem.head_dim,
        "value": kv_rows * problem.value_dim,
        "mask": math.prod(problem.mask_shape or (0,)),
        "scores": math.prod(problem.scores_shape) * spills,
        "output": rows * problem.value_dim,
    }
    return {name: count * machine.element_bytes for name, count in elements.items() if count}


def slots_of(
    tiling: Tiling, problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel
) -> tuple[list[int], list[int]]:
    """Return the slots of each ring over all cores, and the bytes of one."""
    numbers = dict(vars(tiling))
    numbers["softmax"] = FORMS[tiling.softmax.value]
    numbers["split"] = SPLITS[tiling.split.value]
    counts, elements = _slots(SimpleNamespace(**numbers), problem, dataflow, machine, _SCALARS)
    sizes = [
        align_up(int(elements[ring]) * machine.element_bytes, machine.alignment_bytes)
        for ring in range(wk.NUM_RINGS)
    ]
    return [int(counts[ring]) for ring in range(wk.NUM_RINGS)], sizes


# What ``_slots`` asks of numpy, for single numbers, on which numpy is slow.
_SCALARS = SimpleNamespace(
    minimum=min, maximum=max, where=lambda condition, yes, no: yes if condition else no
)


def _slots(
    t: Any, problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel, xp: Any
) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the slots and the elements of one of each ring, of single numbers or arrays."""
    limit = kv_limit(problem, dataflow)
    cores = xp.where(t.cores > 0, xp.minimum(t.cores, machine.num_cores), machine.num_cores)
    rows = xp.minimum(t.query_rows, problem.query_length)
    heads = xp.minimum(t.heads, problem.group_size)
    all_rows = rows * heads
    columns = xp.minimum(t.kv_columns, limit)
    groups = problem.batch * problem.kv_heads * ceil_div(problem.group_size, heads)
    blocks = groups * ceil_div(problem.query_length, rows)
    is_online = t.softmax == st.ONLINE
    is_split = t.split == SPLITS["keys"]
    # As many as a core has row blocks, and not more; a tapered end has more, but smaller ones.
    most = xp.where(is_split, blocks, ceil_div(blocks, cores)) + 8
    fill = t.fill_columns
    wave = xp.where(fill > 0, t.live_blocks, 0)
    fill_tiles = xp.where(fill > 0, ceil_div(limit, xp.maximum(fill, 1)), 0)
    tiles = ceil_div(limit, columns)
    kv_matrices = problem.batch * problem.kv_heads
    pooled = xp.minimum(t.resident_tiles, 2 * kv_matrices * tiles)
    outputs = xp.maximum(2 + t.store_blocks, wave + 1) + is_split
    states = xp.where(is_online | is_split, t.live_blocks + 3, t.live_blocks)
    is_masked = problem.mask_shape is not None
    mask_elements: Any = 0
    if problem.mask_shape is not None:
        _, _, mask_rows, mask_columns = problem.mask_shape
        wide = xp.where(is_online & (mask_rows > 1), columns, problem.kv_length)
        mask_elements = (rows if mask_rows > 1 else 1) * (wide if mask_columns > 1 else 1)
    widest = max(problem.head_dim, problem.value_dim)
    counts = {
        wk.QUERIES: cores * xp.minimum(xp.maximum(1 + t.prefetch_blocks, wave), most),
        wk.POOL: pooled,
        wk.FILL: 2 * fill_tiles,
        wk.MASKS: cores * xp.minimum(2, 1 + t.prefetch_blocks) * is_masked,
        wk.SCORE_ROWS: cores * xp.where(is_online, t.live_blocks, xp.minimum(t.live_blocks, most)),
        wk.OUTPUTS: cores * xp.minimum(outputs, most + 1),
        wk.STATES: cores * states * (t.softmax != st.FULL_ROW),
        wk.PARTIALS: cores * 2 * is_online,
    }
    elements = {
        wk.QUERIES: all_rows * problem.head_dim,
        wk.POOL: columns * widest,
        wk.FILL: xp.minimum(xp.maximum(fill, 1), limit) * widest,
        wk.MASKS: mask_elements,
        wk.SCORE_ROWS: all_rows * xp.where(is_online, columns, limit),
        wk.OUTPUTS: all_rows * problem.value_dim,
        wk.STATES: all_rows * STATE_COLUMNS,
        wk.PARTIALS: all_rows * problem.value_dim,
    }
    return counts, elements


def demand_bytes(
    tilings: TilingArrays, problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel
) -> Floats:
    """Return the on-chip bytes that each tiling takes."""
    counts, elements = _slots(tilings, problem, dataflow, machine, np)
    unit = float(machine.alignment_bytes)
    total: Floats = np.zeros(tilings.query_rows.shape)
    for ring in range(wk.NUM_RINGS):
        size = np.ceil(np.asarray(elements[ring], float) * machine.element_bytes / unit) * unit
        total += np.asarray(counts[ring], float) * size
    return total


def demand(
    tiling: Tiling, problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel
) -> dict[str, int]:
    """Return the on-chip bytes that a tiling takes, by what they hold."""
    terms = map(operator.mul, *slots_of(tiling, problem, dataflow, machine))
    return {name: term for name, term in zip(RING_NAMES, terms, strict=True) if term}


def ring_table(
    tiling: Tiling, problem: AttentionProblem, dataflow: Dataflow, machine: HardwareModel
) -> Array:
    """Return the table of rings that ``movement.move`` takes."""
    number, size = map(np.array, slots_of(tiling, problem, dataflow, machine))
    shared = np.isin(np.arange(wk.NUM_RINGS), (wk.POOL, wk.FILL))
    table = np.zeros((wk.NUM_RINGS, 4), np.int64)
    table[:, wk.RING_FIRST] = np.cumsum(number) - number
    table[:, wk.RING_SLOTS] = np.where(
        shared, number, number // cores_used(tiling, machine).num_cores
    )
    table[:, wk.RING_BYTES] = size
    table[:, wk.RING_BASE] = np.cumsum(number * size) - number * size
    return table
