"""The vector unit of a CPU: softmax down columns of scores.

A *column* is one vector of queries out of a packed block of scores: each row of it, one key,
lies ``stride`` bytes after the row before. Keys run down the column, so the maximum, the
exponentials and their sum never mix lanes.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.lanes import SIZE, Emitter, Intrinsic, Value, make_tile

# 2**f on [-1/2, 1/2], degree 5, least relative error (9.2e-8) with 2**0 = 1 exactly, so that the
# largest score of a row weighs exactly 1. Highest power first.
_EXP2_COEFFICIENTS = (
    0.001326472731307149,
    0.009671512991189957,
    0.05550733581185341,
    0.24022242426872253,
    0.6931470036506653,
    1.0,
)
_LOG2_E = 1.4426950408889634
# Added to a float below 2**22, this leaves the nearest integer plus the exponent bias in its low
# bits, ready to be shifted into an exponent.
_ROUNDING = 1.5 * 2**23 + 127.0
_MANTISSA_BITS = 23
# exp() of less than this is below the smallest normal float32, and counts as 0.
_SMALLEST_EXPONENT = -87.0


@functools.cache
def largest_tile(lanes: int) -> Intrinsic:
    """Return the tile that raises ``largest``, float32 ``[lanes]``, to the maximum of a column.

    A score that is not a number is passed over; it shows in the sum of the exponentials. The
    other arguments: ``scores``, a column of ``rows`` rows.
    """
    unrolled = 4  # independent maxima, because a single one would wait for itself

    def emit(
        emitter: Emitter, *, scores: Value, stride: Value, rows: Value, largest: Value
    ) -> None:
        builder = emitter.builder

        def raise_to(index: Value, best: Value) -> Value:
            return emitter.larger(emitter.load(emitter.row(scores, index, stride)), best)

        def raise_each(turn: Value, best: list[Value]) -> list[Value]:
            first = builder.mul(turn, emitter.size(unrolled))
            return [
                raise_to(builder.add(first, emitter.size(number)), vector)
                for number, vector in enumerate(best)
            ]

        turns = builder.sdiv(rows, emitter.size(unrolled))
        best = emitter.loop(turns, [emitter.load(largest)] * unrolled, raise_each)
        done = builder.mul(turns, emitter.size(unrolled))
        merged = emitter.loop(
            builder.sub(rows, done),
            [functools.reduce(emitter.larger, best)],
            lambda index, carried: [raise_to(builder.add(done, index), carried[0])],
        )
        emitter.store(merged[0], largest)

    parameters = dict.fromkeys(("scores", "stride", "rows", "largest"), SIZE)
    return make_tile(f"hocket_largest_{lanes}", lanes, parameters, emit)


@functools.cache
def rescale_tile(lanes: int) -> Intrinsic:
    """Return the tile that moves the running statistics of a column to a new maximum.

    All arguments are float32 ``[lanes]``: ``largest``, the maximum so far; ``previous``, what it
    was at the last call, brought up to date; ``shift``, set to what must be subtracted from
    scores; ``factors``, set to what earlier exponentials must be multiplied by; ``sums``,
    multiplied by them.
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
        factor = _exponential(emitter, builder.fsub(emitter.load(previous), subtracted))
        emitter.store(best, previous)
        emitter.store(subtracted, shift)
        emitter.store(factor, factors)
        emitter.store(builder.fmul(emitter.load(sums), factor), sums)

    parameters = dict.fromkeys(("largest", "previous", "shift", "factors", "sums"), SIZE)
    return make_tile(f"hocket_rescale_{lanes}", lanes, parameters, emit)


@functools.cache
def exponential_tile(lanes: int) -> Intrinsic:
    """Return the tile that turns a column of scores into ``exp(score - shift)``, in place.

    Its arguments: ``scores``, a column of ``rows`` rows; ``shift``, float32 ``[lanes]``; ``sums``,
    float32 ``[lanes]``, to which the exponentials are added.
    """

    def emit(
        emitter: Emitter, *, scores: Value, stride: Value, rows: Value, shift: Value, sums: Value
    ) -> None:
        builder = emitter.builder
        subtracted = emitter.load(shift)

        def exponentiate(index: Value, totals: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            weight = _exponential(emitter, builder.fsub(emitter.load(place), subtracted))
            emitter.store(weight, place)
            return [builder.fadd(totals[0], weight)]

        # These rows are summed by themselves first: added one by one to the sum of thousands of
        # others, they would lose their low bits.
        total = emitter.loop(rows, [emitter.constant(0.0)], exponentiate)[0]
        emitter.store(builder.fadd(emitter.load(sums), total), sums)

    parameters = dict.fromkeys(("scores", "stride", "rows", "shift", "sums"), SIZE)
    return make_tile(f"hocket_exponential_{lanes}", lanes, parameters, emit)


def _exponential(emitter: Emitter, difference: Value) -> Value:
    """Return ``exp(difference)`` of lanes that are 0, less, or not a number.

    The argument is in natural units up to the range reduction: scores near the lowest float32
    would overflow if they were scaled to powers of two before the maximum is subtracted.
    """
    builder = emitter.builder
    log2_e = emitter.constant(_LOG2_E)
    rounding = emitter.constant(_ROUNDING)
    rounded = emitter.fused(difference, log2_e, rounding)
    fraction = emitter.fused(difference, log2_e, builder.fsub(rounding, rounded))
    mantissa = emitter.constant(_EXP2_COEFFICIENTS[0])
    for coefficient in _EXP2_COEFFICIENTS[1:]:
        mantissa = emitter.fused(mantissa, fraction, emitter.constant(coefficient))
    bits = builder.bitcast(rounded, emitter.ints)
    power = builder.bitcast(builder.shl(bits, emitter.int_constant(_MANTISSA_BITS)), emitter.floats)
    # A product, not an addition of exponents: it keeps what is not a number so.
    weight = builder.fmul(mantissa, power)
    negligible = builder.fcmp_ordered("<", difference, emitter.constant(_SMALLEST_EXPONENT))
    return builder.select(negligible, emitter.constant(0.0), weight)
