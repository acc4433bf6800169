"""Attention whose products have more than four axes: found, and the numbers of onnxruntime."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.graph_wing import assert_same_meaning, attention_regions, cut
from support.onnx_models import GraphBuilder, random_feeds
from support.partition_executor import run_model

import hocket


@dataclass(frozen=True)
class Form:
    """How an attention of many axes is written.

    Attributes:
        leading: Sizes of the axes before rows and columns.
        copies: Whether keys have one head for all of the last of these axes.
        scale: What is multiplied by a number: "none", "query", "key", "scores" or "rows".
        transposed: Whether keys come as ``[..., columns, rows]``.
        mask: Shape of a mask, of which a True is a 1; None without one.
        late_value: Whether the values are made behind the Softmax.
        tail: What follows: "none", or "turned" for heads behind the rows.
    """

    leading: tuple[int, ...]
    copies: bool = False
    scale: str = "query"
    transposed: bool = False
    mask: tuple[bool, ...] | None = None
    late_value: bool = False
    tail: str = "none"
    rows: int = 3
    kv_rows: int = 5


def many_axes_model(form: Form, *, batch: str | None = None) -> onnx.ModelProto:
    """Write the attention; ``batch`` names the first axis, which is open then."""
    build = GraphBuilder(17)
    rank = len(form.leading) + 2
    first = form.leading[0] if batch is None else batch
    queries = (first, *form.leading[1:])
    keys = (*queries[:-1], 1) if form.copies else queries
    swap = [*range(rank - 2), rank - 1, rank - 2]
    query = build.input("q", (*queries, form.rows, 8))
    key = build.input(
        "k", (*keys, 8, form.kv_rows) if form.transposed else (*keys, form.kv_rows, 8)
    )
    value = build.input("v", (*keys, form.kv_rows, 4))
    if not form.transposed:
        key = build.op("Transpose", key, perm=swap)
    number = build.constant(0.4)
    query = build.op("Mul", query, number) if form.scale == "query" else query
    key = build.op("Div", key, number) if form.scale == "key" else key
    scores = build.op("MatMul", query, key)
    if form.scale == "scores":
        scores = build.op("Mul", scores, number)
    elif form.scale == "rows":
        factor = build.weight("f", np.linspace(0.5, 2, form.leading[-1], dtype=np.float32))
        factor = build.op("Reshape", factor, build.constant([form.leading[-1], 1, 1], "int64"))
        scores = build.op("Mul", scores, factor)
    if form.mask is not None:
        full = (*queries, form.rows, form.kv_rows)
        shape = tuple(1 if one else size for one, size in zip(form.mask, full, strict=True))
        scores = build.op("Add", scores, build.input("mask", shape))
    weights = build.op("Softmax", scores, axis=-1)
    if form.late_value:
        value = build.op("Relu", value)
    made = build.op("MatMul", weights, value, name="" if form.tail == "turned" else "y")
    if form.tail == "turned":
        turned = build.op("Transpose", made, perm=[0, rank - 2, *range(1, rank - 2), rank - 1])
        sizes = [0, form.rows, math.prod(form.leading[1:]) * 4]
        build.op("Reshape", turned, build.constant(sizes, "int64"), name="y")
    build.output("y", (None,) * (3 if form.tail == "turned" else rank))
    return build.build()


@st.composite
def forms(draw: st.DrawFn) -> Form:
    leading = tuple(draw(st.lists(st.integers(1, 3), min_size=3, max_size=4)))
    copies = leading[-1] > 1 and draw(st.booleans())
    has_mask = draw(st.booleans())
    return Form(
        leading,
        copies=copies,
        scale=draw(st.sampled_from(["none", "query", "key", "scores", "rows"])),
        transposed=draw(st.booleans()),
        mask=tuple(draw(st.booleans()) for _ in range(len(leading) + 2)) if has_mask else None,
        late_value=draw(st.booleans()),
        tail=draw(st.sampled_from(["none", "turned"])),
    )


@settings(max_examples=60)
@given(forms())
def test_many_axes(form: Form) -> None:
    model = many_axes_model(form)
    partitioned = cut(model)
    assert partitioned.not_taken == ()
    (region,) = attention_regions(partitioned)
    assert region.problem.query_heads // region.problem.kv_heads == (
        form.leading[-1] if form.copies else 1
    )
    assert_same_meaning(model, partitioned, feeds=random_feeds(model))


# Compiling takes a second, too long to look for a smaller example in.
@settings(max_examples=8, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(forms(), st.integers(1, 9))
def test_an_open_batch(form: Form, batch: int) -> None:
    if form.mask is not None:
        # One that follows a part of the batch is repeated in a way that depends on its size.
        form = replace(form, mask=(*[True] * len(form.leading), *form.mask[-2:]))
    model = many_axes_model(form, batch="batch")
    module = hocket.compile(model, dims={"batch": (1, 16)}, num_threads=1)
    assert len(module.artifact.attention_steps) == 1
    feeds = random_feeds(model, batch=batch)
    (found,) = module.session(intra_op_num_threads=1).run(None, feeds)
    np.testing.assert_allclose(found, run_model(model, feeds)[0], atol=2e-5)


def test_units_of_heads_are_written_where_they_lie() -> None:
    # Of one unit, the output is read on with its heads behind the rows.
    regions = attention_regions(cut(many_axes_model(Form((2, 3, 1), tail="turned"))))
    assert [region.output_layout for region in regions] == ["bnhd"]
    assert regions[0].problem.batch == 2
    assert regions[0].problem.query_heads == 3


@pytest.mark.parametrize("axis", [0, 1])
def test_operands_that_are_broadcast_otherwise_are_refused(axis: int) -> None:
    build = GraphBuilder(17)
    keys = [2, 3, 2, 8, 5]
    keys[axis] = 1
    scores = build.op("MatMul", build.input("q", (2, 3, 2, 4, 8)), build.input("k", tuple(keys)))
    weights = build.op("Softmax", scores, axis=-1)
    build.op("MatMul", weights, build.input("v", (2, 3, 2, 5, 8)), name="y")
    build.output("y", (2, 3, 2, 4, 8))
    (left,) = cut(build.build()).not_taken
    assert "are broadcast against each other" in left.reason
