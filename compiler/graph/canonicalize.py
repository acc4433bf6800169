"""Passes of our own that bring a model into the plain form the recogniser reads."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from hocket.compiler.errors import ModelError
from hocket.compiler.graph.values import (
    constant_array,
    describe_node,
    is_op,
    name_of,
    static_shape,
    subgraphs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

_MAX_FILLED_ELEMENTS = 1024
_SMALL_TENSOR_BYTES = 1000

# ONNX defines it by a function that depends on its inputs, and infers nothing through that.
_LIKE_THEIR_FIRST_INPUT = ("GroupNormalization",)


class NodeNames:
    """Names for nodes and values that have none: their operator, numbered by the naming pass."""

    def generate_node_name(self, node: ir.Node) -> str:
        """Return the name a node has or should have."""
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        """Return the name a value has or should have."""
        return value.name or "value"


class LiftWeightsPass(ir.passes.InPlacePass):
    """Make initializers of the float arrays that an exporter wrote as Constant nodes.

    They are weights, too, and so can be shared by regions and updated by name::

        w = Constant <float32[384, 384]>; y = MatMul(x, w)
        (w: an initializer)
        y = MatMul(x, w)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lift them out of the main graph."""
        modified = False
        for node in tuple(model.graph):
            if not is_op(node, "Constant") or not _is_weight(node.outputs[0]):
                continue
            old = node.outputs[0]
            tensor = ir.convenience.get_const_tensor(old)
            if tensor is None or old.is_graph_output():
                continue
            name = name_of(old)
            new = ir.Value(
                name=name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            old.replace_all_uses_with(new)
            model.graph.remove(node, safe=True)
            model.graph.register_initializer(new)
            modified = True
        return ir.passes.PassResult(model, modified)


def _is_weight(value: ir.Value) -> bool:
    array = constant_array(value)
    return array is not None and array.size > 1 and array.dtype.kind in "fV"


class FoldingRule:
    """Which nodes of constants are folded: all but those that read a weight.

    A weight is an initializer of the file with more than one float. A single number may be folded,
    because a scale must be known to be part of an ``AttentionProblem``.
    """

    def __init__(self, weights: frozenset[str]) -> None:
        self._weights = weights

    def __call__(self, node: ir.Node) -> bool | None:
        """Return True or False to decide, None to leave it to the folder's own rules."""
        if any(value is not None and self._is_kept(value) for value in node.inputs):
            return False
        if is_op(node, "ConstantOfShape"):
            # The folder leaves these for their size; small ones are part of shape arithmetic.
            shape = constant_array(node.inputs[0])
            return shape is not None and math.prod(shape.tolist()) <= _MAX_FILLED_ELEMENTS
        return None

    def _is_kept(self, value: ir.Value) -> bool:
        if not value.is_initializer() or value.name not in self._weights:
            return False
        tensor = value.const_value
        return tensor is not None and tensor.size > 1 and tensor.dtype.is_floating_point()


