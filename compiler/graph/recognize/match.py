"""What a matcher hands to the rewriter: an attention, and what must be made for it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.values import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from hocket.compiler.graph.recognize.axes import Operand
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.dtypes import DType


class Refusal(Exception):  # noqa: N818 - it is an answer, which ends a match, not an error
    """Why a Softmax or an attention op is not taken, in words that fit behind its name."""


class NeitherAxisRefusal(Refusal):
    """A mask that broadcasts to the scores, but by no axis that kernels know."""


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
        scores_shape: Sizes of the scores where it acts, as written: rows and columns last, batch
            and heads before them in one dimension or several.
        masked_value: What scores become that are not let through; only for KEEP and DROP.
        factor: Of an ADD mask, what it is multiplied by: below zero for one that is subtracted,
            and with what scores are scaled by behind it. Never zero.
    """

    role: MaskRole
    value: ir.Value
    scores_shape: tuple[int, ...]
    masked_value: float = 0.0
    factor: float = 1.0


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
        output_shape: The shape that is written, for the host to reshape it; None for the output's.
        kv_lengths: How many keys of each batch are seen, int64 ``[batch]``; None for all.
        before: Nodes that make operands, to be inserted in front, in their order.
        reshaping: Nodes that reshape operands, to be inserted behind all of these.
        leaves_out_rounding: Whether the model rounds scores or probabilities to few bits, which
            kernels do not.
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
    output_shape: tuple[int, ...] | None = None
    kv_lengths: ir.Value | None = None
    before: tuple[ir.Node, ...] = ()
    reshaping: tuple[ir.Node, ...] = ()
    replaced: tuple[tuple[ir.Value, ir.Value], ...] = ()
    leaves_out_rounding: bool = False


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


def mask_shape_for(term: MaskTerm, scores: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return the shape of a mask as four sizes, each 1 or that of the scores.

    Example:
        With scores of batch 64 and 3 heads, written as [1, 64, 3, 49, 49], a mask of
        [1, 64, 1, 49, 49] becomes (64, 1, 49, 49).

    Args:
        term: The mask.
        scores: Batch, heads, rows and columns of the scores.

    Raises:
        Refusal: It does not broadcast to them, or follows neither batch nor heads.
    """
    padded, read = parts_read(term, scores)
    parts = np.arange(math.prod(padded[:-2]))
    for batch in (1, scores[0]):
        for heads in (1, scores[1]):
            if np.array_equal(read[:batch, :heads].reshape(-1), parts) and bool(
                np.all(read == np.broadcast_to(read[:batch, :heads], scores[:2]))
            ):
                return (batch, heads, padded[-2], padded[-1])
    raise NeitherAxisRefusal(
        f"its mask {term.value.name!r} of shape {list(padded)} follows neither batch nor heads"
    )


def parts_read(
    term: MaskTerm, scores: tuple[int, int, int, int]
) -> tuple[tuple[int, ...], NDArray[np.intp]]:
    """Return the sizes of a mask, in the rank of the scores, and who reads which part of it.

    Args:
        term: The mask; its parts are its matrices of rows and columns, numbered as they lie.
        scores: Batch, heads, rows and columns of the scores.

    Returns:
        The sizes, and ``[batch, heads]`` numbers of parts.

    Raises:
        Refusal: It does not broadcast to the scores.
    """
    shape, full = sizes_of(term.value, "mask"), term.scores_shape
    if len(shape) > len(full):
        raise Refusal(f"its mask {term.value.name!r} has rank {len(shape)}, its scores {len(full)}")
    padded = (1,) * (len(full) - len(shape)) + shape
    if any(mine not in (1, whole) for mine, whole in zip(padded, full, strict=True)):
        raise Refusal(
            f"its mask {term.value.name!r} of shape {list(shape)} does not broadcast to the scores "
            f"{list(full)}"
        )
    parts = np.arange(math.prod(padded[:-2])).reshape(padded[:-2])
    return padded, np.broadcast_to(parts, full[:-2]).reshape(scores[:2])
