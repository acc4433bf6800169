"""Products for few query rows over many keys: the columns of a head lie in lanes.

Keys and values are read once for all rows that share them, straight from where they are stored.
Scores lie by rows, so keys lie in lanes there.

Few rows leave the CPU waiting for memory, so products ask for what is wanted next, evenly as they
go: for row ``index >> shift`` of what is ``asked``, with every row of keys or values that they
read. Where as many as ``2**shift`` tiles read the same, each asks for another part.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from hocket.runtime.kernels.decode_state import load_part, row_vectors, state_vectors, stored_bytes
from hocket.runtime.kernels.lanes import FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.shuffles import merged
from hocket.runtime.kernels.storage import computed_in
from hocket.runtime.kernels.tile import make_tile
from hocket.runtime.kernels.x86 import paired

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW_COUNTS = (4, 2, 1)
"""Rows that products take at once, the most first."""

_LINE_BYTES = 64
# Keys that a single row is multiplied by in turn: their sums wait for each other otherwise.
_KEYS_IN_TURN = 2
# Vectors of a single row that a product is unrolled over.
_UNROLLED_VECTORS = 8


@functools.cache
def pack_tile(lanes: int, depth: int, storage: str) -> Intrinsic:
    """Return the tile that copies a query row, times ``scale``, to whole vectors of floats.

    Its arguments: ``source``, ``depth`` elements of a storage type; ``target``, filled up with
    zeros. With the storage "pair", pairs of bfloat16 are copied as they are, and ``scale`` is not
    used.
    """

    def emit(emitter: Emitter, *, source: Value, scale: Value, target: Value) -> None:
        factor = emitter.splat(scale)
        for vector in range(row_vectors(lanes, depth)):
            loaded = load_part(emitter, source, vector, depth, storage)
            if storage != "pair":
                loaded = emitter.builder.fmul(loaded, factor)
            emitter.store(loaded, emitter.offset(target, vector * emitter.vector_bytes))

    parameters = {"source": SIZE, "scale": FLOAT, "target": SIZE}
    name = f"hocket_pack_row_{lanes}_{depth}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


@functools.cache
def dot_tile(lanes: int, rows: int, sums: int, depth: int, storage: str) -> Intrinsic:
    """Return the tile ``scores[row, key] = sum_k queries[row, k] * keys[key, k]``.

    Its arguments: ``queries``, packed by ``pack_tile``, one row after the other; ``keys``,
    ``[count, depth]`` of a storage type, ``key_stride`` bytes apart; ``scores``, rows
    ``score_stride`` bytes apart, each with room for ``count`` rounded up to whole vectors;
    ``asked`` and ``shift`` as the module says, with rows ``key_stride`` bytes apart.

    Args:
        lanes: Lanes of a vector.
        rows: Rows of queries.
        sums: Vectors of sums that may be kept in registers.
        depth: Columns of a row, or pairs of them.
        storage: With "pair", queries and keys are pairs of bfloat16, and an argument ``factor``
            multiplies the scores.
    """

    def emit(
        emitter: Emitter,
        *,
        queries: Value,
        keys: Value,
        key_stride: Value,
        count: Value,
        scores: Value,
        score_stride: Value,
        asked: Value,
        shift: Value,
        **more: Value,
    ) -> None:
        builder = emitter.builder
        products = _DotProducts(emitter, queries, rows, sums, depth, storage)

        def score(group: Value, _carried: list[Value]) -> list[Value]:
            first = builder.mul(group, emitter.size(lanes))
            last = builder.sub(builder.sub(count, emitter.size(1)), first)
            start = emitter.row(keys, first, key_stride)
            places = emitter.rows_until(start, key_stride, lanes, last)
            numbers = [builder.add(first, emitter.size(lane)) for lane in range(lanes)]
            wanted = [
                emitter.row(asked, builder.lshr(number, shift), key_stride) for number in numbers
            ]
            target = emitter.row(scores, first, emitter.size(emitter.element_bytes))
            for row, total in enumerate(products.reduced(places, wanted)):
                scaled = total
                if storage == "pair":
                    scaled = builder.fmul(total, emitter.splat(more["factor"]))
                emitter.store(scaled, emitter.row(target, emitter.size(row), score_stride))
            return []

        groups = builder.sdiv(builder.add(count, emitter.size(lanes - 1)), emitter.size(lanes))
        emitter.loop(groups, [], score)

    names = ("queries", "keys", "key_stride", "count", "scores", "score_stride", "asked", "shift")
    parameters = dict.fromkeys(names, SIZE)
    if storage == "pair":
        parameters |= {"factor": FLOAT}
    name = f"hocket_dot_{lanes}_{rows}_{sums}_{depth}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


class _DotProducts:
    """Writes the products of packed query rows with keys.

    Arguments are those of ``dot_tile``.
    """

    def __init__(
        self, emitter: Emitter, queries: Value, rows: int, sums: int, depth: int, storage: str
    ) -> None:
        self.emitter = emitter
        self.rows = rows
        self.depth = depth
        self.storage = storage
        self.multiply = functools.partial(paired, emitter) if storage == "pair" else emitter.fused
        self.vectors = row_vectors(emitter.lanes, depth)
        row_bytes = self.vectors * emitter.vector_bytes
        self.lines = [emitter.offset(queries, row * row_bytes) for row in range(rows)]
        self.together = min(_KEYS_IN_TURN if rows == 1 else sums // rows, emitter.lanes)
        # A turn of the innermost loop takes a line of each key.
        self.part_bytes = emitter.lanes * stored_bytes(storage)
        self.turn_parts = max(_LINE_BYTES // self.part_bytes, 1)
        self.turns = depth // emitter.lanes // self.turn_parts
        if self.turns == 1 or (rows == 1 and self.vectors <= _UNROLLED_VECTORS):
            self.turns = 0

    def reduced(self, places: Sequence[Value], wanted: Sequence[Value]) -> list[Value]:
        """Return for each row a vector with its products with the keys at ``places``.

        Lane ``l`` belongs to key ``l % len(places)``: products of fewer keys than there are lanes
        are as yet in parts. Meanwhile, the keys at ``wanted`` are asked for.
        """
        count = len(places)
        if count <= self.together:
            totals = self._products(places, wanted)
            return [
                self._folded(totals[row * count : (row + 1) * count]) for row in range(self.rows)
            ]
        half = count // 2
        lower = self.reduced(places[:half], wanted[:half])
        upper = self.reduced(places[half:], wanted[half:])
        return [
            merged(self.emitter, one, other, half) for one, other in zip(lower, upper, strict=True)
        ]

    def _folded(self, totals: Sequence[Value]) -> Value:
        """Return one vector with parts of the sums of several vectors, in turn."""
        folded, step = list(totals), 1
        while len(folded) > 1:
            pairs = zip(folded[::2], folded[1::2], strict=True)
            folded = [merged(self.emitter, one, other, step) for one, other in pairs]
            step *= 2
        return folded[0]

    def _products(self, places: Sequence[Value], wanted: Sequence[Value]) -> list[Value]:
        """Return the products of each row with each key, one in all lanes still to be added up."""
        emitter, builder = self.emitter, self.emitter.builder

        def add_line(turn: Value, carried: list[Value]) -> list[Value]:
            offset = builder.mul(turn, emitter.size(self.turn_parts * self.part_bytes))
            for place in wanted:
                emitter.prefetch(builder.add(place, offset))
            moved = [builder.add(place, offset) for place in places]
            step = emitter.size(self.turn_parts * emitter.vector_bytes)
            lines = [emitter.row(line, turn, step) for line in self.lines]
            for vector in range(self.turn_parts):
                carried = self._add_part(carried, moved, lines, vector)
            return carried

        totals = [emitter.constant(0.0)] * (self.rows * len(places))
        if self.turns:
            # Unrolled, LLVM would mix up the turns until it runs out of registers.
            totals = emitter.loop(emitter.opaque(self.turns), totals, add_line)
        for vector in range(self.turns * self.turn_parts, self.vectors):
            start = vector * self.part_bytes
            if start % _LINE_BYTES < self.part_bytes:
                for place in wanted:
                    emitter.prefetch(emitter.offset(place, start))
            totals = self._add_part(totals, places, self.lines, vector)
        return totals

    def _add_part(
        self,
        totals: Sequence[Value],
        places: Sequence[Value],
        lines: Sequence[Value],
        vector: int,
    ) -> list[Value]:
        """Add the products of one vector of each row, in ``lines``, with that of each key."""
        emitter = self.emitter
        start = vector * emitter.vector_bytes
        factors = [emitter.load(emitter.offset(line, start)) for line in lines]
        loaded = [load_part(emitter, place, vector, self.depth, self.storage) for place in places]
        return [
            self.multiply(factor, key, totals[row * len(places) + number])
            for row, factor in enumerate(factors)
            for number, key in enumerate(loaded)
        ]


@functools.cache
def accumulate_tile(lanes: int, rows: int, sums: int, depth: int, storage: str) -> Intrinsic:
    """Return the tile ``weighted[row, k] += sum_key weights[row, key] * values[key, k]``.

    Its arguments: ``weights``, rows ``weight_stride`` bytes apart; ``values``, ``[count, depth]``
    of a storage type, ``value_stride`` bytes apart; ``states``, one row after the other, whose
    weighted values are multiplied first by the vector ``factors`` bytes from the start of their
    state; ``asked`` and ``shift`` as the module says, with rows ``value_stride`` bytes apart.

    Args:
        lanes: Lanes of a vector.
        rows: Rows of weights.
        sums: Vectors of sums that may be kept in registers.
        depth: Columns of value.
        storage: Element type of the values.
    """
    vectors = row_vectors(lanes, depth)
    widest = min(sums // rows, sums // 2)
    part_bytes = lanes * stored_bytes(storage)

    def emit(
        emitter: Emitter,
        *,
        weights: Value,
        weight_stride: Value,
        values: Value,
        value_stride: Value,
        count: Value,
        states: Value,
        factors: Value,
        asked: Value,
        shift: Value,
    ) -> None:
        builder = emitter.builder
        each = [
            emitter.offset(states, row * state_vectors(lanes, depth) * emitter.vector_bytes)
            for row in range(rows)
        ]
        lines = [emitter.row(weights, emitter.size(row), weight_stride) for row in range(rows)]
        scale = [emitter.load(builder.add(state, factors)) for state in each]

        def accumulate(first: int, number: int) -> None:
            """Add up ``number`` vectors of columns from vector ``first`` on."""
            places = [
                emitter.offset(state, (first + vector) * emitter.vector_bytes)
                for state in each
                for vector in range(number)
            ]
            totals = [
                builder.fmul(emitter.load(place), scale[at // number])
                for at, place in enumerate(places)
            ]
            end = min((first + number) * part_bytes, depth * stored_bytes(storage))

            def add(index: Value, carried: list[Value]) -> list[Value]:
                wanted = emitter.row(asked, builder.lshr(index, shift), value_stride)
                for line in range(first * part_bytes, end, _LINE_BYTES):
                    emitter.prefetch(emitter.offset(wanted, line))
                step = emitter.size(emitter.element_bytes)
                spread = [emitter.broadcast(emitter.row(line, index, step)) for line in lines]
                row = emitter.row(values, index, value_stride)
                loaded = [
                    load_part(emitter, row, first + vector, depth, storage)
                    for vector in range(number)
                ]
                return [
                    emitter.fused(spread[at // number], loaded[at % number], total)
                    for at, total in enumerate(carried)
                ]

            totals = emitter.loop(count, totals, add)
            for place, total in zip(places, totals, strict=True):
                emitter.store(total, place)

        for first in range(0, vectors, widest):
            accumulate(first, min(widest, vectors - first))

    names = ("weights", "weight_stride", "values", "value_stride", "count", "states", "factors")
    parameters = dict.fromkeys((*names, "asked", "shift"), SIZE)
    name = f"hocket_accumulate_{lanes}_{rows}_{sums}_{depth}_{storage}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))
