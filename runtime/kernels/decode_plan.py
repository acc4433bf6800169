"""Sizes of the kernel for few query rows: parts of the keys, strips, memory.

A work item is a part of the keys of one key-value head, with all query rows that see them. How
many parts there are follows from the shape and from what lengths and windows leave of the keys,
never from the threads, so that the bits of the output do not depend on these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.hwmodels.units import align_up, ceil_div
from hocket.runtime.kernels.decode_state import row_vectors, state_vectors
from hocket.runtime.kernels.plan import MOST_QUERY_ROWS, SCRATCH_ALIGNMENT, plan_sizes
from hocket.runtime.kernels.storage import STORAGE_BYTES

if TYPE_CHECKING:
    from hocket.runtime.kernels.parameters import AttentionParameters
    from hocket.runtime.kernels.plan import KernelForm

COUNTER_BYTES = 8
"""Bytes of the number that counts the parts of a head that are done."""

# Keys of a strip, if their scores are no more than so many bytes.
_STRIP_KEYS = 256
_SCORE_BYTES = 16 * 1024
_LEAST_STRIP_KEYS = 64
# Keys, or values, that all rows are multiplied by before the next ones: they stay in the
# first-level cache beside queries and scores.
_NEAR_BYTES = 16 * 1024
# A part pays for putting the parts together from so many keys on.
_LEAST_PART_KEYS = 512
# Work items that keep a few dozen threads evenly busy, if there are as many parts.
_ITEMS_WANTED = 64


@dataclass(frozen=True)
class DecodeLayout:
    """Bytes of what a kernel for few rows keeps in scratch memory.

    Attributes:
        query_bytes: A packed query row.
        state_bytes: The state of a row.
        worker_bytes: All of one worker: packed queries, states and scores of its rows.
        shared_bytes: What workers share: for each key-value head the number of its parts that are
            done, and, where there may be several, the states of all parts.
    """

    query_bytes: int
    state_bytes: int
    worker_bytes: int
    shared_bytes: int


def decodes(parameters: AttentionParameters, form: KernelForm) -> bool:
    """Return whether an attention is done by the kernel for few rows."""
    return parameters.query_length <= MOST_QUERY_ROWS[form.product]


def near_rows(form: KernelForm, depth: int) -> int:
    """Return the keys, or values, of ``depth`` columns that are multiplied at a time."""
    rows = _NEAR_BYTES // (depth * STORAGE_BYTES[form.storage])
    return min(max(rows // form.lanes * form.lanes, form.lanes), _STRIP_KEYS)


def decode_sizes(parameters: AttentionParameters, form: KernelForm) -> dict[str, int]:
    """Return the sizes by their names, ``SIZE_NAMES``.

    ``num_blocks`` are the parts of a head's keys at most, ``block_rows`` the least keys of one if
    there are several, and ``chunk_rows`` the keys of a strip. The tiling of the parameters is for
    many query rows.
    """
    sizes = plan_sizes(parameters, form)
    rows = sizes["group_size"] * parameters.query_length
    strip = min(max(_SCORE_BYTES // (rows * form.element_bytes), _LEAST_STRIP_KEYS), _STRIP_KEYS)
    heads = parameters.batch * parameters.kv_heads
    longest = max(parameters.kv_length // _LEAST_PART_KEYS, 1)
    num_parts = min(ceil_div(_ITEMS_WANTED, heads), longest)
    return sizes | {
        "num_items": heads * num_parts,
        "num_blocks": num_parts,
        "block_rows": _LEAST_PART_KEYS,
        "chunk_rows": align_up(min(strip, parameters.kv_length), form.lanes),
    }


def decode_layout(parameters: AttentionParameters, form: KernelForm) -> DecodeLayout:
    """Return the memory of a kernel for few rows."""
    sizes = decode_sizes(parameters, form)
    rows = sizes["group_size"] * parameters.query_length
    query = row_vectors(form.lanes, form.score_depth) * form.vector_bytes
    state = state_vectors(form.lanes, form.value_dim) * form.vector_bytes
    worker = rows * (query + state + sizes["chunk_rows"] * form.element_bytes)
    counters = parameters.batch * parameters.kv_heads * COUNTER_BYTES
    states = sizes["num_items"] * rows * state if sizes["num_blocks"] > 1 else 0
    return DecodeLayout(
        query_bytes=query,
        state_bytes=state,
        worker_bytes=align_up(worker, SCRATCH_ALIGNMENT),
        shared_bytes=align_up(counters, SCRATCH_ALIGNMENT) + align_up(states, SCRATCH_ALIGNMENT),
    )
