"""What must hold while instances die, rounds are forgotten and garbage is collected."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.faults import fault_row

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import UPDATE
from hocket.fl.store.workloads.workload import Question
from hocket.store_parts import open_round_store

DEVICES = ["a", "b", "c", "d"]


def test_killed_instances_lose_no_request_and_answer_nothing_wrong(tmp_path: Path) -> None:
    """The short form of what ``bench/store_requests.py`` does with 10,000 requests."""
    row = fault_row(tmp_path, 200, 50)
    assert (row["lost"], row["wrong"], row["damaged_entries"]) == (0, 0, 0)
    assert row["killed"] >= 3
    assert row["instances_lost"] >= 1


def update_of(number: int, device: str) -> Any:
    return np.full(1000, 10 * number + DEVICES.index(device), np.float32)


def test_retention_and_erasure_under_load(tmp_path: Path) -> None:
    """Who asks gets a whole round, a round without the erased device, or is told there is none."""
    wrong: list[Any] = []
    last = 12
    whole = [float(np.median([update_of(n, d)[0] for d in DEVICES])) for n in range(last + 1)]
    without_a = [
        float(np.median([update_of(n, d)[0] for d in DEVICES[1:]])) for n in range(last + 1)
    ]
    is_over = threading.Event()
    with open_round_store(
        str(tmp_path), memory_bytes=16 << 20, num_instances=1, must_exist=False
    ) as store:
        history = store.history

        def ingest(number: int) -> None:
            for device in DEVICES:
                store.ingest(Key("job", number, device, UPDATE), {"w": update_of(number, device)})

        def ask() -> None:
            number = 0
            while not is_over.is_set():
                number = number % last + 1
                try:
                    answer = store.ask("robust-mean", Question("job", number))
                except (ConfigError, KeyError):
                    # Forgotten, as a whole or between the question and the read.
                    continue
                except StoreError as error:
                    if "is gone" not in str(error):
                        wrong.append(error)
                    continue
                devices = answer.values["devices"]
                known = {tuple(DEVICES): whole, tuple(DEVICES[1:]): without_a}.get(tuple(devices))
                # Of a round that is on its way, or being forgotten, some updates are there.
                if known is not None and answer.arrays["w"][0] != known[number]:
                    wrong.append((number, devices, answer.arrays["w"][0]))

        def collect() -> None:
            while not is_over.is_set():
                history.collect_garbage(0)

        ingest(1)
        threads = [threading.Thread(target=ask), threading.Thread(target=collect)]
        for thread in threads:
            thread.start()
        for number in range(2, last + 1):
            ingest(number)
            store.forget(history.expired("job", 4))
        erased = [entry.key for entry in history.catalog.entries("job", device="a")]
        store.forget(erased)
        is_over.set()
        for thread in threads:
            thread.join()
        history.collect_garbage(0)
        assert wrong == []
        wanted = {Key("job", n, d, UPDATE) for n in range(last - 3, last + 1) for d in "bcd"}
        assert set(store.keys()) == wanted
        for key in erased:
            with pytest.raises(KeyError):
                store.get(key)
        for key in wanted:
            assert store.get(key) == layout.encode({"w": update_of(key.round, key.device)})
        assert history.verify() == []
        assert len(list(history.objects.listing())) == len(wanted)
