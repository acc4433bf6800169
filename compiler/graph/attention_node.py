"""The node ``hocket::Attention``: an attention problem as one operator of the graph.

Recognition puts it in place of what it understood; partition makes an attention region of it. It
lives between the two, so it has a domain of its own and no ONNX schema.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from hocket.compiler.graph.regions import AttentionRegion, Layout
from hocket.compiler.graph.values import IR_DTYPES, is_of_type, name_of
from hocket.compiler.problem import AttentionProblem, MaskedRows, MaskKind, ScoreRules
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

DOMAIN = "hocket"
OP_TYPE = "Attention"
VERSION = 1

_NUM_INPUTS = 5
_SIZES = (
    "batch",
    "query_heads",
    "kv_heads",
    "query_length",
    "kv_length",
    "head_dim",
    "value_dim",
)


@dataclass(frozen=True)
class Layouts:
    """Order of the axes in memory, for each tensor of an attention."""

    query: Layout
    key: Layout
    value: Layout
    output: Layout


def is_attention_node(node: ir.Node | None) -> bool:
    """Whether a node is a recognised attention."""
    return is_of_type(node, DOMAIN, OP_TYPE)


def make_node(
    problem: AttentionProblem,
    layouts: Layouts,
    inputs: Sequence[ir.Value],
    *,
    mask: ir.Value | None = None,
    kv_lengths: ir.Value | None = None,
    output_shape: tuple[int, ...],
    form: str,
    name: str,
) -> ir.Node:
    """Make the node of a problem.

    Args:
        problem: Its sizes.
        layouts: How its tensors lie in memory.
        inputs: query, key and value.
        mask, kv_lengths: As the problem has them.
        output_shape: ``[batch, heads, rows, columns]`` for layout bhnd, ``[batch, rows, heads,
            columns]`` or ``[batch, rows, heads * columns]`` for bnhd.
        form: The written form it had, in words.
        name: Of the node, and of the region that it becomes.

    Returns:
        A node of no graph yet, whose output has its type and shape but no name.

    Raises:
        ValueError: The inputs or the output do not go with the problem.
    """
    wanted = (problem.mask is not MaskKind.NONE, problem.rules.has_kv_lengths)
    if len(inputs) != 3 or (mask is not None, kv_lengths is not None) != wanted:
        raise ValueError(f"the inputs of attention {name!r} do not go with its problem")
    elements = problem.batch * problem.query_heads * problem.query_length * problem.value_dim
    if math.prod(output_shape) != elements:
        raise ValueError(f"attention {name!r} makes {elements} elements, not {output_shape}")
    attributes: dict[str, int | str | list[int]] = {size: getattr(problem, size) for size in _SIZES}
    attributes |= {
        "dtype": problem.dtype.value,
        # As text: an ONNX float attribute has 32 bits, and would change the number.
        "scale": repr(problem.scale),
        "mask": problem.mask.value,
        "masked_value": repr(problem.masked_value),
        "masked_rows": problem.masked_rows.value,
        "is_causal": int(problem.is_causal),
        "rules": json.dumps(dataclasses.asdict(problem.rules)),
        "query_layout": layouts.query,
        "key_layout": layouts.key,
        "value_layout": layouts.value,
        "output_layout": layouts.output,
        "form": form,
    }
    if problem.mask_shape is not None:
        attributes["mask_shape"] = list(problem.mask_shape)
    output = ir.Value(shape=ir.Shape(output_shape), type=ir.TensorType(IR_DTYPES[problem.dtype]))
    return ir.node(
        OP_TYPE,
        inputs=[*inputs, mask, kv_lengths],
        attributes=attributes,
        domain=DOMAIN,
        outputs=[output],
        name=name,
        version=VERSION,
    )


def problem_from_node(node: ir.Node) -> AttentionProblem:
    """Return the problem that a node was made of, equal in every field."""
    attributes = node.attributes
    mask_shape = attributes.get("mask_shape")
    return AttentionProblem(
        **{size: attributes[size].as_int() for size in _SIZES},
        dtype=DType(attributes["dtype"].as_string()),
        scale=float(attributes["scale"].as_string()),
        mask=MaskKind(attributes["mask"].as_string()),
        mask_shape=None
        if mask_shape is None
        else cast("tuple[int, int, int, int]", tuple(mask_shape.as_ints())),
        masked_value=float(attributes["masked_value"].as_string()),
        masked_rows=MaskedRows(attributes["masked_rows"].as_string()),
        is_causal=bool(attributes["is_causal"].as_int()),
        rules=ScoreRules(**json.loads(attributes["rules"].as_string())),
    )


def layouts_from_node(node: ir.Node) -> Layouts:
    """Return the layouts that a node was made with."""

    def layout(of: str) -> Layout:
        return cast("Layout", node.attributes[f"{of}_layout"].as_string())

    return Layouts(layout("query"), layout("key"), layout("value"), layout("output"))


def region_from_node(node: ir.Node) -> AttentionRegion:
    """Return the region that a node stands for."""
    inputs = [None if value is None else name_of(value) for value in node.inputs]
    # What is missing at the end is not kept.
    query, key, value, mask, kv_lengths = inputs + [None] * (_NUM_INPUTS - len(inputs))
    if query is None or key is None or value is None:
        raise ValueError(f"attention {node.name!r} lacks an input")
    layouts = layouts_from_node(node)
    return AttentionRegion(
        name=node.name or name_of(node.outputs[0]),
        form=node.attributes["form"].as_string(),
        problem=problem_from_node(node),
        query=query,
        key=key,
        value=value,
        mask=mask,
        kv_lengths=kv_lengths,
        output=name_of(node.outputs[0]),
        query_layout=layouts.query,
        key_layout=layouts.key,
        value_layout=layouts.value,
        output_layout=layouts.output,
    )
