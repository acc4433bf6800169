"""Tiny ONNX models made in code: attention in all its written forms, and what looks like it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None

_ELEMENT_TYPES = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


class GraphBuilder:
    """Builds a model node by node; every method that makes a value returns its name."""

    def __init__(self, opset: int = 17, *, identities: bool = False) -> None:
        self.opset = opset
        self._identities = identities
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._count = 0

    def input(self, name: str, shape: tuple[Dim, ...], dtype: str = "float32") -> str:
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, value: str, shape: tuple[Dim, ...], dtype: str = "float32") -> str:
        self._outputs.append(_value_info(value, dtype, shape))
        return value

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer."""
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, content: Any, dtype: str = "float32") -> str:
        """Add a Constant node."""
        array = np.asarray(content, dtype=dtype)
        return self._node("Constant", value=numpy_helper.from_array(array))

    def op(
        self, op_type: str, *inputs: str, domain: str = "", name: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output, named ``name`` if given."""
        result = self._node(op_type, *inputs, name=name, domain=domain, **attributes)
        return self._node("Identity", result) if self._identities and not name else result

    def shaped(self, value: str, *sizes: int | str) -> str:
        """Reshape; a size that is text is read off axis 0 or 1 of that value, as exporters do."""
        if all(isinstance(size, int) for size in sizes):
            return self.op("Reshape", value, self.constant(sizes, "int64"))
        parts = []
        for size in sizes:
            if isinstance(size, int):
                parts.append(self.constant([size], "int64"))
                continue
            source, _, axis = size.rpartition(":")
            shape = self._node("Shape", source)
            index = self.constant(int(axis), "int64")
            scalar = self._node("Gather", shape, index, axis=0)
            parts.append(self._unsqueezed(scalar))
        return self.op("Reshape", value, self._node("Concat", *parts, axis=0))

    def _unsqueezed(self, value: str) -> str:
        if self.opset < 13:
            return self._node("Unsqueeze", value, axes=[0])
        return self._node("Unsqueeze", value, self.constant([0], "int64"))

    def _node(
        self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        self._count += 1
        output = name or f"v{self._count}"
        label = f"n{self._count}_{op_type}"
        node = helper.make_node(op_type, inputs, [output], name=label, domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def build(self, **opsets: int) -> onnx.ModelProto:
        """Return the model, checked."""
        graph = helper.make_graph(self._nodes, "tiny", self._inputs, self._outputs, self._weights)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [
            helper.make_opsetid(domain.replace("_", "."), v) for domain, v in opsets.items()
        ]
        # An old IR version, which every release of onnxruntime reads.
        version = 8 if self.opset <= 18 else 10 if self.opset <= 21 else 11
        model = helper.make_model(graph, opset_imports=imports, ir_version=version)
        onnx.checker.check_model(model)
        return model


def _value_info(name: str, dtype: str, shape: tuple[Dim, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], list(shape))


ScalePlace = Literal["none", "product", "query", "key", "both", "input"]
CausalForm = Literal["none", "added", "chosen", "computed", "merged"]
MaskForm = Literal[
    "none", "add", "keep", "drop", "two adds", "keep then add", "add then keep", "constant", "zero"
]


@dataclass(frozen=True)
class Choices:
    """How an attention is written out.

    Attributes:
        rank: 4, or 3 for one head, with batch and heads as one axis.
        projected: Whether query, key and value are ``[batch, rows, heads * columns]``, reshaped and
            transposed in the graph, and the output is brought back to that form.
        key_transposes: How the key comes to ``[b, h, d, n]``: by one Transpose, by two, or not at
            all because it is given so.
        scale_place: ``input`` is on the query before it is reshaped; ``both`` has half on each.
        scale_op: Mul by the scale or Div by its inverse.
        scale_left: Whether the number is the left operand of Mul.
        mask_left: Whether the mask is the left operand of Add.
        mask_shape: Of each mask; None for a shape that fits.
        masked_value: What masked scores become.
        guard: Whether NaN rows are set to zero behind the Softmax.
        softmax_float32: Whether the scores are cast to float32 for the Softmax.
        softcap: Limit of the scores before they are masked; 0 for none.
        copies: Query heads that share a head of key and value, which is copied for them.
        causal: How the rows are kept from seeing later keys: by a triangle of constants that is
            added or chooses, by one computed from positions, by one merged with an input.
        dynamic: Whether batch and lengths are symbolic, with Reshapes computed from Shape.
    """

    batch: int = 2
    heads: int = 3
    query_length: int = 4
    kv_length: int = 5
    head_dim: int = 6
    value_dim: int = 7
    rank: Literal[3, 4] = 4
    projected: bool = False
    key_transposes: Literal[0, 1, 2] = 1
    scale_place: ScalePlace = "product"
    scale_op: Literal["Mul", "Div"] = "Mul"
    scale_left: bool = False
    scale: float = 0.375
    mask: MaskForm = "none"
    mask_left: bool = False
    mask_shape: tuple[int, ...] | None = None
    masked_value: float = -math.inf
    guard: bool = False
    softmax_float32: bool = False
    softmax_axis: int | None = -1
    identities: bool = False
    dtype: Literal["float64", "float32", "float16"] = "float32"
    opset: int = 17
    softcap: float = 0.0
    copies: int = 1
    causal: CausalForm = "none"
    dynamic: bool = False

    @property
    def leading(self) -> tuple[int, ...]:
        """Sizes in front of rows and columns, where they are not projected."""
        if self.rank == 3:
            return (self.batch * self.heads,)
        return (self.batch, self.heads)

    @property
    def key_heads(self) -> int:
        """Heads of key and value before they are copied."""
        return self.heads // self.copies

    @property
    def key_leading(self) -> tuple[int, ...]:
        """As ``leading``, of key and value before they are copied."""
        return self.leading if self.rank == 3 else (self.batch, self.key_heads)

    @property
    def scores_shape(self) -> tuple[int, ...]:
        return (*self.leading, self.query_length, self.kv_length)


def decomposed_attention_model(choices: Choices) -> onnx.ModelProto:
    """Write one attention out as chosen; inputs q, k, v and the masks, output y."""
    build = GraphBuilder(choices.opset, identities=choices.identities)
    query = _operand(build, choices, "q", choices.query_length, choices.head_dim)
    key = _key(build, choices)
    value = _operand(build, choices, "v", choices.kv_length, choices.value_dim)
    if choices.scale_place in ("query", "both"):
        query = _scaled(build, choices, query)
    if choices.scale_place in ("key", "both"):
        key = _scaled(build, choices, key)
    scores = build.op("MatMul", query, key)
    if choices.scale_place == "product":
        scores = _scaled(build, choices, scores)
    if choices.softmax_float32:
        scores = build.op("Cast", scores, to=TensorProto.FLOAT)
    if choices.softcap:
        dtype = "float32" if choices.softmax_float32 else choices.dtype
        limit = build.constant(choices.softcap, dtype)
        scores = build.op("Mul", build.op("Tanh", build.op("Div", scores, limit)), limit)
    scores = _masked(build, choices, _causal(build, choices, scores))
    axis = {} if choices.softmax_axis is None else {"axis": choices.softmax_axis}
    probabilities = build.op("Softmax", scores, **axis)
    if choices.guard:
        zero = build.constant(0.0, "float32" if choices.softmax_float32 else choices.dtype)
        probabilities = build.op("Where", build.op("IsNaN", probabilities), zero, probabilities)
    if choices.softmax_float32:
        probabilities = build.op("Cast", probabilities, to=_ELEMENT_TYPES[choices.dtype])
    output = build.op("MatMul", probabilities, value)
    _finish(build, choices, output)
    return build.build()


def _operand(build: GraphBuilder, choices: Choices, name: str, rows: int, columns: int) -> str:
    if not choices.projected or choices.rank == 3:
        leading = choices.leading if name == "q" else choices.key_leading
        made = build.input(name, (*leading, rows, columns), choices.dtype)
    else:
        split = _split_heads(build, choices, name, rows, columns)
        made = build.op("Transpose", split, perm=[0, 2, 1, 3])
    return made if name == "q" else _copied(build, choices, made, rows, columns)


def _copied(build: GraphBuilder, choices: Choices, value: str, rows: int, columns: int) -> str:
    if choices.copies == 1:
        return value
    sizes = (choices.batch, choices.key_heads, choices.copies, rows, columns)
    one = build.shaped(value, choices.batch, choices.key_heads, 1, rows, columns)
    many = build.op("Expand", one, build.constant(sizes, "int64"))
    return build.shaped(many, choices.batch, choices.heads, rows, columns)


def _split_heads(build: GraphBuilder, choices: Choices, name: str, rows: int, columns: int) -> str:
    heads = choices.heads if name == "q" else choices.key_heads
    sizes: tuple[Dim, ...] = (choices.batch, rows, heads * columns)
    if choices.dynamic:
        sizes = ("batch", f"{'query' if name == 'q' else 'key'}_length", sizes[2])
    projected = build.input(name, sizes, choices.dtype)
    source = projected
    if name == "q" and choices.scale_place == "input":
        projected = _scaled(build, choices, projected)
    if choices.dynamic:
        return build.shaped(projected, f"{source}:0", f"{source}:1", heads, columns)
    return build.shaped(projected, choices.batch, rows, heads, columns)


def _key(build: GraphBuilder, choices: Choices) -> str:
    rows, columns = choices.kv_length, choices.head_dim
    swap = [0, 2, 1] if choices.rank == 3 else [0, 1, 3, 2]
    if choices.copies > 1:
        return build.op("Transpose", _operand(build, choices, "k", rows, columns), perm=swap)
    if choices.projected and choices.rank == 4:
        heads = _split_heads(build, choices, "k", rows, columns)
        if choices.key_transposes == 1:
            return build.op("Transpose", heads, perm=[0, 2, 3, 1])
        return build.op("Transpose", build.op("Transpose", heads, perm=[0, 2, 1, 3]), perm=swap)
    if choices.key_transposes == 0:
        return build.input("k", (*choices.leading, columns, rows), choices.dtype)
    return build.op(
        "Transpose", build.input("k", (*choices.leading, rows, columns), choices.dtype), perm=swap
    )


def _scaled(build: GraphBuilder, choices: Choices, value: str) -> str:
    factor = math.sqrt(choices.scale) if choices.scale_place == "both" else choices.scale
    number = build.constant(factor if choices.scale_op == "Mul" else 1.0 / factor, choices.dtype)
    if choices.scale_op == "Mul" and choices.scale_left:
        return build.op("Mul", number, value)
    return build.op(choices.scale_op, value, number)


def _causal(build: GraphBuilder, choices: Choices, scores: str) -> str:
    if choices.causal == "none":
        return scores
    dtype = "float32" if choices.softmax_float32 else choices.dtype
    rows, columns = choices.query_length, choices.kv_length
    triangle = np.tri(rows, columns, max(columns - rows, 0), dtype=bool)
    hidden = build.constant(choices.masked_value, dtype)
    if choices.causal == "added":
        numbers = np.where(triangle, 0.0, choices.masked_value)
        return build.op("Add", scores, build.constant(numbers, dtype))
    keep = build.constant(triangle, "bool")
    if choices.causal == "computed":
        position = build.constant(np.arange(rows)[:, None] + max(columns - rows, 0), "int64")
        later = build.op("Greater", build.constant(np.arange(columns), "int64"), position)
        keep = build.op("Not", later)
    elif choices.causal == "merged":
        keep = build.op(
            "And", keep, build.input("visible", (choices.scores_shape[0], 1, columns), "bool")
        )
        if choices.rank == 4:
            keep = build.shaped(keep, choices.batch, 1, rows, columns)
    return build.op("Where", keep, scores, hidden)


def _masked(build: GraphBuilder, choices: Choices, scores: str) -> str:
    dtype = "float32" if choices.softmax_float32 else choices.dtype
    shape = choices.scores_shape if choices.mask_shape is None else choices.mask_shape

    def add(value: str, mask: str) -> str:
        return build.op("Add", mask, value) if choices.mask_left else build.op("Add", value, mask)

    def keep(value: str, condition: str, *, is_kept: bool) -> str:
        number = build.constant(choices.masked_value, dtype)
        sides = (value, number) if is_kept else (number, value)
        return build.op("Where", condition, *sides)

    if choices.mask == "add":
        scores = add(scores, build.input("mask", shape, dtype))
    elif choices.mask == "constant":
        pattern = np.resize([0.0, -1.0, 0.5], math.prod(shape)).reshape(shape).astype(dtype)
        scores = add(scores, build.weight("constant_mask", pattern))
    elif choices.mask == "zero":
        scores = add(scores, build.constant(np.zeros(shape), dtype))
    elif choices.mask in ("keep", "drop"):
        condition = build.input("mask", shape, "bool")
        scores = keep(scores, condition, is_kept=choices.mask == "keep")
    elif choices.mask == "two adds":
        first = build.input("bias", choices.scores_shape, dtype)
        scores = add(add(scores, first), build.input("mask", shape, dtype))
    elif choices.mask == "keep then add":
        causal = build.input("causal", choices.scores_shape[-2:], "bool")
        scores = add(keep(scores, causal, is_kept=True), build.input("mask", shape, dtype))
    elif choices.mask == "add then keep":
        causal = build.input("causal", choices.scores_shape[-2:], "bool")
        scores = keep(add(scores, build.input("mask", shape, dtype)), causal, is_kept=True)
    return scores


def _finish(build: GraphBuilder, choices: Choices, output: str) -> None:
    columns = choices.value_dim
    if choices.rank == 3 or not choices.projected:
        build.op("Identity", output, name="y")
        build.output("y", (*choices.leading, choices.query_length, columns), choices.dtype)
        return
    output = build.op("Transpose", output, perm=[0, 2, 1, 3])
    hidden = choices.heads * columns
    if choices.dynamic:
        output = build.shaped(output, "q:0", "q:1", hidden)
        build.output("y", ("batch", "query_length", hidden), choices.dtype)
    else:
        output = build.shaped(output, choices.batch, choices.query_length, hidden)
        build.output("y", (choices.batch, choices.query_length, hidden), choices.dtype)
    build.op("Identity", output, name="y")


def attention_op_model(
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    output: tuple[int, ...],
    *,
    mask: tuple[int, ...] | None = None,
    mask_dtype: str = "float32",
    opset: int = 23,
    **attributes: Any,
) -> onnx.ModelProto:
    """Make a model of one standard Attention node; inputs q, k, v and mask, output y."""
    build = GraphBuilder(opset)
    names = [build.input("q", query), build.input("k", key), build.input("v", value)]
    if mask is not None:
        names.append(build.input("mask", mask, mask_dtype))
    build.op("Attention", *names, name="y", **attributes)
    build.output("y", output)
    return build.build()


def bert_like_model(
    *,
    layers: int = 2,
    hidden: int = 12,
    heads: int = 3,
    vocabulary: int = 20,
    positions: int = 16,
    seed: int = 0,
) -> onnx.ModelProto:
    """Make a small encoder as exporters write it, with symbolic batch and length.

    Inputs ``input_ids`` and ``attention_mask``, outputs ``hidden`` and ``mask_copy``. Weights are
    named as in a checkpoint, ``layer.0.query.weight`` and so on.
    """
    rng = np.random.default_rng(seed)
    build = GraphBuilder(17)
    ids = build.input("input_ids", ("batch", "length"), "int64")
    mask = build.input("attention_mask", ("batch", "length"), "int64")
    axes = build.constant([1, 2], "int64")
    as_float = build.op("Cast", build.op("Unsqueeze", mask, axes), to=TensorProto.FLOAT)
    inverted = build.op("Sub", build.constant(1.0), as_float)
    bias = build.op("Mul", inverted, build.constant(np.finfo(np.float32).min))

    def weight(name: str, *shape: int) -> str:
        return build.weight(name, rng.normal(scale=0.4, size=shape).astype(np.float32))

    state = build.op("Gather", weight("word.weight", vocabulary, hidden), ids, axis=0)
    table = weight("position.weight", positions, hidden)
    length = build.op("Gather", build.op("Shape", ids), build.constant([1], "int64"))
    used = build.op(
        "Slice", table, build.constant([0], "int64"), length, build.constant([0], "int64")
    )
    state = build.op("Add", state, used)
    for layer in range(layers):
        state = _bert_layer(
            build, weight, state, bias, name=f"layer.{layer}", hidden=hidden, heads=heads
        )
    build.op("Identity", state, name="hidden")
    build.output("hidden", ("batch", "length", hidden))
    build.op("Identity", mask, name="mask_copy")
    build.output("mask_copy", ("batch", "length"), "int64")
    return build.build()


def _bert_layer(
    build: GraphBuilder, weight: Any, state: str, bias: str, *, name: str, hidden: int, heads: int
) -> str:
    head_dim = hidden // heads

    def dense(value: str, label: str, rows: int, columns: int) -> str:
        product = build.op("MatMul", value, weight(f"{name}.{label}.weight", rows, columns))
        return build.op("Add", weight(f"{name}.{label}.bias", columns), product)

    def split(label: str, perm: list[int]) -> str:
        flat = dense(state, label, hidden, hidden)
        return build.op(
            "Transpose", build.shaped(flat, f"{flat}:0", f"{flat}:1", heads, head_dim), perm=perm
        )

    query, key = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1])
    value = split("value", [0, 2, 1, 3])
    scores = build.op("Div", build.op("MatMul", query, key), build.constant(math.sqrt(head_dim)))
    probabilities = build.op("Softmax", build.op("Add", scores, bias), axis=-1)
    context = build.op("Transpose", build.op("MatMul", probabilities, value), perm=[0, 2, 1, 3])
    merged = build.shaped(context, f"{context}:0", f"{context}:1", hidden)
    state = _normalized(
        build,
        weight,
        build.op("Add", dense(merged, "output", hidden, hidden), state),
        f"{name}.norm",
        hidden,
    )
    wide = build.op("Relu", dense(state, "up", hidden, 2 * hidden))
    return build.op("Add", dense(wide, "down", 2 * hidden, hidden), state)


def _normalized(build: GraphBuilder, weight: Any, value: str, name: str, hidden: int) -> str:
    scale, shift = weight(f"{name}.weight", hidden), weight(f"{name}.bias", hidden)
    return build.op("LayerNormalization", value, scale, shift, axis=-1)


def random_feeds(model: onnx.ModelProto, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Return numbers for the inputs of a model; flags are mostly true, integers small.

    Args:
        model: Whose inputs.
        seed: Of the numbers.
        **sizes: Of its symbolic dimensions.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for item in model.graph.input:
        tensor = item.type.tensor_type
        shape = tuple(sizes.get(dim.dim_param, dim.dim_value) for dim in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype == np.bool_:
            feeds[item.name] = np.asarray(rng.random(shape) < 0.8)
        elif np.issubdtype(dtype, np.integer):
            feeds[item.name] = np.asarray(rng.integers(0, 2, shape), dtype)
        else:
            feeds[item.name] = np.asarray(rng.normal(size=shape), dtype)
    return feeds
