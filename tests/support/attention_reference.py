"""What attention means, in float64 and the plainest numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.runtime.kernels.parameters import AttentionParameters

# Weights of scores this far below their row's maximum are below 1e-26: their rounding is no
# concern.
_NEGLIGIBLE = 60.0

# What storing the output, and with bfloat16 the weights, may cost.
_ROUNDINGS = {
    DType.FLOAT64: 0.0,
    DType.FLOAT32: 0.0,
    DType.FLOAT16: 2.0**-10,
    DType.BFLOAT16: 2.0**-7,
}


@dataclass(frozen=True)
class Operands:
    """Arrays of one attention, in the layouts of its parameters."""

    query: NDArray[Any]
    key: NDArray[Any]
    value: NDArray[Any]
    mask: NDArray[Any] | None
    kv_lengths: NDArray[np.int64] | None = None
    slopes: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Expected:
    """The right output and how far a kernel may stray from it, both in the output's layout.

    Attributes:
        output, tolerance: In the layout of the output.
        log_sum_exp: Of the masked scores, ``[batch, query_heads, query_length]``.
        log_sum_tolerance: How far a kernel may stray from that.
    """

    output: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    log_sum_exp: NDArray[np.float64]
    log_sum_tolerance: NDArray[np.float64]

    def check_log_sum(self, computed: NDArray[Any]) -> None:
        """Assert that a computed log-sum-exp is right."""
        known = ~np.isnan(self.log_sum_exp)
        finite = np.isfinite(self.log_sum_exp)
        np.testing.assert_array_equal(np.isnan(computed), ~known)
        np.testing.assert_array_equal(computed[known & ~finite], self.log_sum_exp[known & ~finite])
        error = np.abs(computed[finite] - self.log_sum_exp[finite])
        assert (error <= self.log_sum_tolerance[finite]).all(), f"error {error.max():.2e}"

    def check(self, stored: NDArray[Any]) -> None:
        """Assert that a computed output is as good as its element type can be asked to be."""
        computed = as_floats(stored)
        assert computed.shape == self.output.shape
        np.testing.assert_array_equal(np.isnan(computed), np.isnan(self.output))
        finite = np.isfinite(self.output)
        infinite = ~finite & ~np.isnan(self.output)
        np.testing.assert_array_equal(computed[infinite], self.output[infinite])
        error = np.abs(computed[finite] - self.output[finite])
        excess = error / self.tolerance[finite]
        assert excess.size == 0 or excess.max() <= 1, (
            f"error {error.max():.2e} is {excess.max():.1f} times the tolerance"
        )


def precision(parameters: AttentionParameters) -> float:
    """Return how much finer a kernel computes than in float32.

    Less than the 29 bits that float64 has more: the reference has its own roundings then.
    """
    return 2.0**-27 if parameters.computed_dtype is DType.FLOAT64 else 1.0


def as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of an array; uint16 stands for bfloat16, the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def as_stored(array: NDArray[np.float32], dtype: DType) -> NDArray[Any]:
    """Return an array in the element type of a kernel, rounded to nearest even."""
    if dtype is DType.BFLOAT16:
        bits = array.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)
    return array.astype(dtype.to_numpy())


def random_operands(parameters: AttentionParameters, seed: int) -> Operands:
    """Standard normal operands; a mask hides about one key in five."""
    rng = np.random.default_rng(seed)
    query, key, value = (
        as_stored(rng.standard_normal(shape, dtype=np.float32), parameters.dtype)
        for shape in (parameters.query_shape, parameters.key_shape, parameters.value_shape)
    )
    mask: NDArray[Any] | None = None
    if parameters.mask == "boolean":
        mask = rng.random(parameters.mask_shape) < 0.8
    elif parameters.mask == "additive":
        numbers = rng.standard_normal(parameters.mask_shape, dtype=np.float32)
        numbers[rng.random(parameters.mask_shape) < 0.2] = -np.inf
        mask = as_stored(numbers, parameters.dtype)
    lengths = slopes = None
    if parameters.has_kv_lengths:
        lengths = rng.integers(-1, parameters.kv_length + 2, parameters.batch)
    if parameters.has_slopes:
        slopes = 2.0 ** -rng.uniform(1, 8, parameters.query_heads).astype(np.float32)
    return Operands(query, key, value, mask, lengths, slopes)


@dataclass(frozen=True)
class Scores:
    """Scores of an attention, in float64, heads first and each head of keys repeated for its group.

    Attributes:
        query, key, value: The operands.
        capped: Products of query and key, under the cap.
        final: Scores as the softmax takes them, minus infinity where a key is hidden.
        drift: How far a kernel's final scores may stray from these.
    """

    query: NDArray[np.float64]
    key: NDArray[np.float64]
    value: NDArray[np.float64]
    capped: NDArray[np.float64]
    final: NDArray[np.float64]
    drift: NDArray[np.float64]


def score(parameters: AttentionParameters, operands: Operands) -> Scores:
    """Compute scores as ``AttentionParameters`` describes them.

    Masked scores are rounded to float32 once, as in any float32 model: a score plus the lowest
    float32 is the lowest float32, and a row of these is uniform.
    """
    fine = precision(parameters)
    query = heads_first(as_floats(operands.query), parameters.query_layout).astype(np.float64)
    key = heads_first(as_floats(operands.key), parameters.key_layout).astype(np.float64)
    value = heads_first(as_floats(operands.value), parameters.value_layout).astype(np.float64)
    group = parameters.query_heads // parameters.kv_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)

    with np.errstate(invalid="ignore", over="ignore"):
        products = parameters.scale * (query @ key.swapaxes(-1, -2))
        # What float32 accumulation may get wrong, with room for a different order of sums.
        slack = np.abs(query) @ np.abs(key).swapaxes(-1, -2)
        slack = fine * 2.0**-22 * abs(parameters.scale) * slack
        distances = _distances(parameters, operands)
        bias = np.zeros_like(products)
        if operands.slopes is not None:
            bias = operands.slopes.astype(np.float64)[:, None, None] * distances
            slack = slack + fine * 2.0**-22 * np.abs(bias)
        if parameters.softcap:
            slack = slack + fine * 2.0**-21 * parameters.softcap
        seen = _seen(parameters, operands, distances)
        final, lower, upper = (
            np.where(
                seen, _masked(parameters, operands.mask, _capped(parameters, x) + bias), -np.inf
            )
            for x in (products, products - slack, products + slack)
        )
        drift = upper - lower
    return Scores(query, key, value, _capped(parameters, products), final, drift)


def attend(parameters: AttentionParameters, operands: Operands) -> Expected:
    """Compute attention as ``AttentionParameters`` describes it."""
    scores = score(parameters, operands)
    value = scores.value
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        largest = scores.final.max(axis=-1, keepdims=True)
        weights = np.exp(scores.final - largest)
        sums = weights.sum(axis=-1, keepdims=True)
        weights /= sums
        log_sum_exp = (largest + np.log(sums))[..., 0]
        hidden = (scores.final == -np.inf).all(axis=-1)
        log_sum_exp[hidden] = -np.inf
        if parameters.masked_rows == "zero":
            weights[hidden] = 0.0
        output = weights @ value
        if parameters.masked_rows == "zero":
            output[hidden] = 0.0

        counts = np.isfinite(scores.drift) & (scores.final >= largest - _NEGLIGIBLE)
        drift = np.where(counts, scores.drift, 0.0).max(axis=-1, keepdims=True)
        size = np.abs(np.where(np.isfinite(value), value, 0.0)).max(axis=(-1, -2), keepdims=True)
    fine = precision(parameters)
    relative = fine * 2.0**-20 + _ROUNDINGS[parameters.dtype] + 2 * drift
    tolerance = np.broadcast_to(relative * size + 1e-37, output.shape)
    reach = np.abs(np.where(np.isfinite(log_sum_exp), log_sum_exp, 0.0))
    return Expected(
        heads_first(output, parameters.output_layout),
        heads_first(tolerance, parameters.output_layout),
        log_sum_exp,
        fine * 2.0**-21 * (1 + reach) + 2 * drift[..., 0],
    )


def _capped(parameters: AttentionParameters, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    cap = parameters.softcap
    return cap * np.tanh(scores / cap) if cap else scores


def _distances(parameters: AttentionParameters, operands: Operands) -> NDArray[np.float64]:
    """Return how far each key lies behind each query's own position, ``[batch, 1, query, key]``."""
    rows, columns = np.indices(parameters.scores_shape[2:])
    positions = (rows + parameters.query_offset)[None, None]
    if parameters.counts_from_end:
        positions = positions + (_lengths(parameters, operands) - parameters.query_length)
    distances: NDArray[np.float64] = (columns - positions).astype(np.float64)
    return distances


