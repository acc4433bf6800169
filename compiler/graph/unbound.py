"""Recognition carried over to a graph whose sizes are not bound.

What is attention is seen with sizes bound. The nodes it was found at are in the unbound graph, too,
by the same names, and there the same is put in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.attention_node import is_attention_node
from hocket.compiler.graph.samples import fit_size
from hocket.compiler.graph.values import constant_array, is_op, name_of, values_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.graph.size_nodes import SizeEmitter
    from hocket.hwmodels.sizes import Size


@dataclass(frozen=True)
class Recognized:
    """A graph before and after recognition, both with sizes bound.

    Attributes:
        model: After.
        inserted: Nodes that recognition put in, attention left out, in order.
    """

    model: ir.Model
    inserted: tuple[ir.Node, ...]


def carry_over(
    found: Recognized,
    others: Sequence[Recognized],
    dims: Sequence[Mapping[str, int]],
    graph: ir.Graph,
    sizes: SizeEmitter,
    source: str,
) -> None:
    """Put the attention nodes of a bound graph into the unbound one, and what they need.

    Args:
        found: With the sizes that the nodes are to have.
        others: With other sizes, of which the inserted nodes must be the same, but for constants
            that are sizes.
        dims: What was bound for each of them, ``found`` first.
        graph: Changed in place.
        sizes: Makes nodes for sizes, in that graph.
        source: What messages call the model.

    Raises:
        ModelError: Something is not in the unbound graph, or depends on sizes.
    """
    formulas = _fit_constants(found, others, dims, source)
    values = {name_of(value): value for value in graph.inputs}
    values |= {name_of(value): value for value in graph.initializers.values()}
    values |= {name_of(value): value for node in graph for value in node.outputs}
    inserted = set(found.inserted)
    last: list[ir.Node] = []
    for node in found.model.graph:
        if not is_attention_node(node) and node not in inserted:
            continue
        missing = [
            name_of(value)
            for value in node.inputs
            if value is not None and name_of(value) not in values
        ]
        if missing:
            raise ModelError(
                f"{source}: the attention at {node.name!r} reads {missing[0]!r}, which is not "
                "there before sizes are bound; give each dimension one size"
            )
        if node in formulas:
            made = constant_array(node.outputs[0])
            shape = () if made is None else made.shape
            value = sizes.shaped(formulas[node], shape, ir.DataType.INT64)
            values[name_of(node.outputs[0])] = value
            continue
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else values[name_of(value)] for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            version=node.version,
            name=node.name,
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
        _insert(graph, copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            name = name_of(old)
            replaced = values.get(name)
            if replaced is not None:
                replaced.replace_all_uses_with(new, replace_graph_outputs=True)
                producer = replaced.producer()
                if producer is not None:
                    last.append(producer)
                replaced.name = None
            new.name = name
            values[name] = new
    _remove_unread(last, graph)


def _insert(graph: ir.Graph, node: ir.Node) -> None:
    """Insert a node behind all that it reads."""
    order = {each: place for place, each in enumerate(graph)}
    producers = [value.producer() for value in node.inputs if value is not None]
    places = [order[each] for each in producers if each is not None and each in order]
    if places:
        graph.insert_after(next(n for n, place in order.items() if place == max(places)), node)
    elif order:
        graph.insert_before(next(iter(order)), node)
    else:
        graph.append(node)


def _remove_unread(last: Sequence[ir.Node], graph: ir.Graph) -> None:
    pending = list(last)
    while pending:
        node = pending.pop()
        if node.graph is not graph or any(
            value.uses() or value.is_graph_output() for value in node.outputs
        ):
            continue
        before = [value.producer() for value in values_read(node)]
        graph.remove(node, safe=True)
        pending += [producer for producer in before if producer is not None]


def _fit_constants(
    found: Recognized,
    others: Sequence[Recognized],
    dims: Sequence[Mapping[str, int]],
    source: str,
) -> dict[ir.Node, tuple[Size, ...]]:
    """Return the formulas of inserted constants that are sizes, and are others with other sizes.

    Raises:
        ModelError: What else is inserted depends on sizes.
    """
    if any(len(other.inserted) != len(found.inserted) for other in others):
        raise ModelError(f"{source}: what is attention depends on sizes; give each one size")
    formulas = {}
    for alike in zip(found.inserted, *(other.inserted for other in others), strict=True):
        first, arrays = alike[0], [constant_array(node.outputs[0]) for node in alike]
        is_same = all(node.op_type == first.op_type for node in alike)
        if is_same and all(_is_equal(arrays[0], array) for array in arrays[1:]):
            continue
        formula = _fit_sizes(arrays, dims) if is_same else None
        if formula is None:
            raise ModelError(
                f"{source}: what node {first.name!r} must be depends on sizes; give each "
                "dimension one size"
            )
        formulas[first] = formula
    return formulas


def _is_equal(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _fit_sizes(
    arrays: Sequence[NDArray[np.generic] | None], dims: Sequence[Mapping[str, int]]
) -> tuple[Size, ...] | None:
    """Return the formulas of what is a vector of sizes; None where it is none."""
    seen = [array.tolist() for array in arrays if array is not None and array.dtype == np.int64]
    if len(seen) < len(arrays) or len({np.shape(sizes) for sizes in seen}) > 1:
        return None
    if np.ndim(seen[0]) != 1:
        return None
    fitted = [fit_size(sizes, dims) for sizes in zip(*seen, strict=True)]
    known = tuple(size for size in fitted if size is not None)
    return known if len(known) == len(fitted) else None


def replace_shapes(
    graph: ir.Graph, sizes: Mapping[str, tuple[Size | None, ...]], emitter: SizeEmitter
) -> None:
    """Compute the shapes of values from those of the inputs, so that nobody needs the values.

    Before and after, with scores of shape [batch, 12, length, length]::

        s = Shape(scores)
        b = Gather(Shape(ids), 0); n = Gather(Shape(ids), 1); s = Concat([b], [12], [n], [n])

    Args:
        graph: Changed in place.
        sizes: The shape of each value, by its name; None for a size that follows no formula.
        emitter: Makes nodes for sizes, in that graph.
    """
    inputs = {name_of(value) for value in graph.inputs}
    for node in tuple(graph):
        if not is_op(node, "Shape", "Size") or node.inputs[0] is None:
            continue
        name = name_of(node.inputs[0])
        shape = sizes.get(name)
        if name in inputs or shape is None or any(size is None for size in shape):
            continue
        start, end = (node.attributes.get(key) for key in ("start", "end"))
        wanted = shape[
            0 if start is None else start.as_int() : None if end is None else end.as_int()
        ]
        known = [size for size in wanted if size is not None]
        old = node.outputs[0]
        new = emitter.product(known) if node.op_type == "Size" else emitter.vector(known)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
