"""Host nodes that put keys and values together, the past in front, and make masks to fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.match import sizes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
            r = Reshape(k, [0,0,2,32]); t = Transpose(r, (0,2,1,3)); present = Concat(past, t)

        Args:
            new: The new rows, of rank 3 or 4.
            past: Those before, of rank 4; None without.
            axes: Sizes of the new rows.
        """
        rows = new
        if len(sizes_of(new, "key")) < 4:
            shape = (axes.b, axes.n, axes.h, axes.d)
            # The first two sizes are those of the input, however long it is.
            sizes = self._constant(np.array((0, 0, axes.h, axes.d)))
            rows = self._add("Reshape", [new, sizes], shape, new)
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

    def spread(self, mask: ir.Value, read: NDArray[np.intp]) -> ir.Value:
        """Return a mask that has a part for each batch, and for each head if they differ.

        Before and after, for two images of 4 windows, whose scores have both in the batch::

            mask[1,4,1,16,16]
            m = Reshape(mask, [4,16,16]); g = Gather(m, [0,1,2,3,0,1,2,3]); Reshape(g, [8,1,16,16])

        Args:
            mask: Of rank 2 or more.
            read: Which part each batch and head reads, ``[batch, heads]``.
        """
        *leading, rows, columns = sizes_of(mask, "mask")
        if bool(np.all(read == read[:, :1])):
            read = read[:, :1]
        parts = (math.prod(leading), rows, columns)
        cut = self._add("Reshape", [mask, self._constant(np.array(parts))], parts, mask)
        indices = self._constant(read.reshape(-1).astype(np.int64))
        picked = (read.size, rows, columns)
        gathered = self._add("Gather", [cut, indices], picked, mask, {"axis": 0})
        shape = (*read.shape, rows, columns)
        return self._add("Reshape", [gathered, self._constant(np.array(shape))], shape, mask)

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
