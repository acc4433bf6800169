"""Host nodes that put keys and values together, the past in front, and make masks as long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.match import sizes_of

if TYPE_CHECKING:
    from hocket.compiler.graph.recognize.axes import Axes

_ROWS = 2
"""Axis of the rows in ``[batch, heads, rows, columns]``."""


class CacheBuilder:
    """Makes nodes that are not part of a graph yet.

    Attributes:
        nodes: Made so far, in order. Their outputs have names that may be taken already.
    """

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def present(self, new: ir.Value, past: ir.Value | None, axes: Axes) -> ir.Value:
        """Return a new value with the past and the new rows, ``[batch, heads, rows, columns]``.

        Before and after, for a key of rank 3::

            k[1,4,64]; past[1,2,7,32]
            r = Reshape(k, [1,4,2,32]); t = Transpose(r, (0,2,1,3)); present = Concat(past, t)

        Args:
            new: The new rows, of rank 3 or 4.
            past: Those before, of rank 4; None without.
            axes: Sizes of the new rows.
        """
        rows = new
        if len(sizes_of(new, "key")) < 4:
            shape = (axes.b, axes.n, axes.h, axes.d)
            rows = self._add("Reshape", [new, self._constant(np.array(shape))], shape, new)
            shape = (axes.b, axes.h, axes.n, axes.d)
            rows = self._add("Transpose", [rows], shape, new, {"perm": [0, 2, 1, 3]})
        if past is None:
            return self._add("Identity", [rows], sizes_of(rows, "key"), new)
        parts = [past, rows]
        length = sizes_of(past, "past")[_ROWS] + axes.n
        return self._add("Concat", parts, (axes.b, axes.h, length, axes.d), new, {"axis": _ROWS})

    def padded(self, mask: ir.Value, length: int, filler: float) -> ir.Value:
        """Return a mask whose last axis has a length, filled up with a number."""
        shape = sizes_of(mask, "mask")
        missing = length - shape[-1]
        if not missing or mask.dtype is None:
            return mask
        filled = np.full((*shape[:-1], missing), filler).astype(mask.dtype.numpy())
        parts = [mask, self._constant(filled)]
        return self._add("Concat", parts, (*shape[:-1], length), mask, {"axis": len(shape) - 1})

    def _constant(self, array: np.ndarray) -> ir.Value:
        attribute = ir.AttrTensor("value", ir.tensor(array))
        output = ir.Value(
            name="hocket/constant",
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        self.nodes.append(ir.Node("", "Constant", [], [attribute], outputs=[output]))
        return output

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        shape: tuple[int, ...],
        like: ir.Value,
        attributes: dict[str, int | list[int]] | None = None,
    ) -> ir.Value:
        output = ir.Value(name=f"{like.name}/{op_type}", shape=ir.Shape(shape), type=like.type)
        self.nodes.append(ir.node(op_type, inputs, attributes or {}, outputs=[output]))
        return output
