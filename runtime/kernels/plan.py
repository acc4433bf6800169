"""The numbers of a kernel: what is fixed in its text, and what it is handed at each call.

Text is specialised to what its loops are unrolled over and what it leaves out: head sizes, lanes,
storage, the form of the mask. Lengths, heads, batch, strides and tile sizes come in an array of
arguments, so that layers of all lengths share one compiled kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.units import align_up, ceil_div
from hocket.runtime.kernels.elementary import LOG2_E
from hocket.runtime.kernels.masks import entry_bytes
from hocket.runtime.kernels.matrix import ELEMENT_BYTES, MAX_VECTORS, tile_rows
from hocket.runtime.kernels.storage import STORAGE_BYTES, computed_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters

OPERANDS = ("query", "key", "value", "mask", "kv_lengths", "slopes", "output", "log_sum_exp")
"""Arrays that a kernel works on: their addresses are its first arguments, 0 for what it lacks."""

SIZE_NAMES = (
    "num_items",
    "num_blocks",
    "query_heads",
    "group_size",
    "query_length",
    "kv_length",
    "block_rows",
    "chunk_rows",
    "query_offset",
    "left_window",
    "right_window",
    "query_batch_stride",
    "query_head_stride",
    "query_row_stride",
    "key_batch_stride",
    "key_head_stride",
    "key_row_stride",
    "value_batch_stride",
    "value_head_stride",
    "value_row_stride",
    "output_batch_stride",
    "output_head_stride",
    "output_row_stride",
    "mask_batch_stride",
    "mask_head_stride",
    "mask_row_stride",
    "mask_column_stride",
)
"""Integers that follow the operands among the arguments. Strides are bytes."""

REAL_NAMES = ("query_factor", "score_factor", "masked_value", "softcap", "slope_factor")
"""float64 numbers, as their bits, that follow the sizes."""

ARGUMENT_NAMES = (*OPERANDS, *SIZE_NAMES, *REAL_NAMES)
"""Order of the int64 array of arguments that a kernel is called with."""

MOST_QUERY_ROWS = {"float64": 16, "float32": 16, "bfloat16": 12}
"""Query rows up to which there are too few of them to fill lanes, by the product in lanes.

Up to these the kernel for few rows takes less time, measured with 8 and 16 lanes, with columns from
64 to 128 and any number of heads that share keys. Pairs of bfloat16 make up for more empty lanes.
"""

STATISTICS = ("largest", "previous", "shift", "factors", "sums", "ones")
"""Vectors that a kernel keeps for each query of a piece, in their order in scratch."""

SCRATCH_ALIGNMENT = 64
"""Bytes of a cache line: no two workers share one."""

# Scores of a chunk, and then weights, should stay in the first-level cache together with what is
# read beside them.
_MOST_SCORE_BYTES = 24 * 1024
# Keys or values of a chunk that are copied, at most.
_MOST_STAGED_BYTES = 32 * 1024
# Work items that keep a few dozen threads evenly busy. The number cannot follow that of the
# threads, which is not known here; a piece is the least that an item can be.
_ITEMS_WANTED = 256


@dataclass(frozen=True)
class KernelForm:
    """All that the text of a kernel depends on.

    Attributes:
        lanes: Lanes of a vector, half as many of float64 as of float32.
        tile_rows: Rows of key, or columns of value, of one register tile.
        head_dim, value_dim: Columns of query and key, and of value and output.
        storage: Element type of the tensors, a key of ``storage.STORAGE_BYTES``.
        product: How products are made, see ``matrix.PRODUCTS``.
        base: Base of the exponentials, see ``elementary.BASES``.
        has_scaling: Whether the CPU splits and scales floats by powers of two.
        mask: "none", "boolean", or the storage type of a mask that is added.
        mask_axes: What a mask entry belongs to: "none", "key", "query" or "both".
        masked_rows: "nan" or "zero".
        has_end, has_start: Whether a query does not see keys far after, or far before, it.
        tries_again: Whether queries that see no key are to be done once more, with all keys.
        has_softcap, has_kv_lengths, counts_from_end, has_slopes, saves_log_sum_exp: As in
            ``AttentionParameters``.
    """

    lanes: int
    tile_rows: int
    head_dim: int
    value_dim: int
    storage: str
    product: str
    base: str
    has_scaling: bool
    mask: str
    mask_axes: str
    masked_rows: str
    has_end: bool
    has_start: bool
    tries_again: bool
    has_softcap: bool
    has_kv_lengths: bool
    counts_from_end: bool
    has_slopes: bool
    saves_log_sum_exp: bool

    @property
    def element(self) -> str:
        """Type that is computed in, a key of ``lanes.ELEMENTS``."""
        return computed_in(self.storage)

    @property
    def element_bytes(self) -> int:
        """Bytes of a number of that type."""
        return STORAGE_BYTES[self.element]

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        return self.lanes * self.element_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of lanes, in the widest register tile."""
        return MAX_VECTORS * self.vector_bytes

    def title_lines(self) -> list[str]:
        """Return a description in words."""
        masked = "no mask" if self.mask == "none" else f"{self.mask} mask by {self.mask_axes}"
        flags = [
            name
            for name in (
                "has_end",
                "has_start",
                "tries_again",
                "has_softcap",
                "has_kv_lengths",
                "counts_from_end",
                "has_slopes",
                "saves_log_sum_exp",
            )
            if getattr(self, name)
        ]
        height = f"tiles of {self.tile_rows} rows of"
        return [
            f"head_dim {self.head_dim}, value_dim {self.value_dim}, {self.storage}, {masked},",
            f"masked rows {self.masked_rows}, {self.lanes} lanes, {height}",
            f"{self.product} products{''.join(', ' + flag for flag in flags)}.",
        ]

    @property
    def last_step(self) -> str:
        """Which step leaves the scores final, so that it can find the largest on its way.

        "score" if that is the product, "mask" if a mask by query and key comes last, else
        "other".
        """
        if self.has_end or self.has_start or self.mask_axes == "query":
            return "other"
        if self.mask_axes == "both":
            return "mask"
        return "other" if self.has_softcap or self.has_slopes else "score"

    @property
    def score_depth(self) -> int:
        """Steps of the product of query and key."""
        return self.head_dim // 2 if self.product == "bfloat16" else self.head_dim

    @property
    def widens(self) -> bool:
        """Whether keys and values are copied to a wider type before they are multiplied."""
        return self.storage not in (self.element, self.product)

    @property
    def staged_row_bytes(self) -> int:
        """Bytes of a key, or a value, that is copied before it is multiplied; 0 if none is."""
        if self.widens:
            return max(self.head_dim, self.value_dim) * self.element_bytes
        return self.value_dim * ELEMENT_BYTES // 2 if self.product == "bfloat16" else 0


