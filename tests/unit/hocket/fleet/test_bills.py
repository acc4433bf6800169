"""What fleets cost, reckoned by hand from round prices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.pricing import Prices, load_prices
from hocket.fleet.bills import DevicePrices, bill_of, load_device_prices

PRICES = Prices(
    gigabyte_second=0.5,
    request=2.0,
    billed_seconds=1.0,
    max_gigabytes=10.0,
    gigabyte_month=73.0,
    put=0.0,
    get=3.0,
    gigabyte_within=0.0,
    instance_hour=11.0,
    cache_gigabytes=26.0,
    cache_hour=0.4,
    currency="USD",
    date="today",
)
DEVICES = DevicePrices(0.36, 5.0, 7.0, "USD")


def fleet_of(*, num_requests: int = 4, hits: int = 1, hours: float = 10.0) -> dict[str, Any]:
    """A fleet whose second job ends ``hours`` after the first one came."""
    return {
        "jobs": {
            "one": {"arrival_seconds": 3600.0, "completion_seconds": 60.0},
            "other": {"arrival_seconds": 7200.0, "completion_seconds": (hours - 1) * 3600},
        },
        "totals": {"joules": 1e7, "download_bytes": 2 * 10**9, "upload_bytes": 10**9},
        "store": {"memory_bytes": 2 * 10**9, "kept_bytes": 10**9},
        "requests": [{"num_reads": 3}] * num_requests,
        "measured": {"requests": [{"num_hits": hits, "seconds": 0.6}] * num_requests},
    }


def test_a_bill_by_hand() -> None:
    bill = bill_of(fleet_of(), PRICES, DEVICES)
    assert bill.hours == pytest.approx(10.0)
    assert bill.energy == pytest.approx(1e7 / 3.6e6 * 0.36)
    assert (bill.downloads, bill.mobile) == pytest.approx((10.0, 21.0))
    # Four requests of a second on 2 GB, two reads each; a ping a minute of the same; 1 GB kept.
    kept = 73.0 * 10 / 730
    asked = 4 * (2 * 0.5 + 2.0 + 2 * 3.0)
    pinged = 600 * (2 * 0.5 + 2.0)
    assert bill.by_request == pytest.approx(asked + pinged + kept)
    assert bill.always_on == pytest.approx(10 * 11.0 + 4 * 3 * 3.0 + kept)


def test_who_asks_nothing_pays_for_what_is_there() -> None:
    bill = bill_of(fleet_of(num_requests=0), PRICES, DEVICES)
    assert bill.always_on == pytest.approx(110.0 + 1.0)
    assert bill.by_request == pytest.approx(600 * 3.0 + 1.0)


@given(hits=st.integers(0, 3), hours=st.floats(1.5, 2000))
def test_hits_are_not_paid_for_again(hits: int, hours: float) -> None:
    some, none = (bill_of(fleet_of(hits=n, hours=hours), PRICES, DEVICES) for n in (hits, 0))
    assert none.by_request - some.by_request == pytest.approx(4 * hits * 3.0, abs=1e-6)
    assert some.always_on == none.always_on


def test_currencies_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="in USD and in EUR: want one currency"):
        bill_of(fleet_of(), PRICES, dataclasses.replace(DEVICES, currency="EUR"))


def test_prices_that_come_with_it_are_of_one_currency() -> None:
    assert load_device_prices().currency == load_prices().currency


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("currency = 1", "energy.kilowatt_hour: want a number of 0 or more, got None"),
        ("[energy]\nkilowatt_hour = -1", "energy.kilowatt_hour: want .*, got -1"),
        ("[energy]\nkilowatt_hour = 1\n[data]\ngigabyte_out = nan", "data.gigabyte_out"),
        ("energy = 3", "energy.kilowatt_hour"),
        ("=", "is no list of prices"),
    ],
)
def test_wrong_prices_are_refused_by_their_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_device_prices(path)
