"""What an operator was written out as, so that the same can be written where no size is bound.

An operator is written out with sizes bound, several times with different ones. Where that comes to
the same nodes but for constants that are sizes, how these follow from the open dimensions is
fitted, and the nodes compute them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.contrib.node_writer import ConstantKind
from hocket.compiler.graph.recognize.match import Refusal
from hocket.compiler.graph.samples import fit_size
from hocket.compiler.graph.values import constant_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.compiler.graph.contrib.node_writer import NodeWriter
    from hocket.compiler.graph.size_nodes import SizeEmitter
    from hocket.hwmodels.sizes import Size

_OTHERWISE = "with open dimensions: what it is written out as depends on their sizes"


@dataclass(frozen=True)
class Given:
    """An input of the operator, by its index."""

    index: int


@dataclass(frozen=True)
class Made:
    """An output of a node that was written, by the indices of both."""

    node: int
    output: int


@dataclass(frozen=True)
class _Step:
    """A node that was written.

    Attributes:
        op_type: Its operator.
        inputs: What it reads; None for what is not given.
        attributes: Of the operator, those of a Constant left out.
        dtypes: Element types of its outputs.
        constant: The content of a Constant; None for other nodes.
        kind: How the content follows from sizes; None where it does not.
    """

    op_type: str
    inputs: tuple[Given | Made | None, ...]
    attributes: tuple[ir.Attr, ...]
    dtypes: tuple[ir.DataType | None, ...]
    constant: NDArray[np.generic] | None = None
    kind: ConstantKind | None = None

    def is_like(self, other: _Step) -> bool:
        """Whether another step is the same, but for sizes in constants."""
        mine, theirs = self.constant, other.constant
        same = (
            (self.op_type, self.inputs, self.dtypes, self.kind)
            == (other.op_type, other.inputs, other.dtypes, other.kind)
            and _plain(self.attributes) == _plain(other.attributes)
            and (mine is None) == (theirs is None)
        )
        if not same or mine is None or theirs is None:
            return same
        if self.kind is None:
            return mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=False)
        return self.kind is ConstantKind.POSITIONS or mine.shape == theirs.shape


@dataclass(frozen=True)
class Recipe:
    """All nodes that an operator was written out as, with some sizes bound.

    Attributes:
        steps: The nodes, in order.
        outputs: Of those outputs of the operator that somebody reads: index, and what takes its
            place.
    """

    steps: tuple[_Step, ...]
    outputs: tuple[tuple[int, Given | Made], ...]


def record(
    node: ir.Node, write: NodeWriter, outputs: Sequence[tuple[ir.Value, ir.Value]]
) -> Recipe:
    """Return what an operator was written out as.

    Args:
        node: The operator.
        write: Made the nodes.
        outputs: Pairs of its outputs and what takes their places.
    """
    places: dict[ir.Value, Given | Made] = {
        value: Given(index) for index, value in enumerate(node.inputs) if value is not None
    }
    for number, made in enumerate(write.nodes):
        places |= {value: Made(number, index) for index, value in enumerate(made.outputs)}
    steps = tuple(
        _Step(
            op_type=each.op_type,
            inputs=tuple(None if value is None else places[value] for value in each.inputs),
            attributes=() if each.op_type == "Constant" else tuple(each.attributes.values()),
            dtypes=tuple(value.dtype for value in each.outputs),
            constant=constant_array(each.outputs[0]) if each.op_type == "Constant" else None,
            kind=write.kinds.get(each),
        )
        for each in write.nodes
    )
    pairs = ((node.outputs.index(old), places[new]) for old, new in outputs)
    return Recipe(steps, tuple(pairs))


def follow(
    recipes: Sequence[Recipe],
    dims: Sequence[Mapping[str, int]],
    inputs: Sequence[ir.Value | None],
    sizes: SizeEmitter,
) -> tuple[list[ir.Node], dict[int, ir.Value]]:
    """Make the nodes that an operator is written out as at any size.

    Before and after, of a Reshape to ``[batch, length, 12, 32]``::

        y = Reshape(x, Constant [1, 128, 12, 32]); y = Reshape(x, Constant [7, 11, 12, 32]); ...
        s = Concat(Gather(Shape(ids), 0), Gather(Shape(ids), 1), 12, 32); y = Reshape(x, s)

    Args:
        recipes: As it was written out with different sizes.
        dims: Those sizes.
        inputs: Of the operator, in the graph to write into.
        sizes: Makes nodes for sizes, in that graph.

    Returns:
        The nodes, which are part of no graph yet, and the outputs by their index.

    Raises:
        Refusal: It was written out as different things, or sizes follow no formula that is known.
    """
    formulas = _fit(recipes, dims)
    first = recipes[0]
    made: list[tuple[ir.Value, ...]] = []
    nodes = []

    def find(place: Given | Made | None) -> ir.Value | None:
        if isinstance(place, Made):
            return made[place.node][place.output]
        return None if place is None else inputs[place.index]

    for step, formula in zip(first.steps, formulas, strict=True):
        if formula is not None:
            made.append((_emit(step, formula, sizes),))
            continue
        outputs = [
            ir.Value(type=None if dtype is None else ir.TensorType(dtype)) for dtype in step.dtypes
        ]
        attributes = {each.name: each for each in step.attributes}
        if step.constant is not None:
            attributes["value"] = ir.AttrTensor("value", ir.tensor(step.constant))
        read = [find(place) for place in step.inputs]
        nodes.append(ir.node(step.op_type, read, attributes, outputs=outputs))
        made.append(tuple(outputs))
    found = {index: find(place) for index, place in first.outputs}
    return nodes, {index: value for index, value in found.items() if value is not None}


def _fit(
    recipes: Sequence[Recipe], dims: Sequence[Mapping[str, int]]
) -> list[tuple[Size, ...] | None]:
    """Return of each step the formulas of its sizes; None where it has none."""
    first = recipes[0]
    for other in recipes[1:]:
        alike = len(other.steps) == len(first.steps) and other.outputs == first.outputs
        if not alike or not all(
            one.is_like(same) for one, same in zip(first.steps, other.steps, strict=True)
        ):
            raise Refusal(_OTHERWISE)
    return [
        None if steps[0].kind is None else _fit_constant([_numbers(step) for step in steps], dims)
        for steps in zip(*(recipe.steps for recipe in recipes), strict=True)
    ]


def _numbers(step: _Step) -> tuple[int, ...]:
    """Return the sizes in a constant: those that it is, or first position and count."""
    content = np.asarray(step.constant)
    if step.kind is ConstantKind.SIZES:
        return tuple(int(number) for number in content.reshape(-1))
    if content.size == 0:
        raise Refusal(_OTHERWISE)
    return int(content[0]), content.size


def _fit_constant(
    seen: Sequence[tuple[int, ...]], dims: Sequence[Mapping[str, int]]
) -> tuple[Size, ...]:
    fitted = [fit_size(numbers, dims) for numbers in zip(*seen, strict=True)]
    known = tuple(size for size in fitted if size is not None)
    if len(known) != len(fitted):
        raise Refusal(f"{_OTHERWISE}, by no formula that is looked for")
    return known


def _emit(step: _Step, formula: tuple[Size, ...], sizes: SizeEmitter) -> ir.Value:
    dtype = step.dtypes[0] or ir.DataType.INT64
    if step.kind is ConstantKind.POSITIONS:
        start, count = formula
        return sizes.positions(start, count, dtype)
    return sizes.shaped(formula, np.asarray(step.constant).shape, dtype)


def _plain(attributes: Sequence[ir.Attr]) -> list[tuple[str, object]]:
    """Return attributes so that they can be compared."""
    return sorted((each.name, each.value) for each in attributes)
