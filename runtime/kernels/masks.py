"""What hides keys from queries: explicit masks and causality, on columns of scores.

A *column* is one vector of queries out of a packed block of scores: each row of it, one key,
lies ``stride`` bytes after the row before. A mask with an entry for every key and none for single
queries is cheaper inside the score tile, see ``matrix.score_tile``.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.lanes import (
    BYTE,
    FLOAT,
    INT32,
    SIZE,
    STORAGE_BYTES,
    Emitter,
    Intrinsic,
    Value,
    make_tile,
)

_PARAMETERS = {
    "mask": SIZE,
    "mask_stride": SIZE,
    "last": SIZE,
    "scores": SIZE,
    "stride": SIZE,
    "rows": SIZE,
    "masked_value": FLOAT,
}


@functools.cache
def mask_tile(lanes: int, kind: str) -> Intrinsic:
    """Return the tile that masks a column by a mask with an entry for each query and key.

    ``kind`` is "boolean", or the storage type of a mask that is added. The arguments of the tile:
    ``mask``, ``[lanes, rows]`` with rows ``mask_stride`` bytes apart, of which those past row
    ``last`` repeat it; ``scores``, a column of ``rows`` rows, with room up to the next multiple of
    ``lanes``; ``masked_value``, the score where a boolean mask is false.
    """

    def emit(
        emitter: Emitter,
        *,
        mask: Value,
        mask_stride: Value,
        last: Value,
        scores: Value,
        stride: Value,
        rows: Value,
        masked_value: Value,
    ) -> None:
        builder = emitter.builder
        places = emitter.rows_until(mask, mask_stride, lanes, last)
        replacement = emitter.splat(masked_value)

        def apply(square_index: Value, _carried: list[Value]) -> list[Value]:
            first = builder.mul(square_index, emitter.size(lanes))
            active = emitter.first_lanes(builder.sub(rows, first))
            offset = builder.mul(first, emitter.size(entry_bytes(kind)))
            square = [
                _load_entries(emitter, builder.add(place, offset), active, kind) for place in places
            ]
            start = emitter.row(scores, first, stride)
            for row, entries in enumerate(emitter.transpose(square)):
                place = emitter.row(start, emitter.size(row), stride)
                _apply(emitter, place, entries, kind, replacement)
            return []

        squares = builder.sdiv(builder.add(rows, emitter.size(lanes - 1)), emitter.size(lanes))
        emitter.loop(squares, [], apply)

    return make_tile(f"hocket_mask_{lanes}_{kind}", lanes, _PARAMETERS, emit)


@functools.cache
def query_mask_tile(lanes: int, kind: str) -> Intrinsic:
    """Return the tile that masks a column by a mask with one entry for each query.

    Its arguments are those of ``mask_tile``, with ``mask`` of shape ``[lanes, 1]``.
    """

    def emit(
        emitter: Emitter,
        *,
        mask: Value,
        mask_stride: Value,
        last: Value,
        scores: Value,
        stride: Value,
        rows: Value,
        masked_value: Value,
    ) -> None:
        builder = emitter.builder
        entries = emitter.constant(0.0)
        for lane, place in enumerate(emitter.rows_until(mask, mask_stride, lanes, last)):
            if kind == "boolean":
                entry = builder.bitcast(
                    builder.zext(emitter.load_scalar(place, BYTE), INT32), FLOAT
                )
            else:
                entry = emitter.load_stored_scalar(place, kind)
            entries = builder.insert_element(entries, entry, INT32(lane))
        replacement = emitter.splat(masked_value)

        def apply(index: Value, _carried: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            _apply(emitter, place, entries, kind, replacement)
            return []

        emitter.loop(rows, [], apply)

    return make_tile(f"hocket_query_mask_{lanes}_{kind}", lanes, _PARAMETERS, emit)


@functools.cache
def hide_tile(lanes: int, *, later: bool) -> Intrinsic:
    """Return the tile that hides keys which lie too far after, or before, their query.

    Its arguments: ``scores``, a column of ``rows`` rows; ``ahead``, the position of its first key
    less that of the last key, or the first key, that its first query sees. Row ``r`` becomes minus
    infinity in the lanes below ``ahead + r`` if ``later``, and in those above it otherwise.
    """

    def emit(emitter: Emitter, *, scores: Value, stride: Value, rows: Value, ahead: Value) -> None:
        builder = emitter.builder

        def hide(index: Value, _carried: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            nothing = emitter.constant(-math.inf)
            limit = builder.add(ahead, index)
            if later:
                hidden = emitter.first_lanes(limit)
                kept = builder.select(hidden, nothing, emitter.load(place))
            else:
                seen = emitter.first_lanes(builder.add(limit, emitter.size(1)))
                kept = builder.select(seen, emitter.load(place), nothing)
            emitter.store(kept, place)
            return []

        emitter.loop(rows, [], hide)

    parameters = dict.fromkeys(("scores", "stride", "rows", "ahead"), SIZE)
    which = "later" if later else "earlier"
    return make_tile(f"hocket_hide_{which}_{lanes}", lanes, parameters, emit)


def entry_bytes(kind: str) -> int:
    """Return the bytes of an entry of a mask, "boolean" or of a storage type."""
    return 1 if kind == "boolean" else STORAGE_BYTES[kind]


def _load_entries(emitter: Emitter, place: Value, active: Value, kind: str) -> Value:
    """Return mask entries as floats; those of a boolean mask as the bits of 0 and 1."""
    if kind != "boolean":
        return emitter.load_stored(place, kind, active)
    entries = emitter.load_active(place, active, BYTE)
    return emitter.builder.bitcast(emitter.builder.zext(entries, emitter.ints), emitter.floats)


def _apply(emitter: Emitter, place: Value, entries: Value, kind: str, replacement: Value) -> None:
    """Mask one row of a column."""
    builder = emitter.builder
    scores = emitter.load(place)
    if kind != "boolean":
        emitter.store(builder.fadd(scores, entries), place)
        return
    bits = builder.bitcast(entries, emitter.ints)
    kept = builder.icmp_unsigned("!=", bits, emitter.int_constant(0))
    emitter.store(builder.select(kept, scores, replacement), place)