class FoldConstantsPass(ir.passes.InPlacePass):
    """Compute what depends on constants and sizes alone, and infer shapes on the way.

    The sizes of what it makes are limited, so that a model does not grow::

        s = Shape(x); n = Gather(s, 1); t = Concat(1, n, 12, 32); y = Reshape(x, t)
        (x: float32[1, 128, 384])
        t: an initializer [1, 128, 12, 32]; y = Reshape(x, t)    y: float32[1, 128, 12, 32]
    """

    def __init__(self, weights: frozenset[str]) -> None:
        super().__init__()
        self._should_fold = FoldingRule(weights)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold one round, in the order of the nodes."""
        # As infinities in what it computes are no concern of who compiles.
        with _failures_as_debug(), np.errstate(all="ignore"):
            return optimizer.fold_constants_ir(
                model, onnx_shape_inference=True, should_fold=self._should_fold
            )


_FOLDER = logging.getLogger("onnxscript.optimizer._constant_folding")
_FAILURE = "Evaluation failed: %s"


@contextlib.contextmanager
def _failures_as_debug() -> Iterator[None]:
    """Log for those who debug what the folder warns of where it cannot compute a node.

    It leaves the node as it is then, which harms nobody: the host computes it.
    """

    def is_no_failure(record: logging.LogRecord) -> bool:
        if record.msg != _FAILURE:
            return True
        logger.debug("left as it is: %s", record.getMessage())
        return False

    _FOLDER.addFilter(is_no_failure)
    try:
        yield
    finally:
        _FOLDER.removeFilter(is_no_failure)


class InferShapesPass(ir.passes.InPlacePass):
    """Infer shapes, also behind the operators that ONNX infers nothing for.

    Those give what their first input is like::

        y = GroupNormalization(x, scale, bias); z = Relu(y)         (x: float32[1, 16, 99])
        y: unknown, z: unknown
        y: float32[1, 16, 99], z: float32[1, 16, 99]
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer, again and again as far as there are such operators one behind the other."""
        infer = common.ShapeInferencePass(strict_mode=False)
        modified = infer(model).modified
        while _copy_shapes(model.graph):
            infer(model)
            modified = True
        return ir.passes.PassResult(model, modified)


def _copy_shapes(graph: ir.Graph) -> bool:
    modified = False
    for node in graph:
        if not is_op(node, *_LIKE_THEIR_FIRST_INPUT):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None or static_shape(source) is None or static_shape(result) is not None:
            continue
        result.shape, result.type = source.shape, source.type
        modified = True
    return modified


class ConstantsToNodesPass(ir.passes.InPlacePass):
    """Make Constant nodes of initializers that folding made.

    What stays an initializer is one of the file, under its name there::

        initializers: W (of the file), t (folded); y = Reshape(x, t)
        initializers: W
        t = Constant [1, 128, 12, 32]; y = Reshape(x, t)
    """

    def __init__(self, weights: frozenset[str]) -> None:
        super().__init__()
        self._weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Put the nodes at the head of the main graph."""
        graph = model.graph
        nodes = []
        for name, old in tuple(graph.initializers.items()):
            tensor = old.const_value
            if name in self._weights or tensor is None or old.is_graph_input():
                continue
            new = ir.Value(
                name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
            )
            attribute = ir.AttrTensor("value", tensor)
            node = ir.Node("", "Constant", [], [attribute], outputs=[new], name=f"{name}/Constant")
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            del graph.initializers[name]
            nodes.append(node)
        if nodes:
            first = next(iter(graph), None)
            if first is None:
                graph.extend(nodes)
            else:
                graph.insert_before(first, nodes)
        return ir.passes.PassResult(model, bool(nodes))


class CheckShapesPass(ir.passes.PassBase):
    """Raise if the sizes of the model do not fit together, as with a length it cannot take."""

    in_place = True
    changes_input = False

    def __init__(self, source: str, dims: Mapping[str, int]) -> None:
        super().__init__()
        self._source = source
        self._dims = dict(dims)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer the outputs of each node once more, strictly, and throw the result away.

        Branches of If are left out: one that is never taken may not fit, and does no harm.
        """
        for node in model.graph:
            version = model.opset_imports.get(node.domain)
            if version is None or not onnx.defs.has(node.op_type, version, node.domain):
                continue
            if any(subgraphs(node)) or any(_type_of(value) is None for value in _inputs(node)):
                continue
            try:
                infer_outputs(node, version)
            except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
                raise ModelError(self._explain(node, error)) from error
        return ir.passes.PassResult(model, modified=False)

    def _explain(self, node: ir.Node, error: Exception) -> str:
        given = ", ".join(f"{name}={size}" for name, size in self._dims.items())
        with_dims = f" with {given}" if given else ""
        inputs = ", ".join(f"{value.name!r} {value.shape}" for value in _inputs(node))
        return (
            f"{self._source}: the sizes of the model do not fit together{with_dims}: "
            f"node {describe_node(node)} reads {inputs}: {' '.join(str(error).split())}; "
            "give other sizes with --dim, or mend the model"
        )


def _inputs(node: ir.Node) -> tuple[ir.Value, ...]:
    return tuple(value for value in node.inputs if value is not None)


def _type_of(value: ir.Value) -> onnx.TypeProto | None:
    if value.type is None:
        return None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def infer_outputs(node: ir.Node, version: int) -> dict[str, onnx.TypeProto]:
    """Return the types that ONNX infers for the outputs of a node, by their names.

    Args:
        node: Of an operator that ONNX knows; its inputs have types.
        version: Of its op set.

    Raises:
        onnx.shape_inference.InferenceError: The sizes of its inputs do not fit together.
    """
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    types = {name_of(value): proto for value in _inputs(node) if (proto := _type_of(value))}
    data = {}
    for value in _inputs(node):
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.nbytes <= _SMALL_TENSOR_BYTES:
            data[name_of(value)] = ir.serde.serialize_tensor(tensor)
    return onnx.shape_inference.infer_node_outputs(
        schema,
        ir.serde.serialize_node(node),
        types,
        data,
        opset_imports=[onnx.helper.make_opsetid(node.domain, version)],
    )
