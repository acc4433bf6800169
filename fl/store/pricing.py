"""What a cloud would charge for the work: by request and memory, or by the hour.

Most of what a serverless cache saves beside a server of one's own is paying by the request. So a
cost is of so many requests a month, and there is a rate above which a server is cheaper.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

PRICES = Path(__file__).parent / "prices"

GIGABYTE = 1e9
HOURS_A_MONTH = 730.0
# Once a minute, as caches on functions do to stay warm (Wang et al. 2020, InfiniCache).
PINGS_A_MONTH = HOURS_A_MONTH * 60
PING_SECONDS = 0.001


@dataclass(frozen=True)
class Prices:
    """What a provider charges.

    Attributes:
        gigabyte_second, request: Of functions: while they run, and each time they are called.
        billed_seconds: Seconds are rounded up to so many.
        max_gigabytes: Of one function.
        gigabyte_month, put, get: Of an object store.
        gigabyte_within: Between services.
        instance_hour: Of an aggregator.
        cache_gigabytes, cache_hour: Of a cache's node.
        currency, date: Of the prices.
    """

    gigabyte_second: float
    request: float
    billed_seconds: float
    max_gigabytes: float
    gigabyte_month: float
    put: float
    get: float
    gigabyte_within: float
    instance_hour: float
    cache_gigabytes: float
    cache_hour: float
    currency: str
    date: str

    def __post_init__(self) -> None:
        for each in fields(self):
            price = getattr(self, each.name)
            if isinstance(price, str):
                continue
            if not (math.isfinite(price) and price >= 0):
                raise ConfigError(f"prices: {each.name} must be 0 or more, got {price}")


_KEYS: Mapping[str, tuple[str, ...]] = {
    "gigabyte_second": ("function", "gigabyte_second"),
    "request": ("function", "request"),
    "billed_seconds": ("function", "billed_seconds"),
    "max_gigabytes": ("function", "max_gigabytes"),
    "gigabyte_month": ("object_store", "gigabyte_month"),
    "put": ("object_store", "put"),
    "get": ("object_store", "get"),
    "gigabyte_within": ("transfer", "gigabyte_within"),
    "instance_hour": ("instance", "hour"),
    "cache_gigabytes": ("cache", "gigabytes"),
    "cache_hour": ("cache", "hour"),
    "currency": ("currency",),
    "date": ("date",),
}


def load_prices(name: str | os.PathLike[str] = "aws-us-east-1") -> Prices:
    """Read a price book.

    Args:
        name: Of one that comes with Hocket, or the path of a TOML file.

    Raises:
        ConfigError: There is none, or a price is missing or below 0.
    """
    built_in = PRICES / f"{name}.toml"
    path = built_in if built_in.is_file() else Path(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        known = ", ".join(sorted(each.stem for each in PRICES.glob("*.toml")))
        raise ConfigError(
            f"{name}: is no price book ({error}); there are {known}, or give a TOML file"
        ) from error
    return Prices(**{field: _find(table, keys, path) for field, keys in _KEYS.items()})


def _find(table: Mapping[str, Any], keys: tuple[str, ...], path: Path) -> Any:
    found: Any = table
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    wants_text = keys[0] in ("currency", "date")
    is_right = isinstance(found, str) if wants_text else type(found) in (int, float)
    if not is_right:
        kind = "a text" if wants_text else "a number"
        raise ConfigError(f"{path}: want {kind} for {'.'.join(keys)}, got {found!r}")
    return found


@dataclass(frozen=True)
class Demand:
    """What requests of a workload take, on average, and how many there are.

    Attributes:
        requests_a_month: How many.
        seconds: That one takes, from end to end.
        read_bytes: That one reads from the object store.
        num_reads: Objects that it reads from there.
        worked_bytes: Of the memory that it works in; of several functions if it fits no one.
    """

    requests_a_month: float
    seconds: float
    read_bytes: float
    num_reads: float
    worked_bytes: float


@dataclass(frozen=True)
class Bill:
    """What a month costs.

    Attributes:
        functions: Time of functions that work.
        calls: Of functions, and pings that keep them warm.
        servers: Instances and nodes of a cache, by the hour.
        reads: From the object store, and their transfer.
        storage: Of what is kept there.
    """

    functions: float = 0.0
    calls: float = 0.0
    servers: float = 0.0
    reads: float = 0.0
    storage: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.functions + self.calls + self.servers + self.reads + self.storage


def serverless_bill(
    prices: Prices, demand: Demand, held_bytes: float, stored_bytes: float, replicas: int = 2
) -> Bill:
    """Return what a month costs with a serverless cache.

    Functions are paid while they work, with all memory that they have, and are called once a minute
    to stay warm. What they hold between requests is theirs for that, as providers keep them now.

    Args:
        prices: Of the provider.
        demand: Of all requests.
        held_bytes: In memory, once.
        stored_bytes: In the object store.
        replicas: Functions that hold the same, in case one is taken away.
    """
    gigabytes = max(demand.worked_bytes, 1.0) / GIGABYTE
    per_request = math.ceil(gigabytes / prices.max_gigabytes)
    billed = _billed(prices, demand.seconds) * gigabytes * prices.gigabyte_second
    kept = math.ceil(held_bytes / GIGABYTE / prices.max_gigabytes) * replicas
    ping = _billed(prices, PING_SECONDS) * held_bytes / GIGABYTE * replicas * prices.gigabyte_second
    return Bill(
        functions=demand.requests_a_month * billed + PINGS_A_MONTH * ping,
        calls=(demand.requests_a_month * per_request + PINGS_A_MONTH * kept) * prices.request,
        reads=_reads(prices, demand),
        storage=stored_bytes / GIGABYTE * prices.gigabyte_month,
    )


def aggregator_bill(
    prices: Prices,
    demand: Demand,
    stored_bytes: float,
    cached_bytes: float = 0.0,
    *,
    is_always_on: bool = True,
) -> Bill:
    """Return what a month costs with an aggregator that reads from an object store or a cache.

    Args:
        prices: Of the provider.
        demand: Of all requests.
        stored_bytes: In the object store.
        cached_bytes: In a cloud's cache, all that is asked for; 0 for none.
        is_always_on: Whether the aggregator is paid by the hour; else only for the seconds in which
            it works, as FLStore's own drivers reckon. A cache is always on.
    """
    busy_hours = demand.requests_a_month * demand.seconds / 3600
    # One that is asked for more than it can do is several.
    hours = max(1.0, math.ceil(busy_hours / HOURS_A_MONTH)) * HOURS_A_MONTH
    nodes = math.ceil(cached_bytes / GIGABYTE / prices.cache_gigabytes)
    return Bill(
        servers=(hours if is_always_on else busy_hours) * prices.instance_hour
        + nodes * HOURS_A_MONTH * prices.cache_hour,
        reads=_reads(prices, demand),
        storage=stored_bytes / GIGABYTE * prices.gigabyte_month,
    )


def _billed(prices: Prices, seconds: float) -> float:
    if not prices.billed_seconds:
        return seconds
    return math.ceil(seconds / prices.billed_seconds - 1e-9) * prices.billed_seconds


def _reads(prices: Prices, demand: Demand) -> float:
    each = demand.num_reads * prices.get + demand.read_bytes / GIGABYTE * prices.gigabyte_within
    return demand.requests_a_month * each
