"""Running a partitioned model: onnxruntime for host regions, numpy in float64 for attention.

It stands in for the runtime, so that the meaning of the graph wing's passes can be tested alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from hocket.compiler.graph.regions import AttentionRegion, HostRegion
from hocket.compiler.problem import MaskedRows, MaskKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from hocket.compiler.graph.regions import Layout, PartitionedModel
    from hocket.compiler.problem import AttentionProblem

Arrays = dict[str, np.ndarray]


def make_session(model: bytes) -> ort.InferenceSession:
    """Return a session that runs a model as it is written, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_model(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a whole model in onnxruntime."""
    return make_session(model.SerializeToString()).run(None, dict(feeds))


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a whole model in the reference implementation of ONNX, where onnxruntime is narrower."""
    return ReferenceEvaluator(model).run(None, dict(feeds))


def run_partitioned(
    partitioned: PartitionedModel, feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Run region after region, and check every value against its ValueInfo on the way."""
    values = {info.name: np.asarray(feeds[info.name]) for info in partitioned.inputs}
    for region in partitioned.regions:
        missing = [name for name in region.inputs if name not in values]
        assert not missing, f"{region.name} runs before {missing} are there"
        made = (
            _run_host(region, values)
            if isinstance(region, HostRegion)
            else {region.output: _run_attention(region, values, partitioned)}
        )
        for name, array in made.items():
            info = partitioned.values[name]
            assert array.shape == info.shape, f"{name}: {array.shape} is not {info.shape}"
            assert array.dtype.name == info.dtype, f"{name}: {array.dtype} is not {info.dtype}"
        values |= made
    return [values[info.name] for info in partitioned.outputs]


def _run_attention(
    region: AttentionRegion, values: Arrays, partitioned: PartitionedModel
) -> np.ndarray:
    return compute_attention(region, values, partitioned.values[region.output].shape)


def _run_host(region: HostRegion, values: Arrays) -> Arrays:
    session = make_session(ir.to_proto(region.model).SerializeToString())
    arrays = session.run(list(region.outputs), {name: values[name] for name in region.inputs})
    return dict(zip(region.outputs, arrays, strict=True))


def compute_attention(
    region: AttentionRegion, values: Arrays, shape: tuple[int, ...]
) -> np.ndarray:
    """Compute a region in float64 and lay the result out as the region writes it.

    Args:
        region: What to compute.
        values: Holds what it reads.
        shape: Of the output, which is of rank 3 or 4 in layout bnhd.
    """
    problem = region.problem
    batch, heads, rows = problem.batch, problem.query_heads, problem.query_length
    query = _to_bhnd(
        values[region.query], region.query_layout, (batch, heads, rows, problem.head_dim)
    )
    kv_sizes = (batch, problem.kv_heads, problem.kv_length)
    key = _to_bhnd(values[region.key], region.key_layout, (*kv_sizes, problem.head_dim))
    value = _to_bhnd(values[region.value], region.value_layout, (*kv_sizes, problem.value_dim))
    key = np.repeat(key, problem.group_size, axis=1)
    value = np.repeat(value, problem.group_size, axis=1)
    scores = problem.scale * (query @ key.swapaxes(-1, -2))
    lengths = None if region.kv_lengths is None else values[region.kv_lengths]
    if problem.rules.softcap:
        scores = problem.rules.softcap * np.tanh(scores / problem.rules.softcap)
    scores = _masked(scores, problem, None if region.mask is None else values[region.mask])
    if not problem.rules.mask_hides_rest:
        scores = np.where(_seen(problem, lengths), scores, -np.inf)
    output = _softmax(scores, problem.masked_rows) @ value
    if region.output_layout == "bnhd":
        output = output.transpose(0, 2, 1, 3)
    return output.reshape(shape).astype(problem.dtype.to_numpy())


def _to_bhnd(array: np.ndarray, layout: Layout, sizes: tuple[int, int, int, int]) -> np.ndarray:
    batch, heads, rows, columns = sizes
    array = array.astype(np.float64)
    if layout == "bhnd":
        assert array.shape in (sizes, (batch * heads, rows, columns))
        return array.reshape(sizes)
    assert array.shape in ((batch, rows, heads, columns), (batch, rows, heads * columns))
    return array.reshape(batch, rows, heads, columns).transpose(0, 2, 1, 3)


def _masked(scores: np.ndarray, problem: AttentionProblem, mask: np.ndarray | None) -> np.ndarray:
    if mask is not None:
        mask = mask.reshape(problem.mask_shape)
        if problem.mask is MaskKind.ADDITIVE:
            scores = scores + mask.astype(np.float64)
        else:
            assert mask.dtype == np.bool_
            scores = np.where(mask, scores, problem.masked_value)
    return scores


def _seen(problem: AttentionProblem, lengths: np.ndarray | None) -> np.ndarray:
    """Return which keys each row sees by causality, windows and lengths, ``[batch, 1, n, m]``."""
    rules = problem.rules
    counts = np.full(problem.batch, problem.kv_length) if lengths is None else lengths
    counts = counts.reshape(-1, 1, 1, 1)
    position = np.arange(problem.query_length)[:, None] + rules.query_offset
    if rules.counts_from_end:
        position = position + counts - problem.query_length
    ahead = np.arange(problem.kv_length) - position
    seen = np.arange(problem.kv_length) < counts
    if problem.is_causal:
        seen = seen & (ahead <= 0)
    if rules.left_window is not None:
        seen = seen & (ahead >= -rules.left_window)
    if rules.right_window is not None:
        seen = seen & (ahead <= rules.right_window)
    return seen


def _softmax(scores: np.ndarray, masked_rows: MaskedRows) -> np.ndarray:
    highest = scores.max(axis=-1, keepdims=True)
    is_masked = np.isneginf(highest)
    weights = np.exp(scores - np.where(is_masked, 0.0, highest))
    totals = weights.sum(axis=-1, keepdims=True)
    filler = np.nan if masked_rows is MaskedRows.NAN else 0.0
    return np.where(is_masked, filler, weights / np.where(is_masked, 1.0, totals))
