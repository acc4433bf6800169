"""Ways into and out of lanes: query rows become columns, columns become output rows.

A *column* is one vector of queries out of a packed block: each row of it lies ``stride`` bytes
after the row before. Only query and output are ever transposed, a square of lanes at a time.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import (
    FLOAT,
    FLOAT_BYTES,
    SIZE,
    Emitter,
    Intrinsic,
    Value,
    make_tile,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def pack_tile(lanes: int, depth: int) -> Intrinsic:
    """Return the tile that packs query rows into a column, ``target[k] = scale * source[:, k]``.

    Its arguments: ``source``, float32 ``[lanes, depth]`` with rows ``source_stride`` bytes apart,
    of which those past row ``last`` repeat it; ``scale``; ``target``, a column of ``depth`` rows.
    """

    def emit(
        emitter: Emitter,
        *,
        source: Value,
        source_stride: Value,
        last: Value,
        scale: Value,
        target: Value,
        stride: Value,
    ) -> None:
        rows = emitter.rows_until(source, source_stride, lanes, last)
        factor = emitter.splat(scale)

        def pack(first: Value, columns: int) -> None:
            offset = emitter.builder.mul(first, emitter.size(FLOAT_BYTES))
            places = [emitter.builder.add(row, offset) for row in rows]
            if columns == lanes:
                square = [emitter.load(place) for place in places]
            else:
                active = emitter.first_lanes(columns)
                square = [emitter.load_active(place, active) for place in places]
            scaled = [emitter.builder.fmul(vector, factor) for vector in square]
            start = emitter.row(target, first, stride)
            for column, vector in enumerate(emitter.transpose(scaled)[:columns]):
                emitter.store(vector, emitter.row(start, emitter.size(column), stride))

        _for_each_square(emitter, depth, pack)

    parameters = {"source": SIZE, "source_stride": SIZE, "last": SIZE, "scale": FLOAT}
    parameters |= {"target": SIZE, "stride": SIZE}
    return make_tile(f"hocket_pack_{lanes}_{depth}", lanes, parameters, emit)


@functools.cache
def unpack_tile(lanes: int, depth: int, masked_rows: str) -> Intrinsic:
    """Return the tile that writes a column as output rows, ``target[:, k] = source[k] / sums``.

    Its arguments: ``source``, a column of ``depth`` rows; ``sums``, float32 ``[lanes]``, 0 where
    every key was masked; ``target``, float32 ``[lanes, depth]`` with rows ``target_stride`` bytes
    apart, of which those past row ``last`` are not written.
    """

    def emit(
        emitter: Emitter,
        *,
        source: Value,
        stride: Value,
        sums: Value,
        target: Value,
        target_stride: Value,
        last: Value,
    ) -> None:
        builder = emitter.builder
        rows = emitter.rows_until(target, target_stride, lanes, last)
        total = emitter.load(sums)
        # A row without keys has a sum of 0 and becomes 0 * inf: not a number, as it should.
        factor = builder.fdiv(emitter.constant(1.0), total)
        empty = builder.fcmp_ordered("==", total, emitter.constant(0.0))

        def unpack(first: Value, columns: int) -> None:
            start = emitter.row(source, first, stride)
            square = []
            for column in range(columns):
                vector = emitter.load(emitter.row(start, emitter.size(column), stride))
                vector = builder.fmul(vector, factor)
                if masked_rows == "zero":
                    vector = builder.select(empty, emitter.constant(0.0), vector)
                square.append(vector)
            square += [emitter.constant(0.0)] * (lanes - columns)
            offset = builder.mul(first, emitter.size(FLOAT_BYTES))
            moved = emitter.transpose(square)
            # Last row first: lanes past the end land on row `last`, which then overwrites them.
            for row, vector in reversed(list(zip(rows, moved, strict=True))):
                place = builder.add(row, offset)
                if columns == lanes:
                    emitter.store(vector, place)
                else:
                    emitter.store_active(vector, place, emitter.first_lanes(columns))

        _for_each_square(emitter, depth, unpack)

    parameters = dict.fromkeys(
        ("source", "stride", "sums", "target", "target_stride", "last"), SIZE
    )
    return make_tile(f"hocket_unpack_{lanes}_{depth}_{masked_rows}", lanes, parameters, emit)


@functools.cache
def fill_tile(lanes: int) -> Intrinsic:
    """Return the tile that writes ``value`` to ``count`` vectors from ``target`` on."""

    def emit(emitter: Emitter, *, target: Value, count: Value, value: Value) -> None:
        vector = emitter.splat(value)
        size = emitter.size(lanes * FLOAT_BYTES)

        def write(index: Value, _carried: list[Value]) -> list[Value]:
            emitter.store(vector, emitter.row(target, index, size))
            return []

        emitter.loop(count, [], write)

    parameters = {"target": SIZE, "count": SIZE, "value": FLOAT}
    return make_tile(f"hocket_fill_{lanes}", lanes, parameters, emit)


def _for_each_square(emitter: Emitter, depth: int, write: Callable[[Value, int], None]) -> None:
    """Write a loop over ``depth`` rows of a column, ``lanes`` at a time, and what is left over.

    ``write`` is given the first row of a square and its number of rows.
    """
    whole, rest = divmod(depth, emitter.lanes)

    def write_square(index: Value, _carried: list[Value]) -> list[Value]:
        write(emitter.builder.mul(index, emitter.size(emitter.lanes)), emitter.lanes)
        return []

    if whole:
        emitter.loop(whole, [], write_square)
    if rest:
        write(emitter.size(whole * emitter.lanes), rest)
