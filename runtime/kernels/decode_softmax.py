"""Softmax for few query rows over many keys: from scores to weights, and the states of rows.

Scores lie by rows, so keys lie in lanes. What a state is, ``decode_state`` says.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.decode_state import (
    STATE_VECTORS,
    active_lanes,
    row_vectors,
    state_places,
    state_vectors,
    stored_bytes,
)
from hocket.runtime.kernels.elementary import exponentials
from hocket.runtime.kernels.lanes import BYTE, FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.masks import entry_bytes
from hocket.runtime.kernels.shuffles import across, any_lane
from hocket.runtime.kernels.storage import (
    computed_in,
    load_bytes,
    load_stored,
    load_stored_scalar,
    store_stored,
)
from hocket.runtime.kernels.tile import make_tile

_EMPTY_STATE = {"largest": -math.inf, "factors": 1.0, "sums": 0.0, "ones": 1.0}

# Scores of a row in flight at a time, in vectors.
_VECTORS_AT_ONCE = 4


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
        largest, factors, sums = state_places(emitter, state, depth, *STATE_VECTORS[:3])
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
        largest, factors, sums = state_places(emitter, states, depth, *STATE_VECTORS[:3])

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
            place = emitter.offset(target, vector * lanes * stored_bytes(storage))
            store_stored(emitter, row, place, storage, active_lanes(emitter, vector, depth))

    parameters = dict.fromkeys(("states", "state_stride", "count", "target"), SIZE)
    name = f"hocket_finish_{lanes}_{depth}_{storage}_{masked_rows}_{base}_{scales:d}"
    return make_tile(name, lanes, parameters, emit, element=computed_in(storage))


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
