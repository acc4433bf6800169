"""Sizes behind the operators of onnxruntime that ONNX's shape inference does not know.

Models that onnxruntime's tools have optimized have such operators between their attentions. Without
these sizes nothing behind the first of them would be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from hocket.compiler.graph.canonicalize import infer_outputs
from hocket.compiler.graph.values import static_shape, subgraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Rule = Callable[[ir.Node], tuple[int, ...] | None]

DOMAIN = "com.microsoft"


def find_sizes(node: ir.Node, opsets: Mapping[str, int]) -> None:
    """Give the outputs of a node their sizes and element types, where they follow from its inputs.

    What is known already is left as it is. Before and after::

        x: float32[1, 128, 384]; y = com.microsoft::SkipLayerNormalization(x, r, scale); y: ?
        y: float32[1, 128, 384]
    """
    if all(static_shape(value) is not None for value in node.outputs if value.name):
        return
    if node.domain == DOMAIN:
        _find_contrib_sizes(node)
        return
    version = opsets.get(node.domain)
    if version is None or not onnx.defs.has(node.op_type, version, node.domain):
        return
    given = [value for value in node.inputs if value is not None]
    if any(subgraphs(node)) or any(value.type is None for value in given):
        return
    if any(static_shape(value) is None for value in given):
        return
    try:
        found = infer_outputs(node, version)
    except (onnx.shape_inference.InferenceError, RuntimeError):
        # What is wrong with it the check of all shapes says in the end.
        return
    for value in node.outputs:
        proto = found.get(value.name or "")
        shape = None if proto is None else _sizes_in(proto)
        if proto is not None and shape is not None:
            _set(value, shape, ir.DataType(proto.tensor_type.elem_type))


def find_types(model: ir.Model) -> None:
    """Give values element types behind operators of onnxruntime, also where no size is known.

    In the order of the nodes of the main graph; what is known already is left as it is.
    """
    for node in model.graph:
        if all(value.type is not None for value in node.outputs if value.name):
            continue
        if node.domain == DOMAIN:
            for value, rule in zip(node.outputs, _RULES.get(node.op_type, ()), strict=False):
                dtype = ir.DataType.INT32 if rule is _lengths else _element_type(node)
                if value.type is None and dtype is not None:
                    value.type = ir.TensorType(dtype)
            continue
        version = model.opset_imports.get(node.domain)
        if version is None or not onnx.defs.has(node.op_type, version, node.domain):
            continue
        if any(subgraphs(node)) or any(v.type is None for v in node.inputs if v is not None):
            continue
        try:
            found = infer_outputs(node, version)
        except (onnx.shape_inference.InferenceError, RuntimeError):
            continue
        for value in node.outputs:
            proto = found.get(value.name or "")
            if value.type is None and proto is not None and proto.HasField("tensor_type"):
                value.type = ir.TensorType(ir.DataType(proto.tensor_type.elem_type))


def _sizes_in(proto: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the sizes that a type names, None if not all of them."""
    if not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    sizes = proto.tensor_type.shape.dim
    if not all(size.HasField("dim_value") for size in sizes):
        return None
    return tuple(size.dim_value for size in sizes)


def _find_contrib_sizes(node: ir.Node) -> None:
    rules = _RULES.get(node.op_type, ())
    for value, rule in zip(node.outputs, rules, strict=False):
        shape = None if rule is None or not value.name else rule(node)
        if shape is not None:
            dtype = ir.DataType.INT32 if rule is _lengths else _element_type(node)
            _set(value, shape, dtype)


def _set(value: ir.Value, shape: tuple[int, ...], dtype: ir.DataType | None) -> None:
    if static_shape(value) is None:
        value.shape = ir.Shape(shape)
    if value.type is None and dtype is not None:
        value.type = ir.TensorType(dtype)


def _element_type(node: ir.Node) -> ir.DataType | None:
    """Return the element type of the first input of floats, which that of all outputs here is."""
    types = [None if value is None else value.dtype for value in node.inputs]
    floats = [dtype for dtype in types if dtype is not None and dtype.is_floating_point()]
    return floats[0] if floats else None


def _like_first(node: ir.Node) -> tuple[int, ...] | None:
    return static_shape(node.inputs[0])


def _row_of_query(node: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of an attention's output, which is that of its query of rank 3."""
    shape = static_shape(node.inputs[0])
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if shape is None or len(shape) != 3 or value is None:
        return None
    columns = static_shape(value)
    if node.op_type == "GroupQueryAttention" or columns is None or len(columns) != 3:
        return shape if node.op_type == "GroupQueryAttention" else None
    return (*shape[:2], columns[2])


def _row_of_values(node: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of the output of an attention with packed weights."""
    rows, weights = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if rows is None or weights is None or len(weights) != 2:
        return None
    widths = node.attributes.get("qkv_hidden_sizes")
    return (*rows[:-1], weights[1] // 3 if widths is None else widths.as_ints()[-1])


def _embedded(node: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of ``[batch, rows]`` ids looked up in a table of words."""
    ids, table = static_shape(node.inputs[0]), static_shape(node.inputs[2])
    return None if ids is None or table is None else (*ids, table[-1])


def _lengths(node: ir.Node) -> tuple[int, ...] | None:
    """Return the shape of a number for each batch of ``[batch, rows]`` ids."""
    ids = static_shape(node.inputs[0])
    return None if ids is None else ids[:1]


def _times_matrix(node: ir.Node) -> tuple[int, ...] | None:
    rows, matrix = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if rows is None or matrix is None or len(matrix) != 2:
        return None
    return (*rows[:-1], matrix[1])


def _packed_product(node: ir.Node) -> tuple[int, ...] | None:
    rows, columns = static_shape(node.inputs[0]), node.attributes.get("N")
    return None if rows is None or columns is None else (*rows[:-1], columns.as_int())


_RULES: dict[str, tuple[Rule | None, ...]] = {
    "Attention": (_row_of_values,),
    "BiasGelu": (_like_first,),
    "BiasSoftmax": (_like_first,),
    "DynamicQuantizeMatMul": (_times_matrix,),
    "EmbedLayerNormalization": (_embedded, _lengths, _embedded),
    "FastGelu": (_like_first,),
    "Gelu": (_like_first,),
    "GroupQueryAttention": (_row_of_query,),
    "MatMulIntegerToFloat": (_times_matrix,),
    "MatMulNBits": (_packed_product,),
    "MultiHeadAttention": (_row_of_query,),
    "QAttention": (_row_of_values,),
    "QEmbedLayerNormalization": (_embedded, _lengths),
    "QuickGelu": (_like_first,),
    "RotaryEmbedding": (_like_first,),
    "SimplifiedLayerNormalization": (_like_first,),
    "SkipLayerNormalization": (_like_first, None, None, _like_first),
    "SkipSimplifiedLayerNormalization": (_like_first, None, None, _like_first),
}
"""By operator, the rule of each output; None for one that is not followed."""
