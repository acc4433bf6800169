"""From a Softmax down to the product with the values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.recognize.axes import is_identity
from hocket.compiler.graph.recognize.match import Refusal
from hocket.compiler.graph.recognize.quantization import rounding_pair
from hocket.compiler.graph.recognize.scores import keeps_rows_and_columns
from hocket.compiler.graph.values import (
    constant_array,
    describe_node,
    element_type,
    is_op,
    static_shape,
    uniform_constant,
)
from hocket.compiler.problem import MaskedRows

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.hwmodels.dtypes import DType


@dataclass(frozen=True)
class Probabilities:
    """What lies between a Softmax and the product with the values.

    Attributes:
        product: The MatMul with the values.
        dtypes: Element types the probabilities have on the way.
        masked_rows: What a row becomes that is masked throughout.
        guarded_mask: The mask that a guard tests for such rows; None for a test of the
            probabilities themselves, or no test.
        is_rounded: Whether they are quantised and dequantised on the way.
    """

    product: ir.Node
    dtypes: frozenset[DType]
    masked_rows: MaskedRows = MaskedRows.NAN
    guarded_mask: ir.Value | None = None
    is_rounded: bool = False


def follow_probabilities(softmax: ir.Node) -> Probabilities:
    """Walk from a Softmax down to the product with the values.

    Raises:
        Refusal: The probabilities go elsewhere, or are seen by others.
    """
    current = softmax.outputs[0]
    dtypes: set[DType] = set()
    masked_rows = MaskedRows.NAN
    guarded_mask: ir.Value | None = None
    is_rounded = False
    while True:
        dtype = element_type(current)
        if dtype is not None:
            dtypes.add(dtype)
        node = _next_node(current)
        if is_op(node, "MatMul"):
            if node.inputs[0] is not current or node.inputs[1] is current:
                raise Refusal(f"its probabilities are the right side of {describe_node(node)}")
            return Probabilities(node, frozenset(dtypes), masked_rows, guarded_mask, is_rounded)
        if is_op(node, "Where"):
            zeroed, tested = _read_guard(node, current)
            if zeroed:
                masked_rows, guarded_mask = MaskedRows.ZERO, tested
        elif (pair := rounding_pair(node)) is not None:
            is_rounded = True
            node = pair
        elif is_op(node, "Reshape", "Squeeze", "Unsqueeze") and keeps_rows_and_columns(node):
            pass
        elif not is_op(node, "Cast") and not is_identity(node):
            raise Refusal(
                f"its probabilities go to {describe_node(node)}, not to a product with values"
            )
        current = node.outputs[0]


def _next_node(value: ir.Value) -> ir.Node:
    """Return the node that reads the probabilities; of a NaN guard, the Where."""
    if value.is_graph_output():
        raise Refusal(f"its probabilities {value.name!r} are an output of the model")
    readers = value.consumers()
    if any(reader.graph is not value.graph for reader in readers):
        raise Refusal(f"its probabilities {value.name!r} are read inside another node's graph")
    tests = [reader for reader in readers if _is_nan_test(reader)]
    others = [reader for reader in readers if reader not in tests]
    if not others:
        raise Refusal(f"nothing multiplies its probabilities {value.name!r}")
    if len(others) > 1:
        names = ", ".join(describe_node(reader) for reader in others)
        raise Refusal(f"its probabilities are read by several nodes: {names}")
    return others[0]


def _is_nan_test(node: ir.Node) -> bool:
    """Whether a node is the IsNaN of a guard whose Where reads the same value."""
    if not is_op(node, "IsNaN") or node.outputs[0].is_graph_output():
        return False
    users = node.outputs[0].consumers()
    return len(users) == 1 and is_op(users[0], "Where") and users[0].inputs[2] is node.inputs[0]


def _read_guard(where: ir.Node, probabilities: ir.Value) -> tuple[bool, ir.Value | None]:
    """Return whether a Where sets masked rows to zero, and the mask it tests, if that it does."""
    condition = where.inputs[0]
    if where.inputs[2] is not probabilities or uniform_constant(where.inputs[1]) != 0.0:
        raise Refusal(f"its probabilities pass {describe_node(where)}, which is no guard")
    if static_shape(where.outputs[0]) != static_shape(probabilities):
        raise Refusal(f"its probabilities are broadcast by {describe_node(where)}")
    never = constant_array(condition)
    if never is not None and not np.any(never):
        return False, None
    test = None if condition is None else condition.producer()
    if is_op(test, "IsNaN") and test.inputs[0] is probabilities:
        return True, None
    mask = _mask_of_row_test(test)
    if mask is None:
        raise Refusal(
            f"its probabilities pass {describe_node(where)}, whose test is not understood"
        )
    return True, mask


def _mask_of_row_test(test: ir.Node | None) -> ir.Value | None:
    """Return the mask of ``Equal(ReduceMax(mask, axes=-1, keepdims=1), -inf)``."""
    if not is_op(test, "Equal"):
        return None
    for index in (0, 1):
        other = test.inputs[1 - index]
        reduced = None if other is None else other.producer()
        if uniform_constant(test.inputs[index]) != -math.inf or not is_op(reduced, "ReduceMax"):
            continue
        mask = reduced.inputs[0]
        shape = static_shape(mask)
        if (
            shape
            and static_shape(reduced.outputs[0]) == (*shape[:-1], 1)
            and _is_last_axis(reduced)
        ):
            return mask
    return None


def _is_last_axis(reduced: ir.Node) -> bool:
    rank = len(static_shape(reduced.inputs[0]) or ())
    attribute = reduced.attributes.get("axes")
    if attribute is not None:
        axes = list(attribute.as_ints())
    else:
        array = constant_array(reduced.inputs[1]) if len(reduced.inputs) > 1 else None
        axes = [] if array is None else [int(axis) for axis in array.reshape(-1)]
    return [axis % rank for axis in axes] == [rank - 1]
