"""Clipping, noise and epsilon, against closed forms and other samplers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.photon.guard import norm_of
from hocket.fl.photon.lattice import Lattice, Secure
from hocket.fl.photon.noise import SecretNoise, with_noise
from hocket.fl.photon.privacy import Privacy, clipped, multiplier_of_sum


@pytest.mark.parametrize("scale", [0.5, 1.3, 7.0])
def test_noise_has_the_probabilities_of_a_discrete_gaussian(scale: float) -> None:
    drawn = SecretNoise(bytes(32)).draw(scale, 200_000)
    places = np.arange(-40, 41)
    weights = np.exp(-(places**2) / (2 * scale**2))
    wanted = weights / weights.sum() * len(drawn)
    seen = np.array([(drawn == place).sum() for place in places])
    often = wanted > 20
    distance = ((seen - wanted)[often] ** 2 / wanted[often]).sum()
    assert stats.chi2.sf(distance, often.sum() - 1) > 1e-6


def test_wide_noise_is_a_gaussian() -> None:
    drawn = SecretNoise(bytes(32)).draw(65536.0, 50_000)
    assert stats.kstest(drawn / 65536.0, "norm").pvalue > 1e-6


def test_noise_is_never_the_same_but_for_the_same_key() -> None:
    key = bytes(range(32))
    one, other = SecretNoise(key), SecretNoise(key)
    np.testing.assert_array_equal(one.draw(50.0, 99), other.draw(50.0, 99))
    assert not np.array_equal(SecretNoise().draw(50.0, 99), SecretNoise().draw(50.0, 99))


def test_means_get_noise_of_the_scale() -> None:
    found = with_noise({"a": np.full((100, 200), 3.0), "b": np.zeros(7)}, 0.25)
    assert found["a"].shape == (100, 200)
    assert stats.kstest((found["a"].ravel() - 3) / 0.25, "norm").pvalue > 1e-6


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (4.0, 20), (8.0, 300)])
def test_epsilon_is_above_the_gaussians_own_and_not_far(multiplier: float, rounds: int) -> None:
    """Of Gaussian noise the best epsilon is known (Balle and Wang 2018, theorem 8)."""
    privacy = Privacy(1.0, multiplier, 1e-5)
    shift = math.sqrt(rounds) / multiplier

    def excess(epsilon: float) -> float:
        first = stats.norm.cdf(shift / 2 - epsilon / shift)
        # In logarithms: the exponential is larger than float64 has room for.
        second = math.exp(epsilon + stats.norm.logcdf(-shift / 2 - epsilon / shift))
        return float(first - second - privacy.delta)

    best = optimize.brentq(excess, 0.0, 1e3)
    assert best < privacy.epsilon(rounds) < 1.25 * best
    assert privacy.epsilon(0) == 0


@settings(max_examples=30)
@given(st.floats(0.01, 100), st.integers(0, 99))
def test_no_change_is_longer_than_it_was_clipped_to(norm: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    change = {
        "a": generator.standard_normal((3, 4)).astype(np.float32),
        "b": generator.standard_normal(5).astype(np.float32) * 9,
    }
    found = clipped(change, norm)
    assert norm_of(found) <= norm
    assert norm_of(found) == pytest.approx(min(norm, norm_of(change)), rel=1e-5)
    # Nor is one on a lattice, where numbers go towards nought.
    lattice = Lattice.for_sum(5, norm, 16, norm)
    assert norm_of(lattice.values(lattice.round(found, is_private=True))) <= norm


def test_noise_of_many_hides_as_the_noise_of_one() -> None:
    """Of fine lattices; on coarse ones, sums of discrete Gaussians hide less."""
    one = 1000 / (400 * math.sqrt(9))
    assert multiplier_of_sum(1000, 400, 9, 10**9) == pytest.approx(1 / one, rel=1e-12)
    coarse = multiplier_of_sum(2, 0.7, 9, 10**4)
    assert coarse < 0.5 * 0.7 * 3 / 2
    with pytest.raises(ConfigError, match="take more bits or more noise"):
        multiplier_of_sum(2, 0.4, 9, 10)


@settings(max_examples=40)
@given(st.integers(1, 9), st.sampled_from([8, 16, 32]), st.floats(1e-6, 1e3), st.integers(0, 99))
def test_sums_on_a_lattice_do_not_wrap_around(
    num_clients: int, bits: int, largest: float, seed: int
) -> None:
    lattice = Lattice.for_sum(num_clients, largest, bits)
    generator = np.random.default_rng(seed)
    changes = [
        {"a": np.append(generator.uniform(-largest, largest, 20), sign * 3 * largest)}
        for sign in np.sign(generator.standard_normal(num_clients))
    ]
    rounded = [lattice.round(change) for change in changes]
    total = np.add.reduce([lattice.wrap(each)["a"] for each in rounded], dtype=lattice.dtype)
    found = lattice.unwrap({"a": total})["a"]
    np.testing.assert_array_equal(found, np.sum([each["a"] for each in rounded], axis=0))
    for each, change in zip(rounded, changes, strict=True):
        inside = np.clip(change["a"], -largest, largest)
        assert np.abs(lattice.values(each)["a"] - inside).max() <= lattice.step * (1 + 1e-9)


def test_what_has_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="take more bits"):
        Lattice.for_sum(200, 1.0, 8)
    with pytest.raises(ConfigError, match="take more bits"):
        Lattice.for_sum(2, 1.0, 16, 1e5)
    with pytest.raises(ConfigError, match="bits must be one of"):
        Lattice.for_sum(2, 1.0, 12)
    with pytest.raises(UpdateError, match="not finite"):
        Lattice.for_sum(2, 1.0, 16).round({"a": np.array([np.nan])})


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ((0.0, 1.0), (1.0, 0.0), (1.0, math.inf), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)):
        with pytest.raises(ConfigError, match="must be"):
            Privacy(*wrong)
    with pytest.raises(ConfigError, match="noise_by"):
        Privacy(1.0, 1.0, noise_by="nobody")
    for wrong in ({"bits": 7}, {"threshold": 1.1}, {"largest_change": -1.0}):
        with pytest.raises(ConfigError, match="must be"):
            Secure(**wrong)


@pytest.mark.parametrize(
    ("asked", "share", "needed"),
    [(4, 0.0, 3), (4, 0.75, 3), (4, 1.0, 4), (2, 0.5, 2), (9, 0.67, 7)],
)
def test_more_than_half_must_stay(asked: int, share: float, needed: int) -> None:
    assert Secure(threshold=share).num_needed(asked) == needed
