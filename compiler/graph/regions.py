"""The cut of a model into attention regions and host regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.problem import AttentionProblem

Layout = Literal["bhnd", "bnhd"]
"""Order of a tensor's axes in memory: batch (b), head (h), row (n), column (d).

``bnhd`` also names the rank-3 form ``[batch, rows, heads * columns]``: the bytes are the same.
"""


@dataclass(frozen=True)
class AttentionRegion:
    """One attention that kernels compute.

    Attributes:
        name: Name of the node it was found at; unique in the model.
        form: The written form it had, in words, for reports ("decomposed: Div, Add mask").
        problem: Its sizes.
        query, key, value: Names of the input values.
        mask: Name of the mask value, None without one. It may have fewer axes than
            ``problem.mask_shape``, and the same bytes. An additive one has the element type of the
            scores where it was added: ``problem.dtype``, or float32 behind a cast to that.
        kv_lengths: Name of the value that says how many keys of each batch are seen, int64
            ``[batch]``; None if all are.
        output: Name of the output value.
        query_layout, key_layout, value_layout, output_layout: Order of their axes in memory.
    """

    name: str
    form: str
    problem: AttentionProblem
    query: str
    key: str
    value: str
    mask: str | None
    kv_lengths: str | None
    output: str
    query_layout: Layout
    key_layout: Layout
    value_layout: Layout
    output_layout: Layout

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        optional = (self.mask, self.kv_lengths)
        return (self.query, self.key, self.value, *(name for name in optional if name))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values it makes."""
        return (self.output,)


@dataclass(frozen=True)
class HostRegion:
    """A part of the model that stays ONNX and is run by onnxruntime.

    Attributes:
        name: Unique in the model, for example ``host.0``.
        model: The part as a model of its own, weights included. Its initializers are those of the
            file under their names there; what folding made is Constant nodes.
        inputs, outputs: Names of the values it reads and makes, in the order of ``model``.
        num_nodes: Nodes in it.
    """

    name: str
    model: ir.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    num_nodes: int


Region = AttentionRegion | HostRegion


@dataclass(frozen=True)
class NotTaken:
    """A Softmax or attention op that stays in a host region.

    Attributes:
        node: Its name.
        op: Its operator, with domain if not the standard one.
        reason: Why, in a sentence.
    """

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class ValueInfo:
    """A value at the border of the model or of a region.

    Attributes:
        name: Its name in the model.
        dtype: numpy name of its element type, or ``bfloat16``.
        shape: Its sizes, all bound.
        value_range: For an integer input, the half-open range of useful values, found from what the
            input indexes or compares with; None where nothing is known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    value_range: tuple[int, int] | None = None


@dataclass(frozen=True)
class PartitionedModel:
    """A model cut into regions.

    Attributes:
        regions: In an order in which they can run.
        inputs, outputs: Of the whole model, in its own order.
        values: Every value that crosses the border of a region, keyed by name.
        not_taken: What looked like attention and was left to the host, with the reason.
        dims: The symbolic dimensions that were bound, with their sizes.
    """

    regions: tuple[Region, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    values: dict[str, ValueInfo]
    not_taken: tuple[NotTaken, ...]
    dims: dict[str, int]
