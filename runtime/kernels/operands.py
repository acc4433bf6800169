"""Checks of the arrays that a kernel is to work on, before it is given their addresses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_UINT8 = np.dtype(np.uint8)


def check_operand(
    name: str,
    array: NDArray[Any],
    shape: tuple[int, ...],
    dtype: DType,
    layout: str = "bhnd",
) -> None:
    """Check that an array is laid out as its parameters say.

    Raises:
        ValueError: It is not.
    """
    if dtype is DType.BFLOAT16:
        # Names, because bfloat16 is known to numpy by the package that adds it only.
        if array.dtype.name not in ("bfloat16", "uint16"):
            raise ValueError(f"{name}: want bfloat16 or uint16, got {array.dtype}")
    elif array.dtype != dtype.to_numpy():
        raise ValueError(f"{name}: want {dtype}, got {array.dtype}")
    if array.shape != shape:
        merged = (*shape[:2], math.prod(shape[2:]))
        if layout != "bnhd" or array.shape != merged:
            raise ValueError(f"{name}: want shape {list(shape)}, got {list(array.shape)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: want a C-contiguous array; copy it with ascontiguousarray()")


def check_optional(
    name: str, array: NDArray[Any] | None, shape: tuple[int, ...] | None, dtype: DType
) -> None:
    """Check an operand that parameters may or may not have; they do if ``shape`` is not None.

    Raises:
        ValueError: It is missing, not wanted, or not as they say.
    """
    if shape is None:
        if array is not None:
            raise ValueError(f"{name}: the kernel takes none, but one was given")
    elif array is None:
        raise ValueError(f"{name}: want shape {list(shape)}, got None")
    else:
        check_operand(name, array, shape, dtype)


def check_written(arrays: Mapping[str, NDArray[Any] | None]) -> None:
    """Check that arrays, by name, may be written to.

    Raises:
        ValueError: One may not.
    """
    for name, array in arrays.items():
        if array is not None and not array.flags.writeable:
            raise ValueError(f"{name}: the array is read-only, and the kernel writes to it")


def check_scratch(scratch: NDArray[np.uint8], num_bytes: int, num_threads: int) -> None:
    """Check that the scratch memory is enough for a number of threads.

    Raises:
        ValueError: It is not, or it is no memory.
    """
    if scratch.dtype != _UINT8 or scratch.ndim != 1 or not scratch.flags.c_contiguous:
        raise ValueError(
            f"scratch: want a contiguous uint8 array of rank 1, got {scratch.dtype} of shape "
            f"{list(scratch.shape)}"
        )
    if scratch.size < num_bytes:
        raise ValueError(
            f"scratch: {num_threads} threads want {num_bytes} bytes, got {scratch.size}; "
            "make it as large as scratch_bytes() says"
        )
