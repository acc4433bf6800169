"""Names for what a pass adds to a graph."""

from __future__ import annotations

import onnx_ir as ir

from hocket.compiler.graph.values import name_of


class FreshNames:
    """Names that no value and no node of a graph has.

    Example:
        >>> names = FreshNames(ir.Graph([], [], nodes=[]))
        >>> names.make("mask"), names.make("mask")
        ('mask', 'mask_2')
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = set(graph.initializers) | {name_of(value) for value in graph.inputs}
        for node in ir.traversal.RecursiveGraphIterator(graph):
            self._taken.add(node.name or "")
            self._taken.update(name_of(value) for value in node.outputs)

    def make(self, base: str) -> str:
        """Return ``base``, with a number behind it if it is taken."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name
