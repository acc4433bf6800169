"""``com.microsoft::Attention`` and ``QAttention``: one matrix makes query, key and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.contrib.attend import (
    attend,
    scale_or_default,
    split_heads,
    with_past,
)
from hocket.compiler.graph.contrib.masks import MaskInputs, make_masks
from hocket.compiler.graph.contrib.operator import (
    Operator,
    divide,
    require_float,
    require_shape,
)
from hocket.compiler.graph.recognize.match import Refusal, sizes_of
from hocket.compiler.graph.values import element_type
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.contrib.node_writer import NodeWriter

INPUTS = (
    "input",
    "weights",
    "bias",
    "mask_index",
    "past",
    "attention_bias",
    "past_sequence_length",
)
QUANTIZED_INPUTS = (
    "input",
    "weights",
    "bias",
    "input_scale",
    "weight_scale",
    "mask_index",
    "input_zero_point",
    "weight_zero_point",
    "past",
)
OUTPUTS = ("output", "present")

_BYTES = (DType.INT8, DType.UINT8)


def write_attention(node: ir.Node, write: NodeWriter) -> dict[str, ir.Value]:
    """Write an Attention out and return its outputs by name.

    Before and after::

        y = Attention <num_heads=12> (x, W, b)
        q, k, v = Split(Add(MatMul(x, W), b)); y = attention(q, k, v) of 12 heads

    The weights stay one matrix, under their name.

    Raises:
        Refusal: It asks for something that cannot be said in other operators, or contradicts
            itself.
    """
    operator = Operator(node, INPUTS, OUTPUTS)
    operator.refuse_inputs(("past_sequence_length",), "its past shares a buffer with its present")
    dtype = require_float(operator.require("input"))
    rows, weights = operator.require("input"), operator.require("weights")
    _check_sizes(rows, weights)
    projected = write.matmul(rows, weights)
    return _attend(operator, write, projected, dtype, operator.get("attention_bias"))


def write_quantized(node: ir.Node, write: NodeWriter) -> dict[str, ir.Value]:
    """Write a QAttention out and return its outputs by name.

    The product with the weights stays one of bytes, which is exact. Before and after::

        y = QAttention <num_heads=12> (x, W, b, x_scale, W_scale, , x_zero, W_zero)
        p = Mul(Cast(MatMulInteger(x, W, x_zero, W_zero)), Mul(x_scale, W_scale))
        q, k, v = Split(Add(p, b)); y = attention(q, k, v) of 12 heads

    Raises:
        Refusal: It asks for something that cannot be said in other operators, or contradicts
            itself.
    """
    operator = Operator(node, QUANTIZED_INPUTS, OUTPUTS)
    rows, weights = operator.require("input"), operator.require("weights")
    if element_type(rows) not in _BYTES or element_type(weights) not in _BYTES:
        raise Refusal("its input and weights are not of int8 or uint8")
    _check_sizes(rows, weights)
    columns = sizes_of(weights, "weights")[1]
    scale = operator.require("weight_scale")
    dtype = require_float(scale)
    row_scale = _number_or_row(write, operator.require("input_scale"), 1, "input_scale")
    column_scale = _number_or_row(write, scale, columns, "weight_scale")
    row_zero, column_zero = operator.get("input_zero_point"), operator.get("weight_zero_point")
    zeros = [
        None if row_zero is None else _number_or_row(write, row_zero, 1, "input_zero_point"),
        None
        if column_zero is None
        else _number_or_row(write, column_zero, columns, "weight_zero_point"),
    ]
    if zeros[0] is None and zeros[1] is not None:
        zeros[0] = write.constant(0, rows.dtype)
    product = write.cast(write.integer_matmul(rows, weights, zeros), dtype)
    projected = write.multiply(product, write.multiply(row_scale, column_scale))
    return _attend(operator, write, projected, dtype, None)


def _check_sizes(rows: ir.Value, weights: ir.Value) -> None:
    sizes, shape = sizes_of(rows, "input"), sizes_of(weights, "weights")
    if len(sizes) != 3 or len(shape) != 2 or sizes[2] != shape[0]:
        raise Refusal(f"its input {list(sizes)} and weights {list(shape)} do not fit together")


def _number_or_row(write: NodeWriter, value: ir.Value, columns: int, name: str) -> ir.Value:
    """Return a scale or zero point of all, or of each column."""
    shape = sizes_of(value, name)
    if np.prod(shape, dtype=int) == 1:
        return write.reshape(value, ())
    return require_shape(value, (columns,), name)


def _attend(
    operator: Operator,
    write: NodeWriter,
    projected: ir.Value,
    dtype: ir.DataType,
    attention_bias: ir.Value | None,
) -> dict[str, ir.Value]:
    """Attend with query, key and value side by side, ``[batch, rows, columns of all three]``."""
    operator.refuse_attributes(("do_rotary",), "onnxruntime does not compute it on a CPU either")
    batch, rows, columns = sizes_of(projected, "projection")
    heads = operator.num_heads
    widths = _widths(operator, columns)
    bias = operator.get("bias")
    if bias is not None:
        projected = write.add(projected, require_shape(bias, (columns,), "bias"))
    parts = write.split(projected, 2, widths)
    query, key, value = (split_heads(write, part, heads) for part in parts)
    past = operator.get_past("past", projected)
    past_length = 0
    if past is not None:
        operator.refuse_attributes(
            ("past_present_share_buffer",),
            "its past shares a buffer with its present",
        )
        past_length = sizes_of(past, "past")[-2]
        require_shape(past, (2, batch, heads, past_length, widths[0] // heads), "past")
        indices = [write.constant(index) for index in (0, 1)]
        key = with_past(write, write.gather(past, indices[0], axis=0), key)
        value = with_past(write, write.gather(past, indices[1], axis=0), value)
    scores = (batch, heads, rows, past_length + rows)
    masks = make_masks(
        write,
        MaskInputs(
            padding=_mask_index(operator, scores),
            bias=attention_bias,
            filler=operator.number("mask_filter_value", -10000.0),
            is_causal=operator.integer("unidirectional") == 1,
            past_length=past_length,
            takes_starts=True,
        ),
        scores,
        dtype,
    )
    scale = scale_or_default(operator.number("scale"), widths[0] // heads)
    made = {"output": attend(write, query, key, value, scale=scale, masks=masks)}
    if operator.wants("present"):
        if widths[0] != widths[2]:
            raise Refusal("its present is read, which has no room for values of another size")
        shape = (1, *sizes_of(key, "key"))
        made["present"] = write.concat([write.reshape(each, shape) for each in (key, value)], 0)
    return made


def _widths(operator: Operator, columns: int) -> tuple[int, int, int]:
    """Return the columns of query, key and value."""
    attribute = operator.node.attributes.get("qkv_hidden_sizes")
    widths = (columns // 3,) * 3 if attribute is None else tuple(attribute.as_ints())
    if len(widths) != 3 or sum(widths) != columns or widths[0] != widths[1]:
        raise Refusal(
            f"its {columns} columns of weights do not make query, key and value of {list(widths)}"
        )
    for width in widths:
        divide(width, operator.num_heads, "projection")
    return widths[0], widths[1], widths[2]


def _mask_index(operator: Operator, scores: tuple[int, int, int, int]) -> ir.Value | None:
    """Return the mask; none for one of a single number a row, which moves all scores alike."""
    mask = operator.get("mask_index")
    if mask is None:
        return None
    batch, _, _, columns = scores
    shape = sizes_of(mask, "mask_index")
    if len(shape) == 4:
        raise Refusal("its mask_index of rank 4 is one that onnxruntime's CPU kernel does not take")
    if len(shape) == 2 and shape[1] == 1 and shape[0] in (1, batch) and shape != (batch, columns):
        return None
    return mask
