"""Ways into and out of lanes: query rows become columns, columns become output rows.

A *column* is one vector of queries out of a packed block: each row of it lies ``stride`` bytes
after the row before. Only query and output are ever transposed, a square of lanes at a time.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.matrix import ELEMENT_BYTES
from hocket.runtime.kernels.shuffles import transpose
from hocket.runtime.kernels.storage import STORAGE_BYTES, computed_in, load_stored, store_stored
from hocket.runtime.kernels.tile import make_tile

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def pack_tile(lanes: int, depth: int, storage: str) -> Intrinsic:
    """Return the tile that packs query rows into a column, ``target[k] = scale * source[:, k]``.

    Its arguments: ``source``, ``[lanes, depth]`` of a storage type with rows ``source_stride``
    bytes apart, of which those past row ``last`` repeat it; ``scale``; ``target``, a column of
    ``depth`` rows. With the storage "pair", source and target are pairs of bfloat16 moved as they
    are, and ``scale`` is not used.

    What float32 is in memory of ours is float64 where that is stored, here and below.
    """
    element_bytes = STORAGE_BYTES.get(storage, ELEMENT_BYTES)

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
            offset = emitter.builder.mul(first, emitter.size(element_bytes))
            places = [emitter.builder.add(row, offset) for row in rows]
            active = None if columns == lanes else emitter.first_lanes(columns)
            if storage == "pair":
                square = [load_stored(emitter, place, "float32", active) for place in places]
            else:
                loaded = [load_stored(emitter, place, storage, active) for place in places]
                square = [emitter.builder.fmul(vector, factor) for vector in loaded]
            start = emitter.row(target, first, stride)
            for column, vector in enumerate(transpose(emitter, square)[:columns]):
                emitter.store(vector, emitter.row(start, emitter.size(column), stride))

        _for_each_square(emitter, depth, pack)

    parameters = {"source": SIZE, "source_stride": SIZE, "last": SIZE, "scale": FLOAT}
    parameters |= {"target": SIZE, "stride": SIZE}
    name = f"hocket_pack_{lanes}_{depth}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


@functools.cache
def unpack_tile(lanes: int, depth: int, storage: str, masked_rows: str) -> Intrinsic:
    """Return the tile that writes a column as output rows, ``target[:, k] = source[k] / sums``.

    Its arguments: ``source``, a column of ``depth`` rows; ``sums``, float32 ``[lanes]``, 0 where
    every key was masked; ``target``, ``[lanes, depth]`` of a storage type with rows
    ``target_stride`` bytes apart, of which those past row ``last`` are not written.
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
        total = emitter.load(sums)
        # A row without keys has a sum of 0 and becomes 0 * inf: not a number, as it should.
        factor = builder.fdiv(emitter.constant(1.0), total)
        empty = builder.fcmp_ordered("==", total, emitter.constant(0.0))

        def divide(vector: Value) -> Value:
            vector = builder.fmul(vector, factor)
            if masked_rows == "zero":
                vector = builder.select(empty, emitter.constant(0.0), vector)
            return vector

        rows = emitter.rows_until(target, target_stride, lanes, last)
        _spread(emitter, depth, storage, (source, stride), rows, divide)

    parameters = dict.fromkeys(
        ("source", "stride", "sums", "target", "target_stride", "last"), SIZE
    )
    name = f"hocket_unpack_{lanes}_{depth}_{storage}_{masked_rows}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


@functools.cache
def spread_tile(lanes: int, depth: int, element: str) -> Intrinsic:
    """Return the tile that writes a column as rows, ``target[:, k] = factor * source[k]``.

    Its arguments: ``source``, a column of ``depth`` rows; ``factor``; ``target``, ``[lanes,
    depth]`` with rows ``target_stride`` bytes apart, of which those past row ``last`` are not
    written. All are of the type ``element``.
    """

    def emit(
        emitter: Emitter,
        *,
        source: Value,
        stride: Value,
        factor: Value,
        target: Value,
        target_stride: Value,
        last: Value,
    ) -> None:
        scale = emitter.splat(factor)
        rows = emitter.rows_until(target, target_stride, lanes, last)
        _spread(
            emitter,
            depth,
            element,
            (source, stride),
            rows,
            lambda vector: emitter.builder.fmul(vector, scale),
        )

    parameters = {"source": SIZE, "stride": SIZE, "factor": FLOAT}
    parameters |= dict.fromkeys(("target", "target_stride", "last"), SIZE)
    return make_tile(f"hocket_spread_{lanes}_{depth}", lanes, parameters, emit, element=element)


