"""Attention operators that no kernel takes, written out as ONNX itself defines them.

The host could run the operator as it is, but not every version of every runtime has it right: of
onnxruntime 1.32, three cases of ONNX's own tests come out wrong, and none in bfloat16 comes out at
all. Its primitive operators do as they say.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from hocket.compiler.graph.values import is_op

DOMAIN = "hocket.definition"
"""Of the functions while they are made; none is left in the end."""


def has_standard_attention(model: ir.Model) -> bool:
    """Whether there is an ``Attention`` operator in a model, its branches and bodies included."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return any(is_op(node, "Attention") for node in nodes)


def write_out_attention(model: ir.Model) -> ir.Model:
    """Replace every ``Attention`` operator by its definition.

    Before and after::

        y = Attention(q, k, v)
        s = Sqrt(...); a = Mul(q, s); b = Mul(Transpose(k), s); y = MatMul(Softmax(MatMul(a, b)), v)

    Args:
        model: Of known sizes; changed in place. What it gains is shape arithmetic, too, which is
            to be folded.

    Returns:
        The same model.
    """
    version = model.opset_imports.get("", 0)
    for number, node in enumerate(tuple(ir.traversal.RecursiveGraphIterator(model.graph))):
        if not is_op(node, "Attention"):
            continue
        schema = onnx.defs.get_schema("Attention", version)
        # Its stubs lack this method.
        content: bytes = schema.get_context_dependent_function_with_opset_version(  # type: ignore[attr-defined]
            version,
            ir.serde.serialize_node(node).SerializeToString(),
            [_type_of(value).SerializeToString() for value in node.inputs],
        )
        proto = onnx.FunctionProto.FromString(content)
        # It names outputs that it does not make, as nobody reads them.
        made = {name for inner in proto.node for name in inner.output}
        kept = [index for index, name in enumerate(proto.output) if name in made]
        names = [proto.output[index] for index in kept]
        del proto.output[:]
        proto.output.extend(names)
        proto.domain, proto.name = DOMAIN, f"Attention_{number}"
        function = ir.serde.deserialize_function(proto)
        # It says of some older op set that it is made of; what it uses has not changed since.
        function.opset_imports[""] = version
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
        _call(node, proto.name, len(proto.input), kept)
    InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _type_of(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _call(node: ir.Node, name: str, num_inputs: int, kept: list[int]) -> None:
    """Call a function in place of an operator, whose attributes the function has taken in.

    Args:
        node: The operator.
        name: Of the function.
        num_inputs: Inputs that the function has.
        kept: Which outputs of the operator the function makes, in its order.
    """
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name!r} is part of no graph")
    inputs = [*node.inputs, *[None] * (num_inputs - len(node.inputs))]
    pairs = []
    outputs = []
    for index in kept:
        new = ir.Value()
        if index < len(node.outputs):
            old = node.outputs[index]
            new = ir.Value(name=old.name, shape=old.shape, type=old.type)
            pairs.append((old, new))
        outputs.append(new)
    call = ir.node(name, inputs, domain=DOMAIN, outputs=outputs, name=node.name)
    graph.insert_before(node, call)
    for old, new in pairs:
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
