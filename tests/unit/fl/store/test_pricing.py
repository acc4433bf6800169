"""What a cloud would charge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.pricing import (
    HOURS_A_MONTH,
    PRICES,
    Demand,
    aggregator_bill,
    load_prices,
    serverless_bill,
)

if TYPE_CHECKING:
    from pathlib import Path

PRICE = load_prices()


def test_the_provider_s_own_example_comes_out() -> None:
    # docs.aws.amazon.com and aws.amazon.com/lambda/pricing: three million requests of a second in
    # 512 MB, without the free tier: 1.5 million GB-seconds and 0.60 dollars of requests.
    demand = Demand(3e6, 1.0, 0, 0, 0.5e9)
    bill = serverless_bill(PRICE, demand, held_bytes=0, stored_bytes=0)
    assert bill.functions == pytest.approx(1.5e6 * 0.0000166667)
    assert bill.calls == pytest.approx(0.60)
    assert bill.total == pytest.approx(25.6, abs=0.01)


def test_warm_functions_cost_less_than_a_cent_each() -> None:
    idle = Demand(0, 0, 0, 0, 0)
    bill = serverless_bill(PRICE, idle, held_bytes=1e9, stored_bytes=0, replicas=1)
    # 43,800 pings a month at 0.20 dollars a million.
    assert bill.calls == pytest.approx(0.00876)
    assert bill.functions == pytest.approx(43_800 * 0.001 * 0.0000166667)


def test_an_aggregator_costs_what_its_hours_do() -> None:
    demand = Demand(3000, 60.0, 448e6, 10, 448e6)
    bill = aggregator_bill(PRICE, demand, stored_bytes=100e9)
    assert bill.servers == pytest.approx(HOURS_A_MONTH * 0.922)
    assert bill.reads == pytest.approx(3000 * 10 * 0.0000004)
    assert bill.storage == pytest.approx(2.3)
    by_use = aggregator_bill(PRICE, demand, stored_bytes=100e9, is_always_on=False)
    assert by_use.servers == pytest.approx(50 * 0.922)
    cached = aggregator_bill(PRICE, demand, stored_bytes=0, cached_bytes=30e9)
    assert cached.servers - bill.servers == pytest.approx(2 * HOURS_A_MONTH * 0.411)
    busy = aggregator_bill(PRICE, replace(demand, requests_a_month=1e6), stored_bytes=0)
    assert busy.servers == pytest.approx(23 * HOURS_A_MONTH * 0.922)


@given(st.floats(0, 1e7), st.floats(0, 100), st.floats(0, 1e11))
def test_more_never_costs_less(requests: float, seconds: float, held: float) -> None:
    demand = Demand(requests, seconds, 1e6, 1, 1e9)
    more = replace(demand, requests_a_month=requests + 1, seconds=seconds + 1)
    few, many = (serverless_bill(PRICE, each, held, 1e9).total for each in (demand, more))
    assert few < many
    assert aggregator_bill(PRICE, demand, 1e9).total <= aggregator_bill(PRICE, more, 1e9).total
    assert few <= serverless_bill(PRICE, demand, held + 1e9, 1e9).total


def test_bad_price_books_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are aws-us-east-1"):
        load_prices("nowhere")
    path = tmp_path / "mine.toml"
    good = (PRICES / "aws-us-east-1.toml").read_text(encoding="utf-8")
    for old, new, message in [
        ("put = 0.000005", "", "want a number for object_store.put, got None"),
        ("put = 0.000005", "put = 'much'", "got 'much'"),
        ("put = 0.000005", "put = -1", "put must be 0 or more"),
        ('currency = "USD"', "currency = 1", "want a text for currency"),
        ("[cache]", "[cache", "is no price book"),
    ]:
        path.write_text(good.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            load_prices(path)