@functools.cache
def widen_tile(lanes: int, depth: int, storage: str) -> Intrinsic:
    """Return the tile that copies rows of a storage type to float32, ``depth`` floats a row.

    Its arguments: ``source``, ``[count, depth]`` with rows ``source_stride`` bytes apart;
    ``target``, float32 ``[count, depth]``, contiguous.
    """
    element_bytes, computed = STORAGE_BYTES[storage], computed_in(storage)

    def emit(
        emitter: Emitter, *, source: Value, source_stride: Value, count: Value, target: Value
    ) -> None:
        def copy(index: Value, _carried: list[Value]) -> list[Value]:
            row = emitter.row(source, index, source_stride)
            moved = emitter.row(target, index, emitter.size(depth * emitter.element_bytes))
            for first in range(0, depth, lanes):
                columns = min(lanes, depth - first)
                active = None if columns == lanes else emitter.first_lanes(columns)
                vector = load_stored(
                    emitter, emitter.offset(row, first * element_bytes), storage, active
                )
                place = emitter.offset(moved, first * emitter.element_bytes)
                store_stored(emitter, vector, place, computed, active)
            return []

        emitter.loop(count, [], copy)

    parameters = dict.fromkeys(("source", "source_stride", "count", "target"), SIZE)
    name = f"hocket_widen_{lanes}_{depth}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed)


@functools.cache
def pair_tile(lanes: int, depth: int) -> Intrinsic:
    """Return the tile that puts bfloat16 rows side by side, two and two, for products of pairs.

    Its arguments: ``source``, bfloat16 ``[count, depth]`` with rows ``source_stride`` bytes apart;
    ``target``, ``[(count + 1) / 2, depth]`` of pairs, contiguous. A row that has none after it is
    paired with zeros.
    """

    def emit(
        emitter: Emitter, *, source: Value, source_stride: Value, count: Value, target: Value
    ) -> None:
        builder = emitter.builder

        def pair(index: Value, both: bool) -> None:
            first = emitter.row(source, builder.mul(index, emitter.size(2)), source_stride)
            second = builder.add(first, source_stride)
            moved = emitter.row(target, index, emitter.size(depth * ELEMENT_BYTES))
            for start in range(0, depth, lanes):
                columns = min(lanes, depth - start)
                active = None if columns == lanes else emitter.first_lanes(columns)
                # As floats the entries have their bits in the upper half of a lane.
                lower, upper = (
                    builder.bitcast(
                        load_stored(
                            emitter,
                            emitter.offset(row, start * STORAGE_BYTES["bfloat16"]),
                            "bfloat16",
                            active,
                        ),
                        emitter.ints,
                    )
                    for row in (first, second if both else first)
                )
                pairs = builder.lshr(lower, emitter.int_constant(16))
                if both:
                    pairs = builder.or_(pairs, upper)
                store_stored(
                    emitter,
                    builder.bitcast(pairs, emitter.floats),
                    emitter.offset(moved, start * ELEMENT_BYTES),
                    "float32",
                    active,
                )

        def pair_both(index: Value, _carried: list[Value]) -> list[Value]:
            pair(index, both=True)
            return []

        def pair_last(_index: Value, _carried: list[Value]) -> list[Value]:
            pair(whole, both=False)
            return []

        whole = builder.sdiv(count, emitter.size(2))
        emitter.loop(whole, [], pair_both)
        emitter.loop(builder.srem(count, emitter.size(2)), [], pair_last)

    parameters = dict.fromkeys(("source", "source_stride", "count", "target"), SIZE)
    return make_tile(f"hocket_pair_{lanes}_{depth}", lanes, parameters, emit)


@functools.cache
def fill_tile(lanes: int, element: str = "float32") -> Intrinsic:
    """Return the tile that writes ``value`` to ``count`` vectors from ``target`` on."""

    def emit(emitter: Emitter, *, target: Value, count: Value, value: Value) -> None:
        vector = emitter.splat(value)
        size = emitter.size(emitter.vector_bytes)

        def write(index: Value, _carried: list[Value]) -> list[Value]:
            emitter.store(vector, emitter.row(target, index, size))
            return []

        emitter.loop(count, [], write)

    parameters = {"target": SIZE, "count": SIZE, "value": FLOAT}
    return make_tile(f"hocket_fill_{lanes}", lanes, parameters, emit, element=element)


def _spread(
    emitter: Emitter,
    depth: int,
    storage: str,
    column: tuple[Value, Value],
    rows: list[Value],
    finish: Callable[[Value], Value],
) -> None:
    """Write a column, of an address and a stride, as rows of a storage type.

    ``finish`` makes of a vector of the column what is to be written.
    """
    lanes, (source, stride) = emitter.lanes, column

    def spread(first: Value, columns: int) -> None:
        start = emitter.row(source, first, stride)
        square = [
            finish(emitter.load(emitter.row(start, emitter.size(number), stride)))
            for number in range(columns)
        ]
        square += [emitter.constant(0.0)] * (lanes - columns)
        offset = emitter.builder.mul(first, emitter.size(STORAGE_BYTES[storage]))
        moved = transpose(emitter, square)
        # Last row first: lanes past the end land on row `last`, which then overwrites them.
        for row, vector in reversed(list(zip(rows, moved, strict=True))):
            active = None if columns == lanes else emitter.first_lanes(columns)
            store_stored(emitter, vector, emitter.builder.add(row, offset), storage, active)

    _for_each_square(emitter, depth, spread)


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
