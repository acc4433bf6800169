"""Nodes of primitive operators, written down with the sizes of what they give.

No shape inference runs on them: what follows an operator that was written out can be looked at in
the same pass.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.match import Refusal, sizes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

OLDEST_OPSET = 11
"""Before it, Slice and the comparison of integers are written in other ways."""

_SPLIT_TAKES_SIZES_AS_INPUT = 13


class ConstantKind(enum.Enum):
    """How a constant follows from the sizes that an operator was written out with.

    SIZES are sizes, or sums of them, each by itself. POSITIONS are whole numbers one after the
    other, as many as a size says.
    """

    SIZES = "sizes"
    POSITIONS = "positions"


class NodeWriter:
    """Makes nodes that are not part of a graph yet.

    Attributes:
        nodes: Made so far, in order. Their names, and those of their outputs, may be taken.
        kinds: Of constants that follow from sizes: how.

    Example:
        >>> write = NodeWriter("attention", opset=17)
        >>> rows = write.positions(0, 3, ir.DataType.INT64)
        >>> str(write.less(rows, write.reshape(rows, (3, 1))).shape)
        '[3,3]'
    """

    def __init__(self, name: str, opset: int) -> None:
        self.nodes: list[ir.Node] = []
        self.kinds: dict[ir.Node, ConstantKind] = {}
        self._name = name
        self._opset = opset

    def discard(self) -> None:
        """Let go of what the nodes read, so that nothing of them is left in the graph."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.nodes.clear()
        self.kinds.clear()

    def constant(self, content: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """Return a constant, of the element type of its array if none is given."""
        array = np.asarray(content)
        array = array if dtype is None else array.astype(dtype.numpy())
        tensor = ir.tensor(array)
        attribute = ir.AttrTensor("value", tensor)
        return self._add("Constant", [], array.shape, tensor.dtype, {"value": attribute})

    def sizes(
        self, content: int | Sequence[int], dtype: ir.DataType = ir.DataType.INT64
    ) -> ir.Value:
        """Return sizes, or what sums of them are: another constant where sizes are others."""
        value = self.constant(content, dtype)
        self.kinds[self.nodes[-1]] = ConstantKind.SIZES
        return value

    def positions(self, start: int, count: int, dtype: ir.DataType) -> ir.Value:
        """Return as many whole numbers as a size says, from another on, ``[count]``."""
        value = self.constant(np.arange(start, start + count), dtype)
        self.kinds[self.nodes[-1]] = ConstantKind.POSITIONS
        return value

    def number(self, content: float, like: ir.Value) -> ir.Value:
        """Return a single number of the element type of another value."""
        return self.constant(content, like.dtype)

    def reshape(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """Return the same numbers in another shape."""
        if sizes_of(value, "operand") == shape:
            return value
        return self._add("Reshape", [value, self.sizes(shape)], shape)

    def transpose(self, value: ir.Value, *permutation: int) -> ir.Value:
        """Return a value with its axes in another order."""
        sizes = sizes_of(value, "operand")
        shape = tuple(sizes[axis] for axis in permutation)
        return self._add("Transpose", [value], shape, None, {"perm": list(permutation)})

    def matmul(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the product of the last two axes."""
        return self._add("MatMul", [left, right], _product_shape(left, right))

    def integer_matmul(
        self, left: ir.Value, right: ir.Value, zero_points: Sequence[ir.Value | None]
    ) -> ir.Value:
        """Return the product of two tensors of bytes, less their zero points, as int32."""
        inputs = [left, right, *zero_points]
        while inputs[-1] is None:
            inputs.pop()
        return self._add("MatMulInteger", inputs, _product_shape(left, right), ir.DataType.INT32)

    def add(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the sum."""
        return self._broadcast("Add", left, right)

    def subtract(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the difference."""
        return self._broadcast("Sub", left, right)

    def multiply(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the product, entry by entry."""
        return self._broadcast("Mul", left, right)

    def divide(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the quotient."""
        return self._broadcast("Div", left, right)

    def less(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return where the left side is smaller, as truth values."""
        return self._broadcast("Less", left, right, ir.DataType.BOOL)

    def both(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return where both sides are true."""
        return self._broadcast("And", left, right)

    def opposite(self, value: ir.Value) -> ir.Value:
        """Return where a value is false."""
        return self._add("Not", [value], sizes_of(value, "operand"))

    def where(self, condition: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
        """Return the left side where a condition holds, else the right one."""
        shapes = [sizes_of(value, "operand") for value in (condition, left, right)]
        inputs = [condition, left, right]
        return self._add("Where", inputs, _common_shape(*shapes), left.dtype)

    def tanh(self, value: ir.Value) -> ir.Value:
        """Return the hyperbolic tangent."""
        return self._add("Tanh", [value], sizes_of(value, "operand"))

    def is_nan(self, value: ir.Value) -> ir.Value:
        """Return where a value is no number, as truth values."""
        return self._add("IsNaN", [value], sizes_of(value, "operand"), ir.DataType.BOOL)

    def softmax(self, value: ir.Value) -> ir.Value:
        """Return the softmax along the last of at least two axes."""
        shape = sizes_of(value, "scores")
        # Before op set 13 all axes from this one on count as one, which here is the same.
        return self._add("Softmax", [value], shape, None, {"axis": len(shape) - 1})

    def cast(self, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        """Return a value in another element type."""
        if dtype is None or value.dtype == dtype:
            return value
        return self._add("Cast", [value], sizes_of(value, "operand"), dtype, {"to": int(dtype)})

    def expand(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """Return a value broadcast to a shape."""
        if sizes_of(value, "operand") == shape:
            return value
        return self._add("Expand", [value, self.sizes(shape)], shape)

    def identity(self, value: ir.Value) -> ir.Value:
        """Return a value under another name."""
        return self._add("Identity", [value], sizes_of(value, "operand"))

    def concat(self, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        """Return values one behind the other along an axis."""
        if len(parts) == 1:
            return parts[0]
        shapes = [sizes_of(part, "operand") for part in parts]
        axis = axis % len(shapes[0])
        shape = list(shapes[0])
        shape[axis] = sum(each[axis] for each in shapes)
        return self._add("Concat", parts, tuple(shape), None, {"axis": axis})

    def gather(self, value: ir.Value, indices: ir.Value, axis: int) -> ir.Value:
        """Return the entries of an axis at some indices, of any rank."""
        sizes = sizes_of(value, "operand")
        found = () if indices.shape is None else tuple(indices.shape.numpy())
        shape = (*sizes[:axis], *found, *sizes[axis + 1 :])
        return self._add("Gather", [value, indices], shape, None, {"axis": axis})

    def slice(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        """Return the entries of an axis from one up to another."""
        shape = list(sizes_of(value, "operand"))
        axis = axis % len(shape)
        if (start, stop) == (0, shape[axis]):
            return value
        shape[axis] = stop - start
        bounds = [self.sizes([number]) for number in (start, stop, axis)]
        return self._add("Slice", [value, *bounds], tuple(shape))

    def split(self, value: ir.Value, axis: int, sizes: Sequence[int]) -> tuple[ir.Value, ...]:
        """Return the parts of a value along an axis."""
        whole = list(sizes_of(value, "operand"))
        axis = axis % len(whole)
        inputs = [value]
        attributes: dict[str, Any] = {"axis": axis}
        if self._opset >= _SPLIT_TAKES_SIZES_AS_INPUT:
            inputs.append(self.sizes(list(sizes)))
        else:
            attributes["split"] = list(sizes)
        outputs = []
        for size in sizes:
            shape = (*whole[:axis], size, *whole[axis + 1 :])
            outputs.append(self._output("Split", shape, value.dtype))
        self._append("Split", inputs, attributes, outputs)
        return tuple(outputs)

    def _broadcast(
        self, op_type: str, left: ir.Value, right: ir.Value, dtype: ir.DataType | None = None
    ) -> ir.Value:
        shapes = [sizes_of(value, "operand") for value in (left, right)]
        return self._add(op_type, [left, right], _common_shape(*shapes), dtype)

    def _add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: tuple[int, ...],
        dtype: ir.DataType | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Add a node whose output is of the element type of its first input, if none is given."""
        if dtype is None and inputs and inputs[0] is not None:
            dtype = inputs[0].dtype
        output = self._output(op_type, shape, dtype)
        self._append(op_type, inputs, attributes or {}, [output])
        return output

    def _output(self, op_type: str, shape: tuple[int, ...], dtype: ir.DataType | None) -> ir.Value:
        kind = None if dtype is None else ir.TensorType(dtype)
        return ir.Value(name=f"{self._name}/{op_type}", shape=ir.Shape(shape), type=kind)

    def _append(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
        outputs: list[ir.Value],
    ) -> None:
        name = f"{self._name}/{op_type}"
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=outputs, name=name))


def _product_shape(left: ir.Value, right: ir.Value) -> tuple[int, ...]:
    one, other = sizes_of(left, "operand"), sizes_of(right, "operand")
    return (*_common_shape(one[:-2], other[:-2]), one[-2], other[-1])


def _common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        listed = " and ".join(str(list(shape)) for shape in shapes)
        raise Refusal(f"its sizes {listed} do not fit together") from error
