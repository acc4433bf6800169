from __future__ import annotations

import numpy as np
import pytest

from hocket.hwmodels.dtypes import DType
from hocket.runtime.signature import TensorSpec
from hocket.sampling import edge_case_feeds, random_feeds

FLOATS = TensorSpec("x", DType.FLOAT32, (2, 3))
IDS = TensorSpec("ids", DType.INT64, (2, 64), (5, 9))
MASK = TensorSpec("mask", DType.INT64, (3, 8), (0, 2))
FLAGS = TensorSpec("flags", DType.BOOL, (4,))
UNKNOWN = TensorSpec("unknown", DType.INT32, (100,))


def test_random_feeds_have_the_types_and_shapes_of_the_signature() -> None:
    specs = (FLOATS, IDS, MASK, FLAGS, UNKNOWN)
    feeds = random_feeds(specs)
    for spec in specs:
        assert feeds[spec.name].shape == spec.shape
        assert str(feeds[spec.name].dtype) == spec.dtype.value


def test_integers_stay_in_their_range_and_reach_its_ends() -> None:
    feeds = random_feeds((IDS, UNKNOWN))
    assert set(feeds["ids"].ravel()) == {5, 6, 7, 8}
    assert set(feeds["unknown"]) == {0, 1}


def test_the_seed_decides() -> None:
    first, again, other = (random_feeds((FLOATS,), seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_scalar_input_is_an_array() -> None:
    spec = TensorSpec("s", DType.FLOAT32, ())
    for feeds in (random_feeds((spec,)), *edge_case_feeds((spec,)).values()):
        assert isinstance(feeds["s"], np.ndarray)
        assert feeds["s"].shape == ()


def test_edge_cases_name_what_they_change() -> None:
    assert set(edge_case_feeds((FLOATS,))) == {"zeros", "ones", "large"}
    assert set(edge_case_feeds((UNKNOWN,))) == {"zeros", "ones"}
    assert set(edge_case_feeds((IDS,))) == {"zeros", "ones", "lowest", "highest"}
    assert set(edge_case_feeds((FLOATS, MASK))) == {
        "zeros",
        "ones",
        "large",
        "lowest",
        "highest",
        "padded",
    }


def test_edge_cases_keep_integers_in_range() -> None:
    for feeds in edge_case_feeds((IDS,)).values():
        assert feeds["ids"].min() >= 5
        assert feeds["ids"].max() < 9


def test_ends_of_the_range_are_fed() -> None:
    cases = edge_case_feeds((IDS,))
    assert set(cases["lowest"]["ids"].ravel()) == {5}
    assert set(cases["highest"]["ids"].ravel()) == {8}


@pytest.mark.parametrize("columns", [2, 3, 8, 128])
def test_padding_masks_end_in_zeros_and_mask_no_whole_row(columns: int) -> None:
    spec = TensorSpec("mask", DType.INT64, (4, columns), (0, 2))
    mask = edge_case_feeds((spec,))["padded"]["mask"]
    assert (np.diff(mask, axis=-1) <= 0).all()
    assert (mask[:, 0] == 1).all()
    assert (mask[:, -1] == 0).all()


def test_every_feed_of_an_edge_case_fits_the_signature() -> None:
    specs = (FLOATS, IDS, MASK, FLAGS, UNKNOWN)
    for feeds in edge_case_feeds(specs).values():
        for spec in specs:
            assert feeds[spec.name].shape == spec.shape
            assert str(feeds[spec.name].dtype) == spec.dtype.value
