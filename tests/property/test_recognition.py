"""Law 5 for the graph wing: recognition keeps the meaning, and doing it twice is doing it once."""

from __future__ import annotations

import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st
from support.graph_wing import assert_same_meaning, attention_regions
from support.onnx_models import Choices, decomposed_attention_model
from support.onnx_strategies import choices

from hocket.compiler.graph.attention_node import (
    Layouts,
    layouts_from_node,
    make_node,
    problem_from_node,
)
from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize import recognize_attention
from hocket.compiler.problem import AttentionProblem, MaskedRows, MaskKind
from hocket.hwmodels.dtypes import DType

SIZES = st.integers(1, 5)


@given(choices(), st.integers(0, 1000))
def test_one_attention_is_found_and_means_the_same(made: Choices, seed: int) -> None:
    model = decomposed_attention_model(made)
    dims = {}
    if made.projected and made.dynamic and made.rank == 4:
        dims = {
            "batch": made.batch,
            "query_length": made.query_length,
            "key_length": made.kv_length,
        }
    loaded = load_model(model, dims)
    recognized = recognize_attention(prepare_model(loaded))
    partitioned = partition(recognized.model, recognized.not_taken, loaded.dims)
    assert len(attention_regions(partitioned)) == 1
    assert partitioned.not_taken == ()
    assert_same_meaning(model, partitioned, seed=seed, tolerance=1e-4)
    once = ir.to_proto(recognized.model)
    again = recognize_attention(recognized.model)
    assert ir.to_proto(again.model) == once
    assert (again.taken, again.not_taken) == (recognized.taken, ())


@st.composite
def problems(draw: st.DrawFn) -> AttentionProblem:
    """Draw a problem, every field of it."""
    kv_heads = draw(SIZES)
    batch, heads, rows, columns = draw(SIZES), kv_heads * draw(SIZES), draw(SIZES), draw(SIZES)
    kind = draw(st.sampled_from(MaskKind))
    full = (batch, heads, rows, columns)
    kept = draw(st.tuples(*[st.booleans()] * 4))
    return AttentionProblem(
        batch=batch,
        query_heads=heads,
        kv_heads=kv_heads,
        query_length=rows,
        kv_length=columns,
        head_dim=draw(SIZES),
        value_dim=draw(SIZES),
        dtype=draw(st.sampled_from([item for item in DType if item.is_floating])),
        scale=draw(st.floats(allow_nan=False, allow_infinity=False)),
        mask=kind,
        mask_shape=None
        if kind is MaskKind.NONE
        else tuple(n if keep else 1 for n, keep in zip(full, kept, strict=True)),  # type: ignore[arg-type]
        masked_value=draw(st.floats(allow_nan=False)),
        masked_rows=draw(st.sampled_from(MaskedRows)),
        is_causal=draw(st.booleans()),
    )


LAYOUT = st.sampled_from(["bhnd", "bnhd"])


@given(problems(), st.builds(Layouts, LAYOUT, LAYOUT, LAYOUT, LAYOUT))
def test_a_problem_comes_back_from_its_node(problem: AttentionProblem, layouts: Layouts) -> None:
    count = 3 if problem.mask is MaskKind.NONE else 4
    inputs = [ir.val(f"x{index}") for index in range(count)]
    shape = (problem.batch, problem.query_length, problem.query_heads * problem.value_dim)
    node = make_node(
        problem,
        layouts,
        inputs[:3],
        mask=inputs[3] if count > 3 else None,
        output_shape=shape,
        form="drawn",
        name="drawn",
    )
    node.outputs[0].name = "y"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"hocket": 1}, name="g")
    (back,) = ir.from_proto(ir.to_proto(ir.Model(graph, ir_version=8))).graph
    assert problem_from_node(back) == problem
    assert layouts_from_node(back) == layouts
