"""Attention written out: MatMul, scale, mask, Softmax, MatMul.

The matcher begins at a Softmax and follows the numbers, down to the product with the values and up
to the product of query and key. What it meets on the way is folded into the problem or refused with
a reason; the names of nodes and the exporter that wrote them play no part.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.notes import made_of
from hocket.compiler.graph.recognize.axes import (
    Axes,
    Operand,
    find_copies,
    find_layout,
    find_source,
    find_target,
)
from hocket.compiler.graph.recognize.causality import Positions, find_positions
from hocket.compiler.graph.recognize.lengths import (
    KeyLengths,
    find_lengths,
    make_lengths,
    merge_rules,
)
from hocket.compiler.graph.recognize.many_axes import (
    MOST_AXES,
    Operands,
    find_operands,
    reshaped,
)
from hocket.compiler.graph.recognize.masks import spread_masks, summarize_masks
from hocket.compiler.graph.recognize.match import AttentionMatch, Refusal, sizes_of
from hocket.compiler.graph.recognize.probabilities import follow_probabilities
from hocket.compiler.graph.recognize.scores import trace_scores
from hocket.compiler.graph.values import element_type, static_shape
from hocket.compiler.problem import AttentionProblem, MaskedRows
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from hocket.compiler.graph.recognize.causality import PositionFinder
    from hocket.compiler.graph.recognize.probabilities import Probabilities
    from hocket.compiler.graph.recognize.scores import Scores


def match_decomposed(softmax: ir.Node, find: PositionFinder = find_positions) -> AttentionMatch:
    """Return the attention that a Softmax is part of.

    Args:
        softmax: Where to look.
        find: Finds what masks say of positions.

    Raises:
        Refusal: It is part of none, or of one that is not understood.
    """
    _check_axis(softmax)
    tail = follow_probabilities(softmax)
    product, scores = trace_scores(softmax)
    _check_guard(tail, scores)
    return _assemble(softmax, product, scores, tail, find)


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


def _check_guard(tail: Probabilities, scores: Scores) -> None:
    """Refuse a guard that tests anything but the mask that acts on these scores."""
    if tail.guarded_mask is None:
        return
    if [term.value for term in scores.masks] != [tail.guarded_mask]:
        raise Refusal(
            f"its rows are set to zero by a test of {tail.guarded_mask.name!r}, not of its mask"
        )


def _assemble(
    softmax: ir.Node,
    product: ir.Node,
    scores: Scores,
    tail: Probabilities,
    find: PositionFinder,
) -> AttentionMatch:
    """Make the match of the three operands and what lies between them."""
    query, key, value = product.inputs[0], product.inputs[1], tail.product.inputs[1]
    if query is None or key is None or value is None:
        raise Refusal("one of its products lacks an input")
    dtype = _common_dtype(query, key, value, scores.dtypes | tail.dtypes)
    operands = _find_operands(query, key, value, product, scores, tail)
    axes, kv_length = operands.axes, operands.kv_length
    shape = (axes.b, axes.h, axes.n, kv_length)
    mask_dtype = scores.masked_dtype or dtype
    terms, spreading = spread_masks(tuple(reversed(scores.masks)), shape)
    # Where sizes are open, that a constant counts the keys at those that are bound proves nothing.
    lengths = find_lengths(terms, shape) if find is find_positions else KeyLengths(terms)
    found = Positions(lengths.terms)
    if not lengths.has_positions:
        found = find(lengths.terms, shape, mask_dtype)
    summary = summarize_masks(found.terms, shape, mask_dtype)
    try:
        problem = AttentionProblem(
            batch=axes.b,
            query_heads=axes.h,
            kv_heads=axes.h // operands.copies,
            query_length=axes.n,
            kv_length=kv_length,
            head_dim=axes.d,
            value_dim=operands.value_dim,
            dtype=dtype,
            scale=scores.scale * operands.query.scale * operands.key.scale,
            mask=summary.kind,
            mask_shape=summary.shape,
            masked_value=summary.masked_value,
            masked_rows=tail.masked_rows,
            is_causal=found.is_causal,
            rules=merge_rules(found.rules, lengths.rules, scores.softcap),
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    # Last, for nodes are readers of the query from when they are made.
    kv_lengths, counting = make_lengths(lengths)
    before = _multiply(query, scores)
    if before:
        multiplied = replace(operands.query, value=before[-1].outputs[0])
        operands = replace(operands, query=multiplied)
    operands, reshaping = reshaped(operands)
    return AttentionMatch(
        anchor=softmax,
        form=_describe_form(softmax, operands.query, operands.key, scores, tail, problem),
        problem=problem,
        query=operands.query,
        key=operands.key,
        key_permutation=operands.key_permutation,
        value=operands.value,
        mask=found.terms,
        mask_dtype=mask_dtype,
        output=operands.output,
        kv_lengths=kv_lengths,
        output_shape=operands.output_shape,
        leaves_out_rounding=scores.is_rounded or tail.is_rounded,
        before=(*spreading, *counting, *before),
        reshaping=tuple(reshaping),
    )


def _find_operands(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    product: ir.Node,
    scores: Scores,
    tail: Probabilities,
) -> Operands:
    """Return what to read and write."""
    made, probabilities = tail.product.outputs[0], tail.product.inputs[0]
    if len(sizes_of(query, "query")) > MOST_AXES:
        if scores.factors:
            _check_factors(query, product, scores)
        return find_operands(
            query, key, probabilities, value, made, scales_query=not scores.factors
        )
    axes, kv_length, value_dim = _sizes(query, key, probabilities, value, scores.heads)
    query_operand = _query_of(query, axes, product, scores)
    key_operand, permutation, value_operand, copies = _keys_and_values(
        key, value, replace(axes, n=kv_length), value_dim
    )
    output_axes = replace(axes, d=value_dim)
    output = find_target(made, _groups(output_axes, made), output_axes)
    if output is None:
        raise Refusal(f"its output {made.name!r} has a shape that is not known")
    return Operands(
        axes=axes,
        kv_length=kv_length,
        value_dim=value_dim,
        copies=copies,
        query=query_operand,
        key=key_operand,
        value=value_operand,
        output=output,
        key_permutation=permutation,
    )


def _sizes(
    query: ir.Value,
    key: ir.Value,
    probabilities: ir.Value | None,
    value: ir.Value,
    heads: tuple[int, int] | None,
) -> tuple[Axes, int, int]:
    """Return the axes of the query, the key-value length and the value size.

    Args:
        query, key, probabilities, value: Operands of the products.
        heads: Batch and heads, where scores of rank 3 had a dimension for each on the way.
    """
    q, k, v = sizes_of(query, "query"), sizes_of(key, "key"), sizes_of(value, "value")
    p = sizes_of(probabilities, "probabilities")
    rank = len(q)
    if rank not in (3, 4):
        raise Refusal(f"its query {query.name!r} has rank {rank}; from 3 on they are understood")
    batch, count = q[0], q[1] if rank == 4 else 1
    if rank == 3 and heads is not None and math.prod(heads) == batch:
        batch, count = heads
    # Between the products batch and heads may be merged or taken apart.
    fits = k[:-2] == q[:-2] and v[:-2] == p[:-2] in ((batch, count), (batch * count,))
    # One head of keys and values for all of queries is what products of rank 4 broadcast.
    is_shared = len(p) == rank == 4 and k[:-2] == v[:-2] == (batch, 1)
    if not fits and not is_shared:
        raise Refusal(
            f"its query {list(q)}, key {list(k)} and value {list(v)} are broadcast against "
            "each other"
        )
    return Axes(b=batch, h=count, n=q[-2], d=q[-1]), k[-1], v[-1]


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


def _groups(axes: Axes, value: ir.Value, order: str = "nd") -> tuple[tuple[str, ...], ...]:
    """Return the groups of an operand of a product, of which the last two axes are in an order."""
    rank = len(sizes_of(value, "operand"))
    return axes.groups("b", "hg", *order) if rank == 4 else axes.groups("bhg", *order)


def _source_of(value: ir.Value, axes: Axes, *, scaled: bool) -> Operand:
    source = find_source(value, _groups(axes, value), axes, scaled=scaled)
    if source is None:
        raise Refusal(f"the axes of {value.name!r} are in no order that kernels read")
    return source


def _query_of(query: ir.Value, axes: Axes, product: ir.Node, scores: Scores) -> Operand:
    """Return what to read as query; where factors act on its rows, the query itself."""
    if not scores.factors:
        return _source_of(query, axes, scaled=True)
    _check_factors(query, product, scores)
    layout = find_layout(_groups(axes, query), axes, sizes_of(query, "query"))
    if layout is None:
        raise Refusal(f"the axes of {query.name!r} are in no order that kernels read")
    return Operand(query, layout)


def _check_factors(query: ir.Value, product: ir.Node, scores: Scores) -> None:
    """Refuse factors of rows that cannot act on the query."""
    made = static_shape(product.outputs[0])
    if any(factor.scores_shape != made for factor in scores.factors):
        raise Refusal("a factor of rows acts on scores that are cut otherwise than their product")
    if any(element_type(factor.value) is not element_type(query) for factor in scores.factors):
        raise Refusal("a factor of rows has another element type than the query")


def _multiply(query: ir.Value, scores: Scores) -> tuple[ir.Node, ...]:
    """Make the host nodes that multiply the query by the factors of rows.

    Before and after::

        s = MatMul(q, k); s2 = Mul(s, f); p = Softmax(s2)        (f: [heads, 1, 1])
        q2 = Mul(q, f); s = MatMul(q2, k); p = Softmax(s)
    """
    nodes: list[ir.Node] = []
    current = query
    for factor in reversed(scores.factors):
        output = ir.Value(name=f"{query.name}/{factor.op_type}", shape=query.shape, type=query.type)
        nodes.append(ir.node(factor.op_type, [current, factor.value], outputs=[output]))
        current = output
    return tuple(nodes)


def _keys_and_values(
    key: ir.Value, value: ir.Value, axes: Axes, value_dim: int
) -> tuple[Operand, tuple[int, ...] | None, Operand, int]:
    """Return what to read as key, how the host must transpose it first, value, and copies of heads.

    Where both are copied for groups of query heads, what is read is what they are copies of. Where
    there is one head of them, the product makes the copies.
    """
    if axes.h > 1 and len(sizes_of(key, "key")) == 4 and sizes_of(key, "key")[1] == 1:
        one = _keys_and_values(key, value, replace(axes, h=1), value_dim)
        return *one[:3], axes.h
    copies = find_copies(key)
    if copies > 1 and copies == find_copies(value) and axes.h % copies == 0:
        few = replace(axes, h=axes.h // copies, g=copies)
        few_values = replace(few, d=value_dim)
        keys = find_source(key, _groups(few, key, "dn"), few, scaled=True)
        values = find_source(value, _groups(few_values, value), few_values, scaled=False)
        if keys is not None and values is not None:
            return keys, None, values, copies
    values = _source_of(value, replace(axes, d=value_dim), scaled=False)
    source = find_source(key, _groups(axes, key, "dn"), axes, scaled=True)
    if source is not None:
        return source, None, values, 1
    rank = len(sizes_of(key, "key"))
    if rank == 4:
        return Operand(key, "bhnd"), (0, 1, 3, 2), values, 1
    return Operand(key, "bhnd" if axes.h > 1 else "bnhd"), (0, 2, 1), values, 1


def _describe_form(
    softmax: ir.Node,
    query: Operand,
    key: Operand,
    scores: Scores,
    tail: Probabilities,
    problem: AttentionProblem,
) -> str:
    steps = [f"{step} on query" for step in query.steps]
    steps += [f"{step} on key" for step in key.steps]
    steps += list(reversed(scores.steps))
    if tail.masked_rows is MaskedRows.ZERO:
        steps.append("NaN guard" if tail.guarded_mask is None else "masked-row guard")
    words = [", ".join(steps) if steps else "no scale, no mask"]
    if problem.group_size > 1:
        words.append(f"{problem.group_size} copies of each key-value head left out")
    if scores.is_rounded or tail.is_rounded:
        words.append("its quantisation of scores or probabilities left out")
    if problem.rules.has_kv_lengths:
        words.append("its mask says how many keys there are")
    if problem.is_causal or problem.rules.right_window == 0:
        words.append("its mask is causal")
    operator = made_of(softmax)
    return f"{'decomposed' if operator is None else f'{operator} written out'}: {'; '.join(words)}"