def _lengths(parameters: AttentionParameters, operands: Operands) -> NDArray[np.int64]:
    if operands.kv_lengths is None:
        return np.full((1, 1, 1, 1), parameters.kv_length)
    return operands.kv_lengths.clip(0, parameters.kv_length).reshape(-1, 1, 1, 1)


def _seen(
    parameters: AttentionParameters, operands: Operands, distances: NDArray[np.float64]
) -> NDArray[np.bool_]:
    seen = np.arange(parameters.kv_length) < _lengths(parameters, operands)
    if parameters.is_causal:
        seen = seen & (distances <= 0)
    if parameters.right_window is not None:
        seen = seen & (distances <= parameters.right_window)
    if parameters.left_window is not None:
        seen = seen & (distances >= -parameters.left_window)
    return seen


def _masked(
    parameters: AttentionParameters, mask: NDArray[Any] | None, scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    if mask is None:
        return scores
    computed = parameters.computed_dtype.to_numpy()
    masked = scores.astype(computed)
    if parameters.mask == "additive":
        masked = masked + as_floats(mask).astype(computed)
    else:
        masked = np.where(mask, masked, computed.type(parameters.masked_value))
    return masked.astype(np.float64)


def heads_first(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """Swap between layouts: an axis order of "bnhd" becomes "bhnd" and back."""
    return array.swapaxes(1, 2) if layout == "bnhd" else array
