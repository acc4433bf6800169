"""Attention in onnxruntime: the ops it has for it, and the graphs that exporters write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from kernels.contenders import Contender, NotServedError, Peer, heads_first, output_like

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from kernels.operands import Operands

_OPSET = 23
_IR_VERSION = 10
_CONTRIB = "com.microsoft"
_ERRORS_ONLY = 4
_CAPTURED = 3  # log level that keeps warnings of the graph's making to itself


@dataclass
class Graph:
    """A model under construction.

    Attributes:
        feeds: Arrays by the input they are for.
        outputs: Arrays by the output that is written to them.
        nodes: In order.
        constants: Arrays by name, stored in the model.
    """

    feeds: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.int64) -> str:
        """Store an array in the model and return its name."""
        self.constants[name] = np.array(value, dtype)
        return name

    def serialize(self) -> bytes:
        """Return the model's file."""
        inputs, outputs = (
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in arrays.items()
            ]
            for arrays in (self.feeds, self.outputs)
        )
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        model = helper.make_model(
            helper.make_graph(self.nodes, "attention", inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
            ir_version=_IR_VERSION,
        )
        content: bytes = model.SerializeToString()
        return content


def standard_op(operands: Operands) -> Graph:
    """Return the ``Attention`` op of opset 23."""
    problem = operands.problem
    graph = _with_operands(operands, merged=operands.case.is_exported)
    heads = (
        {"q_num_heads": problem.query_heads, "kv_num_heads": problem.kv_heads}
        if operands.case.is_exported
        else {}
    )
    graph.add(
        "Attention",
        ["query", "key", "value", *_mask_input(graph, operands)],
        "output",
        scale=problem.scale,
        is_causal=int(problem.is_causal),
        **heads,
    )
    return graph


def multi_head_op(operands: Operands) -> Graph:
    """Return the ``MultiHeadAttention`` op of onnxruntime, on the layout it is made for."""
    problem = operands.problem
    if problem.group_size > 1:
        raise NotServedError("MultiHeadAttention wants as many heads of key as of query")
    graph = _with_operands(operands, merged=True)
    if problem.query_length == 1 and not operands.case.is_exported:
        # The form for a cache of keys, which spares it a transpose of all of them.
        graph.feeds |= {"key": operands.key, "value": operands.value}
    graph.add(
        "MultiHeadAttention",
        ["query", "key", "value", "", "", *_mask_input(graph, operands)],
        "output",
        domain=_CONTRIB,
        num_heads=problem.query_heads,
        scale=problem.scale,
        unidirectional=int(problem.is_causal),
    )
    return graph


def grouped_op(operands: Operands) -> Graph:
    """Return the ``GroupQueryAttention`` op of onnxruntime, its cache of keys updated in place.

    All keys but those of the query's own rows are in the cache already, as in decoding.
    """
    problem = operands.problem
    fits = problem.is_causal or problem.query_length == 1
    if operands.mask is not None or not fits or problem.query_length > problem.kv_length:
        raise NotServedError("GroupQueryAttention is causal, of the last rows, and without mask")
    if problem.is_causal and problem.query_length != problem.kv_length:
        raise NotServedError("GroupQueryAttention aligns causality at the last key, not the first")
    graph = _with_operands(operands, merged=True)
    past = problem.kv_length - problem.query_length
    _, key, value = operands.merged
    graph.feeds |= {"key": key[:, past:].copy(), "value": value[:, past:].copy()}
    for name, array in (("key", operands.key), ("value", operands.value)):
        cache = array.copy()
        cache[:, :, past:] = 0
        graph.feeds[f"past_{name}"] = cache
        graph.outputs[f"present_{name}"] = cache
    graph.feeds["last"] = np.array([problem.kv_length - 1], np.int32)
    graph.feeds["total"] = np.array([problem.kv_length], np.int32)
    graph.nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            ["query", "key", "value", "past_key", "past_value", "last", "total"],
            ["output", "present_key", "present_value"],
            domain=_CONTRIB,
            num_heads=problem.query_heads,
            kv_num_heads=problem.kv_heads,
            scale=problem.scale,
        )
    )
    return graph


