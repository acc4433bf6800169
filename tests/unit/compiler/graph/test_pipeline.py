"""The passes: all sizes known, shape arithmetic gone, weights untouched under their names."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from support.graph_wing import assert_same_meaning, cut, host_regions
from support.onnx_models import Choices, GraphBuilder, bert_like_model, decomposed_attention_model

from hocket.compiler.errors import CompileError, ModelError
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.pipeline import NamedPass, prepare_model, run_passes
from hocket.compiler.graph.values import static_shape

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"batch": 2, "length": 5}


def prepared(model: onnx.ModelProto, dims: dict[str, int] | None = None) -> ir.Model:
    return prepare_model(load_model(model, dims))


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


def test_sizes_are_known_behind_group_normalizations() -> None:
    build = GraphBuilder(opset=21)
    value = build.input("x", (2, 4, 5))
    weight = np.linspace(0.5, 2.0, 4).astype(np.float32)
    for layer in range(3):
        scale, bias = build.weight(f"scale{layer}", weight), build.weight(f"bias{layer}", weight)
        value = build.op("GroupNormalization", value, scale, bias, num_groups=2)
        value = build.op("Relu", value)
    build.op("Identity", value, name="y")
    build.output("y", (2, 4, 5))
    model = build.build()
    for node in prepared(model).graph:
        for each in node.outputs:
            assert static_shape(each) is not None, each.name
    assert_same_meaning(model, cut(model))


def test_shape_arithmetic_is_gone_and_every_size_is_known() -> None:
    model = prepared(bert_like_model(), SIZES)
    assert not {"Shape", "Concat"} & set(ops(model))
    assert ops(model).count("Gather") == 1
    for node in model.graph:
        for value in node.outputs:
            assert static_shape(value) is not None, value.name


def test_weights_keep_names_and_numbers() -> None:
    proto = bert_like_model()
    before = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    after = prepared(proto, SIZES).graph.initializers
    assert set(after) == set(before)
    for name, value in after.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])


def test_arithmetic_of_weights_is_not_folded() -> None:
    """Else an update of the weight by name would change nothing."""
    build = GraphBuilder()
    weight = build.weight("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    turned = build.op("Transpose", build.op("Mul", weight, build.constant(2.0)), perm=[1, 0])
    build.op("MatMul", build.input("x", (4, 3)), turned, name="y")
    build.output("y", (4, 2))
    model = prepared(build.build())
    assert ops(model) == ["Mul", "Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["w"]


def test_equal_weights_stay_two() -> None:
    build = GraphBuilder()
    first, second = (build.weight(name, np.ones((3, 3), np.float32)) for name in ("a", "b"))
    build.op("MatMul", build.op("MatMul", build.input("x", (1, 3)), first), second, name="y")
    build.output("y", (1, 3))
    assert set(prepared(build.build()).graph.initializers) == {"a", "b"}


def test_a_float_array_written_as_a_constant_becomes_a_weight() -> None:
    build = GraphBuilder()
    build.op("MatMul", build.input("x", (1, 2)), build.constant(np.eye(2)), name="y")
    build.output("y", (1, 2))
    model = prepared(build.build())
    assert ops(model) == ["MatMul"]
    assert len(model.graph.initializers) == 1


def test_what_folding_makes_is_a_constant_node_not_a_weight() -> None:
    model = prepared(decomposed_attention_model(Choices(projected=True)))
    assert not model.graph.initializers
    shapes = [node for node in model.graph if node.op_type == "Constant"]
    assert shapes


def test_folding_does_not_blow_up_a_model() -> None:
    build = GraphBuilder()
    wide = build.op("Expand", build.constant([1], "int64"), build.constant([2000, 2000], "int64"))
    build.op("Add", build.input("x", (1,), "int64"), wide, name="y")
    build.output("y", (2000, 2000), "int64")
    model = prepared(build.build())
    assert ir.to_proto(model).ByteSize() < 10_000


def test_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    function = helper.make_function(
        "mine", "Flip", ["a"], ["b"], body, [helper.make_opsetid("", 17)]
    )
    build = GraphBuilder()
    build.op("Flip", build.input("x", (2, 3)), domain="mine", name="y")
    build.output("y", (2, 3))
    model = build.build(mine=1)
    model.functions.append(function)
    result = prepared(model)
    assert ops(result) == ["Relu", "Neg"]
    assert not result.functions
    assert set(result.opset_imports) == {""}
    assert_same_meaning(model, cut(model))


def test_nodes_without_names_get_them() -> None:
    proto = decomposed_attention_model(Choices())
    for node in proto.graph.node:
        node.name = ""
    names = [node.name for node in prepared(proto).graph]
    assert len(set(names)) == len(names)
    assert "Softmax" in names


def test_sizes_that_do_not_fit_are_the_models_fault() -> None:
    """A table of 16 positions cannot be added to 20 rows."""
    loaded = load_model(bert_like_model(positions=16), {"batch": 1, "length": 20})
    with pytest.raises(ModelError, match=r"do not fit together with batch=1, length=20: node Add"):
        prepare_model(loaded)


def test_preparing_twice_changes_nothing() -> None:
    loaded = load_model(bert_like_model(), SIZES)
    once = ir.to_proto(prepare_model(loaded))
    assert ir.to_proto(prepare_model(loaded)) == once


def test_shapes_the_exporter_traced_are_not_believed() -> None:
    proto = bert_like_model()
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = 7
    model = prepared(proto, SIZES)
    assert [static_shape(value) for value in model.graph.outputs] == [(2, 5, 12), (2, 5)]


def test_a_declared_shape_holds_where_inference_finds_none() -> None:
    build = GraphBuilder()
    found = build.op("NonZero", build.input("x", (2, 3)))
    build.op("Cast", found, to=onnx.TensorProto.FLOAT, name="y")
    build.output("y", (2, 6))
    assert static_shape(prepared(build.build()).graph.outputs[0]) == (2, 6)


class _Fails(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise KeyError("lost")


def test_a_failing_pass_is_named_and_chained(tmp_path: Path) -> None:
    model = ir.from_proto(decomposed_attention_model(Choices()))
    with pytest.raises(CompileError, match="pass 'lose things' failed") as caught:
        run_passes(model, (NamedPass("lose things", _Fails()),), "tiny.onnx", tmp_path)
    assert isinstance(caught.value.__cause__, KeyError)
    (dump,) = tmp_path.iterdir()
    assert str(dump) in str(caught.value)
    assert "Softmax" in dump.read_text()


def test_the_text_after_each_pass_can_be_had(tmp_path: Path) -> None:
    prepare_model(load_model(decomposed_attention_model(Choices())), dump_dir=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "00-0-inline-functions.txt"
    assert any("fold-constants" in name for name in names)


def test_host_regions_have_the_weights_they_use_and_no_others() -> None:
    proto = bert_like_model()
    used = [set(region.model.graph.initializers) for region in host_regions(cut(proto, SIZES))]
    assert set().union(*used) == {item.name for item in proto.graph.initializer}
    assert all("layer.1.query.weight" not in names for names in used[2:])


def test_what_the_folder_cannot_compute_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    build = GraphBuilder(17)
    table, far = build.constant([1, 2, 3], "int64"), build.constant([7], "int64")
    build.op("Add", build.input("x", (1,), "int64"), build.op("Gather", table, far), name="y")
    build.output("y", (1,), "int64")
    with caplog.at_level(logging.DEBUG, logger="hocket"):
        model = prepared(build.build())
    assert [node.op_type for node in model.graph].count("Gather") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (left, *_) = [record for record in caplog.records if "left as it is" in record.message]
    assert "Evaluation failed" in left.message
    # Others' warnings are not kept back.
    logging.getLogger("onnxscript.optimizer._constant_folding").warning("another")
    assert caplog.records[-1].message == "another"
