"""The gradients of attention, in float64 and the plainest numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from support.attention_reference import (
    Operands,
    as_floats,
    as_stored,
    heads_first,
    precision,
    score,
)

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.runtime.kernels.parameters import AttentionParameters

# Half a unit in the last place of a stored output.
_HALF_UNITS = {
    DType.FLOAT64: 2.0**-53,
    DType.FLOAT32: 2.0**-24,
    DType.FLOAT16: 2.0**-11,
    DType.BFLOAT16: 2.0**-8,
}


@dataclass(frozen=True)
class Saved:
    """What the forward pass leaves to the backward pass, and what arrives from above.

    Attributes:
        output: In the dtype and layout of the output.
        log_sum_exp: Of the masked scores, ``[batch, query_heads, query_length]``.
        output_gradient: Like the output.
    """

    output: NDArray[Any]
    log_sum_exp: NDArray[Any]
    output_gradient: NDArray[Any]


@dataclass(frozen=True)
class Gradient:
    """The right gradient of an operand and how far a kernel may stray from it."""

    numbers: NDArray[np.float64]
    tolerance: NDArray[np.float64]

    def check(self, computed: NDArray[Any]) -> None:
        """Assert that a computed gradient is right."""
        assert computed.shape == self.numbers.shape
        assert np.isfinite(computed).all()
        excess = np.abs(computed - self.numbers) / self.tolerance
        assert excess.max() <= 1, (
            f"error {np.abs(computed - self.numbers).max():.2e} is {excess.max():.1f} times "
            "the tolerance"
        )


@dataclass(frozen=True)
class Gradients:
    """Gradients of all operands, each in its layout; of a mask, in its shape."""

    query: Gradient
    key: Gradient
    value: Gradient
    mask: Gradient | None


def differentiate(
    parameters: AttentionParameters, operands: Operands, seed: int
) -> tuple[Saved, Gradients]:
    """Compute gradients of an attention, for a standard normal gradient of its output.

    Operands must be finite but for a mask.
    """
    rng = np.random.default_rng(seed)
    stored_gradient = as_stored(
        rng.standard_normal(parameters.output_shape, dtype=np.float32), parameters.dtype
    )
    arrived = heads_first(as_floats(stored_gradient), parameters.output_layout).astype(np.float64)
    scores = score(parameters, operands)
    with np.errstate(invalid="ignore", divide="ignore"):
        largest = scores.final.max(axis=-1, keepdims=True)
        largest[largest == -np.inf] = 0.0
        weights = np.exp(scores.final - largest)
        sums = weights.sum(axis=-1, keepdims=True)
        log_sum_exp = (largest + np.log(sums))[..., 0]
        weights /= np.where(sums == 0.0, 1.0, sums)
    output = weights @ scores.value
    products = arrived @ scores.value.swapaxes(-1, -2)
    deltas = (weights * products).sum(axis=-1, keepdims=True)
    score_gradient = weights * (products - deltas)

    # How wrong a kernel may be: in weights, by its scores and its log-sum-exp; in differences, by
    # its products and its output.
    fine = precision(parameters)
    reach = np.abs(np.where(np.isfinite(log_sum_exp), log_sum_exp, 0.0))[..., None]
    drift = np.where(np.isfinite(scores.drift), scores.drift, 0.0)
    relative = np.expm1(np.minimum(fine * 2.0**-20 * (1 + reach) + drift, 80.0))
    size = np.abs(arrived) @ np.abs(scores.value).swapaxes(-1, -2)
    output_error = (_HALF_UNITS[parameters.dtype] + fine * 2.0**-22) * np.abs(output)
    output_error = (np.abs(arrived) * output_error).sum(axis=-1, keepdims=True)
    slip = fine * 2.0**-21 * (size + np.abs(deltas)) + output_error
    # The smallest normal number of the type that is computed in may be lost.
    weight_error = relative * weights + 1e-37
    gradient_error = weight_error * np.abs(products - deltas) + (weights + weight_error) * slip

    mask = None
    if parameters.mask == "additive":
        mask = Gradient(
            _summed_to(score_gradient, parameters.mask_shape),
            _summed_to(
                gradient_error + fine * 2.0**-20 * np.abs(score_gradient), parameters.mask_shape
            )
            + 1e-36,
        )
    if parameters.mask == "boolean":
        score_gradient = np.where(operands.mask, score_gradient, 0.0)
    if parameters.softcap:
        slope = 1.0 - (scores.capped / parameters.softcap) ** 2
        gradient_error = gradient_error * slope + fine * 2.0**-20 * np.abs(score_gradient)
        score_gradient = score_gradient * slope
    rounding = fine * 2.0**-20

    def gradient(
        left: NDArray[Any], left_error: NDArray[Any], right: NDArray[Any], layout: str
    ) -> Gradient:
        numbers = left @ right
        tolerance = (left_error + rounding * np.abs(left)) @ np.abs(right)
        if numbers.shape[1] == parameters.query_heads and layout.startswith("kv:"):
            shape = numbers.shape
            groups = (shape[0], parameters.kv_heads, -1, *shape[2:])
            numbers, tolerance = (x.reshape(groups).sum(axis=2) for x in (numbers, tolerance))
        order = layout.removeprefix("kv:")
        return Gradient(heads_first(numbers, order), heads_first(tolerance, order) + 1e-35)

    scale = parameters.scale
    across, across_error = (x.swapaxes(-1, -2) for x in (score_gradient, gradient_error))
    saved = Saved(
        _stored(heads_first(output, parameters.output_layout), parameters.dtype),
        log_sum_exp.astype(parameters.computed_dtype.to_numpy()),
        stored_gradient,
    )
    return saved, Gradients(
        gradient(score_gradient, gradient_error, scale * scores.key, parameters.query_layout),
        gradient(across, across_error, scale * scores.query, f"kv:{parameters.key_layout}"),
        gradient(
            weights.swapaxes(-1, -2),
            weight_error.swapaxes(-1, -2),
            arrived,
            f"kv:{parameters.value_layout}",
        ),
        mask,
    )


def _stored(array: NDArray[np.float64], dtype: DType) -> NDArray[Any]:
    if dtype is DType.BFLOAT16:
        return as_stored(np.ascontiguousarray(array, np.float32), dtype)
    return np.ascontiguousarray(array, dtype.to_numpy())


def _summed_to(
    array: NDArray[np.float64], shape: tuple[int, int, int, int] | None
) -> NDArray[np.float64]:
    """Return sums over the axes along which a shape is 1."""
    assert shape is not None
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    summed: NDArray[np.float64] = array.sum(axis=axes, keepdims=True)
    return summed
