"""What several masks of one attention come to, and the host nodes that make one mask of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.recognize.key_value_cache import CacheBuilder
from hocket.compiler.graph.recognize.match import (
    MaskRole,
    MaskTerm,
    NeitherAxisRefusal,
    Refusal,
    mask_shape_for,
    parts_read,
    sizes_of,
)
from hocket.compiler.graph.values import IR_DTYPES, element_type
from hocket.compiler.problem import MaskKind
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable

# Below this, score + masked_value rounds to masked_value for every score a model can have, so a
# Where may be written as an Add. In float16 no finite value is that far from the scores.
_SWALLOWING_VALUE = -1e30
_WIDE_DTYPES = (DType.FLOAT64, DType.FLOAT32, DType.BFLOAT16)


@dataclass(frozen=True)
class MaskSummary:
    """The mask fields of an ``AttentionProblem``."""

    kind: MaskKind
    shape: tuple[int, int, int, int] | None
    masked_value: float


def summarize_masks(
    terms: tuple[MaskTerm, ...], scores: tuple[int, int, int, int], dtype: DType
) -> MaskSummary:
    """Return what the kernels will see of the masks: none, one as it is, or one additive mask.

    Args:
        terms: In the order in which they act.
        scores: Sizes of the scores.
        dtype: Element type of the scores where they are masked.

    Raises:
        Refusal: A mask does not broadcast, or they cannot be made one.
    """
    shapes = [mask_shape_for(term, scores) for term in terms]
    if not terms:
        return MaskSummary(MaskKind.NONE, None, -math.inf)
    if len(terms) == 1:
        (term,) = terms
        if term.role is MaskRole.ADD:
            return MaskSummary(MaskKind.ADDITIVE, shapes[0], -math.inf)
        return MaskSummary(MaskKind.BOOLEAN, shapes[0], term.masked_value)
    for term in terms:
        if term.role is MaskRole.ADD:
            if element_type(term.value) is not dtype:
                raise Refusal(
                    f"its masks have different element types, {term.value.name!r} not {dtype}"
                )
        elif not is_swallowing(term.masked_value, dtype):
            raise Refusal(
                f"it has several masks, one of which puts {term.masked_value:g} for masked scores, "
                "so that they do not make one additive mask"
            )
    merged = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    return MaskSummary(MaskKind.ADDITIVE, (merged[0], merged[1], merged[2], merged[3]), -math.inf)


def spread_masks(
    terms: tuple[MaskTerm, ...], scores: tuple[int, int, int, int]
) -> tuple[tuple[MaskTerm, ...], list[ir.Node]]:
    """Repeat masks that follow a part of the batch, such as the windows of each of several images.

    Args:
        terms: Masks of an attention.
        scores: Batch, heads, rows and columns of its scores.

    Returns:
        The masks, and the nodes that make those that are new.

    Raises:
        Refusal: One of them does not broadcast to the scores.
    """
    builder = CacheBuilder()
    result = []
    for term in terms:
        try:
            mask_shape_for(term, scores)
        except NeitherAxisRefusal:
            _, read = parts_read(term, scores)
            spread = builder.spread(term.value, read)
            result.append(replace(term, value=spread, scores_shape=scores))
        else:
            result.append(term)
    return tuple(result), builder.nodes


def is_swallowing(masked_value: float, dtype: DType) -> bool:
    """Whether a score plus this number is this number, for every score that a model can have."""
    if masked_value == -math.inf:
        return True
    return dtype in _WIDE_DTYPES and masked_value <= _SWALLOWING_VALUE


def build_mask(
    terms: tuple[MaskTerm, ...],
    scores: tuple[int, int, int, int],
    dtype: DType,
    fresh_name: Callable[[str], str],
) -> tuple[ir.Value | None, list[ir.Node]]:
    """Make the host nodes that turn the masks into the one that kernels read.

    Before and after, for a causal and a padding mask::

        s = Where(causal, scores, -inf); p = Softmax(Add(s, padding))
        c = Where(causal, 0, -inf); m = Add(c, padding)
        p = Softmax(Add(scores, m))

    Args:
        terms: Accepted by ``summarize_masks``.
        scores: Sizes of the scores.
        dtype: Element type of the scores where they are masked.
        fresh_name: Makes a name that is not taken yet.

    Returns:
        The mask, None without one, and the nodes to insert, in order.
    """
    if not terms:
        return None, []
    nodes: list[ir.Node] = []

    def emit(op_type: str, *inputs: ir.Value) -> ir.Value:
        shape = np.broadcast_shapes(*(sizes_of(value, "mask") for value in inputs))
        output = ir.Value(
            name=fresh_name(f"{terms[0].value.name}/{op_type}"),
            shape=ir.Shape(shape),
            type=ir.TensorType(inputs[-1].dtype or IR_DTYPES[dtype]),
        )
        node = ir.node(op_type, inputs, outputs=[output], name=fresh_name(f"hocket/{op_type}"))
        nodes.append(node)
        return output

    def constant(content: object, kind: ir.DataType) -> ir.Value:
        tensor = ir.tensor(np.array(content, dtype=kind.numpy()))
        output = ir.Value(
            name=fresh_name("hocket/constant"),
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
        )
        attribute = ir.AttrTensor("value", tensor)
        nodes.append(
            ir.Node(
                "",
                "Constant",
                [],
                [attribute],
                outputs=[output],
                name=fresh_name("hocket/Constant"),
            )
        )
        return output

    def number(content: float) -> ir.Value:
        return constant(content, IR_DTYPES[dtype])

    def with_four_axes(term: MaskTerm) -> ir.Value:
        """Return a mask so that it broadcasts with others, on scores cut otherwise."""
        if len(terms) == 1 or all(len(other.scores_shape) == 4 for other in terms):
            return term.value
        shape = mask_shape_for(term, scores)
        output = ir.Value(
            name=fresh_name(f"{term.value.name}/Reshape"),
            shape=ir.Shape(shape),
            type=term.value.type,
        )
        inputs = [term.value, constant(shape, ir.DataType.INT64)]
        nodes.append(
            ir.node("Reshape", inputs, outputs=[output], name=fresh_name("hocket/Reshape"))
        )
        return output

    mask: ir.Value | None = None
    for term in terms:
        value = with_four_axes(term)
        value = emit("Not", value) if term.role is MaskRole.DROP else value
        if term.factor != 1.0:
            value = emit("Mul", value, constant(term.factor, value.dtype or IR_DTYPES[dtype]))
        if len(terms) == 1:
            return value, nodes
        if term.role is MaskRole.ADD:
            mask = value if mask is None else emit("Add", mask, value)
        else:
            # The numbers come last: they have the element type that the result has.
            mask = _where(value, mask, term.masked_value, emit, number)
    return mask, nodes


def _where(
    keep: ir.Value,
    mask: ir.Value | None,
    masked_value: float,
    emit: Callable[..., ir.Value],
    number: Callable[[float], ir.Value],
) -> ir.Value:
    kept = number(0.0) if mask is None else mask
    return emit("Where", keep, kept, number(masked_value))
