"""The matrix unit of a CPU: the two products of attention, a register tile at a time.

Queries lie in lanes. A register tile multiplies a few rows of key, or columns of value, by a few
vectors of queries and keeps all sums in registers. The operand that is not in lanes is read one
element at a time, straight from its row in memory, so key and value are never packed or
transposed.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import BYTE, FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.storage import load_stored_scalar
from hocket.runtime.kernels.tile import make_tile
from hocket.runtime.kernels.x86 import paired

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_VECTORS = 3
"""Vectors of queries in the widest register tile."""

# Rows of a register tile by (lanes, registers): rows * vectors sums, the vectors of queries and
# one broadcast must fit, with a few registers to spare, or the innermost loop spills.
_TILE_ROWS = {(16, 32): 8, (8, 32): 8, (4, 32): 6, (2, 32): 6, (16, 16): 4}


def tile_rows(lanes: int, registers: int) -> int:
    """Return the rows of key, or columns of value, of one register tile."""
    return _TILE_ROWS.get((lanes, registers), 4)


_LINE_BYTES = 64

PRODUCTS = ("float32", "bfloat16", "float64")
"""How products are made: of single floats, or of pairs of bfloat16 that are summed in float32.

Where tiles are said to work on float32, they work on float64 for products of that.
"""

ELEMENT_BYTES = 4
"""Bytes of what one step of a product reads from a row: a float32, or a pair of bfloat16."""

_ELEMENTS = {"float32": "float32", "bfloat16": "float32", "float64": "float64"}


@functools.cache
def score_tile(
    lanes: int,
    rows: int,
    vectors: int,
    depth: int,
    product: str,
    key_mask: str,
    *,
    finds_largest: bool,
) -> Intrinsic:
    """Return the tile ``scores[key, query] = sum_k keys[key, k] * queries[k, query]``.

    Its arguments: ``queries``, packed float32 ``[depth, lanes of a piece]``; ``keys``, float32
    ``[count, depth]`` with rows ``key_stride`` bytes apart; ``scores``, packed float32
    ``[count, lanes of a piece]`` and room up to the next multiple of ``rows``. All that is packed
    has rows of ``MAX_VECTORS`` vectors, of which the tile takes the first ``vectors``. What lies
    ``ahead`` bytes behind the keys is brought into the second-level cache meanwhile.

    Args:
        lanes: Lanes of a vector.
        rows: Rows of key of one register tile.
        vectors: Vectors of queries.
        depth: Steps of the product: columns of key, or pairs of them.
        product: One of ``PRODUCTS``. With "bfloat16", queries and keys are pairs of bfloat16
            where they are else float32, and ``factor`` is an argument that multiplies the scores.
        key_mask: With other than "none" there are arguments ``mask``, ``[count]`` with entries
            ``mask_stride`` bytes apart, and ``masked_value``: bool that chooses between scores and
            ``masked_value`` if "boolean", else a storage type whose entries are added.
        finds_largest: Whether there is an argument ``largest``, float32 ``[vectors * lanes]``,
            which is raised to the largest score of each query.
    """

    def emit(
        emitter: Emitter,
        *,
        queries: Value,
        keys: Value,
        key_stride: Value,
        count: Value,
        scores: Value,
        ahead: Value,
        **more: Value,
    ) -> None:
        builder = emitter.builder
        element_bytes, vector_bytes = emitter.element_bytes, emitter.vector_bytes
        row_bytes = MAX_VECTORS * vector_bytes

        def score(tile: Value, _carried: list[Value]) -> Sequence[Value]:
            first = builder.mul(tile, emitter.size(rows))
            last = builder.sub(builder.sub(count, emitter.size(1)), first)
            key_rows = emitter.rows_until(
                emitter.row(keys, first, key_stride), key_stride, rows, last
            )

            def multiply(index: Value, sums: list[Value]) -> Sequence[Value]:
                # One line of one row a step: as many steps as a line has elements ask for that
                # line of all rows.
                turn = builder.sdiv(index, emitter.size(_LINE_BYTES // element_bytes))
                part = builder.mul(turn, emitter.size(_LINE_BYTES))
                row = builder.add(first, builder.srem(index, emitter.size(rows)))
                asked = builder.add(emitter.row(keys, row, key_stride), part)
                emitter.prefetch(builder.add(asked, ahead), level=2)
                line = emitter.row(queries, index, emitter.size(row_bytes))
                places = [emitter.row(row, index, emitter.size(element_bytes)) for row in key_rows]
                return _accumulate(emitter, places, line, sums, product)

            sums = [emitter.constant(0.0)] * (rows * vectors)
            sums = emitter.loop(depth, sums, multiply)
            if product == "bfloat16":
                factor = emitter.splat(more["factor"])
                sums = [builder.fmul(total, factor) for total in sums]
            if key_mask != "none":
                stride = more["mask_stride"]
                entries = emitter.rows_until(
                    emitter.row(more["mask"], first, stride), stride, rows, last
                )
                sums = [
                    _mask_scores(
                        emitter, total, entries[place // vectors], key_mask, more["masked_value"]
                    )
                    for place, total in enumerate(sums)
                ]
            target = emitter.row(scores, first, emitter.size(row_bytes))
            for place, total in enumerate(sums):
                row, vector = divmod(place, vectors)
                emitter.store(
                    total, emitter.offset(target, row * row_bytes + vector * vector_bytes)
                )
            if finds_largest:
                for vector in range(vectors):
                    place = emitter.offset(more["largest"], vector * vector_bytes)
                    best = _largest(emitter, [*sums[vector::vectors], emitter.load(place)])
                    emitter.store(best, place)
            return []

        whole = builder.add(count, emitter.size(rows - 1))
        emitter.loop(builder.sdiv(whole, emitter.size(rows)), [], score)

    parameters = dict.fromkeys(("queries", "keys", "key_stride", "count", "scores", "ahead"), SIZE)
    if product == "bfloat16":
        parameters |= {"factor": FLOAT}
    if key_mask != "none":
        parameters |= {"mask": SIZE, "mask_stride": SIZE, "masked_value": FLOAT}
    if finds_largest:
        parameters |= {"largest": SIZE}
    name = f"hocket_score_{lanes}_{rows}x{vectors}_{depth}_{product}_{key_mask}_{finds_largest:d}"
    return make_tile(name, lanes, parameters, emit, element=_ELEMENTS[product])


@functools.cache
def weigh_tile(
    lanes: int, columns: int, vectors: int, depth: int, product: str, *, asks: bool = False
) -> Intrinsic:
    """Return the tile ``sums[k, query] += sum_key values[key, k] * weights[key, query]``.

    Its arguments: ``weights``, packed float32 ``[count, lanes of a piece]``; ``values``, float32
    ``[count, depth]`` with rows ``value_stride`` bytes apart; ``sums``, packed float32
    ``[depth, lanes of a piece]``, which are multiplied by ``factors``, float32
    ``[vectors * lanes]``, before the products are added. With the product "bfloat16" weights and
    values are pairs of bfloat16 of two keys, and ``count`` is the number of pairs. What lies
    ``ahead`` bytes behind the values is brought into the second-level cache meanwhile. If the tile
    ``asks``, so are lines from ``asked`` on of as many rows as there are lanes of a piece, rows
    ``asked_stride`` bytes apart, some lines for every vector of columns.
    """

    def emit(
        emitter: Emitter,
        *,
        weights: Value,
        values: Value,
        value_stride: Value,
        count: Value,
        sums: Value,
        factors: Value,
        ahead: Value,
        **more: Value,
    ) -> None:
        builder = emitter.builder
        element_bytes, vector_bytes = emitter.element_bytes, emitter.vector_bytes
        row_bytes = MAX_VECTORS * vector_bytes
        scale = [
            emitter.load(emitter.offset(factors, vector * vector_bytes))
            for vector in range(vectors)
        ]

        def ask(turn: Value, index: Value) -> None:
            """Ask for a line of one row a step, and for other lines when all rows have theirs."""
            rows = emitter.size(vectors * lanes)
            line = builder.add(
                turn, builder.mul(builder.sdiv(index, rows), emitter.size(depth // columns or 1))
            )
            row = emitter.row(more["asked"], builder.srem(index, rows), more["asked_stride"])
            emitter.prefetch(emitter.row(row, line, emitter.size(_LINE_BYTES)), level=2)

        def weigh(first: Value, number: int) -> None:
            """Add up ``number`` columns from ``first`` on."""
            turn = builder.sdiv(first, emitter.size(columns))
            start = emitter.row(sums, first, emitter.size(row_bytes))
            places = [
                emitter.offset(start, column * row_bytes + vector * vector_bytes)
                for column in range(number)
                for vector in range(vectors)
            ]
            totals = [
                builder.fmul(emitter.load(place), scale[at % vectors])
                for at, place in enumerate(places)
            ]
            corner = emitter.row(values, first, emitter.size(element_bytes))

            def multiply(index: Value, carried: list[Value]) -> Sequence[Value]:
                line = emitter.row(weights, index, emitter.size(row_bytes))
                row = emitter.row(corner, index, value_stride)
                elements = [emitter.offset(row, column * element_bytes) for column in range(number)]
                emitter.prefetch(builder.add(row, ahead), level=2)
                if asks:
                    ask(turn, index)
                return _accumulate(emitter, elements, line, carried, product)

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
        ("weights", "values", "value_stride", "count", "sums", "factors", "ahead"), SIZE
    )
    if asks:
        parameters |= dict.fromkeys(("asked", "asked_stride"), SIZE)
    name = f"hocket_weigh_{lanes}_{columns}x{vectors}_{depth}_{product}_{asks:d}"
    return make_tile(name, lanes, parameters, emit, element=_ELEMENTS[product])


def _accumulate(
    emitter: Emitter, elements: Sequence[Value], line: Value, sums: Sequence[Value], product: str
) -> list[Value]:
    """Add to ``sums`` the product of each element in memory and each vector of a packed line."""
    vectors = len(sums) // len(elements)
    packed = [
        emitter.load(emitter.offset(line, vector * emitter.vector_bytes))
        for vector in range(vectors)
    ]
    multiply = functools.partial(paired, emitter) if product == "bfloat16" else emitter.fused
    following = []
    for row, element in enumerate(elements):
        # A pair of bfloat16 is spread as if it were one float: the bits are the same.
        factor = emitter.broadcast(element)
        following += [
            multiply(factor, packed[vector], sums[row * vectors + vector])
            for vector in range(vectors)
        ]
    return following


def _mask_scores(
    emitter: Emitter, scores: Value, entry: Value, key_mask: str, masked_value: Value
) -> Value:
    """Return the scores of one key under its mask entry."""
    if key_mask != "boolean":
        added = emitter.splat(load_stored_scalar(emitter, entry, key_mask))
        return emitter.builder.fadd(scores, added)
    byte = emitter.load_scalar(entry, BYTE)
    kept = emitter.builder.icmp_unsigned("!=", byte, BYTE(0))
    return emitter.builder.select(kept, scores, emitter.splat(masked_value))


def _largest(emitter: Emitter, candidates: list[Value]) -> Value:
    """Return the largest of the vectors, lane by lane; the last one must be a number."""
    while len(candidates) > 1:
        half = len(candidates) // 2
        pairs = zip(candidates[:half], candidates[-half:], strict=True)
        candidates = [
            *(emitter.larger(one, other) for one, other in pairs),
            *candidates[half:-half],
        ]
    return candidates[0]
