"""Narrow copies of a model: cut out, trained, put back, beside a brute force over all numbers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import ClientUpdate
from hocket.fl.fat.baselines.widths import (
    CHOICES,
    Axis,
    Widths,
    choose_units,
    cut_out,
    mean_of_copies,
)

if TYPE_CHECKING:
    from hocket.fl.core.parameters import Parameters

GROUPS = {
    "convolution": ("first", "", "", ""),
    "norm.scale": ("first",),
    "hidden": ("second", "first*4"),
    "joined": ("3*second*2", "second"),
    "head": ("", "second"),
}


def model(first: int, second: int, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    shapes = {
        "convolution": (first, 1, 3, 3),
        "norm.scale": (first,),
        "hidden": (second, 4 * first),
        "joined": (6 * second, second),
        "head": (5, second),
        "bias": (5,),
    }
    made = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    return made | {"count": np.array(seed, np.int64)}


def places_by_hand(name: str, units: Any, totals: dict[str, int], shape: Any) -> list[Any]:
    """Return the places of an array that a copy has, in its order, number by number."""
    axes = []
    for text, size in zip(GROUPS.get(name, [""] * len(shape)), shape, strict=True):
        if not text:
            axes.append(list(range(size)))
            continue
        axis = Axis.parse(text)
        axes.append(
            [
                (repeat * totals[axis.group] + unit) * axis.places + place
                for repeat in range(axis.repeats)
                for unit in units[axis.group]
                for place in range(axis.places)
            ]
        )
    return list(itertools.product(*axes))


@given(
    copies=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=4
    ),
    choice=st.sampled_from(CHOICES),
    round_number=st.integers(1, 20),
)
def test_the_mean_of_copies_is_that_of_a_brute_force(
    copies: list[tuple[int, int, int]], choice: Any, round_number: int
) -> None:
    wide = model(6, 5)
    widths, totals = Widths.parse(GROUPS, wide), {"first": 6, "second": 5}
    updates, chosen = [], {}
    for number, (first, second, count) in enumerate(copies):
        name = f"device-{number}"
        chosen[name] = choose_units(
            choice,
            {"first": first, "second": second},
            totals,
            round_number=round_number,
            device_id=name,
            seed=7,
        )
        made = model(first, second, seed=number + 1)
        updates.append(ClientUpdate(round_number, name, "train", made, count, {}))
    found = mean_of_copies(wide, updates, widths, lambda update: chosen[update.device_id])
    for name, array in wide.items():
        seen: dict[Any, list[tuple[float, int]]] = {}
        for update in updates:
            places = places_by_hand(name, chosen[update.device_id], totals, array.shape)
            numbers = update.parameters[name].reshape(-1)
            for place, number in zip(places, numbers, strict=True):
                seen.setdefault(place, []).append((float(number), update.num_examples))
        wanted = array.astype(np.float64)
        for place, numbers in seen.items():
            wanted[place] = sum(n * w for n, w in numbers) / sum(w for _, w in numbers)
        wanted = wanted.round() if name == "count" else wanted
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)


@given(
    first=st.integers(1, 6),
    second=st.integers(1, 5),
    choice=st.sampled_from(CHOICES),
    round_number=st.integers(1, 20),
)
def test_a_copy_that_is_put_back_untouched_changes_nothing(
    first: int, second: int, choice: Any, round_number: int
) -> None:
    wide = model(6, 5)
    widths, totals = Widths.parse(GROUPS, wide), {"first": 6, "second": 5}
    counts = {"first": first, "second": second}
    units = choose_units(choice, counts, totals, round_number=round_number, device_id="one", seed=1)
    copy = cut_out(wide, widths, units)
    assert widths.counts(copy) == counts
    assert {name: array.shape for name, array in copy.items()} == {
        name: array.shape for name, array in model(first, second).items()
    }
    update = ClientUpdate(round_number, "one", "train", copy, 3, {})
    found = mean_of_copies(wide, [update], widths, lambda _: units)
    for name, array in wide.items():
        np.testing.assert_array_equal(found[name], array)


def choose(choice: Any, round_number: int = 1, device_id: str = "one") -> list[int]:
    found = choose_units(
        choice, {"units": 4}, {"units": 6}, round_number=round_number, device_id=device_id, seed=3
    )
    units: list[int] = found["units"].tolist()
    return units


def test_the_first_units_are_the_same_in_all_rounds() -> None:
    assert choose("first", 1) == choose("first", 9) == [0, 1, 2, 3]


def test_a_rolling_window_goes_over_all_units_alike() -> None:
    windows = [choose("rolling", number) for number in range(1, 7)]
    assert windows[0] == [0, 1, 2, 3]
    assert windows[1] == [1, 2, 3, 4]
    assert windows[4] == [0, 1, 4, 5]
    assert [sum(unit in each for each in windows) for unit in range(6)] == [4] * 6
    assert choose("rolling", 7) == windows[0]


def test_random_units_are_drawn_anew_for_each_device_and_round() -> None:
    drawn = {tuple(choose("random", number, name)) for number in range(1, 9) for name in "ab"}
    assert len(drawn) > 4
    assert all(len(set(each)) == 4 for each in drawn)
    assert choose("random", 5) == choose("random", 5)


@pytest.mark.parametrize("text", ["4*", "first*0", "fir st", "0*first", "2*first*2*2"])
def test_axes_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="want an axis"):
        Axis.parse(text)


def test_what_does_not_go_with_a_model_is_refused() -> None:
    wide: Parameters = model(6, 5)
    with pytest.raises(ConfigError, match="no array 'bones'"):
        Widths.parse({"bones": ("first",)}, wide)
    with pytest.raises(ConfigError, match="'head' has 2 axes"):
        Widths.parse({"head": ("second",)}, wide)
    widths = Widths.parse(GROUPS, wide)
    with pytest.raises(ConfigError, match="'head' has 4 second, another array 5"):
        widths.counts({**wide, "head": np.zeros((5, 4), np.float32)})
    with pytest.raises(ConfigError, match="bias"):
        widths.counts({name: array for name, array in wide.items() if name != "bias"})
    with pytest.raises(ConfigError, match="does not number first 4 times"):
        widths.counts({**wide, "hidden": np.zeros((5, 23), np.float32)})
