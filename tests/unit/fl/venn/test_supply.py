"""Supply by window and by the hours of the week, against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.venn.eligibility import Eligibility
from hocket.fl.venn.supply import DAY_SECONDS, HOUR_SECONDS, SupplyWindow, WeeklySupply

WEEK_SECONDS = 7 * DAY_SECONDS
LARGE = (("memory", 4.0),)


def test_a_window_is_of_the_last_day_and_of_so_many_checkins() -> None:
    window = SupplyWindow(max_checkins=3, max_seconds=100.0)
    for time, atom in ((0.0, 0), (10.0, 1), (20.0, 1), (30.0, 0)):
        window.add(time, {}, atom)
    assert window.counts(3).tolist() == [1, 2, 0]
    window.add(115.0, {}, 2)
    assert window.counts(3).tolist() == [1, 1, 1]
    assert window.seconds == 95.0


def test_the_published_window_is_of_a_thousand_checkins_of_any_age() -> None:
    window = SupplyWindow.as_published()
    for number in range(1500):
        window.add(number * 1e6, {}, number % 2)
    assert window.counts(2).tolist() == [500, 500]


def busy_hours(num_weeks: int) -> WeeklySupply:
    """100 check-ins in the first half of each day's hours, 10 in others; of one in four large."""
    supply = WeeklySupply()
    for hour in range(num_weeks * 168):
        count = 100 if hour % 24 < 12 else 10
        for number in range(count):
            large = number % 4 == 0
            memory = {"memory": 8.0 if large else 1.0}
            supply.add(hour * HOUR_SECONDS + number * HOUR_SECONDS / count, memory, int(large))
    return supply


def test_hours_of_the_week_are_expected_again() -> None:
    supply = busy_hours(2)
    now = 2 * WEEK_SECONDS
    by_day = supply.counts(2)
    assert by_day.sum() == pytest.approx(12 * 110, rel=0.01)
    # Of 10 check-ins, 3 are large.
    assert by_day[1] == pytest.approx(12 * 25 + 12 * 3, rel=0.01)
    assert supply.expected((), now, HOUR_SECONDS / 2) == pytest.approx(50)
    assert supply.expected((), now + 12 * HOUR_SECONDS, 2 * HOUR_SECONDS) == pytest.approx(20)
    assert supply.expected((), now + 11.5 * HOUR_SECONDS, HOUR_SECONDS) == pytest.approx(55)
    assert supply.expected(LARGE, now, HOUR_SECONDS) == pytest.approx(25)
    assert supply.expected((), now, WEEK_SECONDS) == pytest.approx(7 * 12 * 110, rel=0.01)


def test_an_hour_that_comes_again_counts_as_much_as_all_before() -> None:
    supply = WeeklySupply()
    for week, count in enumerate((80, 80, 40)):
        for number in range(count):
            supply.add(week * WEEK_SECONDS + number, {}, 0)
        # Some other hours, so that a thousand check-ins are there.
        for number in range(400):
            supply.add(week * WEEK_SECONDS + 2 * HOUR_SECONDS + number, {}, 0)
    assert supply.expected((), 3 * WEEK_SECONDS, HOUR_SECONDS) == pytest.approx(60)
    assert supply.expected((), 3 * WEEK_SECONDS + HOUR_SECONDS, HOUR_SECONDS) == 0


def test_nothing_is_expected_before_much_is_known() -> None:
    window, weekly = SupplyWindow(), WeeklySupply()
    for number in range(999):
        window.add(float(number), {}, 0)
        weekly.add(float(number), {}, 0)
    for supply in (window, weekly):
        assert supply.expected((), 999.0, 60.0) is None
        supply.add(999.0, {}, 0)
        assert supply.expected((), 999.0, 60.0) == pytest.approx(60, rel=0.01)
        assert supply.counts(1)[0] / supply.seconds == pytest.approx(1, rel=0.01)


@given(st.lists(st.floats(0, 8), min_size=1, max_size=50))
def test_types_are_told_anew_when_requirements_change(memories: list[float]) -> None:
    before, after = Eligibility(), Eligibility([LARGE])
    num_large = sum(memory >= 4 for memory in memories)
    for supply in (SupplyWindow(), WeeklySupply()):
        for number, memory in enumerate(memories):
            attributes = {"memory": memory}
            supply.add(float(number), attributes, before.atom_of(attributes))
        supply.recount(after)
        masks = after.masks
        counts = supply.counts(len(masks))
        large = counts[[mask == 1 for mask in masks]].sum()
        assert large / counts.sum() == pytest.approx(num_large / len(memories))
    assert np.all(counts >= 0)
