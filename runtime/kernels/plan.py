"""The numbers of a kernel: what is fixed in its text, and what it is handed at each call.

Text is specialised to what its loops are unrolled over: head sizes, lanes, the form of the mask.
Lengths, heads, batch, strides and tile sizes come in an array of sizes, so that layers of all
lengths share one compiled kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.units import align_up, ceil_div
from hocket.runtime.kernels.lanes import FLOAT_BYTES
from hocket.runtime.kernels.matrix import MAX_VECTORS, tile_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters

SIZE_NAMES = (
    "num_items",
    "num_blocks",
    "query_heads",
    "group_size",
    "query_length",
    "kv_length",
    "block_rows",
    "chunk_rows",
    "strip_rows",
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
"""Order of the int64 array of sizes that a kernel reads. Strides are bytes."""

STATISTICS = ("largest", "previous", "shift", "factors", "sums", "ones")
"""Vectors that a kernel keeps for each query of a piece, in their order in scratch."""

SCRATCH_ALIGNMENT = 64
"""Bytes of a cache line: no two workers share one."""

# Scores of one piece of queries are kept for all keys while they take no more than this share of
# the second-level cache, and for a chunk of keys at a time beyond it: the rest is for the keys.
_SCORE_SHARE_OF_L2 = 0.5
# What a strip of keys may take of the first-level cache: their weights and their values. Both are
# read again for every few columns of the output.
_STRIP_BYTES = 32 * 1024


@dataclass(frozen=True)
class KernelForm:
    """All that the text of a kernel depends on.

    Attributes:
        lanes: float32 lanes of a vector.
        tile_rows: Rows of key, or columns of value, of one register tile.
        head_dim, value_dim: Columns of query and key, and of value and output.
        mask: Kind of the mask: "none", "additive" or "boolean".
        mask_axes: What a mask entry belongs to: "none", "key", "query" or "both".
        masked_rows: "nan" or "zero".
        is_causal: Whether keys after their query are hidden.
    """

    lanes: int
    tile_rows: int
    head_dim: int
    value_dim: int
    mask: str
    mask_axes: str
    masked_rows: str
    is_causal: bool


@dataclass(frozen=True)
class ScratchLayout:
    """Where a worker keeps its tiles, as byte offsets from the start of its scratch memory.

    Attributes:
        queries: Packed queries, ``[head_dim, lanes of a piece]``.
        output: Sums of weighted values, ``[value_dim, lanes of a piece]``.
        statistics: Vectors of ``STATISTICS``, ``row_bytes`` apart.
        scores: Scores and then weights of a chunk, ``[keys, lanes of a piece]``.
        row_bytes: Bytes of one row of lanes, in the widest piece.
    """

    queries: int
    output: int
    statistics: int
    scores: int
    row_bytes: int


def kernel_form(parameters: AttentionParameters, cpu: CpuFeatures) -> KernelForm:
    """Return the form of the kernel that computes ``parameters`` on ``cpu``."""
    return KernelForm(
        lanes=cpu.vector_lanes,
        tile_rows=tile_rows(cpu.vector_lanes, cpu.num_vector_registers),
        head_dim=parameters.head_dim,
        value_dim=parameters.value_dim,
        mask=parameters.mask,
        mask_axes=_mask_axes(parameters),
        masked_rows=parameters.masked_rows,
        is_causal=parameters.is_causal,
    )


def scratch_layout(form: KernelForm) -> ScratchLayout:
    """Return where a worker of this kernel keeps its tiles."""
    row_bytes = form.lanes * MAX_VECTORS * FLOAT_BYTES
    queries = 0
    output = queries + form.head_dim * row_bytes
    statistics = output + form.value_dim * row_bytes
    scores = statistics + len(STATISTICS) * row_bytes
    return ScratchLayout(queries, output, statistics, scores, row_bytes)


def worker_scratch_bytes(form: KernelForm, chunk_rows: int) -> int:
    """Return the bytes that one worker needs, whole cache lines."""
    # The last tile of a chunk may hang over its end by less than its own rows.
    overhang = max(form.tile_rows, form.lanes)
    layout = scratch_layout(form)
    rows = chunk_rows + overhang
    return align_up(layout.scores + rows * layout.row_bytes, SCRATCH_ALIGNMENT)


def plan_sizes(
    parameters: AttentionParameters, form: KernelForm, l2_bytes: int
) -> NDArray[np.int64]:
    """Return the array of sizes, int64 ``[len(SIZE_NAMES)]``, that a kernel is called with.

    A work item has ``query_rows`` rows, and a chunk of the online softmax ``kv_columns`` keys,
    each rounded up to whole vectors. While the scores of all keys fit half of the second-level
    cache, one chunk holds them and nothing is ever rescaled; no chunk is larger than that half.
    """
    block_rows = align_up(parameters.query_rows, form.lanes)
    num_blocks = ceil_div(parameters.query_length, block_rows)
    row_bytes = form.lanes * MAX_VECTORS * FLOAT_BYTES
    budget_rows = max(int(l2_bytes * _SCORE_SHARE_OF_L2) // row_bytes, form.lanes)
    if parameters.kv_length <= budget_rows:
        chunk_rows = parameters.kv_length
    else:
        chunk_rows = min(align_up(parameters.kv_columns, form.lanes), budget_rows)
    # Strips of about equal length: a short one would not be worth its calls.
    most_rows = max(_STRIP_BYTES // (row_bytes + form.value_dim * FLOAT_BYTES), form.tile_rows)
    num_strips = ceil_div(chunk_rows, most_rows)
    sizes = {
        "num_items": parameters.batch * parameters.query_heads * num_blocks,
        "num_blocks": num_blocks,
        "query_heads": parameters.query_heads,
        "group_size": parameters.query_heads // parameters.kv_heads,
        "query_length": parameters.query_length,
        "kv_length": parameters.kv_length,
        "block_rows": block_rows,
        "chunk_rows": chunk_rows,
        "strip_rows": align_up(ceil_div(chunk_rows, num_strips), form.tile_rows),
    }
    for name in ("query", "key", "value", "output"):
        shape = getattr(parameters, f"{name}_shape")
        batch, second, third, _ = _strides(shape, FLOAT_BYTES)
        if getattr(parameters, f"{name}_layout") == "bhnd":
            head, row = second, third
        else:
            head, row = third, second
        sizes |= {
            f"{name}_batch_stride": batch,
            f"{name}_head_stride": head,
            f"{name}_row_stride": row,
        }
    mask_strides = _mask_strides(parameters)
    for axis, stride in zip(("batch", "head", "row", "column"), mask_strides, strict=True):
        sizes[f"mask_{axis}_stride"] = stride
    return np.array([sizes[name] for name in SIZE_NAMES], dtype=np.int64)


def _mask_axes(parameters: AttentionParameters) -> str:
    if parameters.mask_shape is None:
        return "none"
    rows, columns = parameters.mask_shape[2:]
    if rows == 1:
        # One entry for all keys is one entry for each key, read over and over.
        return "key"
    return "query" if columns == 1 else "both"


def _mask_strides(parameters: AttentionParameters) -> tuple[int, ...]:
    """Return the byte stride of each axis of the mask, 0 where it is broadcast."""
    shape = parameters.mask_shape
    if shape is None:
        return (0, 0, 0, 0)
    itemsize = 1 if parameters.mask == "boolean" else FLOAT_BYTES
    strides = _strides(shape, itemsize)
    return tuple(stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True))


def _strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the byte strides of a contiguous array."""
    strides = [itemsize]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))
