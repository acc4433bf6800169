"""Attention in OpenVINO: its ScaledDotProductAttention op."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.hwmodels.dtypes import DType
from kernels.contenders import Contender, Peer, heads_first, output_like

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kernels.operands import Operands

# Where the CPU can, it computes in bfloat16 unless told otherwise.
_UPPER_BITS = 16
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


class OpenvinoPeer(Peer):
    """The op on tensors that share the operands' memory."""

    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case, see ``contenders.Peer``."""
        import openvino

        problem, output = operands.problem, output_like(operands)
        request = _compile(operands, num_threads).create_infer_request()
        is_exported = operands.case.is_exported
        arrays = operands.merged if is_exported else (operands.query, operands.key, operands.value)
        feeds = [*arrays, *([] if operands.mask is None else [operands.mask])]
        written = openvino.Tensor(output, shared_memory=True)
        tensors = [openvino.Tensor(array, shared_memory=True) for array in feeds]
        is_half = problem.dtype is DType.BFLOAT16
        if is_half:
            written = openvino.Tensor(openvino.Type.bf16, list(output.shape))
            tensors = [openvino.Tensor(openvino.Type.bf16, list(array.shape)) for array in feeds]
            for tensor, bits in zip(tensors, operands.upper_halves, strict=True):
                tensor.data.view(np.uint16)[...] = bits
        for index, tensor in enumerate(tensors):
            request.set_input_tensor(index, tensor)
        request.set_output_tensor(0, written)

        def run() -> object:
            # Shared, or it would copy the output once more.
            return request.infer(share_outputs=True), feeds, output

        def result() -> NDArray[np.float32]:
            if is_half:
                bits = written.data.view(np.uint16).astype(np.uint32)
                output[...] = (bits << _UPPER_BITS).view(np.float32)
            return heads_first(output, operands)

        halves = sum(tensor.byte_size for tensor in (*tensors, written)) if is_half else 0
        return Contender(run, result, operand_bytes=output.nbytes + halves)


PEERS = (OpenvinoPeer("OpenVINO", "openvino"),)


def sgemm(num_threads: int, size: int) -> Contender:
    """Return a product of two square matrices, to see how fast its kernels are."""
    import openvino
    from openvino import opset13 as ops

    left, right = (ops.parameter([size, size], np.float32) for _ in range(2))
    model = openvino.Model([ops.matmul(left, right, False, False)], [left, right])
    settings = {**_EXACT, "INFERENCE_NUM_THREADS": num_threads}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    for index in range(2):
        factor = openvino.Tensor(np.ones((size, size), np.float32))
        request.set_input_tensor(index, factor)
    return Contender(
        lambda: request.infer(share_outputs=True), lambda: request.get_output_tensor(0).data
    )


def describe(operands: Operands) -> str:
    """Return which kernels the op takes."""
    for node in _compile(operands, 1).get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "ScaledDotProductAttention" in info["originalLayersNames"].astype(str):
            return f"{info['layerType'].astype(str)} {info['primitiveType'].astype(str)}"
    return "the op is taken apart"


def _compile(operands: Operands, num_threads: int) -> Any:
    import openvino
    from openvino import opset13 as ops

    problem = operands.problem
    is_exported = operands.case.is_exported
    arrays = operands.merged if is_exported else (operands.query, operands.key, operands.value)
    is_half = problem.dtype is DType.BFLOAT16
    dtype = openvino.Type.bf16 if is_half else openvino.Type.f32
    inputs = [ops.parameter(list(array.shape), dtype) for array in arrays]
    heads: list[Any] = list(inputs)
    if is_exported:
        counts = (problem.query_heads, problem.kv_heads, problem.kv_heads)
        heads = [
            ops.transpose(ops.reshape(each, [0, 0, count, -1], True), [0, 2, 1, 3])
            for each, count in zip(heads, counts, strict=True)
        ]
    if problem.group_size > 1:
        heads[1:] = [_repeat(ops, each, operands) for each in heads[1:]]
    extra: list[Any] = []
    if operands.mask is not None:
        inputs.append(ops.parameter(list(operands.mask.shape), np.float32))
        extra = [inputs[-1]]
    # The op ignores a mask beside causality.
    is_causal = problem.is_causal and not extra
    if problem.is_causal and extra:
        extra = [ops.add(extra[0], ops.constant(operands.causal_mask))]
    output = ops.scaled_dot_product_attention(*heads, *extra, causal=is_causal)
    if is_exported:
        output = ops.reshape(ops.transpose(output, [0, 2, 1, 3]), [0, 0, -1], True)
    settings = {**_EXACT, "INFERENCE_NUM_THREADS": num_threads}
    if is_half:
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    return openvino.Core().compile_model(openvino.Model([output], inputs), "CPU", settings)


def _repeat(ops: Any, head: Any, operands: Operands) -> Any:
    """Repeat each head of key or value, in the words that OpenVINO knows for grouped heads."""
    problem = operands.problem
    sizes = [1, problem.kv_heads, problem.group_size, problem.kv_length, problem.head_dim]
    many = ops.broadcast(ops.unsqueeze(head, 2), sizes, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(many, [0, problem.query_heads, problem.kv_length, problem.head_dim], True)
