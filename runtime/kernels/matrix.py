"""The matrix unit of a CPU: the two products of attention, a register tile at a time.

Queries lie in lanes. A register tile multiplies a few rows of key, or columns of value, by a few
vectors of queries and keeps all sums in registers. The operand that is not in lanes is read one
element at a time, straight from its row in memory, so key and value are never packed or
transposed.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import (
    BYTE,
    FLOAT,
    FLOAT_BYTES,
    SIZE,
    Emitter,
    Intrinsic,
    Value,
    make_tile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_VECTORS = 3
"""Vectors of queries in the widest register tile."""

# Rows of a register tile by (lanes, registers): rows * vectors sums, the vectors of queries and
# one broadcast must fit, with a few registers to spare, or the innermost loop spills.
_TILE_ROWS = {(16, 32): 8, (8, 32): 8, (4, 32): 6, (16, 16): 4, (8, 16): 4, (4, 16): 4}


def tile_rows(lanes: int, registers: int) -> int:
    """Return the rows of key, or columns of value, of one register tile."""
    return _TILE_ROWS[lanes, registers]


@functools.cache
def score_tile(lanes: int, rows: int, vectors: int, depth: int, key_mask: str) -> Intrinsic:
    """Return the tile ``scores[key, query] = sum_k keys[key, k] * queries[k, query]``.

    Its arguments: ``queries``, packed float32 ``[depth, vectors * lanes]``; ``keys``, float32
    ``[count, depth]`` with rows ``key_stride`` bytes apart; ``scores``, packed float32
    ``[count, vectors * lanes]`` and room up to the next multiple of ``rows``. With a ``key_mask``
    other than "none" also ``mask``, ``[count]`` with entries ``mask_stride`` bytes apart: float32
    and added to the scores of its key if "additive", bool and choosing between them and
    ``masked_value`` if "boolean".
    """
    vector_bytes = lanes * FLOAT_BYTES

    def emit(
        emitter: Emitter,
        *,
        queries: Value,
        keys: Value,
        key_stride: Value,
        count: Value,
        scores: Value,
        **masking: Value,
    ) -> None:
        builder = emitter.builder

        def score(tile: Value, _carried: list[Value]) -> Sequence[Value]:
            first = builder.mul(tile, emitter.size(rows))
            last = builder.sub(builder.sub(count, emitter.size(1)), first)
            key_rows = emitter.rows_until(
                emitter.row(keys, first, key_stride), key_stride, rows, last
            )

            def multiply(index: Value, sums: list[Value]) -> Sequence[Value]:
                line = emitter.row(queries, index, emitter.size(vectors * vector_bytes))
                places = [emitter.row(row, index, emitter.size(FLOAT_BYTES)) for row in key_rows]
                return _accumulate(emitter, places, line, sums)

            sums = emitter.loop(depth, [emitter.constant(0.0)] * (rows * vectors), multiply)
            if key_mask != "none":
                stride = masking["mask_stride"]
                entries = emitter.rows_until(
                    emitter.row(masking["mask"], first, stride), stride, rows, last
                )
                sums = [
                    _mask_scores(
                        emitter, total, entries[place // vectors], key_mask, masking["masked_value"]
                    )
                    for place, total in enumerate(sums)
                ]
            target = emitter.row(scores, first, emitter.size(vectors * vector_bytes))
            for place, total in enumerate(sums):
                emitter.store(total, emitter.offset(target, place * vector_bytes))
            return []

        whole = builder.add(count, emitter.size(rows - 1))
        emitter.loop(builder.sdiv(whole, emitter.size(rows)), [], score)

    parameters = dict.fromkeys(("queries", "keys", "key_stride", "count", "scores"), SIZE)
    if key_mask != "none":
        parameters |= {"mask": SIZE, "mask_stride": SIZE, "masked_value": FLOAT}
    name = f"hocket_score_{lanes}_{rows}x{vectors}_{depth}_{key_mask}"
    return make_tile(name, lanes, parameters, emit)


@functools.cache
def weigh_tile(lanes: int, columns: int, vectors: int, depth: int) -> Intrinsic:
    """Return the tile ``sums[k, query] += sum_key values[key, k] * weights[key, query]``.

    Its arguments: ``weights``, packed float32 ``[count, vectors * lanes]``; ``values``, float32
    ``[count, depth]`` with rows ``value_stride`` bytes apart; ``sums``, packed float32
    ``[depth, vectors * lanes]``, which are multiplied by ``factors``, float32
    ``[vectors * lanes]``, before the products are added.
    """
    vector_bytes = lanes * FLOAT_BYTES

    def emit(
        emitter: Emitter,
        *,
        weights: Value,
        values: Value,
        value_stride: Value,
        count: Value,
        sums: Value,
        factors: Value,
    ) -> None:
        builder = emitter.builder
        scale = [
            emitter.load(emitter.offset(factors, vector * vector_bytes))
            for vector in range(vectors)
        ]

        def weigh(first: Value, number: int) -> None:
            """Add up ``number`` columns from ``first`` on."""
            start = emitter.row(sums, first, emitter.size(vectors * vector_bytes))
            places = [emitter.offset(start, at * vector_bytes) for at in range(number * vectors)]
            totals = [
                builder.fmul(emitter.load(place), scale[at % vectors])
                for at, place in enumerate(places)
            ]
            corner = emitter.row(values, first, emitter.size(FLOAT_BYTES))

            def multiply(index: Value, carried: list[Value]) -> Sequence[Value]:
                line = emitter.row(weights, index, emitter.size(vectors * vector_bytes))
                row = emitter.row(corner, index, value_stride)
                elements = [emitter.offset(row, column * FLOAT_BYTES) for column in range(number)]
                return _accumulate(emitter, elements, line, carried)

            totals = emitter.loop(count, totals, multiply)
            for place, total in zip(places, totals, strict=True):
                emitter.store(total, place)

        def weigh_whole(tile: Value, _carried: list[Value]) -> Sequence[Value]:
            weigh(builder.mul(tile, emitter.size(columns)), columns)
            return []

        whole, rest = divmod(depth, columns)
        if whole:
            emitter.loop(whole, [], weigh_whole)
        if rest:
            weigh(emitter.size(whole * columns), rest)

    parameters = dict.fromkeys(
        ("weights", "values", "value_stride", "count", "sums", "factors"), SIZE
    )
    return make_tile(f"hocket_weigh_{lanes}_{columns}x{vectors}_{depth}", lanes, parameters, emit)


def _accumulate(
    emitter: Emitter, elements: Sequence[Value], line: Value, sums: Sequence[Value]
) -> list[Value]:
    """Add to ``sums`` the product of each element in memory and each vector of a packed line."""
    vectors = len(sums) // len(elements)
    packed = [
        emitter.load(emitter.offset(line, vector * emitter.lanes * FLOAT_BYTES))
        for vector in range(vectors)
    ]
    following = []
    for row, element in enumerate(elements):
        factor = emitter.broadcast(element)
        following += [
            emitter.fused(factor, packed[vector], sums[row * vectors + vector])
            for vector in range(vectors)
        ]
    return following


def _mask_scores(
    emitter: Emitter, scores: Value, entry: Value, key_mask: str, masked_value: Value
) -> Value:
    """Return the scores of one key under its mask entry."""
    if key_mask == "additive":
        return emitter.builder.fadd(scores, emitter.broadcast(entry))
    byte = emitter.load_scalar(entry, BYTE)
    kept = emitter.builder.icmp_unsigned("!=", byte, BYTE(0))
    return emitter.builder.select(kept, scores, emitter.splat(masked_value))
