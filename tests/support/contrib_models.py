"""Models of one attention operator of onnxruntime, in any of its forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.graph_wing import assert_same_meaning, attention_regions, cut

from hocket.compiler.graph.contrib import grouped, multi_head, packed_weights
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize import recognize_attention

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hocket.compiler.graph.regions import AttentionRegion, PartitionedModel

INPUT_NAMES = {
    "Attention": packed_weights.INPUTS,
    "GroupQueryAttention": grouped.INPUTS,
    "MultiHeadAttention": multi_head.INPUTS,
    "QAttention": packed_weights.QUANTIZED_INPUTS,
}
OUTPUT_NAMES = {
    "Attention": packed_weights.OUTPUTS,
    "GroupQueryAttention": grouped.OUTPUTS,
    "MultiHeadAttention": multi_head.OUTPUTS,
    "QAttention": packed_weights.OUTPUTS,
}

_RANKS = {"output": 3, "present": 5}

Arrays = dict[str, np.ndarray]


def contrib_model(
    op_type: str,
    arrays: Mapping[str, np.ndarray],
    *,
    outputs: Collection[str] = ("output",),
    constants: Collection[str] = (),
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node whose inputs are those of the model.

    Args:
        op_type: The operator, of domain ``com.microsoft``.
        arrays: Its inputs by name; those that are missing are not given.
        outputs: Which outputs are those of the model.
        constants: Inputs that are initializers.
        opset: Of the standard operators.
        **attributes: Its attributes.
    """
    names = [name if name in arrays else "" for name in INPUT_NAMES[op_type]]
    while not names[-1]:
        names.pop()
    wanted = [name if name in outputs else "" for name in OUTPUT_NAMES[op_type]]
    while not wanted[-1]:
        wanted.pop()
    node = helper.make_node(
        op_type, names, wanted, name="layer.0/attention", domain="com.microsoft", **attributes
    )
    floats = [array.dtype for array in arrays.values() if array.dtype.kind == "f"]
    float_type = helper.np_dtype_to_tensor_dtype(floats[0])
    graph = helper.make_graph(
        [node],
        "contrib",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
            if name not in constants
        ],
        [
            helper.make_tensor_value_info(name, float_type, [None] * _RANKS.get(name, 4))
            for name in wanted
            if name
        ],
        [numpy_helper.from_array(arrays[name], name) for name in constants],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    version = 8 if opset <= 18 else 10 if opset <= 21 else 11
    return helper.make_model(graph, opset_imports=imports, ir_version=version)


def cut_and_check(
    op_type: str,
    arrays: Mapping[str, np.ndarray],
    *,
    constants: Collection[str] = (),
    tolerance: float = 2e-5,
    **choices: Any,
) -> tuple[AttentionRegion, PartitionedModel]:
    """Compile a model of one node, compare it with onnxruntime, and return its one attention.

    Args:
        op_type: The operator.
        arrays: Its inputs by name.
        constants: Inputs that are initializers.
        tolerance: Of the comparison, relative and absolute.
        **choices: As ``contrib_model`` takes them.
    """
    model = contrib_model(op_type, arrays, constants=constants, **choices)
    partitioned = cut(model)
    assert partitioned.not_taken == ()
    (region,) = attention_regions(partitioned)
    assert region.name == "layer.0/attention"
    assert f"com.microsoft::{op_type} written out" in region.form
    feeds = {name: array for name, array in arrays.items() if name not in constants}
    assert_same_meaning(model, partitioned, feeds=feeds, tolerance=tolerance)
    return region, partitioned


def refusal_of(op_type: str, arrays: Mapping[str, np.ndarray], **choices: Any) -> str:
    """Return why a model of one node is left to onnxruntime."""
    loaded = load_model(contrib_model(op_type, arrays, **choices))
    recognized = recognize_attention(prepare_model(loaded))
    assert recognized.taken == ()
    (item,) = recognized.not_taken
    assert (item.node, item.op) == ("layer.0/attention", f"com.microsoft::{op_type}")
    return item.reason


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Return float32 numbers of usual size."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def int32(*content: int) -> np.ndarray:
    """Return int32 numbers in a row."""
    return np.array(content, np.int32)
