"""``com.microsoft::GroupQueryAttention``, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.contrib.attend import Added, Kept, Mask, attend, scale_or_default
from hocket.compiler.graph.contrib.grouped_cache import Cache, read_cache
from hocket.compiler.graph.contrib.masks import check_bias
from hocket.compiler.graph.contrib.operator import (
    Operator,
    divide,
    require_float,
    require_shape,
)
from hocket.compiler.graph.contrib.rotary import look_up_angles, rotate
from hocket.compiler.graph.recognize.match import Refusal, sizes_of

if TYPE_CHECKING:
    from hocket.compiler.graph.contrib.node_writer import NodeWriter

INPUTS = (
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "seqlens_k",
    "total_sequence_length",
    "cos_cache",
    "sin_cache",
    "position_ids",
    "attention_bias",
    "head_sink",
    "k_scale",
    "v_scale",
    "q_norm_weight",
    "k_norm_weight",
    "query_seqlens",
)
OUTPUTS = ("output", "present_key", "present_value", "output_qk")

_MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class _New:
    """The new rows, each ``[batch, rows, heads, columns]``."""

    query: ir.Value
    key: ir.Value
    value: ir.Value


def write_grouped(node: ir.Node, write: NodeWriter) -> dict[str, ir.Value]:
    """Write a GroupQueryAttention out and return its outputs by name.

    Before and after, for the next token behind a past of ``seqlens_k`` tokens in each batch::

        y, present_k, present_v = GroupQueryAttention(q, k, v, past_k, past_v, seqlens_k, total)
        present_k = Where(rows < seqlens_k, past_k, Where(rows < seqlens_k + 1, k, 0))
        s = Where(columns < seqlens_k + 1, MatMul(q, Transpose(present_k)) * scale, -inf)
        y = MatMul(Softmax(s), present_v)

    Raises:
        Refusal: It asks for something that cannot be said in other operators, or contradicts
            itself.
    """
    operator = Operator(node, INPUTS, OUTPUTS)
    _refuse_what_is_not_written(operator)
    dtype = require_float(operator.require("query"))
    new = _new_rows(operator, write)
    batch, rows, heads, columns = sizes_of(new.query, "query")
    cache = read_cache(operator, write, sizes_of(new.key, "key"))
    if operator.integer("do_rotary") == 1:
        new = _rotated(operator, write, new, cache)
    query, key, value = (
        write.transpose(each, 0, 2, 1, 3) for each in (new.query, new.key, new.value)
    )
    present_key, present_value = cache.present(write, key, value)
    if not cache.is_prompt:
        key, value = (
            write.slice(each, 2, 0, cache.num_keys) for each in (present_key, present_value)
        )
    masks = _masks(operator, write, cache, (batch, heads, rows, cache.num_keys), dtype)
    output = attend(
        write,
        query,
        key,
        value,
        scale=scale_or_default(operator.number("scale"), columns),
        softcap=max(operator.number("softcap"), 0.0),
        masks=masks,
        zero_masked_rows=_has_zero_rows(operator, dtype),
    )
    return {"output": output, "present_key": present_key, "present_value": present_value}


def _refuse_what_is_not_written(operator: Operator) -> None:
    operator.refuse_attributes(("smooth_softmax",), "its Softmax has a term that no key makes")
    operator.refuse_inputs(("head_sink",), "its Softmax has a term that no key makes")
    operator.refuse_attributes(("sliding_window_cache",), "its past is moved as it grows")
    operator.refuse_inputs(("query_seqlens",), "its query is padded on the right")
    operator.refuse_inputs(("k_scale", "v_scale"), "its past is quantized")
    operator.refuse_inputs(
        ("q_norm_weight", "k_norm_weight"), "onnxruntime does not compute it on a CPU either"
    )
    operator.refuse_outputs(("output_qk",), "so its scores must be computed in full")
    if operator.integer("local_window_size", -1) == 0:
        raise Refusal("its local_window_size is 0, which leaves no key to see")
    if operator.integer("causal", 1) == 0 and _window(operator) > 0:
        raise Refusal("it has a local_window_size, but is not causal")


def _window(operator: Operator) -> int:
    """Return how many keys a row sees, its own included; 0 for all."""
    return max(operator.integer("local_window_size", -1), 0)


def _has_zero_rows(operator: Operator, dtype: ir.DataType) -> bool:
    """Whether rows that see no key give zeros.

    Such rows are hidden by the bias, of which onnxruntime has two kernels: the one with a softcap
    or of float16 gives NaN. Or they are padding behind a window, which stays without NaN.
    """
    if _window(operator):
        return True
    is_streamed = not operator.number("softcap") > 0.0 and dtype == ir.DataType.FLOAT
    return is_streamed and operator.get("attention_bias") is not None


def _new_rows(operator: Operator, write: NodeWriter) -> _New:
    """Return query, key and value with their heads apart."""
    heads, kv_heads = operator.num_heads, operator.integer("kv_num_heads")
    if kv_heads < 1 or heads % kv_heads:
        raise Refusal(f"its {kv_heads} key-value heads do not divide its {heads} heads")
    query, key, value = (operator.get(name) for name in INPUTS[:3])
    query = operator.require("query") if query is None else query
    sizes = sizes_of(query, "query")
    if len(sizes) != 3 or (key is None) != (value is None):
        raise Refusal(f"its query of shape {list(sizes)} comes without one of key and value")
    batch, rows, width = sizes
    if key is None or value is None:
        columns = divide(width, heads + 2 * kv_heads, "query")
        counts = (heads, kv_heads, kv_heads)
        parts = write.split(query, 2, tuple(count * columns for count in counts))
    else:
        columns = divide(width, heads, "query")
        shape = (batch, rows, kv_heads * columns)
        parts = (query, require_shape(key, shape, "key"), require_shape(value, shape, "value"))
        if any(part.dtype != query.dtype for part in parts):
            raise Refusal("its query, key and value have different element types")
    counts = (heads, kv_heads, kv_heads)
    split = [
        write.reshape(part, (batch, rows, count, columns))
        for part, count in zip(parts, counts, strict=True)
    ]
    return _New(*split)


def _rotated(operator: Operator, write: NodeWriter, new: _New, cache: Cache) -> _New:
    """Rotate query and key by their positions."""
    batch, rows, _, _ = sizes_of(new.query, "query")
    given = operator.get("position_ids")
    if given is not None:
        require_shape(given, (batch, rows), "position_ids")
    positions = cache.positions(write, given)
    angles = []
    for name in ("cos_cache", "sin_cache"):
        table = operator.require(name)
        sizes = sizes_of(table, name)
        if len(sizes) != 2 or sizes[0] < cache.total_length or table.dtype != new.query.dtype:
            raise Refusal(f"its {name} of shape {list(sizes)} is no table of its positions")
        angles.append(look_up_angles(write, table, positions))
    if sizes_of(angles[0], "cos_cache") != sizes_of(angles[1], "sin_cache"):
        raise Refusal("its cos_cache and sin_cache are of different shapes")
    is_interleaved = operator.integer("rotary_interleaved") == 1
    query, key = (
        rotate(write, each, *angles, is_interleaved=is_interleaved) for each in (new.query, new.key)
    )
    return _New(query, key, new.value)


def _masks(
    operator: Operator,
    write: NodeWriter,
    cache: Cache,
    scores: tuple[int, int, int, int],
    dtype: ir.DataType,
) -> tuple[Mask, ...]:
    """Return the bias, and what hides keys behind it."""
    masks: list[Mask] = []
    bias = operator.get("attention_bias")
    if bias is not None:
        check_bias(bias, (*scores[:3], cache.total_length), dtype)
        masks.append(Added(write.slice(bias, 3, 0, cache.num_keys)))
    conditions = []
    if operator.integer("causal", 1):
        conditions.append(cache.seen_by_rows(write, _window(operator)))
    conditions.append(cache.held(write, is_causal=bool(operator.integer("causal", 1))))
    masks += [Kept(each, _MINUS_INFINITY) for each in conditions if each is not None]
    return tuple(masks)
