"""Masks of open sizes that are proved causal for all of them, and those that are not."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.onnx_models import GraphBuilder
from support.open_masks import DIM, HEADS, MaskChoices, open_masked_model

from hocket.compiler.graph.recognize import accept_all
from hocket.compiler.graph.regions import AttentionRegion
from hocket.compiler.graph.resizable import ResizableModel, cut_resizable
from hocket.compiler.problem import MaskKind
from hocket.hwmodels.sizes import evaluate_size

if TYPE_CHECKING:
    from collections.abc import Callable

SPANS = {"batch": (1, 8), "new": (1, 512)}
FLOAT32_MIN = float(np.finfo(np.float32).min)


def cut_open(
    model: onnx.ModelProto, **spans: tuple[int, int]
) -> tuple[ResizableModel, AttentionRegion]:
    _, found = cut_resizable(model, {}, spans or SPANS, accept_all)
    (region,) = (each for each in found.model.regions if isinstance(each, AttentionRegion))
    return found, region


def region_of(choices: MaskChoices, longest: int = 512) -> AttentionRegion:
    spans = {"batch": (1, 8), "new": (1, longest)}
    if choices.has_past:
        spans["total"] = (1, longest)
    return cut_open(open_masked_model(choices), **spans)[1]


@pytest.mark.parametrize("hidden", [-math.inf, FLOAT32_MIN, None])
@pytest.mark.parametrize(("relation", "shift"), [("LessOrEqual", 0), ("Less", 1), ("Trilu", 0)])
def test_a_triangle_from_positions(hidden: float | None, relation: str, shift: int) -> None:
    region = region_of(MaskChoices(relation, shift, hidden=hidden))
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE
    assert region.problem.rules.left_window is None


@pytest.mark.parametrize("shift", [-1, 1, 2])
def test_a_diagonal_elsewhere_is_no_causality(shift: int) -> None:
    """One further back hides the first row's own key: that is causal, but the mask says more."""
    region = region_of(MaskChoices(shift=shift))
    assert region.problem.is_causal == (shift < 0)
    assert region.problem.mask is MaskKind.ADDITIVE


def test_a_window() -> None:
    region = region_of(MaskChoices(near=16))
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE
    assert region.problem.rules.left_window == 15


def test_a_window_that_is_wider_than_all_sizes_that_are_looked_at() -> None:
    assert region_of(MaskChoices(near=300)).problem.rules.left_window == 299
    assert region_of(MaskChoices(near=300), longest=300).problem.rules.left_window is None


def test_behind_a_past() -> None:
    choices = MaskChoices(has_past=True)
    spans = {"batch": (1, 8), "new": (1, 512), "total": (1, 512)}
    found, region = cut_open(open_masked_model(choices), **spans)
    assert region.problem.rules.right_window == 0
    assert region.problem.mask is MaskKind.NONE
    offset = found.problems[region.name].fields["query_offset"]
    assert evaluate_size(offset, {"new": 3, "total": 10}) == 7


def test_padding_stays_a_mask_beside_causality() -> None:
    region = region_of(MaskChoices(padding="and"))
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.ADDITIVE


def test_padding_by_a_finite_number_stays_as_well() -> None:
    region = region_of(MaskChoices(padding="and", hidden=FLOAT32_MIN, near=16))
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.ADDITIVE
    assert region.problem.rules.left_window == 15
    assert region.problem.rules.mask_hides_rest
    hard = region_of(MaskChoices(padding="and", near=16))
    assert not hard.problem.rules.mask_hides_rest


def test_padding_that_lets_keys_through_is_no_causality() -> None:
    assert not region_of(MaskChoices(padding="or")).problem.is_causal


def test_a_buffer_of_constants_that_is_cut() -> None:
    """As older models have it: a triangle for the longest text, of which a part is taken."""
    build = GraphBuilder(17)
    operands = [build.input(name, ("batch", HEADS, "new", DIM)) for name in "qkv"]
    length = build.op("Shape", "q", start=2, end=3)
    start, axes = build.constant([0], "int64"), build.constant([2], "int64")
    buffer = build.constant(np.tri(64, dtype=bool)[None, None], "bool")
    keep = build.op("Slice", buffer, start, length, axes)
    keep = build.op("Slice", keep, start, length, build.constant([3], "int64"))
    scores = build.op("MatMul", operands[0], build.op("Transpose", operands[1], perm=[0, 1, 3, 2]))
    scores = build.op("Where", keep, scores, build.constant(FLOAT32_MIN))
    build.op("MatMul", build.op("Softmax", scores, axis=-1), operands[2], name="y")
    build.output("y", ("batch", HEADS, "new", DIM))
    _, region = cut_open(build.build(), batch=(1, 4), new=(1, 40))
    assert region.problem.is_causal
    assert region.problem.mask is MaskKind.NONE


