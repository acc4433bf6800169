"""The vector unit of a CPU: softmax down columns of scores.

A *column* is one vector of queries out of a packed block of scores: each row of it, one key,
lies ``stride`` bytes after the row before. Keys run down the column, so the maximum, the
exponentials and their sum never mix lanes. What float32 is here is float64 in tiles of that
``element``.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.elementary import LOG2_E, exponentials, logarithm, tangents
from hocket.runtime.kernels.lanes import FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.tile import make_tile
from hocket.runtime.kernels.x86 import pairs_of

# Rows of a column in flight at a time: a single one would wait for itself.
_ROWS_AT_ONCE = 4
_LINE_BYTES = 64


@functools.cache
def largest_tile(lanes: int, element: str = "float32") -> Intrinsic:
    """Return the tile that raises ``largest``, float32 ``[lanes]``, to the maximum of a column.

    A score that is not a number is passed over; it shows in the sum of the exponentials. The
    other arguments: ``scores``, a column of ``rows`` rows.
    """

    def emit(
        emitter: Emitter, *, scores: Value, stride: Value, rows: Value, largest: Value
    ) -> None:
        builder = emitter.builder

        def raise_to(index: Value, best: Value) -> Value:
            return emitter.larger(emitter.load(emitter.row(scores, index, stride)), best)

        def raise_each(turn: Value, best: list[Value]) -> list[Value]:
            first = builder.mul(turn, emitter.size(_ROWS_AT_ONCE))
            return [
                raise_to(builder.add(first, emitter.size(number)), vector)
                for number, vector in enumerate(best)
            ]

        turns = builder.sdiv(rows, emitter.size(_ROWS_AT_ONCE))
        best = emitter.loop(turns, [emitter.load(largest)] * _ROWS_AT_ONCE, raise_each)
        done = builder.mul(turns, emitter.size(_ROWS_AT_ONCE))
        merged = emitter.loop(
            builder.sub(rows, done),
            [functools.reduce(emitter.larger, best)],
            lambda index, carried: [raise_to(builder.add(done, index), carried[0])],
        )
        emitter.store(merged[0], largest)

    parameters = dict.fromkeys(("scores", "stride", "rows", "largest"), SIZE)
    return make_tile(f"hocket_largest_{lanes}", lanes, parameters, emit, element=element)


@functools.cache
def rescale_tile(lanes: int, base: str, scales: bool, element: str = "float32") -> Intrinsic:
    """Return the tile that moves the running statistics of a column to a new maximum.

    All arguments are float32 ``[lanes]``: ``largest``, the maximum so far; ``previous``, what it
    was at the last call, brought up to date; ``shift``, set to what must be subtracted from
    scores; ``factors``, set to what earlier exponentials must be multiplied by; ``sums``,
    multiplied by them. ``base`` and ``scales`` are those of ``exponential_tile``.
    """

    def emit(
        emitter: Emitter,
        *,
        largest: Value,
        previous: Value,
        shift: Value,
        factors: Value,
        sums: Value,
    ) -> None:
        builder = emitter.builder
        best = emitter.load(largest)
        # While all scores are minus infinity, subtract 0: -inf - -inf is not a number, and a
        # later key may still give the row a finite maximum.
        nothing = builder.fcmp_ordered("==", best, emitter.constant(-math.inf))
        subtracted = builder.select(nothing, emitter.constant(0.0), best)
        difference = builder.fsub(emitter.load(previous), subtracted)
        (factor,) = exponentials(emitter, [difference], base, scales=scales)
        emitter.store(best, previous)
        emitter.store(subtracted, shift)
        emitter.store(factor, factors)
        emitter.store(builder.fmul(emitter.load(sums), factor), sums)

    parameters = dict.fromkeys(("largest", "previous", "shift", "factors", "sums"), SIZE)
    name = f"hocket_rescale_{lanes}_{base}_{scales:d}"
    return make_tile(name, lanes, parameters, emit, element=element)


@functools.cache
def exponential_tile(
    lanes: int, base: str, scales: bool, pairs: bool, element: str = "float32"
) -> Intrinsic:
    """Return the tile that turns a column of scores into ``base ** (score - shift)``, in place.

    Its arguments: ``scores``, a column of ``rows`` rows; ``shift``, float32 ``[lanes]``; ``sums``,
    float32 ``[lanes]``, to which the exponentials are added. Meanwhile two blocks of ``lanes``
    rows are brought into the second-level cache, a line of each for every few rows of scores:
    one to be read, from ``read_next`` on, and one to be written, from ``written_next`` on, with
    rows ``read_stride`` and ``written_stride`` bytes apart. ``ahead`` rows of scores have been
    done with them before.

    Args:
        lanes: float32 lanes of a vector.
        base: One of ``elementary.BASES``.
        scales: Whether the CPU has instructions that split and scale by powers of two.
        pairs: Whether weights are written as pairs of bfloat16, for ``matrix.weigh_tile`` of
            that kind: row ``2 * r`` and the row after it become row ``r``, and a row that has
            none after it is paired with 0.
        element: Type of scores and weights.
    """

    def emit(
        emitter: Emitter,
        *,
        scores: Value,
        stride: Value,
        rows: Value,
        shift: Value,
        sums: Value,
        ahead: Value,
        read_next: Value,
        read_stride: Value,
        written_next: Value,
        written_stride: Value,
    ) -> None:
        builder = emitter.builder
        subtracted = emitter.load(shift)

        def ask_ahead(turn: Value) -> None:
            number = builder.add(turn, builder.sdiv(ahead, emitter.size(_ROWS_AT_ONCE)))
            row = builder.srem(number, emitter.size(lanes))
            line = builder.mul(builder.sdiv(number, emitter.size(lanes)), emitter.size(_LINE_BYTES))
            for start, step, writes in (
                (read_next, read_stride, False),
                (written_next, written_stride, True),
            ):
                place = builder.add(emitter.row(start, row, step), line)
                emitter.prefetch(place, writes=writes, level=2)

        def exponentiate(first: Value, totals: list[Value]) -> list[Value]:
            """Do as many rows from ``first`` on as there are totals."""
            places = [
                emitter.row(scores, builder.add(first, emitter.size(number)), stride)
                for number in range(len(totals))
            ]
            differences = [builder.fsub(emitter.load(place), subtracted) for place in places]
            weights = exponentials(emitter, differences, base, scales=scales)
            if pairs:
                start = builder.sdiv(first, emitter.size(2))
                if len(weights) % 2:
                    weights.append(emitter.constant(0.0))
                halves = zip(weights[::2], weights[1::2], strict=True)
                for number, (lower, upper) in enumerate(halves):
                    target = emitter.row(scores, builder.add(start, emitter.size(number)), stride)
                    emitter.store_ints(pairs_of(emitter, lower, upper), target)
            else:
                for weight, place in zip(weights, places, strict=True):
                    emitter.store(weight, place)
            return [
                builder.fadd(total, weight) for total, weight in zip(totals, weights, strict=False)
            ]

        # These rows are summed by themselves first: added one by one to the sum of thousands of
        # others, they would lose their low bits.
        def take_turn(turn: Value, carried: list[Value]) -> list[Value]:
            ask_ahead(turn)
            return exponentiate(builder.mul(turn, emitter.size(_ROWS_AT_ONCE)), carried)

        turns = builder.sdiv(rows, emitter.size(_ROWS_AT_ONCE))
        totals = emitter.loop(turns, [emitter.constant(0.0)] * _ROWS_AT_ONCE, take_turn)
        done = builder.mul(turns, emitter.size(_ROWS_AT_ONCE))
        left = builder.sub(rows, done)
        rest = [functools.reduce(builder.fadd, totals)]
        if pairs:
            two = builder.sdiv(left, emitter.size(2))
            totals = emitter.loop(
                two,
                [*rest, emitter.constant(0.0)],
                lambda _turn, carried: exponentiate(done, carried),
            )
            rest = [builder.fadd(*totals)]
            even = builder.mul(two, emitter.size(2))
            done, left = builder.add(done, even), builder.sub(left, even)
        rest = emitter.loop(
            left, rest, lambda index, carried: exponentiate(builder.add(done, index), carried)
        )
        emitter.store(builder.fadd(emitter.load(sums), rest[0]), sums)

    parameters = dict.fromkeys(("scores", "stride", "rows", "shift", "sums", "ahead"), SIZE)
    asked = ("read_next", "read_stride", "written_next", "written_stride")
    parameters |= dict.fromkeys(asked, SIZE)
    name = f"hocket_exponential_{lanes}_{base}_{scales:d}_{pairs:d}"
    return make_tile(name, lanes, parameters, emit, element=element)


@functools.cache
def log_sum_tile(lanes: int, base: str, element: str = "float32") -> Intrinsic:
    """Return the tile that writes the log-sum-exp of a column's rows, in natural units.

    Its arguments: ``shift`` and ``sums``, float32 ``[lanes]``, as the other tiles leave them;
    ``target``, float32 ``[last + 1]``. A row without keys becomes minus infinity.
    """

    def emit(emitter: Emitter, *, shift: Value, sums: Value, target: Value, last: Value) -> None:
        builder = emitter.builder
        unit = 1 / LOG2_E if base == "2" else 1.0
        total = emitter.load(sums)
        result = emitter.fused(
            emitter.load(shift), emitter.constant(unit), logarithm(emitter, total)
        )
        empty = builder.fcmp_ordered("==", total, emitter.constant(0.0))
        result = builder.select(empty, emitter.constant(-math.inf), result)
        written = emitter.first_lanes(builder.add(last, emitter.size(1)))
        emitter.store_active(result, target, written)

    parameters = dict.fromkeys(("shift", "sums", "target", "last"), SIZE)
    return make_tile(f"hocket_log_sum_{lanes}_{base}", lanes, parameters, emit, element=element)


@functools.cache
def cap_tile(lanes: int, element: str = "float32") -> Intrinsic:
    """Return the tile that replaces scores ``x`` of a column by ``cap * tanh(x)``."""

    def emit(emitter: Emitter, *, scores: Value, stride: Value, rows: Value, cap: Value) -> None:
        factor = emitter.splat(cap)

        def tangent(index: Value, _carried: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            (result,) = tangents(emitter, [emitter.load(place)])
            emitter.store(emitter.builder.fmul(factor, result), place)
            return []

        emitter.loop(rows, [], tangent)

    parameters = {"scores": SIZE, "stride": SIZE, "rows": SIZE, "cap": FLOAT}
    return make_tile(f"hocket_cap_{lanes}", lanes, parameters, emit, element=element)


@functools.cache
def slope_tile(lanes: int, element: str = "float32") -> Intrinsic:
    """Return the tile that adds ``slope * (key - query)`` to the scores of a column.

    Its arguments: ``scores``, a column of ``rows`` rows; ``ahead``, the position of its first key
    less that of its first query; ``slope``.
    """

    def emit(
        emitter: Emitter, *, scores: Value, stride: Value, rows: Value, ahead: Value, slope: Value
    ) -> None:
        builder = emitter.builder
        factor = emitter.splat(slope)
        start = emitter.splat(emitter.lane_int(ahead))
        first = builder.sub(start, emitter.lane_indices())

        def add_slope(index: Value, distance: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            steps = builder.sitofp(distance[0], emitter.floats)
            emitter.store(emitter.fused(factor, steps, emitter.load(place)), place)
            return [builder.add(distance[0], emitter.int_constant(1))]

        emitter.loop(rows, [first], add_slope)

    parameters = dict.fromkeys(("scores", "stride", "rows", "ahead"), SIZE) | {"slope": FLOAT}
    return make_tile(f"hocket_slope_{lanes}", lanes, parameters, emit, element=element)
