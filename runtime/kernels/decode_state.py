"""Rows and their states in whole vectors, for few query rows over many keys.

What is summed up for a row is its *state*: the weighted values in whole vectors, then the vectors
of ``STATE_VECTORS``. States of parts of the keys, with different maxima, are put together at the
end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.hwmodels.units import ceil_div
from hocket.runtime.kernels.matrix import ELEMENT_BYTES
from hocket.runtime.kernels.storage import STORAGE_BYTES, load_stored

if TYPE_CHECKING:
    from hocket.runtime.kernels.lanes import Emitter, Value

STATE_VECTORS = ("largest", "factors", "sums", "ones")
"""Vectors behind the weighted values of a state.

The largest score so far, in all lanes; what the weighted values are yet to be multiplied by, in all
lanes; the sum of the weights, of which every lane has a part; and 1.
"""


def row_vectors(lanes: int, depth: int) -> int:
    """Return the vectors that ``depth`` columns of a row take."""
    return ceil_div(depth, lanes)


def state_vectors(lanes: int, depth: int) -> int:
    """Return the vectors of a row's state, for values of ``depth`` columns."""
    return row_vectors(lanes, depth) + len(STATE_VECTORS)


def state_place(lanes: int, depth: int, name: str) -> int:
    """Return how many vectors of a state come before the vector ``name``."""
    return row_vectors(lanes, depth) + STATE_VECTORS.index(name)


def state_places(emitter: Emitter, state: Value, depth: int, *names: str) -> list[Value]:
    """Return the addresses of some vectors of a state."""
    return [
        emitter.offset(state, state_place(emitter.lanes, depth, name) * emitter.vector_bytes)
        for name in names
    ]


def stored_bytes(storage: str) -> int:
    """Return the bytes of a column of a row as it is stored, or of a pair of bfloat16."""
    return ELEMENT_BYTES if storage == "pair" else STORAGE_BYTES[storage]


def active_lanes(emitter: Emitter, vector: int, depth: int) -> Value | None:
    """Return which lanes of a row's vector hold columns, None for all."""
    columns = depth - vector * emitter.lanes
    return None if columns >= emitter.lanes else emitter.first_lanes(columns)


def load_part(emitter: Emitter, row: Value, vector: int, depth: int, storage: str) -> Value:
    """Return one vector of a row; pairs of bfloat16 as they are, columns past the end as 0."""
    place = emitter.offset(row, vector * emitter.lanes * stored_bytes(storage))
    active = active_lanes(emitter, vector, depth)
    return load_stored(emitter, place, "float32" if storage == "pair" else storage, active)
