"""Passes over a round that is resident, beside how fast this machine's memory can be read."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import UPDATE
from hocket.fl.store.instances import Instances
from hocket.runtime.cpu import usable_cores
from store.requests import A_ROUND, MODELS

if TYPE_CHECKING:
    from hocket.fl.core.parameters import Parameters

REPEATS = 9


def pass_rows(model: str) -> list[dict[str, Any]]:
    """Return a row for each workload that reads all updates of a round.

    The bound is the time to read the round once, as fast as one core does, and to write a model,
    measured in turns with the requests, which are from end to end and use every core. What all
    cores take for the same, each of its own part, is told beside it.
    """
    size = MODELS[model]
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(size, dtype=np.float32)
    updates = [np.roll(vector, place * 1000) for place in range(A_ROUND)]
    instances = Instances((A_ROUND + 2) * 5 * size, most=1)
    keys = [Key("job", 1, f"d{place}", UPDATE) for place in range(A_ROUND)]
    for key, update in zip(keys, updates, strict=True):
        instances.hold(key, layout.encode({"weights": update}))
    facts = {
        "round": 1,
        "devices": [],
        "trimmed": 1,
        "weights": [1.0] * A_ROUND,
    }
    asked = {
        "personalisation, a mean": ("personalisation", facts),
        "robust-mean, trimmed": ("robust-mean", facts | {"rule": "trimmed"}),
        "robust-mean, median": ("robust-mean", facts | {"rule": "median"}),
    }
    seconds: dict[str, list[float]] = {label: [] for label in asked}
    bounds: list[float] = []
    bounds_of_all: list[float] = []
    made: Parameters = {}
    try:
        for repeat in range(REPEATS + 1):
            room = np.zeros(size, np.float32)
            bound, bound_of_all = _bound(updates, room, 1), _bound(updates, room, usable_cores())
            for label, (workload, wanted) in asked.items():
                started = time.perf_counter()
                made = instances.run(workload, wanted, keys, _unreadable).arrays
                if repeat:
                    seconds[label].append(time.perf_counter() - started)
            if repeat:
                bounds.append(bound)
                bounds_of_all.append(bound_of_all)
    finally:
        instances.close()
    np.testing.assert_allclose(made["weights"][:1000], _medians(updates, 1000), rtol=1e-6)
    bound, bound_of_all = statistics.median(bounds), statistics.median(bounds_of_all)
    return [
        {
            "part": "passes",
            "model": model,
            "workload": label,
            "ms": 1e3 * statistics.median(each),
            "bound_ms": 1e3 * bound,
            "read_gigabytes_per_second": A_ROUND * 4 * size / bound / 1e9,
            "times_bound": statistics.median(each) / bound,
            "cores": usable_cores(),
            "times_bound_of_all_cores": statistics.median(each) / bound_of_all,
        }
        for label, each in seconds.items()
    ]


def _bound(updates: list[Any], room: Any, num_cores: int) -> float:
    part = -(-room.size // num_cores)

    def read(start: int) -> None:
        for update in updates:
            update[start : start + part].max()
        room[start : start + part] = updates[0][start : start + part]

    with ThreadPoolExecutor(num_cores) as threads:
        threads.submit(int).result()
        started = time.perf_counter()
        for each in [threads.submit(read, start) for start in range(0, room.size, part)]:
            each.result()
        return time.perf_counter() - started


def _medians(updates: list[Any], count: int) -> Any:
    return np.median([update[:count] for update in updates], axis=0)


def _unreadable(key: Key) -> bytes:
    raise AssertionError(f"{key} is held")