def test_two_masks_that_are_the_same_at_the_sizes_looked_at_stay_two() -> None:
    """A window of 200 keys is none with fewer tokens; the second layer has it all the same."""
    build = GraphBuilder(17)
    state = build.input("q", ("batch", HEADS, "new", DIM))
    key = build.op("Transpose", build.input("k", ("batch", HEADS, "new", DIM)), perm=[0, 1, 3, 2])
    value = build.input("v", ("batch", HEADS, "new", DIM))
    zero, one = (build.constant(number, "int64") for number in (0, 1))
    length = build.op("Gather", build.op("Shape", "q"), build.constant(2, "int64"), axis=0)
    places = build.op("Range", zero, length, one)
    column = build.op("Unsqueeze", places, build.constant([0], "int64"))
    row = build.op("Unsqueeze", places, build.constant([1], "int64"))
    causal = build.op("LessOrEqual", column, row)
    near = build.op("Greater", column, build.op("Sub", row, build.constant(200, "int64")))
    for layer, keep in enumerate((causal, build.op("And", causal, near))):
        mask = build.op("Where", keep, build.constant(0.0), build.constant(-math.inf))
        scores = build.op("Add", build.op("MatMul", state, key), mask)
        weights = build.op("Softmax", scores, axis=-1)
        state = build.op("MatMul", weights, value, name=f"y{layer}")
    build.output(state, ("batch", HEADS, "new", DIM))
    _, found = cut_resizable(build.build(), {}, SPANS, accept_all)
    regions = [each for each in found.model.regions if isinstance(each, AttentionRegion)]
    assert [each.problem.rules.left_window for each in regions] == [None, 199]


CHOICES = st.builds(
    MaskChoices,
    relation=st.sampled_from(["LessOrEqual", "Less", "Greater", "GreaterOrEqual", "Trilu"]),
    shift=st.integers(-3, 3),
    has_past=st.booleans(),
    counts_past=st.booleans(),
    near=st.sampled_from([0, 0, 1, 4, 40]),
    hidden=st.sampled_from([-math.inf, FLOAT32_MIN, -1e4, None]),
    padding=st.sampled_from(["none", "and", "or", "added"]),
)


def kept_by_rules(
    found: ResizableModel, region: AttentionRegion, dims: dict[str, int]
) -> np.ndarray:
    """Return which keys a kernel looks at at some sizes, ``[rows, columns]``."""
    fields = {n: evaluate_size(s, dims) for n, s in found.problems[region.name].fields.items()}
    problem = dataclasses.replace(
        region.problem,
        rules=dataclasses.replace(region.problem.rules, query_offset=fields["query_offset"]),
    )
    ahead = np.arange(fields["kv_length"]) - np.arange(fields["query_length"])[:, None]
    ahead = ahead - problem.rules.query_offset
    kept = np.ones(ahead.shape, bool)
    if problem.is_causal or problem.rules.right_window == 0:
        kept &= ahead <= 0
    if problem.rules.left_window is not None:
        kept &= ahead >= -problem.rules.left_window
    return kept


def numpy_mask(choices: MaskChoices, rows: int, columns: int, padding: np.ndarray) -> np.ndarray:
    """Return what is added to the scores, ``[batch, rows, columns]``."""
    shift = choices.shift
    if choices.has_past and choices.counts_past:
        shift += columns - rows
    row, column = np.arange(rows)[:, None] + shift, np.arange(columns)
    comparison: dict[str, Callable[..., np.ndarray]] = {
        "LessOrEqual": np.less_equal,
        "Less": np.less,
        "Greater": np.greater,
        "GreaterOrEqual": np.greater_equal,
        "Trilu": np.less_equal,
    }
    keep = comparison[choices.relation](column, row)
    if choices.near:
        keep = keep & (column > row - choices.near)
    keep = np.broadcast_to(keep, (len(padding), rows, columns))
    if choices.padding == "and":
        keep = keep & padding[:, None]
    if choices.padding == "or":
        keep = keep | padding[:, None]
    mask = np.where(keep, 0.0, -math.inf if choices.hidden is None else choices.hidden)
    return mask + np.where(padding[:, None], 0, -1e4) if choices.padding == "added" else mask


def softmax(scores: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


@settings(max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(CHOICES, st.integers(1, 20), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_what_is_left_out_has_no_weight(
    choices: MaskChoices, rows: int, past: int, seed: int
) -> None:
    """Whatever the sizes and the padding: kernels see all keys that have a weight, and the mask."""
    columns = rows + past if choices.has_past else rows
    spans = {"batch": (1, 4), "new": (1, 64)} | ({"total": (1, 128)} if choices.has_past else {})
    found, region = cut_open(open_masked_model(choices), **spans)
    dims = {"batch": 2, "new": rows, "total": columns}
    kept = kept_by_rules(found, region, dims)
    rng = np.random.default_rng(seed)
    padding = rng.random((2, columns)) < rng.choice([0.0, 0.3, 1.0])
    mask = numpy_mask(choices, rows, columns, padding)
    scores = rng.standard_normal((2, rows, columns)).astype(np.float32)
    expected = softmax((scores + mask.astype(np.float32)).astype(np.float32))
    used = mask if region.problem.mask is not MaskKind.NONE else np.zeros_like(mask)
    seen = (scores + used.astype(np.float32)).astype(np.float32)
    if region.problem.rules.mask_hides_rest:
        kept = kept | (np.max(np.where(kept, seen, -math.inf), axis=-1, keepdims=True) < -1e29)
    seen = np.where(kept, seen, -math.inf)
    np.testing.assert_allclose(softmax(seen), expected, atol=1e-6)
