"""How a kernel gets at its sizes and at the next item of work."""

from __future__ import annotations

import functools

from hocket.runtime.kernels.lanes import FLOAT, FLOAT_BYTES, REAL, SIZE, Emitter, Intrinsic, Value
from hocket.runtime.kernels.tile import make_tile

_SIZE_BYTES = 8


@functools.cache
def load_size() -> Intrinsic:
    """Return the tile that reads entry ``index`` of the int64 array at ``sizes``."""

    def emit(emitter: Emitter, *, sizes: Value, index: Value) -> Value:
        return emitter.load_scalar(emitter.row(sizes, index, emitter.size(_SIZE_BYTES)), SIZE)

    return make_tile("hocket_load_size", 1, {"sizes": SIZE, "index": SIZE}, emit, result=SIZE)


@functools.cache
def load_real() -> Intrinsic:
    """Return the tile that reads the float64 at entry ``index`` of the array at ``sizes``."""

    def emit(emitter: Emitter, *, sizes: Value, index: Value) -> Value:
        return emitter.load_scalar(emitter.row(sizes, index, emitter.size(_SIZE_BYTES)), REAL)

    return make_tile("hocket_load_real", 1, {"sizes": SIZE, "index": SIZE}, emit, result=REAL)


@functools.cache
def load_float() -> Intrinsic:
    """Return the tile that reads entry ``index`` of the float32 array at ``floats``."""

    def emit(emitter: Emitter, *, floats: Value, index: Value) -> Value:
        return emitter.load_scalar(emitter.row(floats, index, emitter.size(FLOAT_BYTES)))

    return make_tile("hocket_load_float", 1, {"floats": SIZE, "index": SIZE}, emit, result=FLOAT)


@functools.cache
def take_item() -> Intrinsic:
    """Return the tile that counts the int64 at ``counter`` up and returns what it was.

    Each number is given to one worker only. Workers meet nowhere else, so the order in which
    others see their writes does not matter before all have returned.
    """

    def emit(emitter: Emitter, *, counter: Value) -> Value:
        return emitter.increment(counter)

    return make_tile("hocket_take_item", 1, {"counter": SIZE}, emit, result=SIZE)


@functools.cache
def end_part() -> Intrinsic:
    """Return the tile that counts the int64 at ``counter`` up and returns what it was.

    What workers wrote before they counted is seen by those that count after them.
    """

    def emit(emitter: Emitter, *, counter: Value) -> Value:
        return emitter.increment(counter, "acq_rel")

    return make_tile("hocket_end_part", 1, {"counter": SIZE}, emit, result=SIZE)
