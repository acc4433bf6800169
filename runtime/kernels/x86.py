"""Instructions of AVX-512 that LLVM has no portable name for: float32, 16 lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from hocket.runtime.kernels.lanes import INT16, INT32

if TYPE_CHECKING:
    from hocket.runtime.kernels.lanes import Emitter, Value

# Immediate of VREDUCEPS: no fraction bits are kept, rounding is down, inexactness is not told.
_DOWN = 0x09
_CURRENT_ROUNDING = 4


class _BFloatType(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no type for; only ever made by casting bits."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloatType)

    def __hash__(self) -> int:
        return hash(_BFloatType)


BFLOAT = _BFloatType()


def paired(emitter: Emitter, left: Value, right: Value, addend: Value) -> Value:
    """Return ``addend`` and the two products of the bfloat16 pairs in each 32-bit lane.

    Only on a CPU with AVX512-BF16.
    """
    pairs = ir.VectorType(BFLOAT, 2 * emitter.lanes)
    function = emitter.declare(
        "llvm.x86.avx512bf16.dpbf16ps.512", emitter.floats, emitter.floats, pairs, pairs
    )
    bits = [emitter.builder.bitcast(vector, pairs) for vector in (left, right)]
    return emitter.builder.call(function, [addend, *bits])


def pairs_of(emitter: Emitter, lower: Value, upper: Value) -> Value:
    """Return the bfloat16 pair of ``lower`` and ``upper`` in each 32-bit lane, as integers.

    Only on a CPU with AVX512-BF16.
    """
    pairs = ir.VectorType(BFLOAT, 2 * emitter.lanes)
    convert = emitter.declare(
        "llvm.x86.avx512bf16.cvtne2ps2bf16.512", pairs, emitter.floats, emitter.floats
    )
    # The second operand becomes the first half.
    halves = emitter.builder.call(convert, [upper, lower])
    shorts = emitter.builder.bitcast(halves, ir.VectorType(INT16, 2 * emitter.lanes))
    order = [lane // 2 + lane % 2 * emitter.lanes for lane in range(2 * emitter.lanes)]
    mask = ir.Constant(
        ir.VectorType(INT32, 2 * emitter.lanes), [ir.Constant(INT32, lane) for lane in order]
    )
    return emitter.builder.bitcast(
        emitter.builder.shuffle_vector(shorts, shorts, mask), emitter.ints
    )


def fraction(emitter: Emitter, vector: Value) -> Value:
    """Return each float less the largest integer not above it; only with AVX512-DQ."""
    function = emitter.declare(
        "llvm.x86.avx512.mask.reduce.ps.512",
        *(emitter.floats, emitter.floats, INT32, emitter.floats, INT16, INT32),
    )
    unused = ir.Constant(emitter.floats, ir.Undefined)
    arguments = [vector, INT32(_DOWN), unused, INT16(-1), INT32(_CURRENT_ROUNDING)]
    return emitter.builder.call(function, arguments)


def scaled(emitter: Emitter, vector: Value, exponent: Value, active: Value) -> Value:
    """Return ``vector * 2**floor(exponent)`` where ``active``, else 0; only with AVX512-F."""
    function = emitter.declare(
        "llvm.x86.avx512.mask.scalef.ps.512",
        *(emitter.floats, emitter.floats, emitter.floats, emitter.floats, INT16, INT32),
    )
    mask = emitter.builder.bitcast(active, INT16)
    arguments = [vector, exponent, emitter.constant(0.0), mask, INT32(_CURRENT_ROUNDING)]
    return emitter.builder.call(function, arguments)
