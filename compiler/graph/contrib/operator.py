"""Reading an operator: its inputs, its attributes, what of its outputs somebody wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.graph.recognize.match import Refusal, sizes_of
from hocket.compiler.graph.values import element_type, static_shape
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir


@dataclass(frozen=True)
class Operator:
    """A node with names for what it reads and gives.

    Attributes:
        node: The node.
        input_names: Of its inputs, in their order.
        output_names: Of its outputs, in their order.
    """

    node: ir.Node
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def get(self, name: str) -> ir.Value | None:
        """Return an input, None if it is not given."""
        index = self.input_names.index(name)
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def require(self, name: str) -> ir.Value:
        """Return an input that must be given."""
        value = self.get(name)
        if value is None:
            raise Refusal(f"it lacks its input {name}")
        return value

    def get_past(self, name: str, like: ir.Value) -> ir.Value | None:
        """Return a past, None if there is none or it is empty."""
        value = self.get(name)
        if value is None or 0 in (static_shape(value) or ()):
            return None
        sizes_of(value, name)
        if value.dtype != like.dtype:
            raise Refusal(f"its {name} is of another element type than its query")
        return value

    def integer(self, name: str, default: int = 0) -> int:
        """Return an attribute that is an integer."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def number(self, name: str, default: float = 0.0) -> float:
        """Return an attribute that is a number."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

    def wants(self, name: str) -> bool:
        """Whether somebody reads an output."""
        output = self.output(name)
        return output is not None and bool(output.uses() or output.is_graph_output())

    def output(self, name: str) -> ir.Value | None:
        """Return an output, None if the node does not name it."""
        index = self.output_names.index(name)
        output = self.node.outputs[index] if index < len(self.node.outputs) else None
        return output if output is not None and output.name else None

    def refuse_inputs(self, names: Iterable[str], why: str) -> None:
        """Refuse an operator that has one of these inputs."""
        for name in names:
            if self.get(name) is not None:
                raise Refusal(f"it has the input {name}: {why}")

    def refuse_outputs(self, names: Iterable[str], why: str) -> None:
        """Refuse an operator of which somebody reads one of these outputs."""
        for name in names:
            if self.wants(name):
                raise Refusal(f"its output {name} is read: {why}")

    def refuse_attributes(self, names: Iterable[str], why: str) -> None:
        """Refuse an operator that sets one of these attributes to something else than 0."""
        for name in names:
            if self.integer(name) != 0:
                raise Refusal(f"its attribute {name} is {self.integer(name)}: {why}")

    @property
    def num_heads(self) -> int:
        """How many heads the query has."""
        heads = self.integer("num_heads")
        if heads < 1:
            raise Refusal(f"its attribute num_heads is {heads}")
        return heads


def require_float(value: ir.Value) -> ir.DataType:
    """Return the element type of a query, which must be one that kernels and masks are made for."""
    if element_type(value) not in (DType.FLOAT32, DType.FLOAT16) or value.dtype is None:
        raise Refusal(f"its {value.name!r} is neither of float32 nor of float16")
    return value.dtype


def require_shape(value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """Return a value of a shape.

    Raises:
        Refusal: It has another one.
    """
    found = sizes_of(value, name)
    if found != shape:
        raise Refusal(f"its {name} has the shape {list(found)}, not {list(shape)}")
    return value


def divide(columns: int, heads: int, name: str) -> int:
    """Return the columns of each head."""
    if columns % heads:
        raise Refusal(f"{heads} heads do not divide the {columns} columns of its {name}")
    return columns // heads
