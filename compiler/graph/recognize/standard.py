"""The standard ONNX ``Attention`` operator, op sets 23, 24 and 25.

A boolean mask of that operator puts minus infinity where it is false, and a row that is masked
throughout gives zeros, not NaN. Where queries stand among the keys: behind the past if there is
one, at the end of the keys that ``nonpad_kv_seqlen`` leaves if it is given, else at the first key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.graph.recognize.axes import (
    Axes,
    Operand,
    find_copies,
    find_source,
    find_target,
)
from hocket.compiler.graph.recognize.causality import find_positions
from hocket.compiler.graph.recognize.key_value_cache import CacheBuilder
from hocket.compiler.graph.recognize.masks import summarize_masks
from hocket.compiler.graph.recognize.match import (
    AttentionMatch,
    MaskRole,
    MaskTerm,
    Refusal,
    sizes_of,
)
from hocket.compiler.graph.values import element_type
from hocket.compiler.problem import NO_RULES, AttentionProblem, MaskedRows, ScoreRules
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.compiler.graph.recognize.causality import PositionFinder

_MASK, _PAST_KEY, _PAST_VALUE, _LENGTHS = 3, 4, 5, 6
_PRESENT_KEY, _PRESENT_VALUE, _SCORES = 1, 2, 3


@dataclass(frozen=True)
class _Cache:
    """Key and value as the attention reads them, the past in front.

    Attributes:
        key, value: What to read.
        heads: Heads of both.
        past_length: Rows of them that are the past.
        before: Nodes that make them.
        replaced: The outputs ``present_key`` and ``present_value`` with what takes their place.
    """

    key: Operand
    value: Operand
    heads: int
    past_length: int = 0
    before: tuple[ir.Node, ...] = ()
    replaced: tuple[tuple[ir.Value, ir.Value], ...] = ()


def match_standard(node: ir.Node, find: PositionFinder = find_positions) -> AttentionMatch:
    """Return the attention that an ``Attention`` node computes.

    Args:
        node: The node.
        find: Finds what masks say of positions.

    Raises:
        Refusal: It asks for something that no kernel computes.
    """
    if _wanted(node, _SCORES) is not None:
        raise Refusal("its scores are an output, so they must be computed in full")
    query, key, value = (_required(node, index) for index in range(3))
    axes, kv_heads, new_length, value_dim = _sizes(node, query, key, value)
    dtype = _common_dtype(node, query, key, value)
    cache = _find_cache(node, replace(axes, h=kv_heads, n=new_length), value_dim, dtype)
    kv_length = cache.past_length + new_length
    is_causal, rules = _positions(node, cache.past_length)
    scores = (axes.b, axes.h, axes.n, kv_length)
    terms, padding = _mask_terms(node, dtype, scores)
    if terms and not is_causal and replace(rules, softcap=0.0) == NO_RULES:
        found = find(terms, scores, dtype)
        terms, is_causal = found.terms, found.is_causal
        rules = replace(found.rules, softcap=rules.softcap)
    summary = summarize_masks(terms, scores, dtype)
    query_operand = _source_of(query, axes, scaled=True)
    try:
        problem = AttentionProblem(
            batch=axes.b,
            query_heads=axes.h,
            kv_heads=cache.heads,
            query_length=axes.n,
            kv_length=kv_length,
            head_dim=axes.d,
            value_dim=value_dim,
            dtype=dtype,
            scale=_scale(node, axes.d) * query_operand.scale * cache.key.scale,
            mask=summary.kind,
            mask_shape=summary.shape,
            masked_value=summary.masked_value,
            masked_rows=MaskedRows.ZERO,
            is_causal=is_causal,
            rules=rules,
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    output_axes = replace(axes, d=value_dim)
    output = find_target(
        node.outputs[0], output_axes.groups(*_dimensions(query)), output_axes
    ) or Operand(node.outputs[0], "bhnd")
    return AttentionMatch(
        anchor=node,
        form=_describe_form(node, terms, problem, has_past=cache.past_length > 0),
        problem=problem,
        query=query_operand,
        key=cache.key,
        key_permutation=None,
        value=cache.value,
        mask=terms,
        mask_dtype=dtype,
        output=output,
        kv_lengths=_optional(node, _LENGTHS),
        before=(*cache.before, *padding),
        replaced=cache.replaced,
    )


def _find_cache(node: ir.Node, axes: Axes, value_dim: int, dtype: DType) -> _Cache:
    """Return what key and value are read from; ``axes`` are those of the new key."""
    key, value = _required(node, 1), _required(node, 2)
    past_key, past_value = _optional(node, _PAST_KEY), _optional(node, _PAST_VALUE)
    wanted = _wanted(node, _PRESENT_KEY), _wanted(node, _PRESENT_VALUE)
    value_axes = replace(axes, d=value_dim)
    if (past_key is None) != (past_value is None):
        raise Refusal("it has one of past_key and past_value, not both")
    if past_key is not None and _optional(node, _LENGTHS) is not None:
        raise Refusal("it has a past and nonpad_kv_seqlen, too")
    if past_key is None and wanted == (None, None):
        few = _without_copies(key, value, axes, value_dim)
        if few is not None:
            return few
        return _Cache(
            _source_of(key, axes, scaled=True), _source_of(value, value_axes, scaled=False), axes.h
        )
    builder = CacheBuilder()
    length = 0 if past_key is None else sizes_of(past_key, "past_key")[-2]
    presents = []
    for new, past, sizes in ((key, past_key, axes), (value, past_value, value_axes)):
        if past is not None:
            if sizes_of(past, "past") != (axes.b, axes.h, length, sizes.d):
                raise Refusal(f"its past {past.name!r} does not fit its key and value")
            if element_type(past) is not dtype:
                raise Refusal(f"its past {past.name!r} is not {dtype} as its query")
        presents.append(builder.present(new, past, sizes))
    # An empty past is none; what is read is there all the same.
    outputs = zip(wanted, presents, strict=True)
    return _Cache(
        Operand(presents[0], "bhnd"),
        Operand(presents[1], "bhnd"),
        axes.h,
        length,
        tuple(builder.nodes),
        tuple((old, new) for old, new in outputs if old is not None),
    )


def _without_copies(key: ir.Value, value: ir.Value, axes: Axes, value_dim: int) -> _Cache | None:
    """Return what key and value are copies of, where each head is there several times."""
    copies = find_copies(key)
    if copies == 1 or copies != find_copies(value) or axes.h % copies:
        return None
    few = replace(axes, h=axes.h // copies, g=copies)
    few_values = replace(few, d=value_dim)
    keys = find_source(key, few.groups(*_dimensions(key)), few, scaled=True)
    values = find_source(value, few_values.groups(*_dimensions(value)), few_values, scaled=False)
    return None if keys is None or values is None else _Cache(keys, values, few.h)


def _positions(node: ir.Node, past_length: int) -> tuple[bool, ScoreRules]:
    """Return whether it is plainly causal, and the rules of where queries stand and what they see.

    Plainly is from the first key on; with queries elsewhere causality is one of the rules.
    """
    is_causal = _int(node, "is_causal", 0) == 1
    left, right = (
        None if size < 0 else size
        for size in (_int(node, f"{side}_window_size", -1) for side in ("left", "right"))
    )
    has_lengths = _optional(node, _LENGTHS) is not None
    is_plain = is_causal and not past_length and not has_lengths
    if is_causal:
        right = None if is_plain else 0
    goes_by_position = is_causal or left is not None or right is not None
    softcap = node.attributes.get("softcap")
    try:
        rules = ScoreRules(
            query_offset=past_length if goes_by_position else 0,
            left_window=left,
            right_window=right,
            softcap=0.0 if softcap is None else softcap.as_float(),
            has_kv_lengths=has_lengths,
            counts_from_end=has_lengths and goes_by_position,
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    return is_plain, rules


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _wanted(node: ir.Node, index: int) -> ir.Value | None:
    """Return an output that somebody reads, None if nobody does."""
    output = node.outputs[index] if len(node.outputs) > index else None
    return output if output is not None and (output.uses() or output.is_graph_output()) else None


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _required(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise Refusal(f"it lacks input {index}")
    return value


def _sizes(
    node: ir.Node, query: ir.Value, key: ir.Value, value: ir.Value
) -> tuple[Axes, int, int, int]:
    """Return the axes of the query, the key-value heads and length, and the value size."""
    q, k, v = sizes_of(query, "query"), sizes_of(key, "key"), sizes_of(value, "value")
    if {len(q), len(k), len(v)} == {3}:
        heads, kv_heads = _int(node, "q_num_heads", 0), _int(node, "kv_num_heads", 0)
        if heads < 1 or kv_heads < 1 or q[2] % heads or k[2] % kv_heads or v[2] % kv_heads:
            raise Refusal(f"{heads} and {kv_heads} heads do not divide the columns of {list(q)}")
        q = (q[0], heads, q[1], q[2] // heads)
        k = (k[0], kv_heads, k[1], k[2] // kv_heads)
        v = (v[0], kv_heads, v[1], v[2] // kv_heads)
    if {len(q), len(k), len(v)} != {4}:
        raise Refusal(f"its query {list(q)}, key {list(k)} and value {list(v)} differ in rank")
    if k[:3] != v[:3] or q[0] != k[0] or q[3] != k[3]:
        raise Refusal(f"its query {list(q)}, key {list(k)} and value {list(v)} do not fit together")
    return Axes(*q), k[1], k[2], v[3]


def _common_dtype(node: ir.Node, *operands: ir.Value) -> DType:
    dtype = element_type(operands[0])
    if dtype is None or any(element_type(value) is not dtype for value in operands):
        raise Refusal("its query, key and value have different element types")
    code = _int(node, "softmax_precision", 0)
    if code and code != ir.DataType.FLOAT and operands[0].dtype != code:
        raise Refusal(f"its softmax_precision {ir.DataType(code).name} is not compiled yet")
    if code and dtype is DType.FLOAT64 and operands[0].dtype != code:
        raise Refusal("its softmax_precision is below that of its query")
    return dtype


def _scale(node: ir.Node, head_dim: int) -> float:
    attribute = node.attributes.get("scale")
    if attribute is None:
        return 1.0 / math.sqrt(head_dim)
    scale = attribute.as_float()
    if not scale > 0.0:
        # The operator takes the root of it, and onnxruntime reads 0 as "not given".
        raise Refusal(f"its scale {scale:g} is not above zero")
    return scale


def _mask_terms(
    node: ir.Node, dtype: DType, scores: tuple[int, int, int, int]
) -> tuple[tuple[MaskTerm, ...], Sequence[ir.Node]]:
    """Return the mask, and the nodes that make it as long as the keys."""
    mask = _optional(node, _MASK)
    if mask is None:
        return (), ()
    shape = sizes_of(mask, "mask")
    kv_length = scores[-1]
    is_boolean = element_type(mask) is DType.BOOL
    if not is_boolean and element_type(mask) is not dtype:
        raise Refusal(f"its mask {mask.name!r} is not {dtype} as its query")
    if not shape or shape[-1] > kv_length:
        raise Refusal(f"its mask {mask.name!r} of shape {list(shape)} is longer than its keys")
    builder = CacheBuilder()
    mask = builder.padded(mask, kv_length, 0.0 if is_boolean else -math.inf)
    role = MaskRole.KEEP if is_boolean else MaskRole.ADD
    return (MaskTerm(role, mask, scores, -math.inf if is_boolean else 0.0),), builder.nodes


def _dimensions(value: ir.Value) -> tuple[str, ...]:
    rank = len(sizes_of(value, "operand"))
    return ("b", "hg", "n", "d") if rank == 4 else ("b", "n", "hgd")


def _source_of(value: ir.Value, axes: Axes, *, scaled: bool) -> Operand:
    source = find_source(value, axes.groups(*_dimensions(value)), axes, scaled=scaled)
    if source is None:
        raise Refusal(f"the axes of {value.name!r} are in no order that kernels read")
    return source


def _describe_form(
    node: ir.Node, terms: tuple[MaskTerm, ...], problem: AttentionProblem, *, has_past: bool
) -> str:
    rank = len(sizes_of(node.inputs[0], "query"))
    steps = [f"{rank}-D"]
    steps += ["boolean mask" if term.role is MaskRole.KEEP else "float mask" for term in terms]
    steps += ["causal"] if problem.is_causal else []
    steps += ["past"] if has_past else []
    steps += [str(problem.rules)] if str(problem.rules) else []
    return f"Attention op: {', '.join(steps)}"
