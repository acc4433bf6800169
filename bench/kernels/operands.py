"""The arrays that a case works on, and the right answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hocket.compiler.problem import AttentionProblem
    from kernels.cases import Case

# Of a longer output only this many rows of each head are checked, spread over it: its scores in
# float64 would take gigabytes.
MAX_CHECKED_LENGTH = 4096
_SAMPLED_ROWS = 256
_UPPER_BITS = 16


@dataclass(frozen=True)
class Expected:
    """Right rows of an output.

    Attributes:
        rows: Which rows of each head these are.
        output: float64 ``[batch, heads, rows, columns]``.
    """

    rows: NDArray[np.intp]
    output: NDArray[np.float64]

    def error(self, computed: NDArray[np.float32]) -> float:
        """Return the largest absolute error of an output, NaN counted as infinite."""
        if computed.shape[2] <= self.rows[-1]:
            return float("inf")
        distance = np.abs(computed[:, :, self.rows] - self.output)
        return float(np.nan_to_num(distance, nan=np.inf).max())


class Operands:
    """The arrays of a case, standard normal, in each layout that a library may ask for.

    Attributes:
        case: Whose they are.
        query, key, value: float32 ``[batch, heads, rows, columns]``; of a case in bfloat16,
            numbers that it has.
        mask: float32 ``[1, 1, q_len, kv_len]``, to be added to the scores; None without one.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        problem = case.problem
        self._generator = np.random.default_rng(seed)
        self.case = case
        self.query = self._draw(1, problem.query_heads, problem.query_length, problem.head_dim)
        self.key = self._draw(1, problem.kv_heads, problem.kv_length, problem.head_dim)
        self.value = self._draw(1, problem.kv_heads, problem.kv_length, problem.value_dim)
        self.mask = None if problem.mask_shape is None else self._draw(*problem.mask_shape)

    def _draw(self, *shape: int) -> NDArray[np.float32]:
        drawn = self._generator.standard_normal(shape, dtype=np.float32)
        if self.problem.dtype is not DType.BFLOAT16:
            return drawn
        # The upper half of a float32 is a bfloat16.
        return (drawn.view(np.uint32) >> _UPPER_BITS << _UPPER_BITS).view(np.float32)

    @property
    def problem(self) -> AttentionProblem:
        """What is computed on them."""
        return self.case.problem

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All arrays that were made so far, in either layout."""
        made = vars(self)
        masks = [mask for mask in (self.mask, made.get("causal_mask")) if mask is not None]
        layouts = (*made.get("merged", ()), *made.get("upper_halves", ()))
        return [self.query, self.key, self.value, *layouts, *masks]

    @cached_property
    def upper_halves(self) -> tuple[NDArray[np.uint16], ...]:
        """The bits of query, key and value in bfloat16."""
        return tuple(
            (array.view(np.uint32) >> _UPPER_BITS).astype(np.uint16)
            for array in (self.query, self.key, self.value)
        )

    @cached_property
    def output_gradient(self) -> NDArray[np.float32]:
        """What the output's gradient is, standard normal, like the output."""
        problem = self.problem
        return self._draw(1, problem.query_heads, problem.query_length, problem.value_dim)

    @cached_property
    def merged(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Query, key and value as ``[batch, rows, heads * columns]``."""
        return merge_heads(self.query), merge_heads(self.key), merge_heads(self.value)

    @cached_property
    def causal_mask(self) -> NDArray[np.float32]:
        """Causality as exporters write it: minus infinity above the diagonal, to be added."""
        problem = self.problem
        seen = np.tri(problem.query_length, problem.kv_length, dtype=bool)
        return np.where(seen, np.float32(0), np.float32(-np.inf))[None, None]


def merge_heads(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``[batch, heads, rows, columns]`` as ``[batch, rows, heads * columns]``."""
    batch, heads, rows, columns = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, rows, heads * columns)


def split_heads(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return ``[batch, rows, heads * columns]`` as ``[batch, heads, rows, columns]``."""
    batch, rows, columns = array.shape
    return array.reshape(batch, rows, heads, columns // heads).swapaxes(1, 2)


def attend(operands: Operands) -> Expected:
    """Compute an attention in float64 and the plainest numpy."""
    problem = operands.problem
    length = problem.query_length
    count = length if length <= MAX_CHECKED_LENGTH else _SAMPLED_ROWS
    rows = np.linspace(0, length - 1, count).astype(np.intp)
    output = np.empty((1, problem.query_heads, count, problem.value_dim))
    for head in range(problem.query_heads):
        value = operands.value[0, head // problem.group_size].astype(np.float64)
        output[0, head] = _weights(operands, head, rows) @ value
    return Expected(rows, output)


def differentiate(operands: Operands) -> Expected:
    """Compute the gradients of query, key and value likewise, one below the other.

    Their formulas are those of FlashAttention-2, section 3.2, without its tiles.
    """
    problem = operands.problem
    rows = np.arange(problem.query_length)
    gradients = []
    for head in range(problem.query_heads):
        query, key, value, output_gradient = (
            array[0, head].astype(np.float64)
            for array in (operands.query, operands.key, operands.value, operands.output_gradient)
        )
        weights = _weights(operands, head, rows)
        of_weights = output_gradient @ value.T
        of_scores = weights * (of_weights - (weights * of_weights).sum(axis=-1, keepdims=True))
        gradients.append(
            np.concatenate(
                [
                    problem.scale * of_scores @ key,
                    problem.scale * of_scores.T @ query,
                    weights.T @ output_gradient,
                ]
            )
        )
    output = np.stack(gradients)[None]
    return Expected(np.arange(output.shape[2]), output)


def _weights(operands: Operands, head: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the weights of some rows of one head, float64 ``[rows, kv_len]``."""
    problem = operands.problem
    key = operands.key[0, head // problem.group_size].astype(np.float64)
    scores = problem.scale * (operands.query[0, head, rows].astype(np.float64) @ key.T)
    if operands.mask is not None:
        scores += operands.mask[0, 0, rows]
    if problem.is_causal:
        scores[np.arange(problem.kv_length) > rows[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalized: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return normalized
