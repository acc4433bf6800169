"""What passes between the lanes of vectors: transposes, sums, whether any lane is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from hocket.runtime.kernels.lanes import BIT, INT32, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hocket.runtime.kernels.lanes import Emitter, Value


def transpose(emitter: Emitter, rows: Sequence[Value]) -> list[Value]:
    """Return the transpose of a square of ``lanes`` vectors.

    Stage ``k`` swaps bit ``k`` of the row number with bit ``k`` of the lane number.
    """
    moved = list(rows)
    step = 1
    while step < emitter.lanes:
        for first in range(emitter.lanes):
            if first & step:
                continue
            upper, lower = moved[first], moved[first + step]
            moved[first] = _pick(emitter, upper, lower, step, from_lower=False)
            moved[first + step] = _pick(emitter, upper, lower, step, from_lower=True)
        step *= 2
    return moved


def merged(emitter: Emitter, one: Value, other: Value, step: int) -> Value:
    """Return sums of pairs of lanes ``step`` apart, those of two vectors in turn.

    Lanes without the bit ``step`` in their number get sums of ``one``, the rest of ``other``.
    """
    builder = emitter.builder
    has_bit = _with_bit(emitter, step)
    moved = builder.select(has_bit, one, other)
    moved = _rearranged(emitter, moved, moved, [lane ^ step for lane in range(emitter.lanes)])
    return builder.fadd(builder.select(has_bit, other, one), moved)


def across(emitter: Emitter, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Return in every lane what ``combine`` makes of all lanes."""
    step = 1
    while step < emitter.lanes:
        moved = _rearranged(emitter, vector, vector, [lane ^ step for lane in range(emitter.lanes)])
        vector = combine(vector, moved)
        step *= 2
    return vector


def any_lane(emitter: Emitter, chosen: Value) -> Value:
    """Return 1 if any lane is chosen, else 0: the turns of a loop that is a condition."""
    bits = emitter.builder.bitcast(chosen, ir.IntType(emitter.lanes))
    return emitter.builder.zext(emitter.builder.icmp_unsigned("!=", bits, bits.type(0)), SIZE)


def _with_bit(emitter: Emitter, step: int) -> Value:
    """Return which lanes have the bit ``step`` in their number."""
    lanes = [ir.Constant(BIT, int(lane & step != 0)) for lane in range(emitter.lanes)]
    return ir.Constant(ir.VectorType(BIT, emitter.lanes), lanes)


def _pick(emitter: Emitter, upper: Value, lower: Value, step: int, *, from_lower: bool) -> Value:
    lanes = []
    for lane in range(emitter.lanes):
        if from_lower:
            lanes.append(emitter.lanes + lane if lane & step else lane + step)
        else:
            lanes.append(emitter.lanes + lane - step if lane & step else lane)
    return _rearranged(emitter, upper, lower, lanes)


def _rearranged(emitter: Emitter, upper: Value, lower: Value, lanes: Sequence[int]) -> Value:
    """Return these lanes of two vectors; those of ``lower`` are counted on from ``upper``'s."""
    places = ir.VectorType(INT32, emitter.lanes)
    mask = ir.Constant(places, [ir.Constant(INT32, lane) for lane in lanes])
    return emitter.builder.shuffle_vector(upper, lower, mask)
