"""Products of more than four axes, whose leading ones are all like a batch.

Hiera attends in each of its units, ``[batch, heads, units, rows, columns]``; grouped queries are
written as ``[batch, kv_heads, copies, rows, columns]`` against keys of one copy. Kernels know a
batch and heads, so the host reshapes what is between them and such products, which moves no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.axes import (
    Axes,
    Groups,
    Operand,
    find_target,
    permutation_of,
    scale_factor,
)
from hocket.compiler.graph.recognize.match import Refusal, sizes_of
from hocket.compiler.graph.values import is_op

MOST_AXES = 4
"""What products have in the usual forms."""


@dataclass(frozen=True)
class ManyAxes:
    """What the axes of two products come to.

    Attributes:
        query: Axes of the query, those that are like a batch taken together.
        copies: Query heads for each head of keys and values.
        kv_length, value_dim: Rows of the keys, and columns of the values.
        groups: Axes of the output's dimensions; None where one of several dimensions is the batch.
    """

    query: Axes
    copies: int
    kv_length: int
    value_dim: int
    groups: Groups | None

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.query.h // self.copies


Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True)
class Operands:
    """What an attention reads and writes.

    Attributes:
        axes: Of the query.
        kv_length, value_dim: Rows of the keys, and columns of the values.
        copies: Query heads for each head of keys and values.
        query, key, value, output: What to read and write.
        key_permutation: How the host must transpose the key first; None if it need not.
        shapes: What the host must reshape query, key and value to before that; None for none.
        output_shape: What is written, for the host to reshape it to the output; None if it need
            not.
    """

    axes: Axes
    kv_length: int
    value_dim: int
    copies: int
    query: Operand
    key: Operand
    value: Operand
    output: Operand
    key_permutation: tuple[int, ...] | None
    shapes: tuple[Shape4, Shape4, Shape4] | None = None
    output_shape: Shape4 | None = None


def find_operands(
    query: ir.Value,
    key: ir.Value,
    probabilities: ir.Value | None,
    value: ir.Value,
    made: ir.Value,
    *,
    scales_query: bool,
) -> Operands:
    """Return the operands of two products whose query has more than four axes.

    Args:
        query, key, probabilities, value, made: Operands of the products, and what they make.
        scales_query: Whether factors on the query may be taken out.

    Raises:
        Refusal: Its axes are not all like a batch.
    """
    axes = read_axes(query, key, probabilities, value)
    batch, heads, rows, columns = axes.query.b, axes.query.h, axes.query.n, axes.query.d
    key_operand, key_shape, permutation = _find_key(key, axes)
    output, output_shape = _find_output(made, axes)
    return Operands(
        axes=axes.query,
        kv_length=axes.kv_length,
        value_dim=axes.value_dim,
        copies=axes.copies,
        query=_without_factors(query) if scales_query else Operand(query, "bhnd"),
        key=key_operand,
        value=Operand(value, "bhnd"),
        output=output,
        key_permutation=permutation,
        shapes=(
            (batch, heads, rows, columns),
            key_shape,
            (batch, axes.kv_heads, axes.kv_length, axes.value_dim),
        ),
        output_shape=output_shape,
    )


def reshaped(operands: Operands) -> tuple[Operands, list[ir.Node]]:
    """Return operands of four axes, and the nodes that make them, which have no names yet."""
    if operands.shapes is None:
        return operands, []
    nodes: list[ir.Node] = []
    made = []
    for operand, shape in zip(
        (operands.query, operands.key, operands.value), operands.shapes, strict=True
    ):
        pair = reshape_nodes(operand.value, shape)
        nodes += pair
        made.append(replace(operand, value=pair[1].outputs[0]))
    query, key, value = made
    return replace(operands, query=query, key=key, value=value, shapes=None), nodes


def read_axes(
    query: ir.Value, key: ir.Value, probabilities: ir.Value | None, value: ir.Value
) -> ManyAxes:
    """Return what the axes of products are, whose query has more than four.

    Raises:
        Refusal: Its operands are broadcast against each other in another way than by copies of
            heads.
    """
    q, k, v = sizes_of(query, "query"), sizes_of(key, "key"), sizes_of(value, "value")
    p = sizes_of(probabilities, "probabilities")
    leading = q[:-2]
    made = math.prod(p[:-2]) == math.prod(leading)
    copies = 1
    if k[:-2] == (*leading[:-1], 1) == v[:-2] and p[:-2] == leading:
        copies = leading[-1]
    elif k[:-2] != leading or v[:-2] != p[:-2] or not made:
        raise Refusal(
            f"its query {list(q)}, key {list(k)} and value {list(v)} are broadcast against "
            "each other"
        )
    if copies > 1:
        batch, heads = math.prod(leading[:-2]), leading[-2] * copies
        groups = None
    else:
        # An axis of size 1 is no batch of its own, but the first one, which is often open.
        middle = [size for size in leading[1:] if size > 1]
        heads = middle[-1] if middle else 1
        batch = math.prod(leading) // heads
        groups = _groups(leading) if len(middle) < 2 and p[:-2] == leading else None
    return ManyAxes(Axes(b=batch, h=heads, n=q[-2], d=q[-1]), copies, k[-1], v[-1], groups)


def _groups(leading: tuple[int, ...]) -> Groups:
    """Return the groups of dimensions of which one at most is the heads, behind the batch."""
    first = ("b",) if leading[0] > 1 else ()
    return (first, *((("h",) if size > 1 else ()) for size in leading[1:]), ("n",), ("d",))


def _without_factors(value: ir.Value) -> Operand:
    """Return what a query or key is a multiple of."""
    scale, current = 1.0, value
    steps: tuple[str, ...] = ()
    while True:
        node = current.producer()
        factor = None if node is None or node.graph is not value.graph else scale_factor(node)
        source = None if node is None or factor is None else node.inputs[factor[0]]
        if node is None or factor is None or source is None or source.dtype != value.dtype:
            return Operand(current, "bhnd", scale, steps)
        current, scale, steps = source, scale * factor[1], (node.op_type, *steps)


def _find_key(
    key: ir.Value, axes: ManyAxes
) -> tuple[Operand, Shape4, tuple[int, int, int, int] | None]:
    """Return what to read as key, what to reshape it to, and how to transpose it then."""
    batch, heads, length, columns = axes.query.b, axes.kv_heads, axes.kv_length, axes.query.d
    found = _without_factors(key)
    node = found.value.producer()
    rank = len(sizes_of(key, "key"))
    turned = (*range(rank - 2), rank - 1, rank - 2)
    source = node.inputs[0] if is_op(node, "Transpose") else None
    if node is None or source is None or permutation_of(node, rank) != turned:
        return found, (batch, heads, columns, length), (0, 1, 3, 2)
    inner = _without_factors(source)
    scale, steps = inner.scale * found.scale, (*inner.steps, *found.steps)
    operand = Operand(inner.value, "bhnd", scale, steps)
    return operand, (batch, heads, length, columns), None


def _find_output(made: ir.Value, axes: ManyAxes) -> tuple[Operand, Shape4 | None]:
    """Return what to write, and, where the host is to reshape that, the shape that is written."""
    query = Axes(axes.query.b, axes.query.h, axes.query.n, axes.value_dim)
    if axes.groups is not None:
        groups = tuple(tuple(a for a in group if query.size(a) > 1) for group in axes.groups)
        found = find_target(made, groups, query)
        if found is not None:
            return found, None
    return Operand(made, "bhnd"), (query.b, query.h, query.n, query.d)


def reshape_nodes(value: ir.Value, shape: tuple[int, ...]) -> tuple[ir.Node, ir.Node]:
    """Make the nodes that reshape a value, which are part of no graph yet and have no names."""
    tensor = ir.tensor(np.array(shape, np.int64))
    sizes = ir.Value(
        name=f"{value.name}/sizes",
        shape=ir.Shape([len(shape)]),
        type=ir.TensorType(ir.DataType.INT64),
    )
    constant = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)}, outputs=[sizes])
    output = ir.Value(name=f"{value.name}/Reshape", shape=ir.Shape(shape), type=value.type)
    return constant, ir.node("Reshape", [value, sizes], outputs=[output])
