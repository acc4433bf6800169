"""A trained model, as it came from the exporter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.graph_wing import assert_same_meaning, attention_regions, cut, host_ops, host_regions
from support.real_models import minilm_path

pytestmark = pytest.mark.model

DIMS = {"batch_size": 1, "sequence_length": 128}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(minilm_path())


def test_minilm_becomes_three_attentions_between_four_host_regions(
    model: onnx.ModelProto,
) -> None:
    partitioned = cut(model, DIMS)
    regions = attention_regions(partitioned)
    assert [region.form for region in regions] == ["decomposed: Div, Add mask"] * 3
    assert partitioned.not_taken == ()
    assert len(host_regions(partitioned)) == 4
    assert "Transpose" not in host_ops(partitioned)
    for region in regions:
        layouts = (region.query_layout, region.key_layout, region.value_layout)
        assert (*layouts, region.output_layout) == ("bnhd",) * 4
        for name in (region.query, region.key, region.value, region.output):
            assert partitioned.values[name].shape == (1, 128, 384)
        assert region.problem.scale == pytest.approx(1 / np.sqrt(32))
    ranges = [info.value_range for info in partitioned.inputs]
    assert ranges[0] == (0, 30522)


def test_minilm_keeps_its_meaning(model: onnx.ModelProto) -> None:
    rng = np.random.default_rng(0)
    mask = np.ones((1, 128), np.int64)
    mask[:, 90:] = 0
    feeds = {"input_ids": rng.integers(0, 30522, (1, 128)), "attention_mask": mask}
    assert_same_meaning(model, cut(model, DIMS), feeds=feeds, tolerance=1e-5)


def test_minilm_keeps_its_weights_by_name(model: onnx.ModelProto) -> None:
    names = {
        name
        for region in host_regions(cut(model, DIMS))
        for name in region.model.graph.initializers
    }
    assert names == {item.name for item in model.graph.initializer}
