"""The pass that writes onnxruntime's attention out, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.contrib_models import contrib_model, int32, numbers

from hocket.compiler.graph.contrib.node_writer import NodeWriter
from hocket.compiler.graph.contrib.write_out import WriteOutContribPass, num_contrib_nodes
from hocket.compiler.graph.notes import made_of, why_left
from hocket.compiler.graph.recognize.match import Refusal


def multi_head_model(**attributes: int) -> ir.Model:
    arrays = {name: numbers(0, 2, 5, 12) for name in ("query", "key", "value")}
    arrays["key_padding_mask"] = int32(3, 5)
    return ir.from_proto(contrib_model("MultiHeadAttention", arrays, **attributes))


def test_what_is_written_out_is_noted() -> None:
    model = multi_head_model(num_heads=3)
    assert num_contrib_nodes(model) == 1
    assert WriteOutContribPass()(model).modified
    assert num_contrib_nodes(model) == 0
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    assert (softmax.name, made_of(softmax)) == (
        "layer.0/attention",
        "com.microsoft::MultiHeadAttention",
    )
    (output,) = model.graph.outputs
    assert output.name == "output"
    assert str(output.shape) == "[2,5,12]"
    assert not WriteOutContribPass()(model).modified


def test_what_is_refused_leaves_nothing_behind() -> None:
    # Its heads fit the query, but its bias fits nothing: it is found late.
    arrays = {name: numbers(0, 2, 5, 12) for name in ("query", "key", "value")}
    arrays["attention_bias"] = numbers(0, 2, 3, 5, 4)
    model = ir.from_proto(contrib_model("MultiHeadAttention", arrays, num_heads=3))
    assert not WriteOutContribPass()(model).modified
    assert all(len(value.uses()) == 1 for value in model.graph.inputs)
    (node,) = model.graph
    assert "its attention_bias of shape [2, 3, 5, 4] does not fit" in (why_left(node) or "")


def test_names_that_are_taken_are_left_alone() -> None:
    model = multi_head_model(num_heads=3)
    taken = ir.node("Relu", [model.graph.inputs[0]], name="layer.0/attention/MatMul")
    taken.outputs[0].name = "layer.0/attention/Softmax"
    first = next(iter(model.graph))
    model.graph.insert_before(first, taken)
    WriteOutContribPass()(model)
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    nodes = [node.name for node in model.graph]
    assert len(set(nodes)) == len(nodes)


def test_sizes_that_do_not_fit_are_refused() -> None:
    write = NodeWriter("attention", 17)
    one, other = write.constant(np.zeros((2, 3))), write.constant(np.zeros((2, 4)))
    with pytest.raises(Refusal, match=r"its sizes \[2, 3\] and \[2, 4\] do not fit together"):
        write.add(one, other)


@pytest.mark.parametrize("opset", [11, 13])
def test_split_has_its_sizes_where_the_op_set_wants_them(opset: int) -> None:
    write = NodeWriter("attention", opset)
    parts = write.split(write.constant(np.zeros((2, 5))), -1, (2, 3))
    assert [str(part.shape) for part in parts] == ["[2,2]", "[2,3]"]
    node = write.nodes[-1]
    assert ("split" in node.attributes) == (opset == 11)
    assert len(node.inputs) == (1 if opset == 11 else 2)


def test_what_changes_nothing_makes_no_node() -> None:
    write = NodeWriter("attention", 17)
    value = write.constant(np.zeros((2, 5), np.float32))
    same = [
        write.reshape(value, (2, 5)),
        write.expand(value, (2, 5)),
        write.cast(value, ir.DataType.FLOAT),
        write.slice(value, 1, 0, 5),
        write.concat([value], 0),
    ]
    assert all(each is value for each in same)
    assert len(write.nodes) == 1
