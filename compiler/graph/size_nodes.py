"""Nodes that compute sizes when a model runs, from the shapes of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.values import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.compiler.graph.names import FreshNames
    from hocket.hwmodels.sizes import Size, SizeExpression


class SizeEmitter:
    """Makes nodes that compute sizes from the shapes of inputs, at the head of a graph.

    What was made once is not made again.

    Args:
        graph: Changed in place.
        names: Of this graph.
        places: An input and an axis of it for each dimension.
    """

    def __init__(
        self, graph: ir.Graph, names: FreshNames, places: Mapping[str, tuple[str, int]]
    ) -> None:
        self._graph = graph
        self._names = names
        self._places = places
        self._last: ir.Node | None = None
        self._made: dict[object, ir.Value] = {}

    def vector(self, sizes: Sequence[Size]) -> ir.Value:
        """Return int64 ``[len(sizes)]``."""
        return self._once(
            tuple(sizes),
            lambda: (
                self._add("Concat", [self._size(size) for size in sizes], {"axis": 0})
                if sizes
                else self._constant([])
            ),
        )

    def product(self, sizes: Sequence[Size]) -> ir.Value:
        """Return the product of sizes, an int64 scalar."""

        def make() -> ir.Value:
            total = self._constant([1])
            for size in sizes:
                total = self._add("Mul", [total, self._size(size)])
            return self._add("Squeeze", [total])

        return self._once(("product", *sizes), make)

    def positions(self, start: Size, count: Size, dtype: ir.DataType) -> ir.Value:
        """Return ``count`` whole numbers from ``start`` on, one after the other."""

        def make() -> ir.Value:
            first = self._add("Squeeze", [self._size(start)])
            end = self._add("Squeeze", [self._add("Add", [self._size(start), self._size(count)])])
            step = self._add("Squeeze", [self._size(1)])
            return self._cast(self._add("Range", [first, end, step]), dtype)

        return self._once(("positions", start, count, dtype), make)

    def shaped(self, sizes: Sequence[Size], shape: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
        """Return sizes as a tensor of a rank of 0 or 1."""

        def make() -> ir.Value:
            value = self.vector(sizes)
            return self._cast(value if shape else self._add("Squeeze", [value]), dtype)

        return self._once(("shaped", tuple(sizes), shape, dtype), make)

    def _size(self, size: Size) -> ir.Value:
        """Return int64 ``[1]``."""
        if isinstance(size, int):
            return self._once(("number", size), lambda: self._constant([size]))
        return self._once(("size", size), lambda: self._sum(size))

    def _sum(self, size: SizeExpression) -> ir.Value:
        total: ir.Value | None = None
        for factor, dims in size.terms:
            term = self._size(factor)
            for number, name in enumerate(dims):
                dim = self._dimension(name)
                term = dim if number == 0 and factor == 1 else self._add("Mul", [term, dim])
            total = term if total is None else self._add("Add", [total, term])
        if total is None:
            raise ValueError("a size has terms")
        return total

    def _dimension(self, name: str) -> ir.Value:
        def make() -> ir.Value:
            source, axis = self._places[name]
            value = next(each for each in self._graph.inputs if name_of(each) == source)
            shape = self._once(("shape", source), lambda: self._add("Shape", [value]))
            return self._add("Gather", [shape, self._constant([axis])], {"axis": 0})

        return self._once(("dimension", name), make)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if dtype == ir.DataType.INT64:
            return value
        cast = self._add("Cast", [value], {"to": int(dtype)})
        cast.type = ir.TensorType(dtype)
        return cast

    def _once(self, key: object, make: Callable[[], ir.Value]) -> ir.Value:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _constant(self, content: Sequence[int]) -> ir.Value:
        attribute = ir.AttrTensor("value", ir.tensor(np.array(content, np.int64)))
        return self._insert(ir.Node("", "Constant", [], [attribute]))

    def _add(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int] | None = None
    ) -> ir.Value:
        return self._insert(ir.node(op_type, inputs, dict(attributes or {})))

    def _insert(self, node: ir.Node) -> ir.Value:
        # Not as what recognition inserts, which is carried over with its names.
        node.name = self._names.make(f"hocket/size/{node.op_type}")
        node.outputs[0].name = self._names.make(f"hocket/size/{node.op_type}")
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        if self._last is None:
            self._graph.insert_before(next(iter(self._graph)), node)
        else:
            self._graph.insert_after(self._last, node)
        self._last = node
        return node.outputs[0]
