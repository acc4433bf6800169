"""From a Softmax up to the product of query and key: what acts on the scores between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.recognize.axes import is_identity, scale_factor
from hocket.compiler.graph.recognize.match import MaskRole, MaskTerm, Refusal
from hocket.compiler.graph.recognize.quantization import rounded_value
from hocket.compiler.graph.values import (
    constant_array,
    describe_node,
    element_type,
    is_op,
    only_reader,
    static_shape,
    uniform_constant,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from hocket.hwmodels.dtypes import DType

_MAX_STEPS = 24
"""Nodes between a product and its Softmax; a bound on the look ahead behind an Add."""


@dataclass(frozen=True)
class RowFactor:
    """What a product is multiplied by or divided by, row by row.

    Attributes:
        op_type: Mul or Div.
        value: The factor; its last axis has size 1.
        scores_shape: Sizes of the scores where it acts.
    """

    op_type: str
    value: ir.Value
    scores_shape: tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """What lies between the product of query and key and the Softmax, seen from the Softmax up.

    Attributes:
        value: Where the walk stands.
        dtypes: Element types the scores had on the way.
        scale: Product of the factors met.
        factors: Factors of whole rows met, the last to act first.
        softcap: What scores were limited to on the way; 0 for no limit.
        masks: Masks met, the last to act first.
        masked_dtype: Element type of the scores where the masks act.
        is_rounded: Whether they were quantised and dequantised on the way.
        heads: Batch and heads, where scores had a dimension for each; None where they never had.
        steps: What was met, in words, the last to act first.
    """

    value: ir.Value
    dtypes: frozenset[DType]
    scale: float = 1.0
    factors: tuple[RowFactor, ...] = ()
    softcap: float = 0.0
    masks: tuple[MaskTerm, ...] = ()
    masked_dtype: DType | None = None
    is_rounded: bool = False
    heads: tuple[int, int] | None = None
    steps: tuple[str, ...] = ()


def trace_scores(softmax: ir.Node) -> tuple[ir.Node, Scores]:
    """Walk from a Softmax up to the product of query and key.

    Raises:
        Refusal: There is none, or something on the way is not understood.
    """
    start = softmax.inputs[0]
    if start is None:
        raise Refusal("it has no input")
    scores = Scores(start, _dtypes_of(start))
    for _ in range(_MAX_STEPS):
        shape = static_shape(scores.value)
        if scores.heads is None and shape is not None and len(shape) == 4:
            scores = replace(scores, heads=(shape[0], shape[1]))
        node = scores.value.producer()
        if node is None:
            raise Refusal(f"its scores {scores.value.name!r} are an input, not a product")
        if only_reader(scores.value) is None:
            raise Refusal(f"its scores {scores.value.name!r} are read by others, too")
        if is_op(node, "MatMul"):
            return node, scores
        step = _STEPS.get(node.op_type) if node.domain == "" else None
        if step is None:
            raise Refusal(
                f"its scores come from {describe_node(node)}, which is no scale, mask or product"
            )
        scores = step(node, scores)
    raise Refusal(f"more than {_MAX_STEPS} nodes lie between it and a product")


def keeps_rows_and_columns(node: ir.Node) -> bool:
    """Whether a Reshape and the like cuts batch and heads anew, and leaves the last two axes."""
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    return (
        before is not None
        and after is not None
        and min(len(before), len(after)) > 2
        and before[-2:] == after[-2:]
    )


def _dtypes_of(value: ir.Value) -> frozenset[DType]:
    dtype = element_type(value)
    return frozenset() if dtype is None else frozenset({dtype})


def _moved_to(scores: Scores, node: ir.Node, index: int) -> Scores:
    value = node.inputs[index]
    if value is None:
        raise Refusal(f"{describe_node(node)} lacks an input")
    return replace(scores, value=value, dtypes=scores.dtypes | _dtypes_of(value))


def _through_identity(node: ir.Node, scores: Scores) -> Scores:
    if node.op_type == "Dropout" and not is_identity(node):
        raise Refusal(f"its scores pass {describe_node(node)}, which is set to train")
    return _moved_to(scores, node, 0)


def _through_cast(node: ir.Node, scores: Scores) -> Scores:
    return replace(_moved_to(scores, node, 0), steps=(*scores.steps, "Cast"))


def _through_reshape(node: ir.Node, scores: Scores) -> Scores:
    if not keeps_rows_and_columns(node):
        raise Refusal(f"its scores pass {describe_node(node)}, which mixes rows and columns")
    return replace(_moved_to(scores, node, 0), steps=(*scores.steps, node.op_type))


def _through_rounding(node: ir.Node, scores: Scores) -> Scores:
    value = rounded_value(node)
    if value is None:
        raise Refusal(
            f"its scores come from {describe_node(node)}, before which nothing quantises them alike"
        )
    return replace(
        scores,
        value=value,
        dtypes=scores.dtypes | _dtypes_of(value),
        is_rounded=True,
        steps=(*scores.steps, "Q/DQ"),
    )


def _through_scale(node: ir.Node, scores: Scores) -> Scores:
    found = scale_factor(node)
    if found is None:
        return _through_row_factor(node, scores)
    index, factor = found
    return replace(
        _moved_to(scores, node, index),
        scale=scores.scale * factor,
        steps=(*scores.steps, node.op_type),
    )


def _through_row_factor(node: ir.Node, scores: Scores) -> Scores:
    """Take a factor that is alike along each row, which as well may act on the query.

    As of each head in Swin v2: ``(q k) * f`` is ``(q * f) k``.
    """
    full = static_shape(node.outputs[0])
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        value, scored = node.inputs[1 - index], node.inputs[index]
        shape = static_shape(value)
        if value is None or not shape or full is None or static_shape(scored) != full:
            continue
        if shape[-1] != 1 or element_type(value) is not element_type(scored):
            continue
        if _leads_to_product(scored, alone=True):
            factor = RowFactor(node.op_type, value, full)
            return replace(
                _moved_to(scores, node, index),
                factors=(*scores.factors, factor),
                steps=(*scores.steps, f"{node.op_type} of rows"),
            )
    raise Refusal(
        f"its scores pass {describe_node(node)}, whose factor is no constant number and differs "
        "along a row"
    )


def _through_tanh(node: ir.Node, scores: Scores) -> Scores:
    """Take the factor behind a Tanh for the limit that it sets: ``c * tanh(s / c)``."""
    if scores.softcap:
        raise Refusal(f"its scores pass {describe_node(node)}, a second Tanh")
    if scores.factors:
        raise Refusal(f"a factor of rows acts behind {describe_node(node)}")
    if not scores.scale > 0.0:
        raise Refusal(f"its scores pass {describe_node(node)}, behind which they change their sign")
    # What follows is divided by the limit, and the scale is what is left beside that.
    return replace(
        _moved_to(scores, node, 0),
        softcap=scores.scale,
        steps=(*scores.steps, "Tanh"),
    )


def _through_add(node: ir.Node, scores: Scores) -> Scores:
    index = _score_side(node, (0, 1))
    mask = node.inputs[1 - index]
    if mask is None:
        raise Refusal(f"{describe_node(node)} lacks an input")
    if _is_zero(mask):
        return _moved_to(scores, node, index)
    return _with_mask(scores, node, index, MaskTerm(MaskRole.ADD, mask, _shape_of(node)))


def _through_sub(node: ir.Node, scores: Scores) -> Scores:
    """Take what is subtracted for an additive mask of the other sign."""
    mask = node.inputs[1]
    if mask is None or static_shape(node.inputs[0]) != static_shape(node.outputs[0]):
        raise Refusal(f"its scores are broadcast by {describe_node(node)}")
    _score_side(node, (0,))
    if _is_zero(mask):
        return _moved_to(scores, node, 0)
    term = MaskTerm(MaskRole.ADD, mask, _shape_of(node), factor=-1.0)
    return _with_mask(scores, node, 0, term)


def _through_where(node: ir.Node, scores: Scores) -> Scores:
    condition = node.inputs[0]
    numbers = {index: uniform_constant(node.inputs[index]) for index in (1, 2)}
    sides = tuple(index for index in (1, 2) if numbers[3 - index] is not None)
    if condition is None or not sides:
        raise Refusal(
            f"its scores pass {describe_node(node)}, which puts no constant for masked ones"
        )
    index = _score_side(node, sides)
    number = numbers[3 - index]
    if number is None or math.isnan(number):
        raise Refusal(f"{describe_node(node)} puts no number for masked scores")
    role = MaskRole.KEEP if index == 1 else MaskRole.DROP
    return _with_mask(scores, node, index, MaskTerm(role, condition, _shape_of(node), number))


def _shape_of(node: ir.Node) -> tuple[int, ...]:
    shape = static_shape(node.outputs[0])
    if shape is None:
        raise Refusal(f"the sizes of its scores behind {describe_node(node)} are not all known")
    return shape


def _with_mask(scores: Scores, node: ir.Node, index: int, term: MaskTerm) -> Scores:
    if scores.softcap:
        raise Refusal(f"its softcap acts after the mask of {describe_node(node)}")
    if scores.factors:
        raise Refusal(f"a factor of rows acts after the mask of {describe_node(node)}")
    dtype = element_type(node.outputs[0])
    if scores.masked_dtype not in (None, dtype):
        raise Refusal("its masks act on scores of different element types")
    if scores.scale != 1.0:
        term = _scaled_term(term, scores.scale, node, dtype)
    return replace(
        _moved_to(scores, node, index),
        masks=(*scores.masks, term),
        masked_dtype=dtype,
        steps=(*scores.steps, term.role.value),
    )


def _scaled_term(term: MaskTerm, factor: float, node: ir.Node, dtype: DType | None) -> MaskTerm:
    """Return a mask whose scores are scaled behind it, as if they were before.

    ``(scores + mask) * c`` is ``scores * c + mask * c``.
    """
    if not factor > 0.0 or dtype is None:
        raise Refusal(f"its scores change their sign behind the mask of {describe_node(node)}")
    if term.role is MaskRole.ADD:
        return replace(term, factor=term.factor * factor)
    with np.errstate(over="ignore"):
        # As the model rounds it; beyond the largest number that is infinity.
        value = float(np.asarray(term.masked_value * factor).astype(dtype.to_numpy()))
    return replace(term, masked_value=value)


_STEPS: dict[str, Callable[[ir.Node, Scores], Scores]] = {
    "Identity": _through_identity,
    "Dropout": _through_identity,
    "Cast": _through_cast,
    "DequantizeLinear": _through_rounding,
    "Reshape": _through_reshape,
    "Squeeze": _through_reshape,
    "Unsqueeze": _through_reshape,
    "Mul": _through_scale,
    "Div": _through_scale,
    "Tanh": _through_tanh,
    "Add": _through_add,
    "Sub": _through_sub,
    "Where": _through_where,
}


def _score_side(node: ir.Node, candidates: tuple[int, ...]) -> int:
    """Return which input of a node the scores come in by."""
    full = static_shape(node.outputs[0])
    fitting = [index for index in candidates if static_shape(node.inputs[index]) == full]
    # One that others read, too, is refused further up, with that reason.
    leading = [index for index in fitting if _leads_to_product(node.inputs[index], alone=True)]
    leading += [index for index in fitting if _leads_to_product(node.inputs[index], alone=False)]
    if not leading:
        sources = " and ".join(_describe_source(node.inputs[index]) for index in candidates)
        raise Refusal(
            f"behind {describe_node(node)} it finds no product of query and key, but {sources}"
        )
    return leading[0]


def _describe_source(value: ir.Value | None, steps: int = _MAX_STEPS) -> str:
    """Return what the numbers of a value come from, behind scales and masks."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return "a constant" if value is None or value.is_initializer() else f"input {value.name!r}"
    if is_op(node, *_STEPS) and steps > 0:
        return _describe_source(node.inputs[0], steps - 1)
    return describe_node(node)


def _leads_to_product(value: ir.Value | None, *, alone: bool, steps: int = _MAX_STEPS) -> bool:
    """Whether a product of two tensors is behind a value, with nothing but scores on the way.

    Args:
        value: Where to begin.
        alone: Whether nothing else may read any of these.
        steps: How far to look.
    """
    if value is None or steps == 0 or (alone and only_reader(value) is None):
        return False
    node = value.producer()
    if is_op(node, "MatMul"):
        return all(len(static_shape(item) or ()) > 2 for item in node.inputs)
    if is_op(node, "DequantizeLinear"):
        before = rounded_value(node)
        return _leads_to_product(before, alone=alone, steps=steps - 1)
    if not is_op(node, *_STEPS):
        return False
    sides = {"Add": (0, 1), "Mul": (0, 1), "Where": (1, 2)}.get(node.op_type, (0,))
    return any(
        _leads_to_product(node.inputs[index], alone=alone, steps=steps - 1) for index in sides
    )


def _is_zero(value: ir.Value) -> bool:
    array = constant_array(value)
    return array is not None and not np.any(array)
