"""QuantizeLinear and DequantizeLinear in a row: rounding that a model was written with.

A quantised model rounds scores and probabilities to 8 bits because its products read 8 bits.
Kernels compute both products in floating point, so for them the pair is a rounding that makes the
result worse and takes time; it is left out unless the caller wants the model's own rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.values import constant_array, is_op, only_reader

if TYPE_CHECKING:
    import onnx_ir as ir


def rounded_value(dequantize: ir.Node) -> ir.Value | None:
    """Return what a DequantizeLinear gives back rounded; None if no quantisation is before it.

    Before and after::

        q = QuantizeLinear(s, 0.1, 128); d = DequantizeLinear(q, 0.1, 128)
        d is s, rounded to multiples of 0.1
    """
    if not is_op(dequantize, "DequantizeLinear"):
        return None
    stored = dequantize.inputs[0]
    quantize = None if stored is None else stored.producer()
    if stored is None or not is_op(quantize, "QuantizeLinear"):
        return None
    if only_reader(stored) is not dequantize or not _are_alike(quantize, dequantize):
        return None
    return quantize.inputs[0]


def rounding_pair(quantize: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear that alone reads a QuantizeLinear; None if there is none."""
    if not is_op(quantize, "QuantizeLinear"):
        return None
    reader = only_reader(quantize.outputs[0])
    if reader is None or rounded_value(reader) is None:
        return None
    return reader


def _are_alike(quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Whether scale and zero point of two nodes are the same."""
    for index in (1, 2):
        one, other = (
            node.inputs[index] if len(node.inputs) > index else None
            for node in (quantize, dequantize)
        )
        if one is other:
            continue
        arrays = constant_array(one), constant_array(other)
        if arrays[0] is None or arrays[1] is None or not np.array_equal(arrays[0], arrays[1]):
            return False
    return True
