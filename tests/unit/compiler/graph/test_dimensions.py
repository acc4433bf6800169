"""Binding dimensions: by name, by place, by expression, and never by guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.onnx_models import Dim, GraphBuilder, bert_like_model

from hocket.compiler.errors import DimensionError
from hocket.compiler.graph.load import load_model

if TYPE_CHECKING:
    import onnx


def model_with(**inputs: tuple[Dim, ...]) -> onnx.ModelProto:
    """Return a model with these inputs, whose output is the first."""
    build = GraphBuilder()
    names = [build.input(name, shape) for name, shape in inputs.items()]
    build.op("Relu", names[0], name="y")
    build.output("y", next(iter(inputs.values())))
    return build.build()


def shapes(model: onnx.ModelProto, dims: dict[str, int | str]) -> list[str]:
    return [str(value.shape) for value in load_model(model, dims).model.graph.inputs]


def test_a_name_binds_every_place_it_stands_in() -> None:
    loaded = load_model(bert_like_model(), {"batch": 2, "length": 5})
    assert [str(value.shape) for value in loaded.model.graph.inputs] == ["[2,5]", "[2,5]"]
    assert loaded.dims == {"batch": 2, "length": 5}


def test_an_unnamed_axis_is_bound_by_its_place() -> None:
    model = model_with(x=(None, 3))
    assert shapes(model, {"x:0": 4}) == ["[4,3]"]
    assert load_model(model, {"x:0": 4}).dims == {"x:0": 4}


@pytest.mark.parametrize("unknown", ["?", "", -1, 0])
def test_what_exporters_write_for_unknown_is_no_name(unknown: Dim) -> None:
    model = model_with(x=(unknown, unknown, 3))
    assert shapes(model, {"x:0": 4, "x:1": 5}) == ["[4,5,3]"]


def test_a_place_binds_the_name_that_stands_there() -> None:
    assert shapes(model_with(x=("n", 3), z=("n",)), {"x:0": 4}) == ["[4,3]", "[4]"]


def test_a_name_with_a_space_is_a_name() -> None:
    assert shapes(model_with(x=("batch size", 3)), {"batch size": 4}) == ["[4,3]"]


def test_an_expression_follows_from_its_parts() -> None:
    model = model_with(x=("past", 3), z=("past + 1",))
    assert shapes(model, {"past": 6}) == ["[6,3]", "[7]"]


def test_numpy_sizes_are_sizes() -> None:
    assert shapes(model_with(x=("n", 3)), {"n": np.int64(4)}) == ["[4,3]"]


def test_all_missing_dimensions_are_listed_with_places_and_flags() -> None:
    with pytest.raises(DimensionError) as caught:
        load_model(bert_like_model(), {})
    message = str(caught.value)
    assert "batch: axis 0 of 'input_ids', axis 0 of 'attention_mask'" in message
    assert "length: axis 1 of 'input_ids', axis 1 of 'attention_mask'" in message
    assert "--dim batch=1 --dim length=128" in message
    assert "any size in it: --dim batch=1..512 --dim length=1..512" in message
    assert 'dims={"length": (1, 512)}' in message


def test_the_parts_of_an_expression_are_asked_for() -> None:
    with pytest.raises(DimensionError, match="--dim past=1"):
        load_model(model_with(x=("past + 1", 3)), {})


def test_an_unknown_name_is_answered_with_a_close_one() -> None:
    with pytest.raises(DimensionError, match=r"no input has a dimension 'lenght'.*'length'"):
        load_model(bert_like_model(), {"batch": 1, "lenght": 4})


@pytest.mark.parametrize("size", [0, -3, True, 2.5, "4"])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(DimensionError, match="the size of dimension 'n' must be"):
        load_model(model_with(x=("n", 3)), {"n": size})  # type: ignore[dict-item]


def test_a_fixed_size_cannot_be_another() -> None:
    assert shapes(model_with(x=(2, 3)), {"x:1": 3}) == ["[2,3]"]
    with pytest.raises(DimensionError, match="'x:1' has the fixed size 3"):
        load_model(model_with(x=(2, 3)), {"x:1": 4})


def test_two_sizes_for_one_dimension_are_refused() -> None:
    with pytest.raises(DimensionError, match="given two sizes, 4 and 5"):
        load_model(model_with(x=("n", 3)), {"n": 4, "x:0": 5})


def test_a_dimension_may_be_a_sum_of_others() -> None:
    model = model_with(x=("new", 3), past=("past", 3), mask=("total", 1))
    sizes = {"new": 2, "past": 5, "total": "past + new"}
    assert shapes(model, sizes) == ["[2,3]", "[5,3]", "[7,1]"]
    assert shapes(model, {"new": 2, "past": 5, "mask:0": "new + past"})[2] == "[7,1]"
    assert shapes(model, {"new": 2, "past": 5, "total": "past - new + 1"})[2] == "[4,1]"


@pytest.mark.parametrize(
    ("sums", "match"),
    [
        ({"totl": "past + new"}, "no input has a dimension 'totl'; did you mean 'total'"),
        ({"total": "pst + new"}, "no input has a dimension 'pst'; did you mean 'past'"),
        ({"total": "total + new"}, "no input has a dimension 'total'"),
        ({"total": "12"}, "must be a whole number, or a sum of"),
        ({"total": "past new"}, "must be a whole number, or a sum of"),
        ({"total": ""}, "must be a whole number, or a sum of"),
    ],
)
def test_sums_of_what_is_not_there_are_named(sums: dict[str, str], match: str) -> None:
    model = model_with(x=("new", 3), past=("past", 3), mask=("total", 1))
    with pytest.raises(DimensionError, match=match):
        load_model(model, {"new": 2, "past": 5, **sums})
