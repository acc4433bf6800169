"""Every tiling worth looking at for a problem on a machine, under a dataflow.

A space is a product of axes. An axis lists values; some are a number that depends on other axes,
such as "tiles of two heads", so that the same axes serve small and large problems. Sizes need not
divide anything: of all sizes that cut a length into the same number of pieces, the smallest stands
for them, as the others ask for more memory and gain nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.attention.schedule import layout as ly
from hocket.compiler.attention.schedule.layout import TilingArrays, kv_limit
from hocket.compiler.attention.tiling import Softmax, Split, Tiling
from hocket.hwmodels.units import align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

    Array = NDArray[np.int64]

MAX_PIECES = 4096
"""Lengths are cut into so many pieces at most, or into single rows of the matrix unit's block."""

MAX_SIZES = 24
"""More sizes than this along one axis are thinned out evenly on a logarithmic scale."""

MAX_STACKS = 12
"""The same of numbers of heads to stack."""

AXES = (
    "query_rows",
    "kv_columns",
    "heads",
    "softmax",
    "split",
    "live_blocks",
    "depth",
    "fills",
    "cores",
)

_NUM_SIZE_AXES = 3
"""The first of ``AXES``: how large tiles are. The others say in which order, and what is kept."""

_EVERYTHING = 1 << 20

# How much is kept on chip and how far transfers run ahead, from least to most: key and value tiles
# (as a number of heads, or if negative of single tiles of each kind), row blocks to load ahead (a
# number of heads, or if negative of row blocks), and row blocks to hold back stores likewise.
DEPTHS: tuple[tuple[float, float, float], ...] = (
    (-1, -1, -1),
    (-2, -1, -1),
    (0.25, -1, -1),
    (0.5, -1, -1),
    (0.75, -1, -1),
    (1, -1, -1),
    (1, -2, -4),
    (1.5, -4, -4),
    (2, 0.5, -8),
    (2, 1, 1),
    (4, 2, 2),
    (_EVERYTHING, _EVERYTHING, _EVERYTHING),
)


