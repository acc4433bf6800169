"""A node of an ONNX graph as operators see it, and what they are to make of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from hocket.fl.core.errors import CapabilityError

if TYPE_CHECKING:
    import torch

Compute = Callable[..., "torch.Tensor | Sequence[torch.Tensor]"]
"""Computes a node: takes its inputs in order, None for one that is left out."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node of a graph.

    Attributes:
        op_type, domain: What it computes.
        name: For messages.
        inputs: Names of values; empty for one that is left out.
        outputs: Names of values; empty for one that nobody wants.
        attributes: By name: numbers, text, lists of them, tensors of torch, graphs of ONNX.
        opset: The version of its domain.
    """

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.op_type} at node {self.name!r}"


@dataclass(frozen=True, eq=False)
class Site:
    """A node and what is known of it before anything runs.

    Attributes:
        node: The node.
        known: For each input its value, where that follows from sizes and constants alone; else
            None.
        is_training: Whether it is to behave as in training: drop out, and normalise by batches.
        generator: Draws what is random in it.
    """

    node: Node
    known: tuple[torch.Tensor | None, ...]
    is_training: bool
    generator: torch.Generator

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.node.attributes.get(name, default)

    def has_input(self, index: int) -> bool:
        """Whether an input is there."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def integers(self, index: int, attribute: str = "") -> list[int] | None:
        """Return the integers of an input, or of the attribute they were in older opsets.

        None if they are left out.

        Raises:
            CapabilityError: They are computed from what the model is given.
        """
        if not self.has_input(index):
            found = self.get(attribute) if attribute else None
            return None if found is None else [int(each) for each in found]
        return [int(each) for each in self.value(index).reshape(-1).tolist()]

    def value(self, index: int) -> torch.Tensor:
        """Return an input that must be known.

        Raises:
            CapabilityError: It is computed from what the model is given.
        """
        found = self.known[index]
        if found is None:
            self.refuse(
                f"its input {self.node.inputs[index]!r} must follow from sizes and constants"
            )
        return found

    def refuse(self, reason: str) -> NoReturn:
        """Say that the node cannot be computed.

        Raises:
            CapabilityError: Always.
        """
        raise CapabilityError(f"{self.node}: {reason}")


Operator = Callable[[Site], Compute]
"""Returns what computes a node."""


def plain(function: Compute) -> Operator:
    """Return the operator of a function that needs to know nothing but its inputs."""
    return lambda _site: function
