"""What hides keys from queries: explicit masks and causality, on columns of scores.

A *column* is one vector of queries out of a packed block of scores: each row of it, one key,
lies ``stride`` bytes after the row before. What float32 is here is float64 in tiles of that
``element``. A mask with an entry for every key and none for single
queries is cheaper inside the score tile, see ``matrix.score_tile``.
"""

from __future__ import annotations

import functools
import math

from hocket.runtime.kernels.lanes import BYTE, FLOAT, INT32, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.shuffles import transpose
from hocket.runtime.kernels.storage import (
    STORAGE_BYTES,
    load_bytes,
    load_stored,
    load_stored_scalar,
)
from hocket.runtime.kernels.tile import make_tile

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
def mask_tile(lanes: int, kind: str, *, finds_largest: bool, element: str = "float32") -> Intrinsic:
    """Return the tile that masks a column by a mask with an entry for each query and key.

    ``kind`` is "boolean", or the storage type of a mask that is added. The arguments of the tile:
    ``mask``, ``[lanes, rows]`` with rows ``mask_stride`` bytes apart, of which those past row
    ``last`` repeat it; ``scores``, a column of ``rows`` rows, with room up to the next multiple of
    ``lanes``; ``masked_value``, the score where a boolean mask is false; and if the tile
    ``finds_largest``, ``largest``, float32 ``[lanes]``, which is raised to the largest masked score
    of each query.
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
        **more: Value,
    ) -> None:
        builder = emitter.builder
        places = emitter.rows_until(mask, mask_stride, lanes, last)
        replacement = emitter.splat(masked_value)

        def apply(index: Value, best: list[Value], active: Value | None) -> list[Value]:
            """Mask a square of rows, of which only the ``active`` count."""
            first = builder.mul(index, emitter.size(lanes))
            offset = builder.mul(first, emitter.size(entry_bytes(kind)))
            square = [
                _load_entries(emitter, builder.add(place, offset), active, kind) for place in places
            ]
            start = emitter.row(scores, first, stride)
            for row, entries in enumerate(transpose(emitter, square)):
                place = emitter.row(start, emitter.size(row), stride)
                masked = _mask_row(emitter, place, entries, kind, replacement)
                if finds_largest:
                    if active is not None:
                        inside = emitter.splat(builder.extract_element(active, INT32(row)))
                        masked = builder.select(inside, masked, emitter.constant(-math.inf))
                    best = [emitter.larger(masked, best[0])]
            return best

        def apply_rest(_turn: Value, best: list[Value]) -> list[Value]:
            done = builder.mul(whole, emitter.size(lanes))
            return apply(whole, best, emitter.first_lanes(builder.sub(rows, done)))

        best = [emitter.load(more["largest"])] if finds_largest else []
        whole = builder.sdiv(rows, emitter.size(lanes))
        best = emitter.loop(whole, best, lambda index, carried: apply(index, carried, None))
        rest = builder.srem(rows, emitter.size(lanes))
        best = emitter.loop(emitter.at_most_one(rest), best, apply_rest)
        if finds_largest:
            emitter.store(best[0], more["largest"])

    parameters = _PARAMETERS | ({"largest": SIZE} if finds_largest else {})
    name = f"hocket_mask_{lanes}_{kind}_{finds_largest:d}"
    return make_tile(name, lanes, parameters, emit, element=element)


@functools.cache
def query_mask_tile(lanes: int, kind: str, element: str = "float32") -> Intrinsic:
    """Return the tile that masks a column by a mask with one entry for each query.

    Its arguments are those of ``mask_tile`` that finds no largest score, with ``mask`` of shape
    ``[lanes, 1]``.
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
                bits = builder.zext(emitter.load_scalar(place, BYTE), emitter.int_element)
                entry = builder.bitcast(bits, emitter.element)
            else:
                entry = load_stored_scalar(emitter, place, kind)
            entries = builder.insert_element(entries, entry, INT32(lane))
        replacement = emitter.splat(masked_value)

        def apply(index: Value, _carried: list[Value]) -> list[Value]:
            place = emitter.row(scores, index, stride)
            _mask_row(emitter, place, entries, kind, replacement)
            return []

        emitter.loop(rows, [], apply)

    name = f"hocket_query_mask_{lanes}_{kind}"
    return make_tile(name, lanes, _PARAMETERS, emit, element=element)


@functools.cache
def hide_tile(lanes: int, *, later: bool, element: str = "float32") -> Intrinsic:
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
    return make_tile(f"hocket_hide_{which}_{lanes}", lanes, parameters, emit, element=element)


def entry_bytes(kind: str) -> int:
    """Return the bytes of an entry of a mask, "boolean" or of a storage type."""
    return 1 if kind == "boolean" else STORAGE_BYTES[kind]


def _load_entries(emitter: Emitter, place: Value, active: Value | None, kind: str) -> Value:
    """Return mask entries as floats; those of a boolean mask as the bits of 0 and 1."""
    if kind != "boolean":
        return load_stored(emitter, place, kind, active)
    entries = load_bytes(emitter, place, active)
    return emitter.builder.bitcast(emitter.builder.zext(entries, emitter.ints), emitter.floats)


def _mask_row(
    emitter: Emitter, place: Value, entries: Value, kind: str, replacement: Value
) -> Value:
    """Mask one row of a column and return it."""
    builder = emitter.builder
    scores = emitter.load(place)
    if kind != "boolean":
        masked = builder.fadd(scores, entries)
    else:
        bits = builder.bitcast(entries, emitter.ints)
        kept = builder.icmp_unsigned("!=", bits, emitter.int_constant(0))
        masked = builder.select(kept, scores, replacement)
    emitter.store(masked, place)
    return masked
