"""bfloat16 for a host that cannot compute in it: each step in float32, rounded when it is done.

That is what arithmetic in bfloat16 means: onnxruntime's own kernels for CPUs move such tensors
about, and compute nothing in them.
"""

from __future__ import annotations

import onnx_ir as ir

from hocket.compiler.graph.attention_node import is_attention_node
from hocket.compiler.graph.names import FreshNames

_MOVES = frozenset(
    {
        "Cast",
        "CastLike",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "If",
        "IsNaN",
        "Loop",
        "Pad",
        "Reshape",
        "Scan",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that onnxruntime 1.32 has for bfloat16 on CPUs."""


def widen_bfloat16(model: ir.Model) -> ir.Model:
    """Let the host compute in float32 what the model computes in bfloat16.

    Before and after, with ``x`` and ``y`` of bfloat16::

        y = Softmax(x)
        w = Cast(x, to=float32); s = Softmax(w); y = Cast(s, to=bfloat16)

    Args:
        model: Recognised; changed in place. Attention nodes stay as they are.

    Returns:
        The same model.
    """
    names = FreshNames(model.graph)
    for node in tuple(ir.traversal.RecursiveGraphIterator(model.graph)):
        if is_attention_node(node) or (node.domain == "" and node.op_type in _MOVES):
            continue
        _widen(node, names)
    return model


def _widen(node: ir.Node, names: FreshNames) -> None:
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name!r} is part of no graph")
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == ir.DataType.BFLOAT16:
            cast = _cast(value, ir.DataType.FLOAT, names)
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
    for value in node.outputs:
        if value.dtype != ir.DataType.BFLOAT16:
            continue
        name = value.name
        value.type = ir.TensorType(ir.DataType.FLOAT)
        cast = _cast(value, ir.DataType.BFLOAT16, names)
        rounded = cast.outputs[0]
        graph.insert_after(node, cast)
        value.replace_all_uses_with(rounded, replace_graph_outputs=True)
        # The Cast itself must go on reading it.
        cast.replace_input_with(0, value)
        value.name, rounded.name = rounded.name, name


def _cast(value: ir.Value, dtype: ir.DataType, names: FreshNames) -> ir.Node:
    output = ir.Value(
        name=names.make(f"{value.name}/{dtype.name.lower()}"),
        shape=value.shape,
        type=ir.TensorType(dtype),
    )
    return ir.node(
        "Cast", [value], {"to": int(dtype)}, outputs=[output], name=names.make("hocket/Cast")
    )
