"""The standard ONNX ``Attention`` operator (op sets 23, 24 and 25) in its plain forms.

A boolean mask of that operator puts minus infinity where it is false, and a row that is masked
throughout gives zeros, not NaN; causal means ``j <= i``, as there is no past.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from hocket.compiler.graph.recognize.axes import Axes, Operand, find_source, find_target
from hocket.compiler.graph.recognize.masks import summarize_masks
from hocket.compiler.graph.recognize.match import (
    AttentionMatch,
    MaskRole,
    MaskTerm,
    Refusal,
    sizes_of,
)
from hocket.compiler.graph.values import element_type
from hocket.compiler.problem import AttentionProblem, MaskedRows
from hocket.hwmodels.dtypes import DType

_OPTIONAL_INPUTS = {4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"}
_OPTIONAL_OUTPUTS = {1: "present_key", 2: "present_value", 3: "qk_matmul_output"}
_WINDOWS = ("left_window_size", "right_window_size")


def match_standard(node: ir.Node) -> AttentionMatch:
    """Return the attention that an ``Attention`` node computes.

    Raises:
        Refusal: It asks for something that is not compiled yet.
    """
    _check_plain(node)
    query, key, value = (_required(node, index) for index in range(3))
    axes, kv_heads, kv_length, value_dim = _sizes(node, query, key, value)
    dtype = _common_dtype(node, query, key, value)
    is_causal = _int(node, "is_causal", 0) == 1
    terms = _mask_terms(node, dtype, kv_length)
    scores = (axes.b, axes.h, axes.n, kv_length)
    summary = summarize_masks(terms, scores, 4, dtype)
    key_axes = replace(axes, h=kv_heads, n=kv_length)
    query_operand = _source_of(query, axes, scaled=True)
    key_operand = _source_of(key, key_axes, scaled=True)
    try:
        problem = AttentionProblem(
            batch=axes.b,
            query_heads=axes.h,
            kv_heads=kv_heads,
            query_length=axes.n,
            kv_length=kv_length,
            head_dim=axes.d,
            value_dim=value_dim,
            dtype=dtype,
            scale=_scale(node, axes.d) * query_operand.scale * key_operand.scale,
            mask=summary.kind,
            mask_shape=summary.shape,
            masked_value=summary.masked_value,
            masked_rows=MaskedRows.ZERO,
            is_causal=is_causal,
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    output_axes = replace(axes, d=value_dim)
    output = find_target(
        node.outputs[0], output_axes.groups(*_dimensions(query)), output_axes
    ) or Operand(node.outputs[0], "bhnd")
    return AttentionMatch(
        anchor=node,
        form=_describe_form(node, terms, is_causal=is_causal),
        problem=problem,
        query=query_operand,
        key=key_operand,
        key_permutation=None,
        value=_source_of(value, replace(key_axes, d=value_dim), scaled=False),
        mask=terms,
        mask_dtype=dtype,
        output=output,
    )


def _check_plain(node: ir.Node) -> None:
    """Refuse what goes beyond scale, mask and causality."""
    for index, name in _OPTIONAL_INPUTS.items():
        if len(node.inputs) > index and node.inputs[index] is not None:
            raise Refusal(f"its input {name} is not compiled yet")
    for index, name in _OPTIONAL_OUTPUTS.items():
        if len(node.outputs) > index:
            output = node.outputs[index]
            if output.uses() or output.is_graph_output():
                raise Refusal(f"its output {name} is not compiled yet")
    softcap = node.attributes.get("softcap")
    if softcap is not None and softcap.as_float() != 0.0:
        raise Refusal("its softcap is not compiled yet")
    for name in _WINDOWS:
        if _int(node, name, -1) >= 0:
            raise Refusal(f"its {name} is not compiled yet")


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _required(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise Refusal(f"it lacks input {index}")
    return value


def _sizes(
    node: ir.Node, query: ir.Value, key: ir.Value, value: ir.Value
) -> tuple[Axes, int, int, int]:
    """Return the axes of the query, the key-value heads and length, and the value size."""
    q, k, v = sizes_of(query, "query"), sizes_of(key, "key"), sizes_of(value, "value")
    if {len(q), len(k), len(v)} == {3}:
        heads, kv_heads = _int(node, "q_num_heads", 0), _int(node, "kv_num_heads", 0)
        if heads < 1 or kv_heads < 1 or q[2] % heads or k[2] % kv_heads or v[2] % kv_heads:
            raise Refusal(f"{heads} and {kv_heads} heads do not divide the columns of {list(q)}")
        q = (q[0], heads, q[1], q[2] // heads)
        k = (k[0], kv_heads, k[1], k[2] // kv_heads)
        v = (v[0], kv_heads, v[1], v[2] // kv_heads)
    if {len(q), len(k), len(v)} != {4}:
        raise Refusal(f"its query {list(q)}, key {list(k)} and value {list(v)} differ in rank")
    if k[:3] != v[:3] or q[0] != k[0] or q[3] != k[3]:
        raise Refusal(f"its query {list(q)}, key {list(k)} and value {list(v)} do not fit together")
    return Axes(*q), k[1], k[2], v[3]


def _common_dtype(node: ir.Node, *operands: ir.Value) -> DType:
    dtype = element_type(operands[0])
    if dtype is None or any(element_type(value) is not dtype for value in operands):
        raise Refusal("its query, key and value have different element types")
    code = _int(node, "softmax_precision", 0)
    if code and code != ir.DataType.FLOAT and operands[0].dtype != code:
        raise Refusal(f"its softmax_precision {ir.DataType(code).name} is not compiled yet")
    if code and dtype is DType.FLOAT64 and operands[0].dtype != code:
        raise Refusal("its softmax_precision is below that of its query")
    return dtype


def _scale(node: ir.Node, head_dim: int) -> float:
    attribute = node.attributes.get("scale")
    if attribute is None:
        return 1.0 / math.sqrt(head_dim)
    scale = attribute.as_float()
    if not scale > 0.0:
        # The operator takes the root of it, and onnxruntime reads 0 as "not given".
        raise Refusal(f"its scale {scale:g} is not above zero")
    return scale


def _mask_terms(node: ir.Node, dtype: DType, kv_length: int) -> tuple[MaskTerm, ...]:
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None:
        return ()
    shape = sizes_of(mask, "mask")
    if not shape or shape[-1] != kv_length:
        raise Refusal(
            f"its mask {mask.name!r} of shape {list(shape)} is shorter than the {kv_length} keys; "
            "the padding of such masks is not compiled yet"
        )
    if element_type(mask) is DType.BOOL:
        return (MaskTerm(MaskRole.KEEP, mask, -math.inf),)
    if element_type(mask) is not dtype:
        raise Refusal(f"its mask {mask.name!r} is not {dtype} as its query")
    return (MaskTerm(MaskRole.ADD, mask),)


def _dimensions(value: ir.Value) -> tuple[str, ...]:
    rank = len(sizes_of(value, "operand"))
    return ("b", "h", "n", "d") if rank == 4 else ("b", "n", "hd")


def _source_of(value: ir.Value, axes: Axes, *, scaled: bool) -> Operand:
    source = find_source(value, axes.groups(*_dimensions(value)), axes, scaled=scaled)
    if source is None:
        raise Refusal(f"the axes of {value.name!r} are in no order that kernels read")
    return source


def _describe_form(node: ir.Node, terms: tuple[MaskTerm, ...], *, is_causal: bool) -> str:
    rank = len(sizes_of(node.inputs[0], "query"))
    steps = [f"{rank}-D"]
    steps += ["boolean mask" if term.role is MaskRole.KEEP else "float mask" for term in terms]
    steps += ["causal"] if is_causal else []
    return f"Attention op: {', '.join(steps)}"
