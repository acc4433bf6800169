"""What is worked out of updates when they come, against numpy on the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import UpdateError
from hocket.fl.store.statistics import cosines, distances, sketch, work_out


def draw_updates(seed: int, count: int, size: int) -> Any:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=size)
    return (common + rng.normal(size=(count, size))).astype(np.float32)


def gram_of(updates: Any, base: Any) -> Any:
    """Return products as they are known after all updates have come, one by one."""
    count = len(updates)
    found = np.zeros((count, count))
    for place in range(count):
        others = {str(other): updates[other] for other in range(place)}
        for name, product in work_out(str(place), updates[place], others, base).products.items():
            found[place, int(name)] = found[int(name), place] = product
    return found


@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from([0, 1, 7, 65_536, 150_001]))
def test_products_are_those_of_the_changes(seed: int, count: int, size: int) -> None:
    updates = draw_updates(seed, count, size)
    base = draw_updates(seed + 1, 1, size)[0]
    changes = (updates - base).astype(np.float64)
    scale = max(1.0, float(np.square(changes).sum(axis=1).max(initial=0.0)))
    np.testing.assert_allclose(
        gram_of(updates, base) / scale, changes @ changes.T / scale, atol=1e-5
    )
    plain = updates.astype(np.float64)
    np.testing.assert_allclose(
        gram_of(updates, None) / scale, plain @ plain.T / scale, atol=1e-5 * (1 + size / scale)
    )


def test_small_changes_of_large_models_do_not_drown() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=100_000).astype(np.float32) * 10
    # Whole numbers of the last place, so that adding them to the base is exact.
    steps = rng.integers(-3, 4, size=(2, 100_000)) * np.float32(2.0**-18)
    updates = (base + steps).astype(np.float32)
    exact = (updates.astype(np.float64) - base) @ (updates.astype(np.float64) - base).T
    np.testing.assert_allclose(gram_of(updates, base), exact, rtol=1e-5)


def test_cosines_are_those_with_the_weighted_mean() -> None:
    updates = draw_updates(3, 6, 1000).astype(np.float64)
    weights = np.array([1.0, 2.0, 3.0, 1.0, 1.0, 5.0])
    mean = np.average(updates, axis=0, weights=weights)
    wanted = updates @ mean / np.linalg.norm(updates, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(cosines(updates @ updates.T, weights), wanted, rtol=1e-9)
    assert cosines(np.zeros((2, 2)), np.ones(2)).tolist() == [0.0, 0.0]


def test_distances_are_squared_and_never_below_zero() -> None:
    updates = draw_updates(4, 5, 300).astype(np.float64)
    wanted = np.square(updates[:, None] - updates[None]).sum(axis=2)
    np.testing.assert_allclose(distances(updates @ updates.T), wanted, atol=1e-9)
    same = np.full((3, 3), 1e16)
    same[0, 1] += 2.0
    assert distances(same).min() == 0.0


def test_sketches_are_linear() -> None:
    one, other = draw_updates(5, 2, 40_000)
    np.testing.assert_allclose(
        sketch((2 * one - other).astype(np.float32)), 2 * sketch(one) - sketch(other), atol=1e-3
    )
    found = work_out("a", one, {}, other).sketch
    np.testing.assert_allclose(found, sketch(one - other), atol=1e-4)


def test_products_of_sketches_are_near_those_of_vectors() -> None:
    updates = draw_updates(6, 30, 60_000)
    lengths = np.linalg.norm(updates, axis=1)
    exact = updates.astype(np.float64) @ updates.T / np.outer(lengths, lengths)
    sketches = np.array([sketch(update) for update in updates])
    errors = sketches @ sketches.T / np.outer(lengths, lengths) - exact
    # Four standard deviations of the worst case; 435 pairs share 30 sketches.
    assert np.abs(errors).max() < 4 * np.sqrt(2 / 8192)
    assert np.abs(errors.mean()) < 0.01


def test_what_cannot_be_compared_is_refused() -> None:
    good = np.ones(4, np.float32)
    with pytest.raises(UpdateError, match="want 4 numbers as 'a' has, got 3"):
        work_out("a", good, {"b": good[:3]}, None)
    with pytest.raises(UpdateError, match="the model before"):
        work_out("a", good, {}, good[:3])
    with pytest.raises(UpdateError, match="not finite"):
        work_out("a", np.array([1, np.nan], np.float32), {}, None)
