"""Element types, named as ONNX and numpy users know them."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np


class DType(enum.Enum):
    """An element type; the value is its numpy name."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return 2 if self is DType.BFLOAT16 else np.dtype(self.value).itemsize

    @property
    def is_floating(self) -> bool:
        """Whether the type holds floating-point numbers."""
        return self in _FLOATING

    def to_numpy(self) -> np.dtype[Any]:
        """Return the numpy type.

        Raises:
            TypeError: for bfloat16, which numpy itself cannot hold.
        """
        if self is DType.BFLOAT16:
            raise TypeError("numpy has no bfloat16; convert the tensor to float32 first")
        dtype: np.dtype[Any] = np.dtype(self.value)
        return dtype

    def __str__(self) -> str:
        return self.value


_FLOATING = frozenset({DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16})
