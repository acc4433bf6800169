"""The masks of onnxruntime's MultiHeadAttention, Attention and QAttention.

Its kernels make one mask of all: ``mask_filter_value`` where padding is, 0 where none is, and then,
whatever was there, the lowest number of float32 where causality hides a key. That is added to the
bias of the scores, and the sum to the scores. None of these is minus infinity: a row that is masked
throughout sees all its keys alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.contrib.attend import Added, Kept, Mask, lowest
from hocket.compiler.graph.recognize.match import Refusal, sizes_of
from hocket.compiler.graph.values import element_type
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from hocket.compiler.graph.contrib.node_writer import NodeWriter

# With some room for the scores it is added to.
_LOWEST_FLOAT16_FILLER = -60000.0


@dataclass(frozen=True)
class MaskInputs:
    """What an operator says of its masks.

    Attributes:
        padding: Which keys are padding, in one of the forms of ``_padding``; None for none.
        bias: What is added to the scores, ``[batch or 1, heads or 1, rows, columns]``; None for
            nothing.
        filler: What is added to the scores of padding.
        is_causal: Whether rows see no key that lies ahead.
        past_length: Keys before those of the first row.
        takes_starts: Whether padding may also be told by where keys start.
    """

    padding: ir.Value | None
    bias: ir.Value | None
    filler: float
    is_causal: bool
    past_length: int
    takes_starts: bool = False


def make_masks(
    write: NodeWriter, inputs: MaskInputs, scores: tuple[int, int, int, int], dtype: ir.DataType
) -> tuple[Mask, ...]:
    """Return the masks as they act on scores.

    Before and after, for a causal operator with padding::

        y = MultiHeadAttention <unidirectional=1, mask_filter_value=-10000> (q, k, v, , padding)
        m = Where(Greater(padding, 0), 0, -10000); s = Add(s, m); s = Where(triangle, s, -3.4e38)

    Args:
        write: Makes the nodes.
        inputs: What the operator says.
        scores: Batch, heads, rows and columns.
        dtype: Element type of the scores.
    """
    if dtype != ir.DataType.FLOAT:
        _refuse_low_numbers(inputs)
    padding = None
    if inputs.padding is not None:
        keep = _padding(write, inputs.padding, scores, takes_starts=inputs.takes_starts)
        zero, filler = (write.constant(number, dtype) for number in (0.0, inputs.filler))
        padding = write.where(keep, zero, filler)
    seen = _triangle(write, inputs.past_length, scores) if inputs.is_causal else None
    if inputs.bias is None:
        masks: list[Mask] = [] if padding is None else [Added(padding)]
        return (*masks, *([] if seen is None else [Kept(seen, lowest(dtype))]))
    check_bias(inputs.bias, scores, dtype)
    mask = inputs.bias
    if seen is not None:
        # The bias may be minus infinity throughout a row, so here the sum is what must be made.
        shown = write.constant(0.0, dtype) if padding is None else padding
        padding = write.where(seen, shown, write.constant(lowest(dtype), dtype))
    return (Added(mask if padding is None else write.add(mask, padding)),)


def _refuse_low_numbers(inputs: MaskInputs) -> None:
    """Refuse masks whose numbers float16 does not have, which onnxruntime computes with float32.

    Where there are none of these, minus infinity does for what lies ahead.
    """
    if inputs.padding is not None and inputs.filler < _LOWEST_FLOAT16_FILLER:
        raise Refusal(f"its mask_filter_value {inputs.filler:g} is out of the range of float16")
    if inputs.is_causal and inputs.bias is not None:
        raise Refusal("it is causal and has a bias, whose sum float16 does not hold")


def _padding(
    write: NodeWriter,
    mask: ir.Value,
    scores: tuple[int, int, int, int],
    *,
    takes_starts: bool,
) -> ir.Value:
    """Return which keys are no padding, in a shape that broadcasts to the scores.

    The forms: lengths ``[batch]``; ends and then starts ``[2 * batch]``; lengths and what only
    GPUs read behind them ``[3 * batch + 2]``; flags ``[batch, columns]``; flags
    ``[batch, rows, columns]``. A flag above 0 is one of a key to be seen.
    """
    if element_type(mask) is not DType.INT32:
        raise Refusal(f"its mask {mask.name!r} is not of int32")
    batch, _, rows, columns = scores
    shape = sizes_of(mask, "mask")
    if shape == (batch, columns):
        return write.less(write.constant(np.int32(0)), write.reshape(mask, (batch, 1, 1, columns)))
    if shape == (batch, rows, columns):
        full = (batch, 1, rows, columns)
        return write.less(write.constant(np.int32(0)), write.reshape(mask, full))
    has_starts = takes_starts and shape == (2 * batch,)
    if not has_starts and shape not in ((batch,), (3 * batch + 2,)):
        raise Refusal(
            f"its mask {mask.name!r} of shape {list(shape)} is in no form that is understood for "
            f"batch {batch}, {rows} rows and {columns} keys"
        )
    positions = write.positions(0, columns, ir.DataType.INT32)
    ends = write.reshape(write.slice(mask, 0, 0, batch), (batch, 1, 1, 1))
    keep = write.less(positions, ends)
    if has_starts:
        starts = write.reshape(write.slice(mask, 0, batch, 2 * batch), (batch, 1, 1, 1))
        keep = write.both(keep, write.opposite(write.less(positions, starts)))
    return keep


def _triangle(
    write: NodeWriter, past_length: int, scores: tuple[int, int, int, int]
) -> ir.Value | None:
    """Return which keys a row sees that sees none ahead, None where that is all of them."""
    _, _, rows, columns = scores
    if rows == 1:
        return None
    ends = write.positions(past_length + 1, rows - 1, ir.DataType.INT64)
    # The last row is never masked, which makes a difference only where there are more keys than
    # rows and past.
    ends = write.concat([ends, write.sizes([columns])], axis=0)
    positions = write.positions(0, columns, ir.DataType.INT64)
    return write.less(positions, write.reshape(ends, (rows, 1)))


def check_bias(bias: ir.Value, scores: tuple[int, int, int, int], dtype: ir.DataType) -> None:
    """Refuse a bias that is not ``[batch or 1, heads or 1, rows, columns]`` of an element type."""
    shape = sizes_of(bias, "attention_bias")
    batch, heads, rows, columns = scores
    if len(shape) != 4 or shape[0] not in (1, batch) or shape[1] not in (1, heads):
        raise Refusal(f"its attention_bias of shape {list(shape)} does not fit {list(scores)}")
    if shape[2:] != (rows, columns):
        raise Refusal(f"its attention_bias of shape {list(shape)} does not fit {list(scores)}")
    if bias.dtype != dtype:
        raise Refusal(f"its attention_bias {bias.name!r} is of another element type than its query")
