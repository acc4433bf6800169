"""Q/DQ around scores and probabilities is left out, unless it is to be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut
from support.onnx_models import GraphBuilder
from support.partition_executor import run_model

from hocket.compiler.graph.load import load_model
from hocket.compiler.graph.partition import partition
from hocket.compiler.graph.pipeline import prepare_model
from hocket.compiler.graph.recognize import recognize_attention

if TYPE_CHECKING:
    from collections.abc import Mapping


def rounded(build: GraphBuilder, value: str, scale: float, back: float | None = None) -> str:
    zero = build.constant(128, "uint8")
    stored = build.op("QuantizeLinear", value, build.constant(scale), zero)
    return build.op(
        "DequantizeLinear", stored, build.constant(scale if back is None else back), zero
    )


def model_with(
    *, scores: bool = True, probabilities: bool = True, back: float | None = None
) -> onnx.ModelProto:
    build = GraphBuilder()
    product = build.op("MatMul", build.input("q", (2, 3, 4, 6)), build.input("k", (2, 3, 6, 5)))
    if scores:
        product = rounded(build, product, 0.1, back)
    product = build.op("Mul", product, build.constant(0.5))
    weights = build.op("Softmax", product, axis=-1)
    if probabilities:
        weights = rounded(build, weights, 1 / 255)
    build.op("MatMul", weights, build.input("v", (2, 3, 5, 7)), name="y")
    build.output("y", (2, 3, 4, 7))
    return build.build()


def run_without_rounding(_: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return run_model(model_with(scores=False, probabilities=False), feeds)


@pytest.mark.parametrize(("scores", "probabilities"), [(True, True), (True, False), (False, True)])
def test_rounding_is_left_out_and_reported(scores: bool, probabilities: bool) -> None:
    model = model_with(scores=scores, probabilities=probabilities)
    partitioned = cut(model)
    (region,) = attention_regions(partitioned)
    assert "quantisation of scores or probabilities left out" in region.form
    assert_same_meaning(model, partitioned, run=run_without_rounding)


@pytest.mark.parametrize("scores", [True, False])
def test_it_is_kept_where_that_is_wanted(scores: bool) -> None:
    model = model_with(scores=scores, probabilities=not scores)
    prepared = prepare_model(load_model(model))
    result = recognize_attention(prepared, keeps_quantization=True)
    assert result.taken == ()
    assert "which is to be kept" in result.not_taken[0].reason
    assert_same_meaning(model, partition(result.model))


def test_a_plain_attention_is_taken_all_the_same() -> None:
    prepared = prepare_model(load_model(model_with(scores=False, probabilities=False)))
    assert len(recognize_attention(prepared, keeps_quantization=True).taken) == 1


def test_another_scale_on_the_way_back_is_no_rounding() -> None:
    model = model_with(back=0.2)
    partitioned = cut(model)
    (left,) = partitioned.not_taken
    assert "before which nothing quantises them alike" in left.reason
    assert_same_meaning(model, partitioned)
