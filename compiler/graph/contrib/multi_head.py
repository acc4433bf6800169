"""``com.microsoft::MultiHeadAttention``, written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from hocket.compiler.graph.values import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.contrib.node_writer import NodeWriter

INPUTS = (
    "query",
    "key",
    "value",
    "bias",
    "key_padding_mask",
    "attention_bias",
    "past_key",
    "past_value",
    "past_sequence_length",
    "cache_indirection",
)
OUTPUTS = ("output", "present_key", "present_value", "qk")


def write_multi_head(node: ir.Node, write: NodeWriter) -> dict[str, ir.Value]:
    """Write a MultiHeadAttention out and return its outputs by name.

    Before and after, for a query, key and value of rank 3::

        y = MultiHeadAttention <num_heads=12> (q, k, v)
        split each: Transpose(Reshape(q, [batch, rows, 12, columns]), (0, 2, 1, 3))
        y = Reshape(Transpose(MatMul(Softmax(Mul(MatMul(q, Transpose(k)), scale)), v)))

    Raises:
        Refusal: It asks for something that cannot be said in other operators, or contradicts
            itself.
    """
    operator = Operator(node, INPUTS, OUTPUTS)
    operator.refuse_inputs(
        ("past_sequence_length", "cache_indirection"), "its past shares a buffer with its present"
    )
    operator.refuse_outputs(("qk",), "so its scores must be computed in full")
    dtype = require_float(operator.require("query"))
    query, key, value = _operands(operator, write)
    if any(each.dtype != dtype for each in (key, value)):
        raise Refusal("its query, key and value have different element types")
    batch, heads, rows, columns = sizes_of(query, "query")
    past_key, past_value = _pasts(operator, query, value)
    key, value = with_past(write, past_key, key), with_past(write, past_value, value)
    length = sizes_of(key, "key")[2]
    masks = make_masks(
        write,
        MaskInputs(
            padding=operator.get("key_padding_mask"),
            bias=operator.get("attention_bias"),
            filler=operator.number("mask_filter_value", -10000.0),
            is_causal=operator.integer("unidirectional") == 1,
            past_length=0 if past_key is None else sizes_of(past_key, "past_key")[2],
        ),
        (batch, heads, rows, length),
        dtype,
    )
    scale = scale_or_default(operator.number("scale"), columns)
    output = attend(write, query, key, value, scale=scale, masks=masks)
    return {"output": output, "present_key": key, "present_value": value}


def _operands(operator: Operator, write: NodeWriter) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return query, key and value as ``[batch, heads, rows, columns]``, without the past."""
    heads = operator.num_heads
    query, key, value = (operator.get(name) for name in INPUTS[:3])
    query = operator.require("query") if query is None else query
    rank = len(sizes_of(query, "query"))
    key_rank = 0 if key is None else len(sizes_of(key, "key"))
    if rank == 5 and key is None and value is None:
        parts = _unpack(write, query, heads, 3, "query")
        return _split_all(operator, write, heads, parts)
    if rank == 3 and key is not None and key_rank == 5 and value is None:
        operator.refuse_inputs(("bias",), "it has none with packed keys and values")
        parts = (query, *_unpack(write, key, heads, 2, "key"))
        return _split_all(operator, write, heads, parts)
    if rank == 3 and key is not None and value is not None:
        if key_rank == 4:
            operator.refuse_inputs(("bias",), "it has none with keys that are split already")
            operator.refuse_inputs(("past_key",), "its keys of rank 4 are all there are")
            return _with_split_keys(write, heads, query, key, value)
        if key_rank == 3:
            return _split_all(operator, write, heads, (query, key, value))
    ranks = [len(static_shape(each) or ()) for each in (query, key, value)]
    raise Refusal(f"its query, key and value of ranks {ranks} are in no form that is understood")


def _unpack(
    write: NodeWriter, packed: ir.Value, heads: int, count: int, name: str
) -> tuple[ir.Value, ...]:
    """Cut ``[batch, rows, heads, count, columns]`` into as many ``[batch, rows, columns]``."""
    batch, rows, _, _, columns = sizes_of(packed, name)
    require_shape(packed, (batch, rows, heads, count, columns), name)
    parts = write.split(packed, 3, (1,) * count)
    return tuple(write.reshape(part, (batch, rows, heads * columns)) for part in parts)


def _split_all(
    operator: Operator, write: NodeWriter, heads: int, parts: tuple[ir.Value, ...]
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Add the bias and split the heads of query, key and value of rank 3."""
    query, key, value = parts
    sizes = [sizes_of(part, "operand") for part in parts]
    if any(len(size) != 3 for size in sizes) or sizes[0][2] != sizes[1][2]:
        raise Refusal(f"its query, key and value of shapes {sizes} do not fit together")
    if sizes[1][:2] != sizes[2][:2] or sizes[0][0] != sizes[1][0]:
        raise Refusal(f"its query, key and value of shapes {sizes} do not fit together")
    columns = [size[2] for size in sizes]
    for count, name in zip(columns, ("query", "key", "value"), strict=True):
        divide(count, heads, name)
    bias = operator.get("bias")
    if bias is not None:
        require_shape(bias, (sum(columns),), "bias")
        biases = write.split(bias, 0, columns)
        query, key, value = (
            write.add(part, each) for part, each in zip(parts, biases, strict=True)
        )
    query, key, value = (split_heads(write, part, heads) for part in (query, key, value))
    return query, key, value


def _with_split_keys(
    write: NodeWriter, heads: int, query: ir.Value, key: ir.Value, value: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Split the heads of a query whose keys and values are split already."""
    batch, _, columns = sizes_of(query, "query")
    length, value_dim = sizes_of(key, "key")[2], sizes_of(value, "value")[-1]
    require_shape(key, (batch, heads, length, divide(columns, heads, "query")), "key")
    require_shape(value, (batch, heads, length, value_dim), "value")
    return split_heads(write, query, heads), key, value


def _pasts(
    operator: Operator, query: ir.Value, value: ir.Value
) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the past of key and value, both or none."""
    batch, heads, _, columns = sizes_of(query, "query")
    past_key, past_value = (
        operator.get_past("past_key", query),
        operator.get_past("past_value", query),
    )
    if past_key is None or past_value is None:
        if past_key is not past_value:
            raise Refusal("it has one of past_key and past_value, not both")
        return None, None
    length = sizes_of(past_key, "past_key")[2]
    require_shape(past_key, (batch, heads, length, columns), "past_key")
    value_dim = sizes_of(value, "value")[3]
    require_shape(past_value, (batch, heads, length, value_dim), "past_value")
    return past_key, past_value
