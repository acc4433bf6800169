"""What a value of the graph says of itself: sizes, element type, constant, readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import onnx_ir as ir

from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES = {
    ir.DataType.DOUBLE: DType.FLOAT64,
    ir.DataType.FLOAT: DType.FLOAT32,
    ir.DataType.FLOAT16: DType.FLOAT16,
    ir.DataType.BFLOAT16: DType.BFLOAT16,
    ir.DataType.INT64: DType.INT64,
    ir.DataType.INT32: DType.INT32,
    ir.DataType.INT16: DType.INT16,
    ir.DataType.INT8: DType.INT8,
    ir.DataType.UINT64: DType.UINT64,
    ir.DataType.UINT32: DType.UINT32,
    ir.DataType.UINT16: DType.UINT16,
    ir.DataType.UINT8: DType.UINT8,
    ir.DataType.BOOL: DType.BOOL,
}
"""Element types of tensors that may cross the border of a region."""

IR_DTYPES = {dtype: ir_dtype for ir_dtype, dtype in DTYPES.items()}
"""The way back of ``DTYPES``."""


def name_of(value: ir.Value) -> str:
    """Return the name of a value; every value has one after the naming pass."""
    return value.name or "<unnamed>"


def describe_op(node: ir.Node) -> str:
    """Return the operator of a node, with its domain if not the standard one."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def describe_node(node: ir.Node) -> str:
    """Return operator and name of a node, for messages: ``MatMul 'enc/0/attn/MatMul_2'``."""
    return f"{describe_op(node)} {node.name!r}"


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether a node is one of these operators of the standard domain."""
    return is_of_type(node, "", *op_types)


def is_of_type(node: ir.Node | None, domain: str, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether a node is one of these operators of a domain."""
    return node is not None and node.domain == domain and node.op_type in op_types


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the sizes of a value, None if one of them is not known."""
    if value is None or value.shape is None:
        return None
    sizes = tuple(size for size in value.shape.dims if isinstance(size, int))
    return sizes if len(sizes) == len(value.shape) else None


def element_type(value: ir.Value | None) -> DType | None:
    """Return the element type of a tensor value, None if unknown or not one of ours."""
    if value is None or value.dtype is None:
        return None
    return DTYPES.get(value.dtype)


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of an initializer or a Constant node; None for any other value."""
    if value is None or (value.is_graph_input() and not value.is_initializer()):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def uniform_constant(value: ir.Value | None) -> float | None:
    """Return the number that every entry of a constant is; None if it has several or none."""
    node = None if value is None else value.producer()
    if is_op(node, "Expand", "Identity", "Cast", "Reshape"):
        return uniform_constant(node.inputs[0])
    if is_op(node, "ConstantOfShape"):
        fill = node.attributes.get("value")
        array = np.zeros(1, np.float32) if fill is None else np.asarray(fill.as_tensor().numpy())
    else:
        found = constant_array(value)
        if found is None:
            return None
        array = found
    if array.size == 0 or array.dtype.kind in "OSU":
        return None
    first = array.reshape(-1)[0]
    # Uniform NaN is no number to put anywhere, and is unequal to itself besides.
    return float(first) if bool(np.all(array == first)) else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node of the same graph that reads a value, None if others see it, too."""
    readers = value.consumers()
    if value.is_graph_output() or len(readers) != 1 or readers[0].graph is not value.graph:
        return None
    return readers[0]


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs in the attributes of a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def values_read(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the values a node reads, those that its subgraphs capture included, each once."""
    seen = {value: None for value in node.inputs if value is not None}
    for graph in subgraphs(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            seen.update({value: None for value in inner.inputs if _is_of(value, node.graph)})
        seen.update({value: None for value in graph.outputs if _is_of(value, node.graph)})
    return tuple(seen)


def _is_of(value: ir.Value | None, graph: object) -> TypeGuard[ir.Value]:
    return value is not None and value.graph is graph
