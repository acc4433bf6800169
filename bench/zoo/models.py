"""What the zoo knows of a model before anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.verification import DEFAULT_ATOL

if TYPE_CHECKING:
    from collections.abc import Mapping

Size = dict[str, int]
"""Sizes by the names that the shapes of inputs use, ``{"batch": 1, "length": 32}``."""

EXPORTERS = ("legacy", "dynamo")


class ZooError(RuntimeError):
    """A model of the zoo that cannot be had, with what to do about it."""


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        name: Its name in the ONNX file.
        shape: Sizes; a name stands for one that is open.
        high: Integers below this are drawn for a sample; 0 for floats.
    """

    name: str
    shape: tuple[int | str, ...]
    high: int = 0


@dataclass(frozen=True)
class Expected:
    """What a model is known to hold.

    Attributes:
        attentions: Layers times attentions a layer.
        heads: Query heads, key-value heads and head size that these have.
        decoys: Softmaxes that are no attention, or whose attention cannot be taken by itself.
        atol: Largest absolute error of an output. More than ``hocket verify`` takes only where a
            model rounds to few bits and kernels do not.
    """

    attentions: int
    heads: frozenset[tuple[int, int, int]]
    decoys: int = 0
    atol: float = DEFAULT_ATOL


@dataclass(frozen=True)
class Variant:
    """How a file came to be.

    Attributes:
        exporter: One of ``EXPORTERS``; empty for a file that came as it is.
        opset: Op set that the exporter was asked for; 0 for a file that came as it is.
        implementation: ``attn_implementation`` of transformers; empty where there is no choice.
    """

    exporter: str = ""
    opset: int = 0
    implementation: str = ""

    def __str__(self) -> str:
        words = [self.exporter, str(self.opset or ""), self.implementation]
        return " ".join(word for word in words if word) or "as shipped"


@dataclass(frozen=True)
class Packaged:
    """A trained model that is a file of a Python package.

    Attributes:
        name: What the zoo calls it.
        package: Its distribution, as pip knows it.
        version: The one that was looked at.
        file: How the path of the file ends.
        inputs: Those with open sizes.
        expected: What it holds.
        sizes: What it is compiled for.
    """

    name: str
    package: str
    version: str
    file: str
    inputs: tuple[Input, ...]
    expected: Expected
    sizes: tuple[Size, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The one way in which it exists."""
        return (Variant(),)


@dataclass(frozen=True)
class Definition:
    """A model that is exported here.

    Attributes:
        name: What the zoo calls it.
        build: Function that returns the torch module for an implementation: its name, with the
            module of the zoo in front, for torch need not be there to read this table.
        inputs: Its inputs, named and ordered as ``forward`` of the module has them.
        expected: What it holds.
        sample: Sizes of the tensors that it is exported with; all above 1, for a size of 1 would
            be taken for a constant.
        sizes: What it is compiled for.
        implementations: Those that make a difference.
        weights, weights_version: Distribution that its weights are from; empty for random ones.
    """

    name: str
    build: str
    inputs: tuple[Input, ...]
    expected: Expected
    sample: Size
    sizes: tuple[Size, ...]
    implementations: tuple[str, ...] = ("eager", "sdpa")
    weights: str = ""
    weights_version: str = ""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Each exporter and op set with each implementation."""
        return tuple(
            Variant(exporter, opset, implementation)
            for exporter, opset in (("legacy", 17), ("dynamo", 18), ("dynamo", 23))
            for implementation in self.implementations
        )


Model = Packaged | Definition


def dims_of(model: Model, size: Mapping[str, int]) -> dict[str, int]:
    """Return what ``hocket.compile`` takes as ``dims``: by input and axis, whatever their names.

    Exporters name one and the same size differently in each input.

    Example:
        >>> dims_of(bert, {"batch": 1, "length": 32})  # doctest: +SKIP
        {'input_ids:0': 1, 'input_ids:1': 32, 'attention_mask:0': 1, 'attention_mask:1': 32}
    """
    return {
        f"{each.name}:{axis}": size[name]
        for each in model.inputs
        for axis, name in enumerate(each.shape)
        if isinstance(name, str)
    }


def shape_at(each: Input, size: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of an input with its open sizes given."""
    return tuple(size[part] if isinstance(part, str) else part for part in each.shape)
