"""What do int8 scores cost in precision, and what could they gain, beside bfloat16?

Rows of query and key are rounded to int8 with one scale each, the finest that an int8 product
allows; values and weights stay float32. bfloat16 is taken for all operands and weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from harness import Choices, run_bench

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

COLUMNS = {
    "queries": "",
    "length": "d",
    "head_dim": "d",
    "number": "",
    "largest_error": ".1e",
    "rms_error": ".1e",
    "least_time": ".2f",
}

# What products would take beside float32, if the vector work were free: int8 multiplies four times
# as fast, and makes one product of the two; bfloat16 multiplies twice as fast, and makes both.
LEAST_TIMES = {"int8 scores": 0.5 * 0.25 + 0.5, "bfloat16": 0.5}


def main() -> None:
    """Print and write the table."""
    run_bench("precision of int8 scores and of bfloat16 attention (computed)", COLUMNS, measure)


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a kind of operands and of number."""
    rows = []
    lengths = [128] if choices.quick else [128, 512, 2048]
    for length in lengths:
        for head_dim in (64, 128):
            for queries, gain in (("standard normal", 1.0), ("three times that", 3.0)):
                rng = np.random.default_rng(0)
                query, key, value = (rng.standard_normal((length, head_dim)) for _ in range(3))
                query = query * gain
                exact = attend(query, key, value)
                found = {
                    "int8 scores": attend(_int8(query), _int8(key), value),
                    "bfloat16": attend(*map(_bfloat16, (query, key, value)), rounding=_bfloat16),
                }
                for number, output in found.items():
                    error = np.abs(output - exact)
                    rows.append(
                        {
                            "queries": queries,
                            "length": length,
                            "head_dim": head_dim,
                            "number": number,
                            "largest_error": float(error.max()),
                            "rms_error": float(np.sqrt(np.square(error).mean())),
                            "least_time": LEAST_TIMES[number],
                        }
                    )
    return rows


def attend(
    query: Array, key: Array, value: Array, rounding: Any = lambda weights: weights
) -> Array:
    """Return attention of one head, its weights rounded."""
    scores = query @ key.T / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    output: Array = rounding(weights) @ value / weights.sum(axis=-1, keepdims=True)
    return output


def _int8(rows: Array) -> Array:
    scale = np.abs(rows).max(axis=-1, keepdims=True) / 127
    rounded: Array = np.round(rows / scale) * scale
    return rounded


def _bfloat16(array: Array) -> Array:
    bits = array.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


if __name__ == "__main__":
    main()
