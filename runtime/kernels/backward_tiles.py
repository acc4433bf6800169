"""Products and sums of the backward pass: keys lie in lanes, query rows below each other.

The products that sum over head columns or over queries are those of ``matrix``, with key and query
changing places: what is packed is key and value, what is read element by element are the rows of
query and output gradient. Here is the product that sums over keys, whose sums are rows of the
query gradient, and how such rows get into scratch memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import FLOAT, INT32, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.shuffles import across
from hocket.runtime.kernels.storage import STORAGE_BYTES, computed_in, load_stored
from hocket.runtime.kernels.tile import make_tile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Registers that the innermost loop of a product leaves to addresses and what LLVM makes of them.
_SPARE_REGISTERS = 3
_MOST_ROWS = 12


@dataclass(frozen=True)
class ColumnGroup:
    """Columns of rows that a register tile takes at once.

    Attributes:
        start: First vector of columns.
        vectors: Vectors of columns.
        rows: Rows of the register tile.
        turns: How many groups like this follow each other.
    """

    start: int
    vectors: int
    rows: int
    turns: int = 1


def column_groups(columns: int, lanes: int, registers: int) -> list[ColumnGroup]:
    """Return how columns of rows are cut for ``row_tile``: never into one wide and one narrow."""
    vectors = -(-columns // lanes)
    widest = 4 if registers == 32 else 3

    def group(start: int, width: int, turns: int = 1) -> ColumnGroup:
        rows = (registers - _SPARE_REGISTERS - width - 1) // width
        return ColumnGroup(start, width, min(rows, _MOST_ROWS), turns)

    turns = max(-(-vectors // widest) - 2, 0)
    groups = [group(0, widest, turns)] if turns else []
    done = turns * widest
    rest = vectors - done
    if rest > widest:
        groups.append(group(done, -(-rest // 2)))
        done, rest = done + -(-rest // 2), rest // 2
    groups.append(group(done, rest))
    return groups


@functools.cache
def row_tile(lanes: int, registers: int, columns: int, element: str) -> Intrinsic:
    """Return the tile ``target[row, c] += sum_key weights[row, key] * values[key, c]``.

    Its arguments: ``weights``, packed ``[rows, keys]`` in rows of ``MAX_VECTORS`` vectors;
    ``values``, ``[keys, columns]`` in rows of whole vectors; ``target``, ``[rows, columns]`` with
    rows ``target_stride`` bytes apart. What lies ``ahead`` bytes behind the target is brought into
    the second-level cache meanwhile.

    Args:
        lanes: Lanes of a vector.
        registers: Vector registers of the CPU.
        columns: Columns of values and target.
        element: Type of all of them, a key of ``lanes.ELEMENTS``.
    """

    def emit(
        emitter: Emitter,
        *,
        weights: Value,
        rows: Value,
        values: Value,
        keys: Value,
        target: Value,
        target_stride: Value,
        ahead: Value,
    ) -> None:
        builder = emitter.builder
        row_bytes = emitter.size(MAX_VECTORS * emitter.vector_bytes)
        value_bytes = emitter.size(-(-columns // lanes) * emitter.vector_bytes)

        def multiply_group(group: ColumnGroup, turn: Value) -> None:
            vectors, height = group.vectors, group.rows
            shift = emitter.row(
                emitter.size(group.start * emitter.vector_bytes),
                turn,
                emitter.size(vectors * emitter.vector_bytes),
            )
            corner = builder.add(values, shift)
            active = [
                _active(emitter, columns, group.start + vector) if group.turns == 1 else None
                for vector in range(vectors)
            ]

            def multiply_rows(tile: Value, _carried: list[Value]) -> Sequence[Value]:
                first = builder.mul(tile, emitter.size(height))
                last = builder.sub(builder.sub(rows, emitter.size(1)), first)
                # Rows past the last repeat it, sums and all: it is written again as it was.
                sources = emitter.rows_until(
                    emitter.row(weights, first, row_bytes), row_bytes, height, last
                )
                targets = emitter.rows_until(
                    builder.add(emitter.row(target, first, target_stride), shift),
                    target_stride,
                    height,
                    last,
                )
                places = [
                    emitter.offset(row, vector * emitter.vector_bytes)
                    for row in targets
                    for vector in range(vectors)
                ]
                for place in places:
                    emitter.prefetch(builder.add(place, ahead), writes=True, level=2)
                sums = [
                    _load(emitter, place, active[number % vectors])
                    for number, place in enumerate(places)
                ]

                def multiply(key: Value, carried: list[Value]) -> Sequence[Value]:
                    line = emitter.row(corner, key, value_bytes)
                    packed = [
                        emitter.load(emitter.offset(line, vector * emitter.vector_bytes))
                        for vector in range(vectors)
                    ]
                    following = []
                    for number, source in enumerate(sources):
                        place = emitter.row(source, key, emitter.size(emitter.element_bytes))
                        factor = emitter.broadcast(place)
                        following += [
                            emitter.fused(
                                factor, packed[vector], carried[number * vectors + vector]
                            )
                            for vector in range(vectors)
                        ]
                    return following

                sums = emitter.loop(keys, sums, multiply)
                for number, (total, place) in enumerate(zip(sums, places, strict=True)):
                    _store(emitter, total, place, active[number % vectors])
                return []

            whole = builder.add(rows, emitter.size(height - 1))
            emitter.loop(builder.sdiv(whole, emitter.size(height)), [], multiply_rows)

        for group in column_groups(columns, lanes, registers):
            if group.turns == 1:
                multiply_group(group, emitter.size(0))
                continue

            def multiply_one(
                turn: Value, _carried: list[Value], group: ColumnGroup = group
            ) -> list[Value]:
                multiply_group(group, turn)
                return []

            emitter.loop(group.turns, [], multiply_one)

    names = ("weights", "rows", "values", "keys", "target", "target_stride", "ahead")
    parameters = dict.fromkeys(names, SIZE)
    name = f"hocket_rows_{lanes}_{registers}_{columns}"
    return make_tile(name, lanes, parameters, emit, element=element)


@functools.cache
def stage_tile(lanes: int, columns: int, storage: str) -> Intrinsic:
    """Return the tile that copies rows into whole vectors, multiplied by ``factor``.

    Its arguments: ``source``, ``[count, columns]`` of a storage type with rows ``source_stride``
    bytes apart; ``factor``; ``target``, ``[count, columns up to whole vectors]``, contiguous.
    """
    row_vectors = -(-columns // lanes)

    def emit(
        emitter: Emitter,
        *,
        source: Value,
        source_stride: Value,
        count: Value,
        factor: Value,
        target: Value,
    ) -> None:
        scale = emitter.splat(factor)

        def copy(index: Value, _carried: list[Value]) -> list[Value]:
            row = emitter.row(source, index, source_stride)
            moved = emitter.row(target, index, emitter.size(row_vectors * emitter.vector_bytes))

            def copy_vector(place: Value, active: Value | None) -> None:
                vector = _load_vector(emitter, row, place, storage, active)
                there = emitter.row(moved, place, emitter.size(emitter.vector_bytes))
                emitter.store(emitter.builder.fmul(vector, scale), there)

            _for_each_vector(emitter, columns, copy_vector)
            return []

        emitter.loop(count, [], copy)

    parameters = {"source": SIZE, "source_stride": SIZE, "count": SIZE}
    parameters |= {"factor": FLOAT, "target": SIZE}
    name = f"hocket_stage_{lanes}_{columns}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


@functools.cache
def delta_tile(lanes: int, columns: int, storage: str) -> Intrinsic:
    """Return the tile ``deltas[row] = sum_c output[row, c] * gradient[row, c]``.

    Its arguments: ``output`` and ``gradient``, ``[count, columns]`` of a storage type with rows
    ``stride`` bytes apart; ``deltas``, ``[count]``.
    """

    def emit(
        emitter: Emitter,
        *,
        output: Value,
        gradient: Value,
        stride: Value,
        count: Value,
        deltas: Value,
    ) -> None:
        builder = emitter.builder

        def add_up(index: Value, _carried: list[Value]) -> list[Value]:
            left, right = emitter.row(output, index, stride), emitter.row(gradient, index, stride)

            def multiply(
                place: Value, total: list[Value], active: Value | None = None
            ) -> list[Value]:
                one, other = (
                    _load_vector(emitter, row, place, storage, active) for row in (left, right)
                )
                return [emitter.fused(one, other, total[0])]

            whole, rest = divmod(columns, lanes)
            total = emitter.loop(whole, [emitter.constant(0.0)], multiply)
            if rest:
                total = multiply(emitter.size(whole), total, emitter.first_lanes(rest))
            totals = across(emitter, total[0], builder.fadd)
            place = emitter.row(deltas, index, emitter.size(emitter.element_bytes))
            emitter.store_scalar(builder.extract_element(totals, INT32(0)), place)
            return []

        emitter.loop(count, [], add_up)

    parameters = dict.fromkeys(("output", "gradient", "stride", "count", "deltas"), SIZE)
    name = f"hocket_delta_{lanes}_{columns}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


@functools.cache
def clear_tile(lanes: int, columns: int, element: str) -> Intrinsic:
    """Return the tile that writes zeros to ``count`` rows of ``target``, ``stride`` bytes apart."""

    def emit(emitter: Emitter, *, target: Value, stride: Value, count: Value) -> None:
        def clear(index: Value, _carried: list[Value]) -> list[Value]:
            row = emitter.row(target, index, stride)

            def clear_vector(place: Value, active: Value | None) -> None:
                there = emitter.row(row, place, emitter.size(emitter.vector_bytes))
                _store(emitter, emitter.constant(0.0), there, active)

            _for_each_vector(emitter, columns, clear_vector)
            return []

        emitter.loop(count, [], clear)

    parameters = dict.fromkeys(("target", "stride", "count"), SIZE)
    return make_tile(f"hocket_clear_{lanes}_{columns}", lanes, parameters, emit, element=element)


def _for_each_vector(
    emitter: Emitter, columns: int, write: Callable[[Value, Value | None], None]
) -> None:
    """Write a loop over the vectors of a row, and what is left over.

    ``write`` is given the number of a vector and which of its lanes are columns, None for all.
    """
    whole, rest = divmod(columns, emitter.lanes)

    def write_whole(place: Value, _carried: list[Value]) -> list[Value]:
        write(place, None)
        return []

    emitter.loop(whole, [], write_whole)
    if rest:
        write(emitter.size(whole), emitter.first_lanes(rest))


def _load_vector(
    emitter: Emitter, row: Value, place: Value, storage: str, active: Value | None
) -> Value:
    """Return a vector of a row of a storage type, by its number in the row."""
    vector_bytes = emitter.size(emitter.lanes * STORAGE_BYTES[storage])
    return load_stored(emitter, emitter.row(row, place, vector_bytes), storage, active)


def _active(emitter: Emitter, columns: int, vector: int) -> Value | None:
    """Return which lanes of a row's vector are columns of it; None if all are."""
    count = columns - vector * emitter.lanes
    return None if count >= emitter.lanes else emitter.first_lanes(count)


def _load(emitter: Emitter, place: Value, active: Value | None) -> Value:
    return emitter.load(place) if active is None else emitter.load_active(place, active)


def _store(emitter: Emitter, vector: Value, place: Value, active: Value | None) -> None:
    if active is None:
        emitter.store(vector, place)
    else:
        emitter.store_active(vector, place, active)