@dataclass(frozen=True)
class TilingSpace:
    """The tilings of a problem on a machine that a dataflow leaves open.

    Attributes:
        problem: What to compute.
        machine: What to compute it on.
        dataflow: In what order.
    """

    problem: AttentionProblem
    machine: HardwareModel
    dataflow: Dataflow

    @cached_property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """The values of each of ``AXES``; softmax, split and depth are indices."""
        problem, machine, dataflow = self.problem, self.machine, self.dataflow
        unit = machine.matrix_unit
        softmaxes = tuple(ly.FORMS[each.value] for each in dataflow.softmaxes)
        splits = [ly.SPLITS[each.value] for each in dataflow.splits]
        if machine.num_cores == 1:
            # All splits are one; that of rows may begin as a wave front and taper off.
            rows = ly.SPLITS[Split.ROWS.value]
            splits = [rows] if rows in splits else splits[:1]
        live = dataflow.live_blocks
        if not machine.has_concurrent_units:
            live = live[:1]
        return (
            sizes(problem.query_length, unit.block_rows),
            sizes(kv_limit(problem, dataflow), unit.block_columns),
            _divisors(problem.group_size) if dataflow.stacks_heads else (1,),
            softmaxes,
            tuple(splits),
            live,
            tuple(range(len(DEPTHS))),
            (0, 1, 2) if dataflow.fills and machine.has_concurrent_units else (0,),
            (machine.num_cores, 1) if machine.num_cores > 1 else (1,),
        )

    @property
    def size(self) -> int:
        """How many points there are, tilings that do not fit or mean the same included."""
        return int(np.prod([len(axis) for axis in self.axes]))

    @cached_property
    def arrays(self) -> TilingArrays:
        """Every point that makes sense, as numbers; each tiling once."""
        return self._all[0]

    @cached_property
    def _all(self) -> tuple[TilingArrays, NDArray[np.int64]]:
        """The tilings, and the number of the point of each."""
        return self._resolve(*self._points(self.axes))

    def neighbours(self, index: int) -> list[int]:
        """Return the tilings of ``arrays`` that differ in one axis, by one value."""
        shape = [len(axis) for axis in self.axes]
        numbers = self._all[1]
        point = np.unravel_index(int(numbers[index]), shape)
        found = []
        for axis, length in enumerate(shape):
            for value in (point[axis] - 1, point[axis] + 1):
                if 0 <= value < length:
                    other = [*point[:axis], value, *point[axis + 1 :]]
                    number = int(np.ravel_multi_index(other, shape))
                    place = int(np.searchsorted(numbers, number))
                    if place < len(numbers) and numbers[place] == number:
                        found.append(place)
        return found

    @cached_property
    def legal(self) -> NDArray[np.int64]:
        """Indices into ``arrays`` of the tilings that fit the machine; none if tensors do not."""
        if not self.has_room_for_tensors:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.demands <= self.machine.on_chip_memory.capacity_bytes)

    @cached_property
    def has_room_for_tensors(self) -> bool:
        """Whether the outer memory holds what is read and written."""
        terms = ly.outer_demand(self.problem, self.dataflow, self.machine)
        return sum(terms.values()) <= self.machine.outer_memory.capacity_bytes

    @cached_property
    def demands(self) -> NDArray[np.float64]:
        """On-chip bytes of each tiling of ``arrays``."""
        return ly.demand_bytes(self.arrays, self.problem, self.dataflow, self.machine)

    def tiling(self, index: int) -> Tiling:
        """Return a tiling of ``arrays`` as an object."""
        return _as_tiling(self.arrays, index)

    def at(self, point: tuple[int, ...]) -> Tiling | None:
        """Return the tiling of one index an axis; None if these choices do not go together."""
        values = [[axis[index]] for axis, index in zip(self.axes, point, strict=True)]
        arrays, _ = self._resolve(*self._points(values))
        return _as_tiling(arrays, 0) if len(arrays.query_rows) else None

    def holds(self, tiling: Tiling) -> bool:
        """Return whether a tiling is one of this space and fits the machine."""
        values = (
            tiling.query_rows,
            tiling.kv_columns,
            tiling.heads,
            ly.FORMS[tiling.softmax.value],
            ly.SPLITS[tiling.split.value],
            tiling.live_blocks,
        )
        if any(value not in axis for value, axis in zip(values, self.axes, strict=False)):
            return False
        # The tiling's other numbers follow from the axes that are left, one way or another.
        axes = [(value,) for value in values] + list(self.axes[len(values) :])
        arrays, numbers = self._resolve(*self._points(axes))
        if not any(_as_tiling(arrays, index) == tiling for index in range(len(numbers))):
            return False
        terms = ly.demand(tiling, self.problem, self.dataflow, self.machine)
        fits = sum(terms.values()) <= self.machine.on_chip_memory.capacity_bytes
        return fits and self.has_room_for_tensors

    def _points(self, axes: Sequence[Sequence[int]]) -> tuple[Array, Array]:
        """Return the points of some axes that may make sense, ``[axes, points]``, and numbers.

        Most choices of order and memory exclude each other whatever the sizes are, so these are
        sorted out before they are multiplied with sizes.
        """
        orders = _product(axes[_NUM_SIZE_AXES:])
        softmax, split, live, depth, fills, cores = orders
        is_online = softmax == ly.FORMS[Softmax.ONLINE.value]
        by_rows, by_keys = (split == ly.SPLITS[each.value] for each in (Split.ROWS, Split.KEYS))
        # A wave front needs several row blocks of one head at once; keys are split only with a
        # state to merge by; one core instead of all is for rows so long that memory holds those of
        # one core only.
        goes = (fills == 0) | (by_rows & ~is_online & (live > 1))
        goes &= ~by_keys | (softmax != ly.FORMS[Softmax.FULL_ROW.value])
        goes &= (cores == self.machine.num_cores) | ((depth <= 1) & ~by_rows & ~by_keys)
        kept = np.flatnonzero(goes)
        sizes = _product(axes[:_NUM_SIZE_AXES])
        num_sizes = sizes.shape[1]
        points = np.concatenate(
            [np.repeat(sizes, len(kept), axis=1), np.tile(orders[:, kept], num_sizes)]
        )
        numbers = np.repeat(np.arange(num_sizes) * len(goes), len(kept)) + np.tile(kept, num_sizes)
        return points, numbers

    def _resolve(self, points: Array, numbers: Array) -> tuple[TilingArrays, NDArray[np.int64]]:
        """Turn ``[axes, points]`` into tilings; drop what does not go together, and repetitions.

        Returns the tilings, and the number of the point of each one, ascending.
        """
        problem, machine = self.problem, self.machine
        rows, columns, heads, softmax, split, live, depth, fills, cores = points
        limit = kv_limit(problem, self.dataflow)
        is_online = softmax == ly.FORMS[Softmax.ONLINE.value]
        by_rows, by_keys = (split == ly.SPLITS[each.value] for each in (Split.ROWS, Split.KEYS))
        kv_matrices = problem.batch * problem.kv_heads
        head_tiles = 2 * ceil_div(limit, columns)
        blocks = ceil_div(problem.query_length, rows) * ceil_div(problem.group_size, heads)
        # Heads at work at once, and row blocks of a core in one head.
        together = np.where(by_rows | by_keys, 1, np.minimum(cores, kv_matrices))
        turns = np.where(by_rows, ceil_div(blocks, cores), blocks)
        all_turns = np.where(by_keys, blocks * kv_matrices, ceil_div(blocks * kv_matrices, cores))
        resident, ahead, held = (np.array(column)[depth] for column in zip(*DEPTHS, strict=True))
        tiles = np.where(resident < 0, -2 * resident, np.ceil(resident * head_tiles)) * together
        tiles = np.minimum(tiles, head_tiles * kv_matrices).astype(np.int64)
        prefetch = np.where(ahead < 0, -ahead, np.ceil(ahead * turns))
        store = np.where(held < 0, -held, np.ceil(held * turns))
        # As many keys as queries at a time, or half as many: both arrive at once.
        fill = ceil_div(
            rows * heads * cores, machine.matrix_unit.block_columns * np.maximum(fills, 1)
        )
        fill = fill * machine.matrix_unit.block_columns * (fills > 0)
        arrays = TilingArrays(
            query_rows=rows,
            kv_columns=columns,
            resident_tiles=tiles,
            heads=heads,
            live_blocks=live,
            prefetch_blocks=np.minimum(prefetch, all_turns).astype(np.int64),
            store_blocks=np.minimum(store, all_turns).astype(np.int64),
            softmax=softmax,
            split=split,
            fill_columns=fill,
            cores=cores,
        )
        # A wave front needs keys to wait for; with one head nothing is left for tiles of another
        # width.
        makes_sense = (fills == 0) | ((fill < limit) & ((kv_matrices > 1) | (columns == limit)))
        # Keys are split for few rows; one tile a row makes online softmax the deferred one.
        makes_sense &= ~by_keys | (turns < cores)
        is_only = set(self.dataflow.softmaxes) == {Softmax.ONLINE}
        makes_sense &= ~is_online | (columns < limit) | (is_only and limit == 1)
        if not self.dataflow.overwrites:
            makes_sense &= tiles >= np.minimum(head_tiles, head_tiles * kv_matrices)
        tilings, chosen = _unique(arrays, makes_sense)
        return tilings, numbers[chosen]


