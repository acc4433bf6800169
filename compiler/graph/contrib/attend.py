"""What all attention operators come to: scores, what acts on them, Softmax, product with values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.recognize.match import sizes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.contrib.node_writer import NodeWriter


@dataclass(frozen=True)
class Added:
    """A mask that is added to the scores."""

    mask: ir.Value


@dataclass(frozen=True)
class Kept:
    """A condition under which scores are kept; where it does not hold, a number is put."""

    condition: ir.Value
    otherwise: float


Mask = Added | Kept


def attend(
    write: NodeWriter,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    *,
    scale: float,
    softcap: float = 0.0,
    masks: tuple[Mask, ...] = (),
    zero_masked_rows: bool = False,
) -> ir.Value:
    """Write attention out.

    Before and after, for one mask that is added::

        y = attention(q, k, v)
        s = Mul(MatMul(q, Transpose(k)), scale); p = Softmax(Add(s, mask))
        y = Reshape(Transpose(MatMul(p, v)))

    Args:
        write: Makes the nodes.
        query: ``[batch, heads, rows, columns]``.
        key: ``[batch, kv_heads, kv_rows, columns]``.
        value: ``[batch, kv_heads, kv_rows, value_columns]``.
        scale: Factor on the product of query and key.
        softcap: Bound on the scores, before they are masked; 0 for none.
        masks: In the order in which they act.
        zero_masked_rows: Whether a row of scores that are all minus infinity gives zeros, not NaN.

    Returns:
        ``[batch, rows, heads * value_columns]``.
    """
    batch, heads, rows, _ = sizes_of(query, "query")
    copies = heads // sizes_of(key, "key")[1]
    key, value = (_copied(write, each, copies) for each in (key, value))
    scores = write.matmul(query, write.transpose(key, 0, 1, 3, 2))
    scores = write.multiply(scores, write.number(scale, scores))
    if softcap:
        limit = write.number(softcap, scores)
        scores = write.multiply(write.tanh(write.divide(scores, limit)), limit)
    for mask in masks:
        if isinstance(mask, Added):
            scores = write.add(scores, mask.mask)
        else:
            scores = write.where(mask.condition, scores, write.number(mask.otherwise, scores))
    weights = write.softmax(scores)
    if zero_masked_rows:
        weights = write.where(write.is_nan(weights), write.number(0.0, weights), weights)
    product = write.matmul(weights, value)
    columns = sizes_of(value, "value")[3]
    return write.reshape(write.transpose(product, 0, 2, 1, 3), (batch, rows, heads * columns))


def split_heads(write: NodeWriter, value: ir.Value, heads: int) -> ir.Value:
    """Return ``[batch, rows, heads * columns]`` as ``[batch, heads, rows, columns]``."""
    batch, rows, columns = sizes_of(value, "operand")
    parts = write.reshape(value, (batch, rows, heads, columns // heads))
    return write.transpose(parts, 0, 2, 1, 3)


def with_past(write: NodeWriter, past: ir.Value | None, new: ir.Value) -> ir.Value:
    """Return the rows of ``[batch, heads, rows, columns]`` behind those of the past."""
    return new if past is None else write.concat([past, new], axis=2)


def scale_or_default(scale: float, head_dim: int) -> float:
    """Return the scale that an attribute gives, in which 0 stands for the usual one."""
    # onnxruntime computes it in float32.
    return scale or float(np.float32(1.0) / np.sqrt(np.float32(head_dim)))


def lowest(dtype: ir.DataType | None) -> float:
    """Return the number onnxruntime puts for what lies ahead of a query, -inf where it is none."""
    if dtype is None or dtype.numpy() != np.float32:
        return -math.inf
    return float(np.finfo(np.float32).min)


def _copied(write: NodeWriter, value: ir.Value, copies: int) -> ir.Value:
    """Return each head as often as query heads read it."""
    if copies == 1:
        return value
    batch, heads, rows, columns = sizes_of(value, "operand")
    one = write.reshape(value, (batch, heads, 1, rows, columns))
    many = write.expand(one, (batch, heads, copies, rows, columns))
    return write.reshape(many, (batch, heads * copies, rows, columns))
