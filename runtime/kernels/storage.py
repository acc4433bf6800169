"""Types that tensors are stored in, read and written as the floats that tiles compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from hocket.runtime.kernels.lanes import ALIGNMENTS, BYTE, FLOAT, HALF, INT16, INT32, REAL

if TYPE_CHECKING:
    from hocket.runtime.kernels.lanes import Emitter, Value

STORAGE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of an element in memory, by the types that tensors may be stored in.

Tiles compute in float32, and in float64 only what is stored so; bfloat16 products accumulate in
float32.
"""

# What is read and written of each type of memory; a bfloat16 goes by its bits.
_ADDRESSED = {"float64": REAL, "float32": FLOAT, "float16": HALF, "bfloat16": INT16}

# A bfloat16 is the upper half of a float32.
_UPPER_HALF = 16


def computed_in(storage: str) -> str:
    """Return what tiles compute in on elements of a storage type, a key of ``lanes.ELEMENTS``."""
    return "float64" if storage == "float64" else "float32"


def load_stored(
    emitter: Emitter, address: Value, storage: str, active: Value | None = None
) -> Value:
    """Return consecutive elements of a storage type as floats.

    Args:
        address: Of the first.
        storage: A key of ``STORAGE_BYTES``.
        active: Lanes to read, the others are 0; None to read all.
    """
    element = _ADDRESSED[storage]
    if active is None:
        vector = ir.VectorType(element, emitter.lanes)
        pointer = emitter.pointer(address, vector)
        loaded = emitter.builder.load(pointer, align=ALIGNMENTS[element])
    else:
        loaded = emitter.load_active(address, active, element)
    return _converted(emitter, loaded, storage)


def load_bytes(emitter: Emitter, address: Value, active: Value | None = None) -> Value:
    """Return consecutive bytes; where not ``active``, 0."""
    if active is not None:
        return emitter.load_active(address, active, BYTE)
    vector = ir.VectorType(BYTE, emitter.lanes)
    return emitter.builder.load(emitter.pointer(address, vector), align=ALIGNMENTS[BYTE])


def store_stored(
    emitter: Emitter, vector: Value, address: Value, storage: str, active: Value | None = None
) -> None:
    """Write floats as consecutive elements of a storage type, rounded to nearest even.

    Args:
        vector: The floats.
        address: Of the first element.
        storage: A key of ``STORAGE_BYTES``.
        active: Lanes to write; None to write all.
    """
    if storage == "float16":
        vector = emitter.builder.fptrunc(vector, emitter.halves)
    elif storage == "bfloat16":
        vector = emitter.builder.trunc(_rounded_to_bfloat(emitter, vector), emitter.shorts)
    if active is None:
        pointer = emitter.pointer(address, vector.type)
        emitter.builder.store(vector, pointer, align=ALIGNMENTS[vector.type.element])
    else:
        emitter.store_active(vector, address, active)


def load_stored_scalar(emitter: Emitter, address: Value, storage: str) -> Value:
    """Return one element of a storage type as a float."""
    loaded = emitter.load_scalar(address, _ADDRESSED[storage])
    return _converted(emitter, loaded, storage)


def _rounded_to_bfloat(emitter: Emitter, vector: Value) -> Value:
    """Return floats rounded to bfloat16, as 32-bit integers that hold its bits."""
    builder = emitter.builder
    bits = builder.bitcast(vector, emitter.ints)
    upper = builder.lshr(bits, emitter.int_constant(_UPPER_HALF))
    odd = builder.and_(upper, emitter.int_constant(1))
    # Half a unit, less one bit unless the result would be odd: ties go to even.
    rounding = builder.add(odd, emitter.int_constant((1 << (_UPPER_HALF - 1)) - 1))
    rounded = builder.lshr(builder.add(bits, rounding), emitter.int_constant(_UPPER_HALF))
    # Rounding could carry what is not a number over into infinity.
    quiet = builder.or_(upper, emitter.int_constant(1 << 6))
    return builder.select(builder.fcmp_unordered("uno", vector, vector), quiet, rounded)


def _converted(emitter: Emitter, loaded: Value, storage: str) -> Value:
    """Return a vector, or a scalar, of a storage type as floats of the tile."""
    builder = emitter.builder
    is_vector = isinstance(loaded.type, ir.VectorType)
    if storage == "bfloat16":
        ints = ir.VectorType(INT32, emitter.lanes) if is_vector else INT32
        places = [INT32(_UPPER_HALF)] * emitter.lanes
        shift = ir.Constant(ints, places if is_vector else _UPPER_HALF)
        floats = ir.VectorType(FLOAT, emitter.lanes) if is_vector else FLOAT
        loaded = builder.bitcast(builder.shl(builder.zext(loaded, ints), shift), floats)
        storage = "float32"
    wanted = emitter.floats if is_vector else emitter.element
    if loaded.type == wanted:
        return loaded
    if STORAGE_BYTES[storage] > emitter.element_bytes:
        return builder.fptrunc(loaded, wanted)
    return builder.fpext(loaded, wanted)