def sizes(length: int, block: int) -> tuple[int, ...]:
    """Return sizes to cut a length into, ascending: one for each number of pieces.

    Sizes are multiples of ``block``, the whole length, and below a block, for machines short of
    memory, its halves.
    """
    found = {length}
    pieces = 1
    while pieces <= min(MAX_PIECES, ceil_div(length, block)):
        size = min(align_up(ceil_div(length, pieces), block), length)
        found.add(size)
        # The next number of pieces that asks for a smaller size.
        pieces = max(pieces + 1, ceil_div(length, size) + 1)
    part = block
    while part < length:
        found.add(part)
        part *= 2
    part = block // 2
    while part >= 1:
        if part < length:
            found.add(part)
        part //= 2
    return _thinned(found, MAX_SIZES)


def _divisors(number: int) -> tuple[int, ...]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return _thinned({*small, *(number // size for size in small)}, MAX_STACKS)


def _thinned(found: set[int], most: int) -> tuple[int, ...]:
    """Return numbers, ascending; of more than ``most`` some, evenly on a logarithmic scale."""
    ordered = sorted(found)
    if len(ordered) <= most:
        return tuple(ordered)
    # The ends stay.
    wanted = np.geomspace(1.0, ordered[-1], most)
    nearest = np.abs(np.log(ordered)[:, None] - np.log(wanted)[None, :]).argmin(axis=0)
    return tuple(ordered[index] for index in sorted({0, len(ordered) - 1, *nearest.tolist()}))


def _product(axes: Sequence[Sequence[int]]) -> Array:
    """Return all points of some axes, ``[axes, points]``; the last axis runs fastest."""
    grids = np.meshgrid(*(np.array(axis, dtype=np.int64) for axis in axes), indexing="ij")
    return np.stack([grid.ravel() for grid in grids])


def _unique(
    arrays: TilingArrays, keep: NDArray[np.bool_]
) -> tuple[TilingArrays, NDArray[np.int64]]:
    numbers = np.flatnonzero(keep)
    columns = [getattr(arrays, name)[numbers] for name in TilingArrays.__dataclass_fields__]
    table = np.stack(columns, axis=1)
    _, first = np.unique(table, axis=0, return_index=True)
    first.sort()
    return TilingArrays(*table[first].T), numbers[first]


def _as_tiling(arrays: TilingArrays, index: int) -> Tiling:
    numbers = {
        name: int(getattr(arrays, name)[index]) for name in TilingArrays.__dataclass_fields__
    }
    softmax = {number: name for name, number in ly.FORMS.items()}[numbers.pop("softmax")]
    split = {number: name for name, number in ly.SPLITS.items()}[numbers.pop("split")]
    return Tiling(**numbers, softmax=Softmax(softmax), split=Split(split))
