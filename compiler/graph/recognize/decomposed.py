"""Attention written out: MatMul, scale, mask, Softmax, MatMul.

The matcher begins at a Softmax and follows the numbers, down to the product with the values and up
to the product of query and key. What it meets on the way is folded into the problem or refused with
a reason; the names of nodes and the exporter that wrote them play no part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.recognize.axes import (
    Axes,
    Operand,
    find_source,
    find_target,
    is_identity,
    scale_factor,
)
from hocket.compiler.graph.recognize.masks import summarize_masks
from hocket.compiler.graph.recognize.match import (
    AttentionMatch,
    MaskRole,
    MaskTerm,
    Refusal,
    sizes_of,
)
from hocket.compiler.graph.recognize.probabilities import follow_probabilities
from hocket.compiler.graph.values import (
    constant_array,
    describe_node,
    element_type,
    is_op,
    only_reader,
    static_shape,
    uniform_constant,
)
from hocket.compiler.problem import AttentionProblem, MaskedRows
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from hocket.compiler.graph.recognize.probabilities import Probabilities

_MAX_STEPS = 16
"""Nodes between a product and its Softmax; a bound on the look ahead behind an Add."""


@dataclass(frozen=True)
class _Scores:
    """What lies between the product of query and key and the Softmax, seen from the Softmax up.

    Attributes:
        value: Where the walk stands.
        scale: Product of the factors met.
        scaled_after: Whether a factor was met, so that a mask further up would be scaled, too.
        masks: Masks met, the last to act first.
        dtypes: Element types the scores had on the way.
        masked_dtype: Element type of the scores where the masks act.
        steps: What was met, in words, the last to act first.
    """

    value: ir.Value
    dtypes: frozenset[DType]
    scale: float = 1.0
    scaled_after: bool = False
    masks: tuple[MaskTerm, ...] = ()
    masked_dtype: DType | None = None
    steps: tuple[str, ...] = ()


def match_decomposed(softmax: ir.Node) -> AttentionMatch:
    """Return the attention that a Softmax is part of.

    Raises:
        Refusal: It is part of none, or of one that is not understood.
    """
    _check_axis(softmax)
    tail = follow_probabilities(softmax)
    product, scores = _trace_scores(softmax)
    _check_guard(tail, scores)
    return _assemble(softmax, product, scores, tail)


def _check_axis(softmax: ir.Node) -> None:
    """Refuse a Softmax that is not along the last axis, which before op set 13 it easily is not."""
    shape = sizes_of(softmax.inputs[0], "scores")
    opset = 13 if softmax.graph is None else softmax.graph.opset_imports.get("", 13)
    attribute = softmax.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else (-1 if opset >= 13 else 1)
    axis = axis % len(shape)
    if opset >= 13:
        if axis != len(shape) - 1:
            raise Refusal(f"it is along axis {axis} of {len(shape)}, not along the last one")
    elif math.prod(shape[axis:]) != shape[-1]:
        # Up to op set 12 all axes from this one on are flattened into one.
        raise Refusal(
            f"in op set {opset} with axis {axis} it is over the last {len(shape) - axis} axes "
            "together, not along the last one"
        )


def _trace_scores(softmax: ir.Node) -> tuple[ir.Node, _Scores]:
    """Walk from a Softmax up to the product of query and key."""
    start = softmax.inputs[0]
    if start is None:
        raise Refusal("it has no input")
    scores = _Scores(start, _dtypes_of(start))
    for _ in range(_MAX_STEPS):
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


def _dtypes_of(value: ir.Value) -> frozenset[DType]:
    dtype = element_type(value)
    return frozenset() if dtype is None else frozenset({dtype})


def _moved_to(scores: _Scores, node: ir.Node, index: int) -> _Scores:
    value = node.inputs[index]
    if value is None:
        raise Refusal(f"{describe_node(node)} lacks an input")
    return replace(scores, value=value, dtypes=scores.dtypes | _dtypes_of(value))


def _through_identity(node: ir.Node, scores: _Scores) -> _Scores:
    if node.op_type == "Dropout" and not is_identity(node):
        raise Refusal(f"its scores pass {describe_node(node)}, which is set to train")
    return _moved_to(scores, node, 0)


def _through_cast(node: ir.Node, scores: _Scores) -> _Scores:
    return replace(_moved_to(scores, node, 0), steps=(*scores.steps, "Cast"))


def _through_scale(node: ir.Node, scores: _Scores) -> _Scores:
    found = scale_factor(node)
    if found is None:
        raise Refusal(f"its scores pass {describe_node(node)}, whose factor is no constant number")
    index, factor = found
    return replace(
        _moved_to(scores, node, index),
        scale=scores.scale * factor,
        scaled_after=True,
        steps=(*scores.steps, node.op_type),
    )


def _through_add(node: ir.Node, scores: _Scores) -> _Scores:
    index = _score_side(node, (0, 1))
    mask = node.inputs[1 - index]
    if mask is None:
        raise Refusal(f"{describe_node(node)} lacks an input")
    if _is_zero(mask):
        return _moved_to(scores, node, index)
    return _with_mask(scores, node, index, MaskTerm(MaskRole.ADD, mask))


def _through_where(node: ir.Node, scores: _Scores) -> _Scores:
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
    return _with_mask(scores, node, index, MaskTerm(role, condition, number))


def _with_mask(scores: _Scores, node: ir.Node, index: int, term: MaskTerm) -> _Scores:
    if scores.scaled_after:
        raise Refusal(f"its scale acts after the mask of {describe_node(node)}")
    dtype = element_type(node.outputs[0])
    if scores.masked_dtype not in (None, dtype):
        raise Refusal("its masks act on scores of different element types")
    return replace(
        _moved_to(scores, node, index),
        masks=(*scores.masks, term),
        masked_dtype=dtype,
        steps=(*scores.steps, term.role.value),
    )


_STEPS: dict[str, Callable[[ir.Node, _Scores], _Scores]] = {
    "Identity": _through_identity,
    "Dropout": _through_identity,
    "Cast": _through_cast,
    "Mul": _through_scale,
    "Div": _through_scale,
    "Add": _through_add,
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
    if not is_op(node, *_STEPS):
        return False
    sides = {"Add": (0, 1), "Mul": (0, 1), "Where": (1, 2)}.get(node.op_type, (0,))
    return any(
        _leads_to_product(node.inputs[index], alone=alone, steps=steps - 1) for index in sides
    )


def _is_zero(value: ir.Value) -> bool:
    array = constant_array(value)
    return array is not None and not np.any(array)


def _check_guard(tail: Probabilities, scores: _Scores) -> None:
    """Refuse a guard that tests anything but the mask that acts on these scores."""
    if tail.guarded_mask is None:
        return
    if [term.value for term in scores.masks] != [tail.guarded_mask]:
        raise Refusal(
            f"its rows are set to zero by a test of {tail.guarded_mask.name!r}, not of its mask"
        )


def _assemble(
    softmax: ir.Node, product: ir.Node, scores: _Scores, tail: Probabilities
) -> AttentionMatch:
    """Make the match of the three operands and what lies between them."""
    query, key, value = product.inputs[0], product.inputs[1], tail.product.inputs[1]
    if query is None or key is None or value is None:
        raise Refusal("one of its products lacks an input")
    query_axes, kv_length, value_dim, rank = _sizes(query, key, value)
    dtype = _common_dtype(query, key, value, scores.dtypes | tail.dtypes)
    key_axes = replace(query_axes, n=kv_length)
    value_axes = replace(key_axes, d=value_dim)
    query_operand = _source_of(query, query_axes, scaled=True)
    key_operand, permutation = _key_source(key, key_axes, rank)
    value_operand = _source_of(value, value_axes, scaled=False)
    output_axes = replace(query_axes, d=value_dim)
    output = find_target(tail.product.outputs[0], _groups(output_axes, rank), output_axes)
    if output is None:
        raise Refusal(f"its output {tail.product.outputs[0].name!r} has a shape that is not known")
    shape = (query_axes.b, query_axes.h, query_axes.n, kv_length)
    terms = tuple(reversed(scores.masks))
    summary = summarize_masks(terms, shape, rank, scores.masked_dtype or dtype)
    try:
        problem = AttentionProblem(
            batch=query_axes.b,
            query_heads=query_axes.h,
            kv_heads=query_axes.h,
            query_length=query_axes.n,
            kv_length=kv_length,
            head_dim=query_axes.d,
            value_dim=value_dim,
            dtype=dtype,
            scale=scores.scale * query_operand.scale * key_operand.scale,
            mask=summary.kind,
            mask_shape=summary.shape,
            masked_value=summary.masked_value,
            masked_rows=tail.masked_rows,
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    return AttentionMatch(
        anchor=softmax,
        form=_describe_form(query_operand, key_operand, scores, tail),
        problem=problem,
        query=query_operand,
        key=key_operand,
        key_permutation=permutation,
        value=value_operand,
        mask=terms,
        mask_dtype=scores.masked_dtype or dtype,
        output=output,
    )


def _sizes(query: ir.Value, key: ir.Value, value: ir.Value) -> tuple[Axes, int, int, int]:
    """Return the axes of the query, the key-value length, the value size and the rank."""
    q, k, v = sizes_of(query, "query"), sizes_of(key, "key"), sizes_of(value, "value")
    rank = len(q)
    if rank not in (3, 4):
        raise Refusal(f"its query {query.name!r} has rank {rank}; 3 and 4 are understood")
    if len(k) != rank or len(v) != rank or k[:-2] != q[:-2] or v[:-2] != q[:-2]:
        raise Refusal(
            f"its query {list(q)}, key {list(k)} and value {list(v)} are broadcast against "
            "each other"
        )
    heads = q[1] if rank == 4 else 1
    return Axes(b=q[0], h=heads, n=q[-2], d=q[-1]), k[-1], v[-1], rank


def _common_dtype(
    query: ir.Value, key: ir.Value, value: ir.Value, between: frozenset[DType]
) -> DType:
    dtype = element_type(query)
    if dtype is None or not dtype.is_floating:
        raise Refusal(f"its query {query.name!r} is not of a floating-point type")
    if element_type(key) is not dtype or element_type(value) is not dtype:
        raise Refusal("its query, key and value have different element types")
    wider = {DType.FLOAT16: DType.FLOAT32, DType.BFLOAT16: DType.FLOAT32}
    odd = between - {dtype, wider.get(dtype, dtype)}
    if odd:
        listed = ", ".join(sorted(str(item) for item in odd))
        raise Refusal(f"its query is {dtype}, but its scores are cast to {listed}")
    return dtype


def _groups(axes: Axes, rank: int) -> tuple[tuple[str, ...], ...]:
    return axes.groups("b", "h", "n", "d") if rank == 4 else axes.groups("b", "n", "hd")


def _source_of(value: ir.Value, axes: Axes, *, scaled: bool) -> Operand:
    rank = len(sizes_of(value, "operand"))
    source = find_source(value, _groups(axes, rank), axes, scaled=scaled)
    if source is None:
        raise Refusal(f"the axes of {value.name!r} are in no order that kernels read")
    return source


def _key_source(key: ir.Value, axes: Axes, rank: int) -> tuple[Operand, tuple[int, ...] | None]:
    """Return what to read as the key, and how the host must transpose it first, if it must."""
    turned = axes.groups("b", "h", "d", "n") if rank == 4 else axes.groups("b", "d", "n")
    source = find_source(key, turned, axes, scaled=True)
    if source is not None:
        return source, None
    if rank == 4:
        return Operand(key, "bhnd"), (0, 1, 3, 2)
    return Operand(key, "bnhd"), (0, 2, 1)


def _describe_form(query: Operand, key: Operand, scores: _Scores, tail: Probabilities) -> str:
    steps = [f"{step} on query" for step in query.steps]
    steps += [f"{step} on key" for step in key.steps]
    steps += list(reversed(scores.steps))
    if tail.masked_rows is MaskedRows.ZERO:
        steps.append("NaN guard" if tail.guarded_mask is None else "masked-row guard")
    return f"decomposed: {', '.join(steps)}" if steps else "decomposed: no scale, no mask"
