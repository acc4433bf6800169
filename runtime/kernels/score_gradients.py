"""From scores to weights and gradients of scores.

Blocks of scores have a row for each query and keys in lanes, as in ``backward_tiles``. What scores
were at last is found again from the products of query and key, by the steps of the forward pass.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.runtime.kernels.elementary import LOG2_E, exponentials, tangents
from hocket.runtime.kernels.lanes import BYTE, FLOAT, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.masks import entry_bytes
from hocket.runtime.kernels.matrix import MAX_VECTORS
from hocket.runtime.kernels.storage import load_bytes, load_stored, load_stored_scalar
from hocket.runtime.kernels.tile import make_tile

if TYPE_CHECKING:
    from collections.abc import Sequence

# Rows of scores in flight at a time: one alone would wait for itself.
_ROWS_AT_ONCE = 2


@dataclass(frozen=True)
class ScoreForm:
    """What happens to products of query and key until they are weights.

    Attributes:
        element: Type of scores, a key of ``lanes.ELEMENTS``.
        base: Base of the exponentials, see ``elementary.BASES``.
        scales: Whether the CPU has instructions that split and scale float32 by powers of two.
        mask: "none", "boolean", or the storage type of a mask that is added.
        mask_axes: What a mask entry belongs to: "none", "key", "query" or "both".
        caps: Whether scores are capped by a hyperbolic tangent.
        has_slopes: Whether a multiple of the distance is added.
    """

    element: str
    base: str
    scales: bool
    mask: str
    mask_axes: str
    caps: bool
    has_slopes: bool

    @property
    def name(self) -> str:
        """Words that tell it from all others."""
        return (
            f"{self.base}_{self.scales:d}_{self.mask}_{self.mask_axes}_{self.caps:d}"
            f"_{self.has_slopes:d}"
        )


@functools.cache
def score_gradient_tile(
    lanes: int, vectors: int, form: ScoreForm, *, hides: bool, before_cap: bool = False
) -> Intrinsic:
    """Return the tile that turns scores into weights and gradients of weights into those of scores.

    Both in place: ``scores``, products of query and key in the units of ``plan.plan_reals``, and
    ``gradients``, products of value and output gradient, packed ``[rows, lanes of a block]``. The
    other arguments: ``sums``, the log-sum-exp of each row; ``deltas``, the product of its output
    and output gradient; and where the form has it ``softcap``; ``slope`` and ``ahead``, the
    position of the first key less that of the first row; ``mask``, ``mask_stride``, ``keys`` and
    ``masked_value``. A mask by key comes as ``entry_tile`` leaves it, others as they are, with
    rows ``mask_stride`` bytes apart and ``keys`` entries each.

    A weight of 0 has a score gradient of 0, whatever the value behind it holds.

    Args:
        lanes: Lanes of a vector.
        vectors: Vectors of keys.
        form: What happens to scores.
        hides: Whether there are arguments ``seen_from`` and ``seen_until``: the first row sees
            keys from one lane up to the other, each row after it one lane on.
        before_cap: Whether gradients are those of capped scores, which a mask is added to, rather
            than those of the products.
    """

    def emit(emitter: Emitter, *, rows: Value, **arguments: Value) -> None:
        builder = emitter.builder
        writer = _ScoreWriter(emitter, vectors, form, arguments, before_cap=before_cap)

        def take_turn(turn: Value, _carried: list[Value]) -> list[Value]:
            first = builder.mul(turn, emitter.size(_ROWS_AT_ONCE))
            places = map(emitter.size, range(_ROWS_AT_ONCE))
            writer.take_rows([builder.add(first, place) for place in places])
            return []

        def take_last(index: Value, _carried: list[Value]) -> list[Value]:
            writer.take_rows([builder.add(done, index)])
            return []

        turns = builder.sdiv(rows, emitter.size(_ROWS_AT_ONCE))
        done = builder.mul(turns, emitter.size(_ROWS_AT_ONCE))
        emitter.loop(turns, [], take_turn)
        emitter.loop(builder.sub(rows, done), [], take_last)

    parameters = dict.fromkeys(("scores", "gradients", "rows", "sums", "deltas"), SIZE)
    if form.caps:
        parameters |= {"softcap": FLOAT}
    if form.has_slopes:
        parameters |= {"slope": FLOAT, "ahead": SIZE}
    if form.mask != "none":
        parameters |= {"mask": SIZE, "mask_stride": SIZE, "keys": SIZE, "masked_value": FLOAT}
    if hides:
        parameters |= {"seen_from": SIZE, "seen_until": SIZE}
    name = f"hocket_score_gradient_{lanes}x{vectors}_{form.name}_{hides:d}_{before_cap:d}"
    return make_tile(name, lanes, parameters, emit, element=form.element)


class _ScoreWriter:
    """Writes the body of a ``score_gradient_tile``; its arguments are told there.

    A list of vectors holds those of one row after those of the row before.
    """

    def __init__(
        self,
        emitter: Emitter,
        vectors: int,
        form: ScoreForm,
        arguments: dict[str, Value],
        *,
        before_cap: bool,
    ) -> None:
        self.emitter = emitter
        self.builder = emitter.builder
        self.vectors = vectors
        self.form = form
        self.arguments = arguments
        self.before_cap = before_cap
        self.lane_numbers = [
            self.builder.add(emitter.lane_indices(), emitter.int_constant(vector * emitter.lanes))
            for vector in range(vectors)
        ]
        self.by_key: list[Value] = []
        if form.mask_axes == "key":
            load = emitter.load_ints if form.mask == "boolean" else emitter.load
            places = self._places(arguments["mask"], emitter.size(0))
            self.by_key = [load(place) for place in places]

    def take_rows(self, indices: Sequence[Value]) -> None:
        """Write what happens to some rows, one step for all of them before the next step."""
        emitter, builder, form = self.emitter, self.builder, self.form
        places, there = (
            [place for index in indices for place in self._places(self.arguments[name], index)]
            for name in ("scores", "gradients")
        )
        scores = [emitter.load(place) for place in places]
        slopes: list[Value] = []
        if form.caps:
            scores, slopes = self._capped(scores)
        kept: list[Value] = []
        exponents: list[Value] = []
        for number, index in enumerate(indices):
            row = scores[number * self.vectors : (number + 1) * self.vectors]
            if form.has_slopes:
                row = self._sloped(index, row)
            if form.mask != "none":
                row, kept_of_row = self._masked(index, row)
                kept += kept_of_row
            if "seen_from" in self.arguments:
                row = self._hidden(index, row)
            exponents += self._subtracted(index, row)
        weights = exponentials(emitter, exponents, form.base, scales=form.scales)
        for weight, place in zip(weights, places, strict=True):
            emitter.store(weight, place)
        zero = emitter.constant(0.0)
        for number, (weight, place) in enumerate(zip(weights, there, strict=True)):
            delta = self._number_of_row("deltas", indices[number // self.vectors])
            result = builder.fmul(weight, builder.fsub(emitter.load(place), delta))
            if slopes and not self.before_cap:
                result = builder.fmul(result, slopes[number])
            nothing = builder.fcmp_ordered("==", weight, zero)
            if kept:
                nothing = builder.or_(nothing, builder.not_(kept[number]))
            emitter.store(builder.select(nothing, zero, result), place)

    def _places(self, start: Value, index: Value) -> list[Value]:
        """Return the addresses of the vectors of a row of lanes of a block."""
        emitter = self.emitter
        row = emitter.row(start, index, emitter.size(MAX_VECTORS * emitter.vector_bytes))
        return [
            emitter.offset(row, vector * emitter.vector_bytes) for vector in range(self.vectors)
        ]

    def _number_of_row(self, name: str, index: Value) -> Value:
        """Return in every lane the entry of a row in an array of one number each."""
        emitter = self.emitter
        size = emitter.size(emitter.element_bytes)
        return emitter.broadcast(emitter.row(self.arguments[name], index, size))

    def _capped(self, products: list[Value]) -> tuple[list[Value], list[Value]]:
        """Return scores under the cap and what they grow by as products grow."""
        emitter, builder = self.emitter, self.builder
        tangent = tangents(emitter, products)
        cap, one = emitter.splat(self.arguments["softcap"]), emitter.constant(1.0)
        slopes = [emitter.fused(builder.fneg(x), x, one) for x in tangent]
        return [builder.fmul(cap, x) for x in tangent], slopes

    def _sloped(self, index: Value, scores: list[Value]) -> list[Value]:
        emitter, builder = self.emitter, self.builder
        ahead = builder.sub(self.arguments["ahead"], index)
        start, slope = (
            emitter.splat(emitter.lane_int(ahead)),
            emitter.splat(self.arguments["slope"]),
        )
        results = []
        for numbers, score in zip(self.lane_numbers, scores, strict=True):
            distance = builder.sitofp(builder.add(start, numbers), emitter.floats)
            results.append(emitter.fused(slope, distance, score))
        return results

    def _masked(self, index: Value, scores: list[Value]) -> tuple[list[Value], list[Value]]:
        """Return scores under the mask and, of a boolean mask, which are left as they were."""
        emitter, builder = self.emitter, self.builder
        entries = self.by_key or self._entries_of_row(index)
        if self.form.mask != "boolean":
            return [builder.fadd(x, y) for x, y in zip(scores, entries, strict=True)], []
        kept = [builder.icmp_unsigned("!=", bits, emitter.int_constant(0)) for bits in entries]
        other = emitter.splat(self.arguments["masked_value"])
        return [builder.select(keep, x, other) for keep, x in zip(kept, scores, strict=True)], kept

    def _entries_of_row(self, index: Value) -> list[Value]:
        """Return the mask entries of a row of scores, those of a boolean mask as integers."""
        emitter, kind = self.emitter, self.form.mask
        row = emitter.row(self.arguments["mask"], index, self.arguments["mask_stride"])
        if self.form.mask_axes == "query":
            return [emitter.splat(_load_entry(emitter, row, kind))] * self.vectors
        entries = []
        for vector in range(self.vectors):
            first = vector * emitter.lanes
            left = self.builder.sub(self.arguments["keys"], emitter.size(first))
            active = emitter.first_lanes(left)
            place = emitter.offset(row, first * entry_bytes(kind))
            if kind == "boolean":
                bytes_of_entries = load_bytes(emitter, place, active)
                entries.append(self.builder.zext(bytes_of_entries, emitter.ints))
            else:
                entries.append(load_stored(emitter, place, kind, active))
        return entries

    def _hidden(self, index: Value, scores: list[Value]) -> list[Value]:
        emitter, builder = self.emitter, self.builder
        first, end = (
            emitter.splat(emitter.lane_int(builder.add(self.arguments[name], index)))
            for name in ("seen_from", "seen_until")
        )
        nothing = emitter.constant(-math.inf)
        results = []
        for numbers, score in zip(self.lane_numbers, scores, strict=True):
            late = builder.icmp_signed(">=", numbers, first)
            seen = builder.and_(late, builder.icmp_signed("<", numbers, end))
            results.append(builder.select(seen, score, nothing))
        return results

    def _subtracted(self, index: Value, scores: list[Value]) -> list[Value]:
        """Return what weights are powers of: scores less the log-sum-exp of their row."""
        emitter, builder = self.emitter, self.builder
        total = self._number_of_row("sums", index)
        unit = emitter.constant(LOG2_E if self.form.base == "2" else 1.0)
        # In other units the lowest float would become minus infinity.
        lowest = emitter.constant(float(np.finfo(self.form.element).min))
        shift = builder.fmul(total, unit)
        shift = builder.select(builder.fcmp_ordered("<", shift, lowest), lowest, shift)
        # A row that sees no key: subtracting infinity leaves weights of 0.
        empty = builder.fcmp_ordered("==", total, emitter.constant(-math.inf))
        shift = builder.select(empty, emitter.constant(math.inf), shift)
        results = []
        for score in scores:
            difference = builder.fsub(score, shift)
            # Rounding may leave scores of -1e38 and their log-sum-exp far apart, but no weight is
            # above 1. What is not a number stays so.
            above = builder.fcmp_ordered(">", difference, emitter.constant(0.0))
            results.append(builder.select(above, emitter.constant(0.0), difference))
        return results


@functools.cache
def entry_tile(lanes: int, kind: str, element: str) -> Intrinsic:
    """Return the tile that copies mask entries side by side, as floats or the integers 0 and 1.

    Its arguments: ``mask``, ``[count]`` of a kind, "boolean" or a storage type, with entries
    ``mask_stride`` bytes apart; ``target``, contiguous.
    """

    def emit(
        emitter: Emitter, *, mask: Value, mask_stride: Value, count: Value, target: Value
    ) -> None:
        def copy(index: Value, _carried: list[Value]) -> list[Value]:
            entry = _load_entry(emitter, emitter.row(mask, index, mask_stride), kind)
            place = emitter.row(target, index, emitter.size(emitter.element_bytes))
            emitter.store_scalar(entry, place)
            return []

        emitter.loop(count, [], copy)

    parameters = dict.fromkeys(("mask", "mask_stride", "count", "target"), SIZE)
    return make_tile(f"hocket_entry_{lanes}_{kind}", lanes, parameters, emit, element=element)


def _load_entry(emitter: Emitter, place: Value, kind: str) -> Value:
    """Return one mask entry, as a float or as the integer 0 or 1."""
    if kind == "boolean":
        return emitter.builder.zext(emitter.load_scalar(place, BYTE), emitter.int_element)
    return load_stored_scalar(emitter, place, kind)
