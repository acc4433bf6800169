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
# Rows of a column in flight at a time: a single one would wait for itself.
_ROWS_AT_ONCE = 4


@functools.cache
def largest_tile(lanes: int) -> Intrinsic:
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
        (factor,) = _exponentials(emitter, [builder.fsub(emitter.load(previous), subtracted)])
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

        def exponentiate(first: Value, totals: list[Value]) -> list[Value]:
            """Do as many rows from ``first`` on as there are totals."""
            places = [
                emitter.row(scores, builder.add(first, emitter.size(number)), stride)
                for number in range(len(totals))
            ]
            differences = [builder.fsub(emitter.load(place), subtracted) for place in places]
            weights = _exponentials(emitter, differences)
            for weight, place in zip(weights, places, strict=True):
                emitter.store(weight, place)
            return [
                builder.fadd(total, weight) for total, weight in zip(totals, weights, strict=True)
            ]

        # These rows are summed by themselves first: added one by one to the sum of thousands of
        # others, they would lose their low bits.
        turns = builder.sdiv(rows, emitter.size(_ROWS_AT_ONCE))
        totals = emitter.loop(
            turns,
            [emitter.constant(0.0)] * _ROWS_AT_ONCE,
            lambda turn, carried: exponentiate(
                builder.mul(turn, emitter.size(_ROWS_AT_ONCE)), carried
            ),
        )
        done = builder.mul(turns, emitter.size(_ROWS_AT_ONCE))
        rest = emitter.loop(
            builder.sub(rows, done),
            [functools.reduce(builder.fadd, totals)],
            lambda index, carried: exponentiate(builder.add(done, index), carried),
        )
        emitter.store(builder.fadd(emitter.load(sums), rest[0]), sums)

    parameters = dict.fromkeys(("scores", "stride", "rows", "shift", "sums"), SIZE)
    return make_tile(f"hocket_exponential_{lanes}", lanes, parameters, emit)


def _exponentials(emitter: Emitter, differences: list[Value]) -> list[Value]:
    """Return ``exp`` of vectors whose lanes are 0, less, or not a number.

    The argument is in natural units up to the range reduction: scores near the lowest float32
    would overflow if they were scaled to powers of two before the maximum is subtracted.
    """
    builder = emitter.builder
    log2_e, rounding = emitter.constant(_LOG2_E), emitter.constant(_ROUNDING)
    # One step for all vectors before the next step: each step waits for the one before, and a CPU
    # does not look far enough ahead to find another vector's work by itself.
    rounded = [emitter.fused(x, log2_e, rounding) for x in differences]
    fractions = [
        emitter.fused(x, log2_e, builder.fsub(rounding, whole))
        for x, whole in zip(differences, rounded, strict=True)
    ]
    weights = [emitter.constant(_EXP2_COEFFICIENTS[0])] * len(differences)
    for coefficient in _EXP2_COEFFICIENTS[1:]:
        addend = emitter.constant(coefficient)
        weights = [
            emitter.fused(weight, fraction, addend)
            for weight, fraction in zip(weights, fractions, strict=True)
        ]
    exponents = [
        builder.shl(builder.bitcast(whole, emitter.ints), emitter.int_constant(_MANTISSA_BITS))
        for whole in rounded
    ]
    # A product, not an addition of exponents: it keeps what is not a number so.
    weights = [
        builder.fmul(weight, builder.bitcast(exponent, emitter.floats))
        for weight, exponent in zip(weights, exponents, strict=True)
    ]
    smallest = emitter.constant(_SMALLEST_EXPONENT)
    return [
        builder.select(builder.fcmp_ordered("<", x, smallest), emitter.constant(0.0), weight)
        for x, weight in zip(differences, weights, strict=True)
    ]