@dataclass(frozen=True)
class ScratchLayout:
    """Where a worker keeps its tiles, as byte offsets from the start of its scratch memory.

    Attributes:
        queries: Packed queries, ``[score_depth, lanes of a piece]``.
        output: Sums of weighted values, ``[value_dim, lanes of a piece]``.
        statistics: Vectors of ``STATISTICS``, ``row_bytes`` apart.
        staged: Keys, and later values, of a chunk in the form that products want, where that is
            not how they are stored.
        scores: Scores and then weights of a chunk, ``[keys, lanes of a piece]``.
        row_bytes: Bytes of one row of lanes, in the widest piece.
        total_bytes: Of one worker, whole cache lines.
    """

    queries: int
    output: int
    statistics: int
    staged: int
    scores: int
    row_bytes: int
    total_bytes: int


def kernel_form(parameters: AttentionParameters, cpu: CpuFeatures) -> KernelForm:
    """Return the form of the kernel that computes ``parameters`` on ``cpu``."""
    storage = parameters.dtype.value
    has_pairs = storage == "bfloat16" and "avx512bf16" in cpu.extensions
    additive = parameters.mask == "additive"
    computed = computed_in(storage)
    product = "bfloat16" if has_pairs and parameters.head_dim % 2 == 0 else computed
    # Few rows see nearly all keys; where the mask says which, nothing else need.
    by_mask = parameters.mask_hides_rest and parameters.query_length <= MOST_QUERY_ROWS[product]
    has_end = parameters.last_ahead is not None and not by_mask
    has_start = parameters.left_window is not None and not by_mask
    lanes = cpu.vector_lanes * STORAGE_BYTES["float32"] // STORAGE_BYTES[computed]
    return KernelForm(
        lanes=lanes,
        tile_rows=tile_rows(lanes, cpu.num_vector_registers),
        head_dim=parameters.head_dim,
        value_dim=parameters.value_dim,
        storage=storage,
        product=product,
        base="e" if additive else "2",
        has_scaling="avx512dq" in cpu.extensions and computed == "float32",
        mask=parameters.mask_element.value if additive else parameters.mask,
        mask_axes=_mask_axes(parameters),
        masked_rows=parameters.masked_rows,
        has_end=has_end,
        has_start=has_start,
        tries_again=parameters.mask_hides_rest and (has_end or has_start),
        has_softcap=parameters.softcap > 0,
        has_kv_lengths=parameters.has_kv_lengths,
        counts_from_end=parameters.counts_from_end,
        has_slopes=parameters.has_slopes,
        saves_log_sum_exp=parameters.saves_log_sum_exp,
    )


def scratch_layout(form: KernelForm, chunk_rows: int) -> ScratchLayout:
    """Return where a worker of a kernel keeps its tiles, for chunks of so many keys."""
    row_bytes = form.row_bytes
    queries = 0
    output = queries + form.score_depth * row_bytes
    statistics = output + form.value_dim * row_bytes
    staged = statistics + len(STATISTICS) * row_bytes
    # Rows are staged two by two, as pairs have it.
    staged_bytes = ceil_div(chunk_rows, 2) * 2 * form.staged_row_bytes
    scores = align_up(staged + staged_bytes, SCRATCH_ALIGNMENT)
    # The last tile of a chunk may hang over its end by less than its own rows.
    rows = chunk_rows + max(form.tile_rows, form.lanes)
    total = align_up(scores + rows * row_bytes, SCRATCH_ALIGNMENT)
    return ScratchLayout(queries, output, statistics, staged, scores, row_bytes, total)


