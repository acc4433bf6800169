"""Tiles for few query rows over many keys: the columns of a head lie in lanes.

Keys and values are read once for all rows that share them, straight from where they are stored.
Scores lie by rows, so keys lie in lanes there.

What is summed up for a row is its *state*: the weighted values in whole vectors, then the vectors
of ``STATE_VECTORS``. States of parts of the keys, with different maxima, are put together at the
end.

Few rows leave the CPU waiting for memory, so products ask for what is wanted next, evenly as they
go: for row ``index >> shift`` of what is ``asked``, with every row of keys or values that they
read. Where as many as ``2**shift`` tiles read the same, each asks for another part.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from hocket.hwmodels.units import ceil_div
from hocket.runtime.kernels.elementary import exponentials
from hocket.runtime.kernels.lanes import BYTE, FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.masks import entry_bytes
from hocket.runtime.kernels.matrix import ELEMENT_BYTES
from hocket.runtime.kernels.shuffles import across, any_lane, merged
from hocket.runtime.kernels.storage import (
    STORAGE_BYTES,
    computed_in,
    load_bytes,
    load_stored,
    load_stored_scalar,
    store_stored,
)
from hocket.runtime.kernels.tile import make_tile
from hocket.runtime.kernels.x86 import paired

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW_COUNTS = (4, 2, 1)
"""Rows that products take at once, the most first."""

STATE_VECTORS = ("largest", "factors", "sums", "ones")
"""Vectors behind the weighted values of a state.

The largest score so far, in all lanes; what the weighted values are yet to be multiplied by, in all
lanes; the sum of the weights, of which every lane has a part; and 1.
"""

_EMPTY_STATE = {"largest": -math.inf, "factors": 1.0, "sums": 0.0, "ones": 1.0}

_LINE_BYTES = 64
# Keys that a single row is multiplied by in turn: their sums wait for each other otherwise.
_KEYS_IN_TURN = 2
# Vectors of a single row that a product is unrolled over.
_UNROLLED_VECTORS = 8
# Scores of a row in flight at a time, in vectors.
_VECTORS_AT_ONCE = 4


def row_vectors(lanes: int, depth: int) -> int:
    """Return the vectors that ``depth`` columns of a row take."""
    return ceil_div(depth, lanes)


def state_vectors(lanes: int, depth: int) -> int:
    """Return the vectors of a row's state, for values of ``depth`` columns."""
    return row_vectors(lanes, depth) + len(STATE_VECTORS)


def state_place(lanes: int, depth: int, name: str) -> int:
    """Return how many vectors of a state come before the vector ``name``."""
    return row_vectors(lanes, depth) + STATE_VECTORS.index(name)


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
            loaded = _load_part(emitter, source, vector, depth, storage)
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
        self.part_bytes = emitter.lanes * _stored_bytes(storage)
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
        loaded = [_load_part(emitter, place, vector, self.depth, self.storage) for place in places]
        return [
            self.multiply(factor, key, totals[row * len(places) + number])
            for row, factor in enumerate(factors)
            for number, key in enumerate(loaded)
        ]