def decomposed(operands: Operands) -> Graph:
    """Return the two products and the softmax between them, as exporters write them.

    In layout ``[batch, rows, heads * columns]`` with the Reshape and Transpose around it.
    """
    problem = operands.problem
    graph = _with_operands(operands, merged=operands.case.is_exported)
    query, key, value = "query", "key", "value"
    if operands.case.is_exported:
        query = _split(graph, query, problem.query_heads, problem.head_dim)
        key = _split(graph, key, problem.kv_heads, problem.head_dim)
        value = _split(graph, value, problem.kv_heads, problem.value_dim)
    if problem.group_size > 1:
        key = _repeat(graph, key, operands, problem.head_dim)
        value = _repeat(graph, value, operands, problem.value_dim)
    turned = graph.add("Transpose", [key], "turned_key", perm=[0, 1, 3, 2])
    scores = graph.add("MatMul", [query, turned], "products")
    graph.constant("scale", problem.scale, np.float32)
    scores = graph.add("Mul", [scores, "scale"], "scores")
    masks = _mask_input(graph, operands)
    if problem.is_causal:
        graph.feeds["causal"] = operands.causal_mask
        masks.append("causal")
    for name in masks:
        scores = graph.add("Add", [scores, name], f"scores_with_{name}")
    weights = graph.add("Softmax", [scores], "weights", axis=-1)
    if not operands.case.is_exported:
        graph.add("MatMul", [weights, value], "output")
        return graph
    heads = graph.add("MatMul", [weights, value], "heads_of_output")
    rows = graph.add("Transpose", [heads], "rows_of_output", perm=[0, 2, 1, 3])
    graph.constant("merged_shape", [0, 0, problem.query_heads * problem.value_dim])
    graph.add("Reshape", [rows, "merged_shape"], "output")
    return graph


_GRAPHS = {
    "ORT Attention": standard_op,
    "ORT MHA": multi_head_op,
    "ORT GQA": grouped_op,
    "ORT decomposed": decomposed,
}


class OnnxruntimePeer(Peer):
    """One graph in onnxruntime, its operands and outputs bound once."""

    def make(self, operands: Operands, num_threads: int) -> Contender:
        """Prepare a case, see ``contenders.Peer``."""
        import onnxruntime

        graph = _GRAPHS[self.name](operands)
        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _CAPTURED
        session = onnxruntime.InferenceSession(
            graph.serialize(), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for name, array in graph.feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in graph.outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

        def run() -> Graph:
            session.run_with_iobinding(binding)
            return graph  # kept alive: the binding knows its arrays by their addresses only

        given = {id(array) for array in operands.arrays}
        made = {id(array): array.nbytes for array in (graph.feeds | graph.outputs).values()}
        return Contender(
            run,
            lambda: heads_first(graph.outputs["output"], operands),
            operand_bytes=sum(size for key, size in made.items() if key not in given),
        )


PEERS = (
    OnnxruntimePeer("ORT Attention", "onnxruntime", keeps_scores=True),
    OnnxruntimePeer("ORT MHA", "onnxruntime"),
    OnnxruntimePeer("ORT GQA", "onnxruntime"),
    OnnxruntimePeer("ORT decomposed", "onnxruntime", keeps_scores=True),
)


def sgemm(num_threads: int, size: int) -> Contender:
    """Return a product of two square matrices, to see how fast its kernels are."""
    import onnxruntime

    factors = np.ones((2, size, size), np.float32)
    graph = Graph(
        feeds={"left": factors[0], "right": factors[1]},
        outputs={"output": np.zeros((size, size), np.float32)},
    )
    graph.add("MatMul", ["left", "right"], "output")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(
        graph.serialize(), options, providers=["CPUExecutionProvider"]
    )
    return Contender(lambda: session.run(None, graph.feeds), lambda: graph.outputs["output"])


def _with_operands(operands: Operands, *, merged: bool) -> Graph:
    arrays = operands.merged if merged else (operands.query, operands.key, operands.value)
    graph = Graph(feeds=dict(zip(("query", "key", "value"), arrays, strict=True)))
    output = output_like(operands)
    problem = operands.problem
    if merged:
        output = output.reshape(1, problem.query_length, problem.query_heads * problem.value_dim)
    graph.outputs["output"] = output
    return graph


def _mask_input(graph: Graph, operands: Operands) -> list[str]:
    if operands.mask is None:
        return []
    graph.feeds["mask"] = operands.mask
    return ["mask"]


def _split(graph: Graph, name: str, heads: int, columns: int) -> str:
    """Add what turns ``[batch, rows, heads * columns]`` into ``[batch, heads, rows, columns]``."""
    graph.constant(f"{name}_split_shape", [0, 0, heads, columns])
    rows = graph.add("Reshape", [name, f"{name}_split_shape"], f"{name}_rows")
    return graph.add("Transpose", [rows], f"{name}_heads", perm=[0, 2, 1, 3])


def _repeat(graph: Graph, name: str, operands: Operands, columns: int) -> str:
    """Add what repeats each head of key or value for the query heads that share it."""
    problem = operands.problem
    length, heads, group = problem.kv_length, problem.kv_heads, problem.group_size
    graph.constant(f"{name}_axis", [2])
    graph.constant(f"{name}_repeated_shape", [1, heads, group, length, columns])
    graph.constant(f"{name}_flat_shape", [1, heads * group, length, columns])
    apart = graph.add("Unsqueeze", [name, f"{name}_axis"], f"{name}_apart")
    many = graph.add("Expand", [apart, f"{name}_repeated_shape"], f"{name}_many")
    return graph.add("Reshape", [many, f"{name}_flat_shape"], f"{name}_flat")
