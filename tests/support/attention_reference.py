"""What attention means, in float64 and the plainest numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.runtime.kernels.parameters import AttentionParameters

# Weights of scores this far below their row's maximum are below 1e-26: their rounding is no
# concern.
_NEGLIGIBLE = 60.0


@dataclass(frozen=True)
class Operands:
    """Arrays of one attention, in the layouts of its parameters."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    mask: NDArray[Any] | None


@dataclass(frozen=True)
class Expected:
    """The right output and how far float32 may stray from it, both in the output's layout."""

    output: NDArray[np.float64]
    tolerance: NDArray[np.float64]

    def check(self, computed: NDArray[np.float32]) -> None:
        """Assert that a computed output is as good as float32 can be asked to be."""
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


def random_operands(parameters: AttentionParameters, seed: int) -> Operands:
    """Standard normal operands; a mask hides about one key in five."""
    rng = np.random.default_rng(seed)
    query, key, value = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in (parameters.query_shape, parameters.key_shape, parameters.value_shape)
    )
    mask: NDArray[Any] | None = None
    if parameters.mask == "boolean":
        mask = rng.random(parameters.mask_shape) < 0.8
    elif parameters.mask == "additive":
        mask = rng.standard_normal(parameters.mask_shape, dtype=np.float32)
        mask[rng.random(parameters.mask_shape) < 0.2] = -np.inf
    return Operands(query, key, value, mask)


def attend(parameters: AttentionParameters, operands: Operands) -> Expected:
    """Compute attention as ``AttentionParameters`` describes it.

    Masked scores are rounded to float32 once, as in any float32 model: a score plus the lowest
    float32 is the lowest float32, and a row of these is uniform.
    """
    query = _heads_first(operands.query, parameters.query_layout).astype(np.float64)
    key = _heads_first(operands.key, parameters.key_layout).astype(np.float64)
    value = _heads_first(operands.value, parameters.value_layout).astype(np.float64)
    group = parameters.query_heads // parameters.kv_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)

    with np.errstate(invalid="ignore", over="ignore"):
        products = parameters.scale * (query @ key.swapaxes(-1, -2))
        # What float32 accumulation may get wrong, with room for a different order of sums.
        slack = 2.0**-22 * abs(parameters.scale) * (np.abs(query) @ np.abs(key).swapaxes(-1, -2))
        scores = _masked(parameters, operands.mask, products)
        lower = _masked(parameters, operands.mask, products - slack)
        upper = _masked(parameters, operands.mask, products + slack)

        largest = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - largest)
        weights /= weights.sum(axis=-1, keepdims=True)
        if parameters.masked_rows == "zero":
            hidden = (scores == -np.inf).all(axis=-1)
            weights[hidden] = 0.0
        output = weights @ value
        if parameters.masked_rows == "zero":
            output[hidden] = 0.0

        counts = np.isfinite(upper - lower) & (scores >= largest - _NEGLIGIBLE)
        drift = np.where(counts, upper - lower, 0.0).max(axis=-1, keepdims=True)
        size = np.abs(np.where(np.isfinite(value), value, 0.0)).max(axis=(-1, -2), keepdims=True)
    tolerance = np.broadcast_to((2.0**-20 + 2 * drift) * size + 1e-37, output.shape)
    return Expected(
        _heads_first(output, parameters.output_layout),
        _heads_first(tolerance, parameters.output_layout),
    )


def _masked(
    parameters: AttentionParameters, mask: NDArray[Any] | None, scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    masked = scores.astype(np.float32)
    if parameters.mask == "additive":
        masked = masked + mask
    elif parameters.mask == "boolean":
        masked = np.where(mask, masked, np.float32(parameters.masked_value))
    exact = scores if parameters.mask == "none" else masked.astype(np.float64)
    if parameters.is_causal:
        rows, columns = np.indices(scores.shape[-2:])
        exact = np.where(columns > rows, -np.inf, exact)
    return exact


def _heads_first(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """Swap between layouts: an axis order of "bnhd" becomes "bhnd" and back."""
    return array.swapaxes(1, 2) if layout == "bnhd" else array
