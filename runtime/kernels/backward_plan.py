"""The numbers of a backward kernel: what it is handed at each call, and how its work is divided.

One text serves three ways to divide the work, see ``Pass``: all sums that an item of work adds to
are its own, so that no two workers write to the same place, and each sum is one chain of
additions in the order of rows, or of keys, however the work is divided. So is the result the same
bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.hwmodels.units import align_up, ceil_div
from hocket.runtime.kernels.masks import entry_bytes
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.plan import SCRATCH_ALIGNMENT, kernel_form, plan_reals, plan_sizes
from hocket.runtime.kernels.storage import STORAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hocket.runtime.cpu import CpuFeatures
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.plan import KernelForm

OPERANDS = (
    "query",
    "key",
    "value",
    "mask",
    "kv_lengths",
    "slopes",
    "output",
    "log_sum_exp",
    "output_gradient",
    "query_gradient",
    "key_gradient",
    "value_gradient",
    "mask_gradient",
    "deltas",
)
"""Arrays that a kernel works on: their addresses are its first arguments, 0 for what it lacks."""

PASS_NAMES = (
    "num_items",
    "batches_each",
    "heads_each",
    "keys_each",
    "queries_each",
    "num_head_parts",
    "num_key_parts",
    "num_query_parts",
    "does_queries",
    "does_keys",
    "does_mask",
)
"""Integers that follow the operands, and tell one pass from another."""

_LAID_OUT = ("query", "key", "value", "output", "query_gradient", "key_gradient", "value_gradient")
_SHARED_SIZES = (
    "query_heads",
    "group_size",
    "query_length",
    "kv_length",
    "query_offset",
    "left_window",
    "right_window",
)

SIZE_NAMES = (
    *PASS_NAMES,
    *_SHARED_SIZES,
    "chunk_rows",
    *(f"{name}_{axis}_stride" for name in _LAID_OUT for axis in ("batch", "head", "row")),
    *(
        f"{name}_{axis}_stride"
        for name in ("mask", "mask_gradient")
        for axis in ("batch", "head", "row", "column")
    ),
)
"""Integers that follow the operands among the arguments. Strides are bytes."""

REAL_NAMES = ("key_factor", "scale", "masked_value", "softcap", "slope_factor")
"""float64 numbers, as their bits, that follow the sizes."""

ARGUMENT_NAMES = (*OPERANDS, *SIZE_NAMES, *REAL_NAMES)
"""Order of the int64 array of arguments that a kernel is called with."""

# Query rows done at a time. Their scores and gradients, beside packed keys and values, should stay
# in the first two levels of cache.
ROW_STEP = 24
"""Query rows that make whole register tiles, of whatever height these are."""

_CHUNK_ROWS = 4 * ROW_STEP
# Chunks of an item that does queries alone, at most and for as many items a thread: keys and values
# are packed anew for each item.
_CHUNKS_EACH = 4
_ITEMS_OF_THREAD = 4


@dataclass(frozen=True)
class GradientForm:
    """All that the text of a backward kernel depends on.

    Attributes:
        forward: Of the kernel whose gradients these are.
        registers: Vector registers of the CPU.
        has_mask_gradient: Whether the gradient of an additive mask is wanted.
    """

    forward: KernelForm
    registers: int
    has_mask_gradient: bool

    @property
    def widens(self) -> bool:
        """Whether rows of query and output gradient are copied before they are multiplied."""
        return self.forward.storage != self.forward.element


@dataclass(frozen=True)
class Pass:
    """One way over all the work, in items that each own what they add to.

    Attributes:
        batches_each, heads_each, keys_each, queries_each: Extent of an item, of which there are as
            many as cover all batches, query heads, keys and query rows.
        does_queries: Whether it makes the query gradient; items have all keys then.
        does_keys: Whether it makes gradients of key and value; items have all queries, and all
            heads of a group, then.
        does_mask: Whether it makes the gradient of the mask.
    """

    batches_each: int
    heads_each: int
    keys_each: int
    queries_each: int
    does_queries: bool
    does_keys: bool
    does_mask: bool

    def num_items(self, parameters: AttentionParameters) -> int:
        """Return the number of items."""
        return math.prod(self._parts(parameters))

    def sizes(self, parameters: AttentionParameters) -> list[int]:
        """Return the integers of ``PASS_NAMES``, in that order."""
        _, *parts = self._parts(parameters)
        return [
            self.num_items(parameters),
            self.batches_each,
            self.heads_each,
            self.keys_each,
            self.queries_each,
            *parts,
            int(self.does_queries),
            int(self.does_keys),
            int(self.does_mask),
        ]

    def _parts(self, parameters: AttentionParameters) -> tuple[int, int, int, int]:
        return (
            parameters.batch // self.batches_each,
            parameters.query_heads // self.heads_each,
            ceil_div(parameters.kv_length, self.keys_each),
            ceil_div(parameters.query_length, self.queries_each),
        )


@dataclass(frozen=True)
class ScratchLayout:
    """Where a worker keeps its tiles, as byte offsets from the start of its scratch memory.

    Attributes:
        keys, values: Packed, ``[columns, lanes of a block]``.
        key_sums, value_sums: Sums of their gradients, packed alike.
        key_rows: Keys of a block times the scale, in rows of whole vectors.
        ones: Row of lanes of a block.
        entries: Mask entries by key of a block.
        entry_sums: Sums of their gradients.
        query_rows, gradient_rows: Rows of query and output gradient of a chunk, where they are
            copied.
        scores, gradients: Of a chunk, ``[rows, lanes of a block]``.
        total_bytes: Of one worker, whole cache lines.
    """

    keys: int
    values: int
    key_sums: int
    value_sums: int
    key_rows: int
    ones: int
    entries: int
    entry_sums: int
    query_rows: int
    gradient_rows: int
    scores: int
    gradients: int
    total_bytes: int


def gradient_form(
    parameters: AttentionParameters, cpu: CpuFeatures, *, has_mask_gradient: bool
) -> GradientForm:
    """Return the form of the kernel that computes the gradients of ``parameters`` on ``cpu``."""
    return GradientForm(kernel_form(parameters, cpu), cpu.num_vector_registers, has_mask_gradient)


def scratch_layout(form: GradientForm) -> ScratchLayout:
    """Return where a worker of a kernel keeps its tiles."""
    forward = form.forward
    row_bytes, element_bytes = forward.row_bytes, forward.element_bytes
    head_bytes, value_bytes = forward.head_dim * row_bytes, forward.value_dim * row_bytes
    # The last tile of a chunk may hang over its end by less than its own rows.
    score_bytes = (_CHUNK_ROWS + forward.tile_rows) * row_bytes
    copied = _CHUNK_ROWS * element_bytes if form.widens else 0
    sizes = {
        "keys": head_bytes,
        "values": value_bytes,
        "key_sums": head_bytes,
        "value_sums": value_bytes,
        "key_rows": align_up(forward.head_dim, forward.lanes) * row_bytes,
        "ones": row_bytes,
        "entries": row_bytes,
        "entry_sums": row_bytes,
        "query_rows": copied * forward.head_dim,
        "gradient_rows": copied * forward.value_dim,
        "scores": score_bytes,
        "gradients": score_bytes,
    }
    places, total = {}, 0
    for name, size in sizes.items():
        places[name] = total
        total += align_up(size, SCRATCH_ALIGNMENT)
    return ScratchLayout(**places, total_bytes=total)


def plan_passes(
    parameters: AttentionParameters, form: GradientForm, num_threads: int
) -> list[Pass]:
    """Return the passes over the work, for so many threads.

    One pass makes all gradients where there are enough heads for the threads. Else one makes the
    query gradient and one the others, each from scores of its own: seven products where there
    were five, but as many items as anybody may want.

    The gradient of a mask is made on the way if no two items share its entries, else at last.
    """
    group = parameters.query_heads // parameters.kv_heads
    keys, queries = parameters.kv_length, parameters.query_length
    keys_each = MAX_VECTORS * form.forward.lanes
    queries_each = _queries_each(parameters, num_threads)
    items = parameters.batch * parameters.kv_heads
    takes_one = 5 * ceil_div(items, num_threads) * num_threads <= 7 * items
    shape = parameters.mask_shape if form.has_mask_gradient else None
    # The last pass is the only one to differentiate scores before their cap.
    on_the_way = shape is not None and shape[:2] == parameters.scores_shape[:2]
    on_the_way = on_the_way and not form.forward.has_softcap
    if takes_one:
        passes = [Pass(1, group, keys, queries, True, True, on_the_way)]
    else:
        # Items by key share the entries of a mask that has one for all keys.
        on_the_way = on_the_way and shape is not None and shape[3] == keys
        passes = [
            Pass(1, 1, keys, queries_each, True, False, False),
            Pass(1, group, keys_each, queries, False, True, on_the_way),
        ]
    if shape is not None and not on_the_way:
        batches = 1 if shape[0] > 1 else parameters.batch
        heads = 1 if shape[1] > 1 else parameters.query_heads
        if form.forward.mask_axes == "query":
            extent = (keys, queries_each)
        else:
            extent = (keys_each if shape[3] > 1 else keys, queries)
        passes.append(Pass(batches, heads, *extent, False, False, True))
    return passes


def _queries_each(parameters: AttentionParameters, num_threads: int) -> int:
    """Return the query rows of an item that has all keys, not one of many by keys."""
    rows = parameters.batch * parameters.query_heads * parameters.query_length
    chunks = rows // (_ITEMS_OF_THREAD * num_threads * _CHUNK_ROWS)
    chunks = min(max(chunks, 1), _CHUNKS_EACH)
    return min(chunks * _CHUNK_ROWS, parameters.query_length)


def plan_arguments(parameters: AttentionParameters, form: GradientForm) -> NDArray[np.int64]:
    """Return the array of arguments, with neither operands nor a pass yet."""
    forward = plan_sizes(parameters, form.forward)
    sizes = {name: forward.get(name, 0) for name in SIZE_NAMES}
    sizes["chunk_rows"] = _CHUNK_ROWS
    wider = form.forward.element_bytes // STORAGE_BYTES[form.forward.storage]
    for name in ("query", "key", "value"):
        for axis in ("batch", "head", "row"):
            sizes[f"{name}_gradient_{axis}_stride"] = wider * forward[f"{name}_{axis}_stride"]
    if form.has_mask_gradient:
        for axis in ("batch", "head", "row", "column"):
            stride = forward[f"mask_{axis}_stride"] // entry_bytes(form.forward.mask)
            sizes[f"mask_gradient_{axis}_stride"] = stride * form.forward.element_bytes
    reals = plan_reals(parameters, form.forward)
    reals = {**reals, "key_factor": reals["query_factor"], "scale": parameters.scale}
    return _make_arguments(sizes, reals)


def _make_arguments(sizes: Mapping[str, int], reals: Mapping[str, float]) -> NDArray[np.int64]:
    arguments = np.zeros(len(ARGUMENT_NAMES), np.int64)
    first_real = len(OPERANDS) + len(SIZE_NAMES)
    arguments[len(OPERANDS) : first_real] = [sizes[name] for name in SIZE_NAMES]
    arguments[first_real:].view(np.float64)[:] = [reals[name] for name in REAL_NAMES]
    return arguments
