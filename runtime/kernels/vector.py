"""The vector unit of a CPU: softmax down columns of scores.

A *column* is one vector of queries out of a packed block of scores: each row of it, one key,
lies ``stride`` bytes after the row before. Keys run down the column, so the maximum, the
exponentials and their sum never mix lanes.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.lanes import FLOAT, INT32, SIZE, Emitter, Intrinsic, Value, make_tile

LOG2_E = math.log2(math.e)

BASES = ("2", "e")
"""Bases of the exponentials: 2 where scores come multiplied by log2(e), e where they cannot.

Scores near the lowest float32, which masks make, would overflow if they were multiplied before
the maximum is subtracted.
"""

# 2**f on [0, 1], degree 5, least relative error (8.2e-8) with 2**0 = 1 exactly, so that the
# largest score of a row weighs exactly 1. Highest power first.
_EXP2_FROM_ZERO = (
    0.0018671264171067348,
    0.009017038044950923,
    0.055799907625239314,
    0.24016445162819258,
    0.6931513116888891,
    1.0,
)
# The same on [-1/2, 1/2] (9.2e-8).
_EXP2_AROUND_ZERO = (
    0.001326472731307149,
    0.009671512991189957,
    0.05550733581185341,
    0.24022242426872253,
    0.6931470036506653,
    1.0,
)
# Added to a float below 2**22, this leaves the nearest integer plus the exponent bias in its low
# bits, ready to be shifted into an exponent.
_ROUNDING = 1.5 * 2**23 + 127.0
_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127
# 2**x of less than this is below the smallest normal float32, and counts as 0.
_SMALLEST_EXPONENT = -126.0
# Rows of a column in flight at a time: a single one would wait for itself.
_ROWS_AT_ONCE = 4
_LINE_BYTES = 64

# ln(m) = 2 * atanh((m - 1) / (m + 1)): powers up to the 13th leave 1e-8 for m in [1, 2].
_ATANH = (1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)
# tanh(x) / x in x**2 below _SMALL_TANGENT, where 1 - 2 / (exp(2 * x) + 1) would cancel; least
# relative error (2e-9).
_TANH = (
    0.018602036023324584,
    -0.05352273190216841,
    0.13330894061142415,
    -0.33333291484071076,
    1.0,
)
_SMALL_TANGENT = 0.4


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
def rescale_tile(lanes: int, base: str, scales: bool) -> Intrinsic:
    """Return the tile that moves the running statistics of a column to a new maximum.

    All arguments are float32 ``[lanes]``: ``largest``, the maximum so far; ``previous``, what it
    was at the last call, brought up to date; ``shift``, set to what must be subtracted from
    scores; ``factors``, set to what earlier exponentials must be multiplied by; ``sums``,
    multiplied by them. ``base`` is one of ``BASES``; ``scales`` as for ``exponential_tile``.
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
    return make_tile(f"hocket_rescale_{lanes}_{base}_{scales:d}", lanes, parameters, emit)


