"""What a fleet would have cost: the energy and data of its devices, and requests to the store.

The store's part is reckoned for a function that is paid by the request and has the store's memory,
and for a server that is on all the time. Training on devices is its owners' time and free here.
"""

from __future__ import annotations

import math
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.pricing import (
    GIGABYTE,
    HOURS_A_MONTH,
    Demand,
    aggregator_bill,
    serverless_bill,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from hocket.fl.store.pricing import Prices

PRICES = Path(__file__).with_name("prices.toml")
_JOULES_A_KILOWATT_HOUR = 3.6e6


@dataclass(frozen=True)
class DevicePrices:
    """What devices' work costs.

    Attributes:
        kilowatt_hour: Of electricity.
        gigabyte_out: From the server to the Internet.
        gigabyte_mobile: Of a device's own plan, in either direction.
        currency: Of the prices.
    """

    kilowatt_hour: float
    gigabyte_out: float
    gigabyte_mobile: float
    currency: str


@dataclass(frozen=True)
class FleetBill:
    """What a fleet would have cost, from its first job's arrival to its last one's end.

    Attributes:
        hours: Simulated time.
        energy: Of devices.
        downloads: That the server sent.
        mobile: Of devices' plans, if all of them are on one.
        by_request: The store's, paid by the request.
        always_on: The store's, as a server that is on all the time.
        currency: Of all of it.
    """

    hours: float
    energy: float
    downloads: float
    mobile: float
    by_request: float
    always_on: float
    currency: str


def load_device_prices(path: str | os.PathLike[str] = PRICES) -> DevicePrices:
    """Read prices from a TOML file.

    Raises:
        ConfigError: It cannot be read, or a price is missing or below 0.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: is no list of prices: {error}") from error

    def price(section: str, key: str) -> float:
        part = table.get(section)
        found = part.get(key) if isinstance(part, dict) else None
        if (
            isinstance(found, (int, float))
            and not isinstance(found, bool)
            and 0 <= found < math.inf
        ):
            return float(found)
        raise ConfigError(f"{path}: {section}.{key}: want a number of 0 or more, got {found!r}")

    energy, out = price("energy", "kilowatt_hour"), price("data", "gigabyte_out")
    mobile, currency = price("data", "gigabyte_mobile"), table.get("currency")
    if not isinstance(currency, str):
        raise ConfigError(f"{path}: currency: want its name, got {currency!r}")
    return DevicePrices(energy, out, mobile, currency)


def bill_of(fleet: Mapping[str, Any], prices: Prices, devices: DevicePrices) -> FleetBill:
    """Return what a fleet would have cost.

    Requests are taken to come all month as often as they did, and the fleet pays for its hours.

    Args:
        fleet: What ``read_fleet`` returns.
        prices: Of the store.
        devices: Of devices' work.

    Raises:
        ConfigError: Prices are in two currencies.
    """
    if prices.currency != devices.currency:
        raise ConfigError(
            f"prices are in {prices.currency} and in {devices.currency}: want one currency"
        )
    hours = _hours(fleet)
    share = hours / HOURS_A_MONTH
    requests, measured = fleet["requests"], fleet["measured"]["requests"]
    store, totals = fleet["store"], fleet["totals"]
    memory_bytes, kept_bytes = float(store["memory_bytes"]), float(store["kept_bytes"])

    def demand(reads: list[int]) -> Demand:
        return Demand(
            requests_a_month=len(requests) / share,
            # The first starts a process, which functions that are kept warm do not.
            seconds=statistics.median(each["seconds"] for each in measured) if measured else 0.0,
            read_bytes=0.0,  # within a region: no price book charges for them
            num_reads=statistics.fmean(reads) if reads else 0.0,
            worked_bytes=memory_bytes,
        )

    everything = [each["num_reads"] for each in requests]
    pairs = zip(requests, measured, strict=True)
    missed = [each["num_reads"] - took["num_hits"] for each, took in pairs]
    by_request = serverless_bill(prices, demand(missed), memory_bytes, kept_bytes, replicas=1)
    always_on = aggregator_bill(prices, demand(everything), kept_bytes)
    downloaded, uploaded = totals["download_bytes"], totals["upload_bytes"]
    return FleetBill(
        hours=hours,
        energy=totals["joules"] / _JOULES_A_KILOWATT_HOUR * devices.kilowatt_hour,
        downloads=downloaded / GIGABYTE * devices.gigabyte_out,
        mobile=(downloaded + uploaded) / GIGABYTE * devices.gigabyte_mobile,
        by_request=by_request.total * share,
        always_on=always_on.total * share,
        currency=prices.currency,
    )


def _hours(fleet: Mapping[str, Any]) -> float:
    jobs = fleet["jobs"].values()
    first = float(min(job["arrival_seconds"] for job in jobs))
    last = float(max(job["arrival_seconds"] + job["completion_seconds"] for job in jobs))
    return max(last - first, 1.0) / 3600
