"""Integer arithmetic on tile sizes and byte counts, of single numbers and of arrays of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]


@overload
def ceil_div(numerator: int, denominator: int) -> int: ...
@overload
def ceil_div(numerator: Longs, denominator: Longs | int) -> Longs: ...
@overload
def ceil_div(numerator: int, denominator: Longs) -> Longs: ...
def ceil_div(numerator: Any, denominator: Any) -> Any:
    """Return the smallest integer that is at least ``numerator / denominator``."""
    return -(-numerator // denominator)


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of ``alignment`` that is at least ``value``."""
    return ceil_div(value, alignment) * alignment
