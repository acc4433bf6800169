"""How a store does: hits, latency, cost and instances, as JSON has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.store.pricing import Demand, serverless_bill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.store.pricing import Prices
    from hocket.fl.store.round_store import Handled, RoundStore

PERCENTILES = (50, 90, 99)
_HOURS_A_MONTH = 730.0


def overview(store: RoundStore, prices: Prices, up_seconds: float) -> dict[str, Any]:
    """Return how a store does.

    Args:
        store: Which.
        prices: What a cloud would charge.
        up_seconds: Since when it has been asked, for the rate of requests.
    """
    handled, usage = store.handled(), store.instances.usage()
    by_workload = {
        name: _figures([each for each in handled if each.workload == name])
        for name in sorted({each.workload for each in handled})
    }
    statement = "SELECT COUNT(*), SUM(num_bytes), COUNT(DISTINCT job) FROM entries"
    _, ((num_entries, num_bytes, num_jobs),) = store.history.catalog.select(statement)
    stored = float(num_bytes or 0)
    return {
        "requests": _figures(handled),
        "workloads": by_workload,
        "last": [_told(each) for each in handled[-100:]],
        "instances": asdict(usage) | {"capacity_bytes": store.instances.capacity_bytes},
        "kept": {"jobs": num_jobs, "entries": num_entries, "bytes": stored},
        "cost": _cost(prices, handled, usage.held_bytes, stored, up_seconds),
        "up_seconds": up_seconds,
    }


def _figures(handled: Sequence[Handled]) -> dict[str, Any]:
    num_reads = sum(each.num_reads for each in handled)
    seconds = [each.seconds for each in handled]
    found = np.percentile(seconds, PERCENTILES).tolist() if seconds else [None] * len(PERCENTILES)
    return {
        "count": len(handled),
        "failed": sum(bool(each.error) for each in handled),
        # What reads nothing is answered from what is known.
        "hit_rate": sum(each.num_hits for each in handled) / num_reads if num_reads else None,
        "from_statistics": sum(not each.num_reads for each in handled),
        "seconds": {f"p{part}": value for part, value in zip(PERCENTILES, found, strict=True)},
    }


def _told(each: Handled) -> dict[str, Any]:
    return {"number": each.number, "workload": each.workload, "seconds": each.seconds}


def _cost(
    prices: Prices,
    handled: Sequence[Handled],
    held_bytes: int,
    stored_bytes: float,
    up_seconds: float,
) -> dict[str, Any]:
    """Return a month's cost at the rate of the last requests, on functions of a cloud."""
    count = len(handled)
    a_month = count / max(up_seconds, 1.0) * 3600 * _HOURS_A_MONTH
    seconds = sum(each.seconds for each in handled) / count if count else 0.0
    demand = Demand(a_month, seconds, 0.0, 0.0, float(held_bytes))
    bill = serverless_bill(prices, demand, float(held_bytes), stored_bytes)
    return {
        "currency": prices.currency,
        "prices_of": prices.date,
        "requests_a_month": a_month,
        "a_month": asdict(bill) | {"total": bill.total},
    }
