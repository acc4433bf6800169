"""Functions of numbers, lane by lane: exponential, logarithm, hyperbolic tangent.

Polynomials of least relative error, in float32 a few roundings short of what numpy computes, and
in float64 as good as that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.runtime.kernels.lanes import FLOAT, REAL
from hocket.runtime.kernels.x86 import fraction, scaled

if TYPE_CHECKING:
    from hocket.runtime.kernels.lanes import Emitter, Value

LOG2_E = math.log2(math.e)

BASES = ("2", "e")
"""Bases of the exponentials: 2 where scores come multiplied by log2(e), e where they cannot.

Scores near the lowest float32, which masks make, would overflow if they were multiplied before
the maximum is subtracted.
"""

# 2**f on [0, 1] in float32, degree 5, least relative error (8.2e-8) with 2**0 = 1 exactly, so that
# the largest score of a row weighs exactly 1. Highest power first, as all that follow.
_EXP2_FROM_ZERO = (
    0.0018671264171067348,
    0.009017038044950923,
    0.055799907625239314,
    0.24016445162819258,
    0.6931513116888891,
    1.0,
)
# tanh(x) / x is a polynomial of x**2 below this, where 1 - 2 / (exp(2 * x) + 1) would cancel.
_SMALL_TANGENT = 0.4


@dataclass(frozen=True)
class _Format:
    """What depends on how floats are made up.

    Attributes:
        mantissa_bits, exponent_bias: As IEEE 754 has them.
        exp2: 2**f on [-1/2, 1/2], with 2**0 = 1 exactly.
        tangent: tanh(x) / x in x**2, below ``_SMALL_TANGENT``.
        largest_tangent: tanh is +-1 from a little less on.
        atanh_terms: Terms of the series of atanh(z) / z in z**2, for z up to 1/3.
    """

    mantissa_bits: int
    exponent_bias: int
    exp2: tuple[float, ...]
    tangent: tuple[float, ...]
    largest_tangent: float
    atanh_terms: int

    @property
    def smallest_exponent(self) -> float:
        """2**x of less than this is below the smallest normal number, and counts as 0."""
        return 1.0 - self.exponent_bias

    @property
    def rounding(self) -> float:
        """Number that leaves the nearest integer plus the exponent bias in the low bits of a sum.

        Ready to be shifted into an exponent.
        """
        return 1.5 * 2.0**self.mantissa_bits + self.exponent_bias


_FORMATS = {
    FLOAT: _Format(
        mantissa_bits=23,
        exponent_bias=127,
        exp2=(  # 9.2e-8
            0.001326472731307149,
            0.009671512991189957,
            0.05550733581185341,
            0.24022242426872253,
            0.6931470036506653,
            1.0,
        ),
        tangent=(  # 2e-9
            0.018602036023324584,
            -0.05352273190216841,
            0.13330894061142415,
            -0.33333291484071076,
            1.0,
        ),
        largest_tangent=10.0,
        atanh_terms=7,  # 1e-8
    ),
    REAL: _Format(
        mantissa_bits=52,
        exponent_bias=1023,
        exp2=(  # 2e-17
            4.4549605981865186e-10,
            7.072585949269223e-09,
            1.0178062445845774e-07,
            1.321544258792169e-06,
            1.525273382983612e-05,
            0.0001540353044173605,
            0.0013333558146416936,
            0.009618129107606888,
            0.0555041086648216,
            0.24022650695910097,
            0.6931471805599453,
            1.0,
        ),
        tangent=(  # 9e-18
            -0.00017983670332957593,
            0.0005732117073728595,
            -0.0014531879554384325,
            0.0035918824420581286,
            -0.008863222061310261,
            0.02186948811976278,
            -0.05396825396178988,
            0.13333333333329464,
            -0.3333333333333333,
            1.0,
        ),
        largest_tangent=20.0,
        atanh_terms=17,  # 2e-18
    ),
}


def exponentials(
    emitter: Emitter, differences: list[Value], base: str, *, scales: bool
) -> list[Value]:
    """Return ``base ** x`` of vectors whose lanes are some 100 at most, or not a number.

    Less than the smallest normal number becomes 0. One step is written for all vectors before
    the next step: each step waits for the one before, and a CPU does not look far enough ahead
    to find another vector's work by itself.

    Args:
        emitter: Writes the tile.
        differences: The exponents.
        base: One of ``BASES``.
        scales: Whether the CPU has instructions that split and scale float32 by powers of two.
    """
    builder = emitter.builder
    form = _FORMATS[emitter.element]
    if scales:
        if base == "e":
            factor = emitter.constant(LOG2_E)
            differences = [builder.fmul(x, factor) for x in differences]
        fractions = [fraction(emitter, x) for x in differences]
        weights = _polynomials(emitter, _EXP2_FROM_ZERO, fractions)
        smallest = emitter.constant(form.smallest_exponent)
        return [
            # Unordered: what is not a number stays so.
            scaled(emitter, weight, x, builder.fcmp_unordered(">=", x, smallest))
            for x, weight in zip(differences, weights, strict=True)
        ]
    rounding = emitter.constant(form.rounding)
    if base == "e":
        log2_e = emitter.constant(LOG2_E)
        rounded = [emitter.fused(x, log2_e, rounding) for x in differences]
        fractions = [
            emitter.fused(x, log2_e, builder.fsub(rounding, whole))
            for x, whole in zip(differences, rounded, strict=True)
        ]
        smallest = emitter.constant(form.smallest_exponent / LOG2_E)
    else:
        rounded = [builder.fadd(x, rounding) for x in differences]
        fractions = [
            builder.fsub(x, builder.fsub(whole, rounding))
            for x, whole in zip(differences, rounded, strict=True)
        ]
        smallest = emitter.constant(form.smallest_exponent)
    weights = _polynomials(emitter, form.exp2, fractions)
    mantissa_bits = emitter.int_constant(form.mantissa_bits)
    exponents = [
        builder.shl(builder.bitcast(whole, emitter.ints), mantissa_bits) for whole in rounded
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


def logarithm(emitter: Emitter, vector: Value) -> Value:
    """Return the natural logarithm of positive numbers; what is not a number stays so."""
    builder = emitter.builder
    form = _FORMATS[emitter.element]
    bits = builder.bitcast(vector, emitter.ints)
    mantissa_bits = emitter.int_constant(form.mantissa_bits)
    bias = emitter.int_constant(form.exponent_bias)
    exponent = builder.sub(builder.lshr(bits, mantissa_bits), bias)
    mantissa = builder.and_(bits, emitter.int_constant((1 << form.mantissa_bits) - 1))
    within = builder.bitcast(
        builder.or_(mantissa, builder.shl(bias, mantissa_bits)), emitter.floats
    )
    # ln(m) = 2 * atanh((m - 1) / (m + 1)).
    one = emitter.constant(1.0)
    ratio = builder.fdiv(builder.fsub(within, one), builder.fadd(within, one))
    terms = tuple(1.0 / (2 * term + 1) for term in reversed(range(form.atanh_terms)))
    series = _polynomial(emitter, terms, builder.fmul(ratio, ratio))
    result = builder.fmul(emitter.constant(2.0), builder.fmul(ratio, series))
    result = emitter.fused(
        builder.sitofp(exponent, emitter.floats), emitter.constant(math.log(2.0)), result
    )
    # These have no exponent to speak of.
    odd = builder.fcmp_unordered("ueq", vector, emitter.constant(math.inf))
    return builder.select(odd, vector, result)


def tangents(emitter: Emitter, vectors: list[Value]) -> list[Value]:
    """Return the hyperbolic tangents of vectors; what is not a number stays so."""
    builder = emitter.builder
    form = _FORMATS[emitter.element]
    one, two = emitter.constant(1.0), emitter.constant(2.0)
    # 2**x of larger numbers would overflow.
    bounded = [_clamped(emitter, x, form.largest_tangent) for x in vectors]
    powers = exponentials(emitter, [builder.fmul(x, two) for x in bounded], "e", scales=False)
    large = [builder.fsub(one, builder.fdiv(two, builder.fadd(power, one))) for power in powers]
    series = _polynomials(emitter, form.tangent, [builder.fmul(x, x) for x in bounded])
    results = []
    for x, bound, factor, other in zip(vectors, bounded, series, large, strict=True):
        size = builder.select(
            builder.fcmp_ordered("<", x, emitter.constant(0.0)), builder.fneg(x), x
        )
        is_small = builder.fcmp_ordered("<", size, emitter.constant(_SMALL_TANGENT))
        results.append(builder.select(is_small, builder.fmul(bound, factor), other))
    return results


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