def plan_sizes(parameters: AttentionParameters, form: KernelForm) -> dict[str, int]:
    """Return the sizes by their names, ``SIZE_NAMES``.

    A work item has ``query_rows`` rows, in whole pieces of as many as the widest tile takes, and no
    more than leave enough items for many threads. A chunk of the online softmax has ``kv_columns``
    keys, in whole vectors, and no more than the first-level cache wants.
    """
    piece_rows = form.lanes * MAX_VECTORS
    heads = parameters.batch * parameters.query_heads
    num_pieces = heads * ceil_div(parameters.query_length, piece_rows)
    wanted_pieces = ceil_div(parameters.query_rows, piece_rows)
    block_rows = min(wanted_pieces, max(num_pieces // _ITEMS_WANTED, 1)) * piece_rows
    num_blocks = ceil_div(parameters.query_length, block_rows)
    row_bytes = form.row_bytes
    most_rows = _MOST_SCORE_BYTES // row_bytes
    if form.staged_row_bytes:
        most_rows = min(most_rows, _MOST_STAGED_BYTES // form.staged_row_bytes)
    most_rows = max(most_rows // form.lanes, 1) * form.lanes
    wanted_rows = align_up(parameters.kv_columns, form.lanes)
    longest = align_up(parameters.kv_length, form.lanes)
    sizes = {
        "num_items": heads * num_blocks,
        "num_blocks": num_blocks,
        "query_heads": parameters.query_heads,
        "group_size": parameters.query_heads // parameters.kv_heads,
        "query_length": parameters.query_length,
        "kv_length": parameters.kv_length,
        "block_rows": block_rows,
        "chunk_rows": min(wanted_rows, most_rows, longest),
        "query_offset": parameters.query_offset,
        "left_window": parameters.left_window or 0,
        "right_window": parameters.last_ahead or 0,
    }
    itemsize = STORAGE_BYTES[form.storage]
    for name in ("query", "key", "value", "output"):
        shape = getattr(parameters, f"{name}_shape")
        batch, second, third, _ = _strides(shape, itemsize)
        if getattr(parameters, f"{name}_layout") == "bhnd":
            head, row = second, third
        else:
            head, row = third, second
        sizes |= {
            f"{name}_batch_stride": batch,
            f"{name}_head_stride": head,
            f"{name}_row_stride": row,
        }
    mask_strides = _mask_strides(parameters, form)
    for axis, stride in zip(("batch", "head", "row", "column"), mask_strides, strict=True):
        sizes[f"mask_{axis}_stride"] = stride
    return sizes


def plan_reals(parameters: AttentionParameters, form: KernelForm) -> dict[str, float]:
    """Return the real numbers by their names, ``REAL_NAMES``.

    Scores are computed in units of the base of the exponentials, or of the softcap where there is
    one; queries are multiplied by the factor as they are packed, or scores afterwards where
    queries are packed as they are.
    """
    unit = LOG2_E if form.base == "2" else 1.0
    lowest = float(np.finfo(form.element).min)
    factor = parameters.scale * unit
    if form.has_softcap:
        factor = parameters.scale / parameters.softcap
    return {
        "query_factor": factor,
        "score_factor": factor,
        # The lowest float, times log2(e), would be infinite: a key hidden for good.
        "masked_value": parameters.masked_value
        if math.isinf(parameters.masked_value)
        else min(max(parameters.masked_value * unit, lowest), -lowest),
        "softcap": parameters.softcap * unit,
        "slope_factor": unit,
    }


def make_arguments(sizes: Mapping[str, int], reals: Mapping[str, float]) -> NDArray[np.int64]:
    """Return the array of arguments, int64 ``[len(ARGUMENT_NAMES)]``, with no operands yet."""
    arguments = np.zeros(len(ARGUMENT_NAMES), np.int64)
    first_real = len(OPERANDS) + len(SIZE_NAMES)
    arguments[len(OPERANDS) : first_real] = [sizes[name] for name in SIZE_NAMES]
    arguments[first_real:].view(np.float64)[:] = [reals[name] for name in REAL_NAMES]
    return arguments


def _mask_axes(parameters: AttentionParameters) -> str:
    if parameters.mask_shape is None:
        return "none"
    rows, columns = parameters.mask_shape[2:]
    if rows == 1:
        # One entry for all keys is one entry for each key, read over and over.
        return "key"
    return "query" if columns == 1 else "both"


def _mask_strides(parameters: AttentionParameters, form: KernelForm) -> tuple[int, ...]:
    """Return the byte stride of each axis of the mask, 0 where it is broadcast."""
    shape = parameters.mask_shape
    if shape is None:
        return (0, 0, 0, 0)
    strides = _strides(shape, entry_bytes(form.mask))
    return tuple(stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True))


def _strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the byte strides of a contiguous array."""
    strides = [itemsize]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))
