"""What a matcher hands to the rewriter: an attention, and what must be made for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.graph.values import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.recognize.axes import Operand
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.dtypes import DType


class Refusal(Exception):  # noqa: N818 - it is an answer, which ends a match, not an error
    """Why a Softmax or an attention op is not taken, in words that fit behind its name."""


class MaskRole(enum.Enum):
    """What a mask does to the scores.

    ADD is added to them. KEEP lets through where it is true, DROP where it is false.
    """

    ADD = "Add mask"
    KEEP = "Where mask"
    DROP = "inverted Where mask"


@dataclass(frozen=True)
class MaskTerm:
    """One mask of an attention.

    Attributes:
        role: What it does.
        value: The mask.
        masked_value: What scores become that are not let through; only for KEEP and DROP.
    """

    role: MaskRole
    value: ir.Value
    masked_value: float = 0.0


@dataclass(frozen=True)
class AttentionMatch:
    """An attention found in a graph; nothing has been changed for it yet.

    Attributes:
        anchor: The node it was found at: the Softmax, or the attention op.
        form: Its written form, in words.
        problem: Its sizes.
        query, value: What to read.
        key: What to read, or, with ``key_permutation``, what to transpose and read then.
        key_permutation: Axes of the Transpose that the host must do; None if none is needed.
        mask: Its masks, in the order in which they act.
        mask_dtype: Element type of the scores where the masks act.
        output: What to write.
        kv_lengths: How many keys of each batch are seen, int64 ``[batch]``; None for all.
        before: Nodes that make operands, to be inserted in front, in their order.
        replaced: Other outputs of the anchor, each with the value that takes its place.
    """

    anchor: ir.Node
    form: str
    problem: AttentionProblem
    query: Operand
    key: Operand
    key_permutation: tuple[int, ...] | None
    value: Operand
    mask: tuple[MaskTerm, ...]
    mask_dtype: DType
    output: Operand
    kv_lengths: ir.Value | None = None
    before: tuple[ir.Node, ...] = ()
    replaced: tuple[tuple[ir.Value, ir.Value], ...] = ()


def sizes_of(value: ir.Value | None, role: str) -> tuple[int, ...]:
    """Return the sizes of an operand.

    Raises:
        Refusal: They are not all known.
    """
    shape = static_shape(value)
    if shape is None:
        name = "" if value is None else f" {value.name!r}"
        raise Refusal(f"the sizes of its {role}{name} are not all known")
    if 0 in shape:
        raise Refusal(f"its {role} is empty, {list(shape)}")
    return shape


def mask_shape_for(
    value: ir.Value, scores: tuple[int, int, int, int], rank: int
) -> tuple[int, int, int, int]:
    """Return the shape of a mask as four sizes, each 1 or that of the scores.

    Args:
        value: The mask, as it is stored.
        scores: Batch, heads, rows and columns of the scores.
        rank: Rank of the scores as written; with 3, they have no axis for heads.

    Raises:
        Refusal: It does not broadcast to them.
    """
    shape = sizes_of(value, "mask")
    if len(shape) > rank:
        raise Refusal(f"its mask {value.name!r} has rank {len(shape)}, its scores {rank}")
    padded = (1,) * (rank - len(shape)) + shape
    batch, heads, rows, columns = padded if rank == 4 else (padded[0], 1, *padded[1:])
    result = (batch, heads, rows, columns)
    if any(mine not in (1, full) for mine, full in zip(result, scores, strict=True)):
        raise Refusal(
            f"its mask {value.name!r} of shape {list(shape)} does not broadcast to the scores "
            f"{list(scores)}"
        )
    return result
