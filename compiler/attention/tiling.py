"""How an attention problem is cut into tiles, and when a cut fits a machine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.problem import MaskKind
from hocket.hwmodels.units import align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

MAX_SIZES_PER_AXIS = 48
"""More sizes than this along one axis are thinned out evenly; the ends always stay."""


@dataclass(frozen=True, order=True)
class Tiling:
    """Sizes at each tier, outermost first.

    Attributes:
        heads: Attention matrices (of one batch entry and query head each) whose rows make up one
            row block.
        query_rows: Query rows of each matrix in one row block.
        kv_columns: Key and value rows worked on at a time; whole rows of scores stay on chip all
            the same, because softmax needs them.
        block_rows, block_columns: Product made at a time inside the matrix unit.
        keeps_kv: Whether keys and values stay on chip while all row blocks of a head use them; else
            each row block loads them again.
        prefetch_tasks: How many compute tasks ahead of its use a transfer is issued.
    """

    heads: int
    query_rows: int
    kv_columns: int
    block_rows: int
    block_columns: int
    keeps_kv: bool
    prefetch_tasks: int

    def __post_init__(self) -> None:
        for name in ("heads", "query_rows", "kv_columns", "block_rows", "block_columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prefetch_tasks < 0:
            raise ValueError(f"prefetch_tasks must be 0 or more, got {self.prefetch_tasks}")

    def __str__(self) -> str:
        kv = "kept" if self.keeps_kv else "streamed"
        return (
            f"{self.heads} heads x {self.query_rows} query rows, {self.kv_columns} kv columns "
            f"({kv}), blocks {self.block_rows}x{self.block_columns}, "
            f"prefetch {self.prefetch_tasks}"
        )


def on_chip_demand(
    tiling: Tiling,
    problem: AttentionProblem,
    machine: HardwareModel,
    num_live_row_blocks: int,
) -> dict[str, int]:
    """Return the least on-chip bytes that a schedule needs at once, term by term.

    A dual-stream schedule keeps two row blocks alive on every core: one whose scores are being made
    or whose output is being accumulated, and one in softmax. What prefetching wants beyond that is
    the planner's to find room for.
    """
    rows = min(tiling.query_rows, problem.query_length)
    columns = min(tiling.kv_columns, problem.kv_length)
    if problem.is_causal:
        length = min(problem.kv_length, problem.query_length)
    else:
        length = problem.kv_length

    def matrix_bytes(num_rows: int, num_columns: int) -> int:
        size = num_rows * num_columns * machine.element_bytes
        return align_up(size, machine.alignment_bytes)

    key_and_value = matrix_bytes(columns, problem.head_dim) + matrix_bytes(
        columns, problem.value_dim
    )
    num_tiles = ceil_div(length, columns) if tiling.keeps_kv else 1
    kv_heads = ceil_div(tiling.heads, problem.group_size) if tiling.keeps_kv else 1
    num_matrices = problem.batch * problem.query_heads
    num_row_blocks = ceil_div(num_matrices, tiling.heads) * ceil_div(problem.query_length, rows)
    cores = min(machine.num_cores, num_row_blocks)
    num_live = min(num_live_row_blocks * cores, num_row_blocks)
    demand = {
        "scores": num_live * tiling.heads * matrix_bytes(rows, length),
        "query rows": cores * matrix_bytes(rows, problem.head_dim),
        "output rows": cores * matrix_bytes(rows, problem.value_dim),
        "keys and values": cores * kv_heads * num_tiles * key_and_value,
    }
    if problem.mask_shape is not None:
        mask_rows = 1 if problem.mask_shape[2] == 1 else rows
        mask_columns = 1 if problem.mask_shape[3] == 1 else length
        demand["mask rows"] = cores * matrix_bytes(mask_rows, mask_columns)
    return demand


def illegality(
    tiling: Tiling,
    problem: AttentionProblem,
    machine: HardwareModel,
    num_live_row_blocks: int,
) -> str | None:
    """Return the first reason why a tiling cannot be used, or None if it may be.

    Legal here means that the least demand fits; the planner has the last word.
    """
    num_matrices = problem.batch * problem.query_heads
    limits = {
        "heads": num_matrices,
        "query_rows": problem.query_length,
        "kv_columns": problem.kv_length,
    }
    for name, limit in limits.items():
        if getattr(tiling, name) > limit:
            return f"{name} is {getattr(tiling, name)}, the problem has {limit}"
    demand = on_chip_demand(tiling, problem, machine, num_live_row_blocks)
    capacity = machine.on_chip_memory.capacity_bytes
    total = sum(demand.values())
    if total > capacity:
        largest = max(demand, key=lambda term: demand[term])
        return (
            f"needs {total} bytes of {machine.on_chip_memory.name}, which has {capacity}; "
            f"most of it for {largest} ({demand[largest]})"
        )
    return None


@dataclass(frozen=True)
class TilingSpace:
    """Every tiling worth scoring for a problem on a machine, under a dataflow.

    Attributes:
        problem: What to compute.
        machine: What to compute it on.
        num_live_row_blocks: Of the dataflow; it decides what fits.
    """

    problem: AttentionProblem
    machine: HardwareModel
    num_live_row_blocks: int

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the candidate values of heads, query_rows and kv_columns.

        Row and column sizes are multiples of the matrix unit's block, and the whole length. Sizes
        below a block waste the unit; powers of two of them stay in for machines short of memory.
        """
        problem, unit = self.problem, self.machine.matrix_unit
        num_matrices = problem.batch * problem.query_heads
        heads = range(1, max(2, num_matrices // self.machine.num_cores + 1))
        # Query rows meet the unit's rows in both products; columns of scores are its columns in the
        # first product and its depth in the second.
        return (
            _thin(tuple(heads)),
            _multiples(unit.block_rows, problem.query_length),
            _multiples(unit.block_columns, problem.kv_length),
        )

    def __iter__(self) -> Iterator[Tiling]:
        """Yield every candidate, legal or not, without its prefetch depth."""
        unit = self.machine.matrix_unit
        blocks = (unit.block_rows, unit.block_columns)
        for keeps_kv, heads, rows, columns in itertools.product((True, False), *self.axes()):
            yield Tiling(heads, rows, columns, *blocks, keeps_kv, prefetch_tasks=1)


def _multiples(step: int, length: int) -> tuple[int, ...]:
    below = tuple(1 << power for power in range(step.bit_length()) if 1 << power < step)
    whole = _thin((*range(step, length, step), length))
    return (*(size for size in below if size < length), *whole)


def _thin(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(values) <= MAX_SIZES_PER_AXIS:
        return values
    last = len(values) - 1
    picked = {round(i * last / (MAX_SIZES_PER_AXIS - 1)) for i in range(MAX_SIZES_PER_AXIS)}
    # The smallest sizes matter most where memory is tight: keep them next to the even spread.
    picked |= set(range(8))
    return tuple(values[index] for index in sorted(picked))


def is_masked(problem: AttentionProblem) -> bool:
    """Return whether the vector unit has a mask to apply to each score."""
    return problem.mask is not MaskKind.NONE
