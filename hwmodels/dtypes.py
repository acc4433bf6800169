"""Element types, named as ONNX and numpy users know them."""

from __future__ import annotations

import enum
from typing import Any

import ml_dtypes
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
        """Return the numpy type; that of bfloat16 is the one of ``ml_dtypes``."""
        dtype: np.dtype[Any] = np.dtype(
            ml_dtypes.bfloat16 if self is DType.BFLOAT16 else self.value
        )
        return dtype

    def __str__(self) -> str:
        return self.value


_FLOATING = frozenset({DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16})
