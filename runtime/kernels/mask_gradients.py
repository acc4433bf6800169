"""From gradients of scores to those of the mask that was added to them.

Blocks of gradients have a row for each query and keys in lanes, as in ``backward_tiles``.
"""

from __future__ import annotations

import functools

from hocket.runtime.kernels.lanes import INT32, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.shuffles import across
from hocket.runtime.kernels.tile import make_tile


@functools.cache
def mask_gradient_tile(lanes: int, vectors: int, mask_axes: str, element: str) -> Intrinsic:
    """Return the tile that adds gradients of scores to that of the mask that was added to them.

    Its arguments: ``gradients``, packed ``[rows, lanes of a block]``, of which the first ``keys``
    count; ``target``, for a mask "both" by query and key ``[rows, keys]`` and for one by "query"
    ``[rows]``, with rows ``stride`` bytes apart, for one by "key" whole vectors.
    """

    def emit(
        emitter: Emitter,
        *,
        gradients: Value,
        rows: Value,
        keys: Value,
        target: Value,
        stride: Value,
    ) -> None:
        builder = emitter.builder
        row_bytes = emitter.size(MAX_VECTORS * emitter.vector_bytes)
        active = [
            emitter.first_lanes(builder.sub(keys, emitter.size(vector * lanes)))
            for vector in range(vectors)
        ]

        def load_row(index: Value) -> list[Value]:
            row = emitter.row(gradients, index, row_bytes)
            zero = emitter.constant(0.0)
            return [
                builder.select(
                    chosen, emitter.load(emitter.offset(row, vector * emitter.vector_bytes)), zero
                )
                for vector, chosen in enumerate(active)
            ]

        def add_row(index: Value, _carried: list[Value]) -> list[Value]:
            row = emitter.row(target, index, stride)
            for vector, values in enumerate(load_row(index)):
                place = emitter.offset(row, vector * emitter.vector_bytes)
                there = emitter.load_active(place, active[vector])
                emitter.store_active(builder.fadd(there, values), place, active[vector])
            return []

        def add_total(index: Value, _carried: list[Value]) -> list[Value]:
            row = emitter.row(target, index, stride)
            total = functools.reduce(builder.fadd, load_row(index))
            total = builder.extract_element(across(emitter, total, builder.fadd), INT32(0))
            emitter.store_scalar(builder.fadd(emitter.load_scalar(row), total), row)
            return []

        def add_to(index: Value, totals: list[Value]) -> list[Value]:
            return [builder.fadd(x, y) for x, y in zip(totals, load_row(index), strict=True)]

        if mask_axes == "key":
            places = [
                emitter.offset(target, vector * emitter.vector_bytes) for vector in range(vectors)
            ]
            totals = emitter.loop(rows, [emitter.load(place) for place in places], add_to)
            for total, place in zip(totals, places, strict=True):
                emitter.store(total, place)
        else:
            emitter.loop(rows, [], add_row if mask_axes == "both" else add_total)

    parameters = dict.fromkeys(("gradients", "rows", "keys", "target", "stride"), SIZE)
    name = f"hocket_mask_gradient_{lanes}x{vectors}_{mask_axes}"
    return make_tile(name, lanes, parameters, emit, element=element)


@functools.cache
def entry_sum_tile(lanes: int, element: str) -> Intrinsic:
    """Return the tile that adds ``count`` numbers to entries of a mask's gradient, one by one.

    Its arguments: ``source``, contiguous; ``target``, entries ``stride`` bytes apart, 0 for one
    and the same.
    """

    def emit(
        emitter: Emitter, *, source: Value, count: Value, target: Value, stride: Value
    ) -> None:
        builder = emitter.builder

        def add(index: Value, _carried: list[Value]) -> list[Value]:
            number = emitter.load_scalar(
                emitter.row(source, index, emitter.size(emitter.element_bytes))
            )
            place = emitter.row(target, index, stride)
            emitter.store_scalar(builder.fadd(emitter.load_scalar(place), number), place)
            return []

        emitter.loop(count, [], add)

    parameters = dict.fromkeys(("source", "count", "target", "stride"), SIZE)
    return make_tile(f"hocket_entry_sum_{lanes}", lanes, parameters, emit, element=element)
