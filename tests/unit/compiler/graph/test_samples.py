"""Sizes that models with open dimensions are looked at with, and the formulas seen in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.compiler.errors import DimensionError
from hocket.compiler.graph.samples import choose_samples, fit_size
from hocket.hwmodels.sizes import (
    SizeExpression,
    evaluate_size,
    size_from_json,
    size_to_json,
)

SPANS = {"batch": (1, 64), "new": (1, 512), "past": (1, 4096)}
SAMPLES = choose_samples(SPANS, frozenset({"batch"}))


def test_the_first_sample_is_usual_and_the_others_differ_throughout() -> None:
    assert SAMPLES[0] == {"batch": 1, "new": 128, "past": 128}
    sizes = [size for sample in SAMPLES[1:] for size in sample.values()]
    assert len(set(sizes)) == len(sizes)
    for sample in SAMPLES:
        for name, (low, high) in SPANS.items():
            assert low <= sample[name] <= high


def test_a_narrow_range_is_refused() -> None:
    with pytest.raises(DimensionError, match=r"too narrow .* give it one size, or a wider range"):
        choose_samples({"length": (4, 6)})
    with pytest.raises(DimensionError, match="must be at least 1"):
        choose_samples({"length": (0, 6)})


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("past", ((1, ("past",)),)),
        ("12 * batch", ((12, ("batch",)),)),
        ("past + 1", ((1, ("past",)), (1, ()))),
        ("batch * new", ((1, ("batch", "new")),)),
        ("new * new", ((1, ("new", "new")),)),
        ("new + past", ((1, ("new",)), (1, ("past",)))),
        ("new + past + -1", ((1, ("new",)), (1, ("past",)), (-1, ()))),
    ],
)
def test_formulas_are_seen(text: str, terms: tuple[tuple[int, tuple[str, ...]], ...]) -> None:
    size = SizeExpression(terms)
    assert str(size) == text
    assert fit_size([size.evaluate(sample) for sample in SAMPLES], SAMPLES) == size


def test_a_number_is_one_and_odd_sizes_are_none() -> None:
    assert fit_size([7, 7, 7, 7], SAMPLES) == 7
    assert fit_size([sample["new"] // 2 for sample in SAMPLES], SAMPLES) is None


@given(
    st.integers(1, 9),
    st.lists(st.sampled_from(list(SPANS)), min_size=1, max_size=2),
    st.integers(-1, 5),
    st.tuples(*[st.integers(1, 64)] * 3),
)
def test_what_is_fitted_holds_for_other_sizes(
    factor: int, names: list[str], added: int, sizes: tuple[int, int, int]
) -> None:
    terms = ((factor, tuple(names)), (added, ()))
    fitted = fit_size([SizeExpression(terms).evaluate(s) for s in SAMPLES], SAMPLES)
    dims = dict(zip(SPANS, sizes, strict=True))
    assert fitted is not None
    assert evaluate_size(fitted, dims) == SizeExpression(terms).evaluate(dims)
    assert size_from_json(size_to_json(fitted)) == fitted


@pytest.mark.parametrize("fields", [True, 1.5, "3", [], [[1, ["a"] * 9]], [["x", []]], [[1]], None])
def test_what_is_no_size_is_refused(fields: object) -> None:
    with pytest.raises(ValueError, match="size"):
        size_from_json(fields)