@functools.cache
def soften_tile(
    lanes: int,
    depth: int,
    base: str,
    mask: str,
    mask_axes: str,
    element: str = "float32",
    *,
    scales: bool,
    has_slopes: bool,
    has_start: bool,
) -> Intrinsic:
    """Return the tile that turns a row of scores to weights and keeps its state up to date.

    Its arguments: ``scores``, ``vectors`` vectors of them, of which only those before ``end`` are
    of keys that are seen, the others becoming 0; ``state``, of values of ``depth`` columns.

    Args:
        lanes: Lanes of a vector.
        depth: Columns of value.
        base, scales: As for ``vector.exponential_tile``.
        mask: With other than "none" there are arguments ``entries``, the mask entry of the first
            key, with the others ``entry_stride`` bytes apart, which may be 0; and
            ``masked_value``. "boolean", or the storage type of a mask that is added.
        mask_axes: As in ``plan.KernelForm``.
        element: Type of the scores.
        has_slopes: Whether there are arguments ``slope`` and ``distance``: the position of the
            first key less that of the query.
        has_start: Whether there is an argument ``start``: keys before it are not seen.
    """

    def emit(
        emitter: Emitter,
        *,
        scores: Value,
        vectors: Value,
        end: Value,
        state: Value,
        **more: Value,
    ) -> None:
        builder = emitter.builder
        vector_bytes = emitter.size(emitter.vector_bytes)

        def adjust(index: Value, best: list[Value]) -> list[Value]:
            """Make one vector of scores final."""
            first = builder.mul(index, emitter.size(lanes))
            place = emitter.row(scores, index, vector_bytes)
            row = emitter.load(place)
            if has_slopes:
                distance = emitter.splat(emitter.lane_int(builder.add(more["distance"], first)))
                steps = builder.add(distance, emitter.lane_indices())
                steps = builder.sitofp(steps, emitter.floats)
                row = emitter.fused(emitter.splat(more["slope"]), steps, row)
            seen = emitter.first_lanes(builder.sub(end, first))
            if mask != "none":
                row = _masked(emitter, row, first, seen, mask, mask_axes, more)
            row = builder.select(seen, row, emitter.constant(-math.inf))
            if has_start:
                early = emitter.first_lanes(builder.sub(more["start"], first))
                row = builder.select(early, emitter.constant(-math.inf), row)
            emitter.store(row, place)
            return [emitter.larger(row, best[0])]

        (best,) = emitter.loop(vectors, [emitter.constant(-math.inf)], adjust)
        largest, factors, sums = _state_places(emitter, state, depth, *STATE_VECTORS[:3])
        previous = emitter.load(largest)

        def raise_largest(_turn: Value, _carried: list[Value]) -> list[Value]:
            # Above some score, so above minus infinity: no infinity is left of the difference.
            high = across(emitter, emitter.larger(best, previous), emitter.larger)
            (factor,) = exponentials(emitter, [builder.fsub(previous, high)], base, scales=scales)
            emitter.store(high, largest)
            emitter.store(builder.fmul(emitter.load(sums), factor), sums)
            return [high, factor]

        # The first keys do raise it, and few of the later ones.
        is_higher = any_lane(emitter, builder.fcmp_ordered(">", best, previous))
        unchanged = [previous, emitter.constant(1.0)]
        high, factor = emitter.loop(is_higher, unchanged, raise_largest)
        emitter.store(factor, factors)
        total = _weigh_scores(emitter, scores, vectors, _finite(emitter, high), base, scales=scales)
        emitter.store(builder.fadd(emitter.load(sums), total), sums)

    parameters = dict.fromkeys(("scores", "vectors", "end", "state"), SIZE)
    if has_start:
        parameters |= {"start": SIZE}
    if has_slopes:
        parameters |= {"slope": FLOAT, "distance": SIZE}
    if mask != "none":
        parameters |= {"entries": SIZE, "entry_stride": SIZE, "masked_value": FLOAT}
    flags = f"{scales:d}_{has_slopes:d}_{has_start:d}"
    name = f"hocket_soften_{lanes}_{depth}_{base}_{mask}_{mask_axes}_{flags}"
    return make_tile(name, lanes, parameters, emit, element=element)


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
    part_bytes = lanes * _stored_bytes(storage)

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
            end = min((first + number) * part_bytes, depth * _stored_bytes(storage))

            def add(index: Value, carried: list[Value]) -> list[Value]:
                wanted = emitter.row(asked, builder.lshr(index, shift), value_stride)
                for line in range(first * part_bytes, end, _LINE_BYTES):
                    emitter.prefetch(emitter.offset(wanted, line))
                step = emitter.size(emitter.element_bytes)
                spread = [emitter.broadcast(emitter.row(line, index, step)) for line in lines]
                row = emitter.row(values, index, value_stride)
                loaded = [
                    _load_part(emitter, row, first + vector, depth, storage)
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


@functools.cache
def begin_tile(lanes: int, depth: int, element: str = "float32") -> Intrinsic:
    """Return the tile that sets ``count`` states, one after the other, to those of no keys."""

    def emit(emitter: Emitter, *, states: Value, count: Value) -> None:
        vectors = row_vectors(lanes, depth)
        numbers = [0.0] * vectors + [_EMPTY_STATE[name] for name in STATE_VECTORS]

        def begin(index: Value, _carried: list[Value]) -> list[Value]:
            size = state_vectors(lanes, depth) * emitter.vector_bytes
            state = emitter.row(states, index, emitter.size(size))
            for place, number in enumerate(numbers):
                vector = emitter.constant(number)
                emitter.store(vector, emitter.offset(state, place * emitter.vector_bytes))
            return []

        emitter.loop(count, [], begin)

    parameters = {"states": SIZE, "count": SIZE}
    return make_tile(f"hocket_begin_{lanes}_{depth}", lanes, parameters, emit, element=element)


@functools.cache
def finish_tile(
    lanes: int, depth: int, storage: str, masked_rows: str, base: str, *, scales: bool
) -> Intrinsic:
    """Return the tile that puts the states of a row together and writes its output.

    Its arguments: ``states``, ``count`` of them ``state_stride`` bytes apart, each of a part of
    the keys, added up in this order; ``target``, ``depth`` elements of a storage type. The first
    state is left with what ``vector.log_sum_tile`` wants as "largest" and "sums".
    """

    def emit(
        emitter: Emitter, *, states: Value, state_stride: Value, count: Value, target: Value
    ) -> None:
        builder = emitter.builder
        largest, factors, sums = _state_places(emitter, states, depth, *STATE_VECTORS[:3])

        def find_largest(index: Value, best: list[Value]) -> list[Value]:
            candidate = emitter.load(emitter.row(largest, index, state_stride))
            return [emitter.larger(candidate, best[0])]

        (high,) = emitter.loop(count, [emitter.constant(-math.inf)], find_largest)
        shift = _finite(emitter, high)

        def add_sums(index: Value, total: list[Value]) -> list[Value]:
            part = emitter.load(emitter.row(largest, index, state_stride))
            (factor,) = exponentials(emitter, [builder.fsub(part, shift)], base, scales=scales)
            emitter.store(factor, emitter.row(factors, index, state_stride))
            part = emitter.load(emitter.row(sums, index, state_stride))
            return [emitter.fused(part, factor, total[0])]

        (total,) = emitter.loop(count, [emitter.constant(0.0)], add_sums)
        total = across(emitter, total, builder.fadd)
        emitter.store(shift, largest)
        emitter.store(total, sums)
        # A row without keys has a sum of 0 and becomes 0 * inf: not a number, as it should.
        reciprocal = builder.fdiv(emitter.constant(1.0), total)
        empty = builder.fcmp_ordered("==", total, emitter.constant(0.0))

        for vector in range(row_vectors(lanes, depth)):
            start = emitter.offset(states, vector * emitter.vector_bytes)

            def add(index: Value, carried: list[Value], start: Value = start) -> list[Value]:
                part = emitter.load(emitter.row(start, index, state_stride))
                factor = emitter.load(emitter.row(factors, index, state_stride))
                return [emitter.fused(part, factor, carried[0])]

            (weighted,) = emitter.loop(count, [emitter.constant(0.0)], add)
            row = builder.fmul(weighted, reciprocal)
            if masked_rows == "zero":
                row = builder.select(empty, emitter.constant(0.0), row)
            place = emitter.offset(target, vector * lanes * _stored_bytes(storage))
            store_stored(emitter, row, place, storage, _active(emitter, vector, depth))

    parameters = dict.fromkeys(("states", "state_stride", "count", "target"), SIZE)
    name = f"hocket_finish_{lanes}_{depth}_{storage}_{masked_rows}_{base}_{scales:d}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


def _stored_bytes(storage: str) -> int:
    return ELEMENT_BYTES if storage == "pair" else STORAGE_BYTES[storage]


def _active(emitter: Emitter, vector: int, depth: int) -> Value | None:
    """Return which lanes of a row's vector hold columns, None for all."""
    columns = depth - vector * emitter.lanes
    return None if columns >= emitter.lanes else emitter.first_lanes(columns)


def _load_part(emitter: Emitter, row: Value, vector: int, depth: int, storage: str) -> Value:
    """Return one vector of a row; pairs of bfloat16 as they are, columns past the end as 0."""
    place = emitter.offset(row, vector * emitter.lanes * _stored_bytes(storage))
    active = _active(emitter, vector, depth)
    return load_stored(emitter, place, "float32" if storage == "pair" else storage, active)


def _state_places(emitter: Emitter, state: Value, depth: int, *names: str) -> list[Value]:
    """Return the addresses of some vectors of a state."""
    return [
        emitter.offset(state, state_place(emitter.lanes, depth, name) * emitter.vector_bytes)
        for name in names
    ]


def _weigh_scores(
    emitter: Emitter, scores: Value, vectors: Value, shift: Value, base: str, *, scales: bool
) -> Value:
    """Turn vectors of scores to ``base ** (score - shift)``, in place, and return their sum."""
    builder = emitter.builder

    def weigh(first: Value, totals: list[Value]) -> list[Value]:
        """Turn as many vectors from ``first`` on as there are totals."""
        start = emitter.row(scores, first, emitter.size(emitter.vector_bytes))
        places = [
            emitter.offset(start, number * emitter.vector_bytes) for number in range(len(totals))
        ]
        differences = [builder.fsub(emitter.load(place), shift) for place in places]
        weights = exponentials(emitter, differences, base, scales=scales)
        for weight, place in zip(weights, places, strict=True):
            emitter.store(weight, place)
        return [builder.fadd(*pair) for pair in zip(totals, weights, strict=True)]

    several = emitter.size(_VECTORS_AT_ONCE)
    turns = builder.sdiv(vectors, several)
    totals = emitter.loop(
        turns,
        [emitter.constant(0.0)] * _VECTORS_AT_ONCE,
        lambda turn, carried: weigh(builder.mul(turn, several), carried),
    )
    done = builder.mul(turns, several)
    (total,) = emitter.loop(
        builder.sub(vectors, done),
        [functools.reduce(builder.fadd, totals)],
        lambda index, carried: weigh(builder.add(done, index), carried),
    )
    return total


def _finite(emitter: Emitter, largest: Value) -> Value:
    """Return what must be subtracted from scores, given the largest.

    While all scores are minus infinity it is 0: -inf - -inf is not a number, and a later key may
    still give the row a finite maximum.
    """
    nothing = emitter.builder.fcmp_ordered("==", largest, emitter.constant(-math.inf))
    return emitter.builder.select(nothing, emitter.constant(0.0), largest)


def _masked(
    emitter: Emitter,
    scores: Value,
    first: Value,
    seen: Value,
    mask: str,
    mask_axes: str,
    arguments: dict[str, Value],
) -> Value:
    """Return a vector of scores, from key ``first`` on, under their mask entries."""
    builder = emitter.builder
    entries = arguments["entries"]
    is_single = builder.icmp_signed("==", arguments["entry_stride"], emitter.size(0))
    if mask_axes != "both":
        if mask == "boolean":
            byte = emitter.load_scalar(entries, BYTE)
            single = emitter.splat(builder.zext(byte, emitter.int_element))
        else:
            single = emitter.splat(load_stored_scalar(emitter, entries, mask))
    if mask_axes != "query":
        place = emitter.row(entries, first, emitter.size(entry_bytes(mask)))
        # A mask by key may have but one entry for all of them.
        nowhere = emitter.first_lanes(0)
        there = seen if mask_axes == "both" else builder.select(is_single, nowhere, seen)
        if mask == "boolean":
            several = builder.zext(load_bytes(emitter, place, there), emitter.ints)
        else:
            several = load_stored(emitter, place, mask, there)
    if mask_axes == "key":
        chosen = builder.select(is_single, single, several)
    else:
        chosen = several if mask_axes == "both" else single
    if mask != "boolean":
        return builder.fadd(scores, chosen)
    kept = builder.icmp_unsigned("!=", chosen, emitter.int_constant(0))
    return builder.select(kept, scores, emitter.splat(arguments["masked_value"]))