@functools.cache
def exponential_tile(lanes: int, base: str, scales: bool, pairs: bool) -> Intrinsic:
    """Return the tile that turns a column of scores into ``base ** (score - shift)``, in place.

    Its arguments: ``scores``, a column of ``rows`` rows; ``shift``, float32 ``[lanes]``; ``sums``,
    float32 ``[lanes]``, to which the exponentials are added. Meanwhile two blocks of ``lanes``
    rows are brought into the second-level cache, a line of each for every few rows of scores:
    one to be read, from ``read_next`` on, and one to be written, from ``written_next`` on, with
    rows ``read_stride`` and ``written_stride`` bytes apart. ``ahead`` rows of scores have been
    done with them before.

    Args:
        lanes: float32 lanes of a vector.
        base: One of ``BASES``.
        scales: Whether the CPU has instructions that split and scale by powers of two.
        pairs: Whether weights are written as pairs of bfloat16, for ``matrix.weigh_tile`` of
            that kind: row ``2 * r`` and the row after it become row ``r``, and a row that has
            none after it is paired with 0.
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
                    emitter.store_ints(emitter.pairs_of(lower, upper), target)
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

    names = ("scores", "stride", "rows", "shift", "sums", "ahead")
    names += ("read_next", "read_stride", "written_next", "written_stride")
    parameters = dict.fromkeys(names, SIZE)
    name = f"hocket_exponential_{lanes}_{base}_{scales:d}_{pairs:d}"
    return make_tile(name, lanes, parameters, emit)


@functools.cache
def log_sum_tile(lanes: int, base: str) -> Intrinsic:
    """Return the tile that writes the log-sum-exp of a column's rows, in natural units.

    Its arguments: ``shift`` and ``sums``, float32 ``[lanes]``, as the other tiles leave them;
    ``target``, float32 ``[last + 1]``. A row without keys becomes minus infinity.
    """

    def emit(emitter: Emitter, *, shift: Value, sums: Value, target: Value, last: Value) -> None:
        builder = emitter.builder
        total = emitter.load(sums)
        bits = builder.bitcast(total, emitter.ints)
        mantissa_bits = emitter.int_constant(_MANTISSA_BITS)
        exponent = builder.sub(
            builder.lshr(bits, mantissa_bits), emitter.int_constant(_EXPONENT_BIAS)
        )
        mantissa = builder.and_(bits, emitter.int_constant((1 << _MANTISSA_BITS) - 1))
        one = builder.shl(emitter.int_constant(_EXPONENT_BIAS), mantissa_bits)
        within = builder.bitcast(builder.or_(mantissa, one), emitter.floats)
        ratio = builder.fdiv(
            builder.fsub(within, emitter.constant(1.0)), builder.fadd(within, emitter.constant(1.0))
        )
        series = _polynomial(emitter, _ATANH, builder.fmul(ratio, ratio))
        logarithm = builder.fmul(emitter.constant(2.0), builder.fmul(ratio, series))
        logarithm = emitter.fused(
            builder.sitofp(exponent, emitter.floats), emitter.constant(math.log(2.0)), logarithm
        )
        unit = 1 / LOG2_E if base == "2" else 1.0
        result = emitter.fused(emitter.load(shift), emitter.constant(unit), logarithm)
        # What is not a number, or infinite, has no exponent to speak of; 0 has no logarithm.
        odd = builder.fcmp_unordered("uno", total, total)
        result = builder.select(odd, total, result)
        empty = builder.fcmp_ordered("==", total, emitter.constant(0.0))
        result = builder.select(empty, emitter.constant(-math.inf), result)
        written = emitter.first_lanes(builder.add(last, emitter.size(1)))
        emitter.store_active(result, target, written)

    parameters = dict.fromkeys(("shift", "sums", "target", "last"), SIZE)
    return make_tile(f"hocket_log_sum_{lanes}_{base}", lanes, parameters, emit)


@functools.cache
def cap_tile(lanes: int) -> Intrinsic:
    """Return the tile that replaces scores ``x`` of a column by ``cap * tanh(x)``."""

    def emit(emitter: Emitter, *, scores: Value, stride: Value, rows: Value, cap: Value) -> None:
        builder = emitter.builder
        factor = emitter.splat(cap)
        one, two = emitter.constant(1.0), emitter.constant(2.0)

        def tangent(index: Value, _carried: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            x = emitter.load(place)
            # tanh is +-1 in float32 from 9.01 on, and 2**x would overflow.
            bounded = _clamped(emitter, x, 10.0)
            doubled = builder.fmul(bounded, two)
            (power,) = exponentials(emitter, [doubled], "e", scales=False)
            large = builder.fsub(one, builder.fdiv(two, builder.fadd(power, one)))
            series = _polynomial(emitter, _TANH, builder.fmul(bounded, bounded))
            small = builder.fmul(bounded, series)
            size = builder.select(
                builder.fcmp_ordered("<", x, emitter.constant(0.0)), builder.fneg(x), x
            )
            is_small = builder.fcmp_ordered("<", size, emitter.constant(_SMALL_TANGENT))
            emitter.store(builder.fmul(factor, builder.select(is_small, small, large)), place)
            return []

        emitter.loop(rows, [], tangent)

    parameters = {"scores": SIZE, "stride": SIZE, "rows": SIZE, "cap": FLOAT}
    return make_tile(f"hocket_cap_{lanes}", lanes, parameters, emit)


@functools.cache
def slope_tile(lanes: int) -> Intrinsic:
    """Return the tile that adds ``slope * (key - query)`` to the scores of a column.

    Its arguments: ``scores``, a column of ``rows`` rows; ``ahead``, the position of its first key
    less that of its first query; ``slope``.
    """

    def emit(
        emitter: Emitter, *, scores: Value, stride: Value, rows: Value, ahead: Value, slope: Value
    ) -> None:
        builder = emitter.builder
        factor = emitter.splat(slope)
        start = emitter.splat(builder.trunc(ahead, INT32))
        first = builder.sub(start, emitter.lane_indices())

        def add_slope(index: Value, distance: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            steps = builder.sitofp(distance[0], emitter.floats)
            emitter.store(emitter.fused(factor, steps, emitter.load(place)), place)
            return [builder.add(distance[0], emitter.int_constant(1))]

        emitter.loop(rows, [first], add_slope)

    parameters = dict.fromkeys(("scores", "stride", "rows", "ahead"), SIZE) | {"slope": FLOAT}
    return make_tile(f"hocket_slope_{lanes}", lanes, parameters, emit)


def exponentials(
    emitter: Emitter, differences: list[Value], base: str, *, scales: bool
) -> list[Value]:
    """Return ``base ** x`` of vectors whose lanes are some 100 at most, or not a number.

    Less than the smallest normal float32 becomes 0. One step is written for all vectors before
    the next step: each step waits for the one before, and a CPU does not look far enough ahead
    to find another vector's work by itself.
    """
    builder = emitter.builder
    if scales:
        if base == "e":
            factor = emitter.constant(LOG2_E)
            differences = [builder.fmul(x, factor) for x in differences]
        fractions = [emitter.fraction(x) for x in differences]
        weights = _polynomials(emitter, _EXP2_FROM_ZERO, fractions)
        smallest = emitter.constant(_SMALLEST_EXPONENT)
        return [
            # Unordered: what is not a number stays so.
            emitter.scaled(weight, x, builder.fcmp_unordered(">=", x, smallest))
            for x, weight in zip(differences, weights, strict=True)
        ]
    rounding = emitter.constant(_ROUNDING)
    if base == "e":
        log2_e = emitter.constant(LOG2_E)
        rounded = [emitter.fused(x, log2_e, rounding) for x in differences]
        fractions = [
            emitter.fused(x, log2_e, builder.fsub(rounding, whole))
            for x, whole in zip(differences, rounded, strict=True)
        ]
        smallest = emitter.constant(_SMALLEST_EXPONENT / LOG2_E)
    else:
        rounded = [builder.fadd(x, rounding) for x in differences]
        fractions = [
            builder.fsub(x, builder.fsub(whole, rounding))
            for x, whole in zip(differences, rounded, strict=True)
        ]
        smallest = emitter.constant(_SMALLEST_EXPONENT)
    weights = _polynomials(emitter, _EXP2_AROUND_ZERO, fractions)
    exponents = [
        builder.shl(builder.bitcast(whole, emitter.ints), emitter.int_constant(_MANTISSA_BITS))
        for whole in rounded
    ]
    # A product, not an addition of exponents: it keeps what is not a number so.
    weights = [
        builder.fmul(weight, builder.bitcast(exponent, emitter.floats))
        for weight, exponent in zip(weights, exponents, strict=True)
    ]
    return [
        builder.select(builder.fcmp_ordered("<", x, smallest), emitter.constant(0.0), weight)
        for x, weight in zip(differences, weights, strict=True)
    ]


def _polynomials(
    emitter: Emitter, coefficients: tuple[float, ...], variables: list[Value]
) -> list[Value]:
    """Return a polynomial, its highest power first, of several vectors, step by step."""
    values = [emitter.constant(coefficients[0])] * len(variables)
    for coefficient in coefficients[1:]:
        addend = emitter.constant(coefficient)
        values = [emitter.fused(y, x, addend) for y, x in zip(values, variables, strict=True)]
    return values


def _polynomial(emitter: Emitter, coefficients: tuple[float, ...], variable: Value) -> Value:
    return _polynomials(emitter, coefficients, [variable])[0]


def _clamped(emitter: Emitter, vector: Value, limit: float) -> Value:
    """Return a vector held within ``+-limit``; what is not a number stays so."""
    builder = emitter.builder
    high, low = emitter.constant(limit), emitter.constant(-limit)
    vector = builder.select(builder.fcmp_ordered(">", vector, high), high, vector)
    return builder.select(builder.fcmp_ordered("<", vector, low), low, vector)
