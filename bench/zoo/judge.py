"""Who is right where we and onnxruntime differ by more than ``hocket verify`` would take."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from hocket.sampling import Feeds

# Errors of one kind differ by a small factor between ways to sum up.
NOISE_FACTOR = 4.0

# The reference evaluator takes minutes for convolutions.
_MAX_EVALUATED_BYTES = 4 << 20


@dataclass(frozen=True)
class Judgement:
    """What a difference means.

    Attributes:
        is_noise: Whether ours is as good an answer as onnxruntime's.
        reason: Why, in words.
    """

    is_noise: bool
    reason: str


def judge(path: Path, output: str, feeds: Feeds, ours: NDArray[Any]) -> Judgement:
    """Say whether our numbers are as near to the truth as onnxruntime's.

    Where sums are long or softmax saturates, onnxruntime differs from itself as much, as soon as it
    fuses less. Where it does not, the same file in double precision says who is nearer.

    Args:
        path: The file.
        output: The output that is furthest off.
        feeds: With which it is.
        ours: What we compute.
    """
    theirs = _run_onnxruntime(path, output, feeds, optimizes=True)
    difference = _largest(ours - theirs)
    noise = _largest(_run_onnxruntime(path, output, feeds, optimizes=False) - theirs)
    if noise * NOISE_FACTOR >= difference:
        reason = f"onnxruntime is {noise:.1e} from itself without its optimizations"
        return Judgement(is_noise=True, reason=reason)
    if path.stat().st_size > _MAX_EVALUATED_BYTES:
        reason = f"onnxruntime is only {noise:.1e} from itself without its optimizations"
        return Judgement(is_noise=False, reason=reason)
    truth = evaluate_in_double(onnx.load(path), output, feeds)
    our_error, their_error = _largest(truth - ours), _largest(truth - theirs)
    return Judgement(
        is_noise=our_error <= NOISE_FACTOR * their_error,
        reason=f"beside the file in double precision ours is {our_error:.1e} off, onnxruntime "
        f"{their_error:.1e}, where the largest number is {_largest(truth):.1e}",
    )


def evaluate_in_double(model: onnx.ModelProto, output: str, feeds: Feeds) -> NDArray[Any]:
    """Return an output as ONNX's reference evaluator computes it in double precision."""
    from onnx.reference import ReferenceEvaluator

    wide = onnx.ModelProto.FromString(model.SerializeToString())
    _widen(wide.graph)
    for function in wide.functions:
        _widen_nodes(function.node)
    inputs = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in feeds.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = ReferenceEvaluator(wide).run([output], inputs)
    return np.asarray(found)


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Any) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.name in {"to", "dtype"} and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _run_onnxruntime(path: Path, output: str, feeds: Feeds, *, optimizes: bool) -> NDArray[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimizes else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], feeds)[0])


def _largest(numbers: NDArray[Any]) -> float:
    return float(np.max(np.abs(numbers), initial=0.0))
