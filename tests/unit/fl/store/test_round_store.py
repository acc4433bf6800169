"""The store of rounds: ingest, questions, what is held, and what a crash leaves."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.catalog import Catalog, Entry
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import Objects, open_objects
from hocket.fl.store.round_store import RoundStore
from hocket.fl.store.workloads import WORKLOADS
from hocket.fl.store.workloads.models import ModelWorkload
from hocket.fl.store.workloads.workload import Question

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEVICES = ["a", "b", "c", "d"]


def open_store(folder: Path) -> RoundStore:
    history = History(open_objects(str(folder)), Catalog(folder / "catalog.sqlite"), lambda: 0.0)
    return RoundStore(history, Instances(32 << 20, most=1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RoundStore]:
    made = open_store(tmp_path)
    yield made
    made.close()


def fill(store: RoundStore, rounds: range, seed: int = 0) -> list[Any]:
    """Ingest rounds, and return the updates of the last."""
    rng = np.random.default_rng(seed)
    model = rng.normal(size=2000).astype(np.float32)
    if rounds.start == 1:
        store.ingest(Key("job", 0, SERVER, MODEL), {"w": model})
    updates: list[Any] = []
    for number in rounds:
        updates = [(model + rng.normal(size=2000)).astype(np.float32) for _ in DEVICES]
        keys = {}
        for device, update in zip(DEVICES, updates, strict=True):
            key = Key("job", number, device, UPDATE)
            metrics = {"num_examples": 1.0, "loss": 1.0, "accuracy": 0.5, "seconds": 1.0}
            store.ingest(key, {"w": update}, metrics)
            keys[key] = 1 / len(DEVICES)
        model = np.mean(updates, axis=0)
        store.ingest(Key("job", number, SERVER, MODEL), {"w": model}, made_from=keys)
    return updates


PLAIN = [name for name, work in WORKLOADS.items() if not isinstance(work, ModelWorkload)]


@pytest.mark.parametrize("workload", PLAIN)
def test_every_workload_is_answered(store: RoundStore, workload: str) -> None:
    fill(store, range(1, 4))
    question = Question("job", device="b" if workload != "clustering" else None)
    answer = store.ask(workload, question)
    assert answer.values
    (handled,) = store.handled()
    assert (handled.number, handled.workload, handled.error) == (1, workload, "")


def test_work_on_the_newest_round_is_all_hits(store: RoundStore) -> None:
    updates = fill(store, range(1, 4))
    answer = store.ask("robust-mean", Question("job"))
    np.testing.assert_allclose(answer.arrays["w"], np.median(updates, axis=0), rtol=1e-6)
    (handled,) = store.handled()
    assert (handled.num_reads, handled.num_hits) == (4, 4)


def test_a_walk_through_old_rounds_is_loaded_ahead(store: RoundStore) -> None:
    fill(store, range(1, 7))
    for number in range(1, 6):
        store.ask("robust-mean", Question("job", round=number))
        store.settle()
    assert [handled.num_hits for handled in store.handled()] == [0, 4, 4, 4, 4]


def test_a_new_store_over_old_entries_answers_alike(tmp_path: Path) -> None:
    one = open_store(tmp_path)
    fill(one, range(1, 3))
    before = {name: one.ask(name, Question("job", device="c")).values for name in PLAIN}
    one.close()
    again = open_store(tmp_path)
    assert {name: again.ask(name, Question("job", device="c")).values for name in PLAIN} == before
    # Updates that come later are compared with those that came before the restart.
    again.ingest(Key("job", 2, "late", UPDATE), {"w": np.zeros(2000, np.float32)})
    found = again.history.catalog.products("job", 2, UPDATE, [*DEVICES, "late"])
    assert not np.isnan(found).any()
    again.close()


def test_what_is_put_anew_is_what_is_read(store: RoundStore) -> None:
    fill(store, range(1, 2))
    key = Key("job", 1, "a", UPDATE)
    changed = np.zeros(2000, np.float32)
    store.ingest(key, {"w": changed})
    answer = store.ask("robust-mean", Question("job", options={"rule": "trimmed", "share": 0}))
    others = [store.history.arrays(Key("job", 1, each, UPDATE))["w"] for each in "bcd"]
    np.testing.assert_allclose(answer.arrays["w"], np.mean([changed, *others], axis=0), atol=1e-6)
    store.put(key, b"nothing of the kind")
    assert store.get(key) == b"nothing of the kind"


def test_statistics_need_no_reads_though_no_class_holds_anything(
    store: RoundStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(1, 25))
    assert not store.instances.holds(Key("job", 24, "a", UPDATE)), "nobody asked"
    before = store.get(Key("job", 24, SERVER, MODEL))
    model = layout.flat_numbers(before, "the model before")

    def unreadable(objects: Objects, digest: str) -> memoryview:
        raise AssertionError(f"{digest} is read")

    monkeypatch.setattr(Objects, "get", unreadable)
    updates = fill(store, range(25, 26), seed=3)
    found = store.history.catalog.products("job", 25, UPDATE, DEVICES)
    changes = np.array(updates) - model
    np.testing.assert_allclose(found, changes @ changes.T, rtol=1e-4)


def test_statistics_are_with_what_was_put_anew(store: RoundStore) -> None:
    fill(store, range(1, 25))
    one, other, next_one = (np.full(2000, number, np.float32) for number in (3, 4, 5))
    keys = [Key("job", 30, device, UPDATE) for device in "abc"]
    store.ingest(keys[0], {"w": one})
    store.put(keys[0], layout.encode({"w": other}))
    store.ingest(keys[1], {"w": next_one})
    assert store.history.catalog.products("job", 30, UPDATE, "ab")[0, 1] == 2000 * 4 * 5
    store.delete(keys[0])
    store.ingest(keys[2], {"w": one})
    found = store.history.catalog.products("job", 30, UPDATE, "abc")
    assert found[1, 2] == 2000 * 5 * 3
    assert np.isnan(found[0, 2])


def test_many_threads_find_what_they_ask_for(store: RoundStore) -> None:
    fill(store, range(1, 3))
    wrong: list[Any] = []

    def ingest() -> None:
        fill(store, range(3, 8), seed=1)

    def ask() -> None:
        for number in (1, 2) * 4:
            answer = store.ask("robust-mean", Question("job", round=number))
            wanted = np.median(
                [store.history.arrays(Key("job", number, each, UPDATE))["w"] for each in DEVICES],
                axis=0,
            )
            if not np.allclose(answer.arrays["w"], wanted):
                wrong.append(number)

    threads = [threading.Thread(target=target) for target in (ingest, ask, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(store.handled()) == 16


def test_bad_updates_are_refused_and_leave_nothing(store: RoundStore) -> None:
    fill(store, range(1, 2))
    key = Key("job", 1, "e", UPDATE)
    with pytest.raises(UpdateError, match="not finite"):
        store.ingest(key, {"w": np.full(2000, np.inf, np.float32)})
    with pytest.raises(ConfigError, match="want the kind"):
        store.ingest(Key("job", 1, "e", "other"), {})
    assert str(key) not in [str(each) for each in store.keys("job/")]


def test_updates_of_other_parts_of_a_model_are_kept_apart(store: RoundStore) -> None:
    fill(store, range(1, 2))
    store.ingest(Key("job", 1, "e", UPDATE), {"part": np.ones(3, np.float32)})
    store.ingest(Key("job", 1, "f", UPDATE), {"part": np.full(3, 2, np.float32)})
    found = store.history.catalog.products("job", 1, UPDATE, ["a", "e", "f"])
    assert found[1:, 1:].tolist() == [[3, 6], [6, 12]]
    assert np.isnan(found[0, 1:]).all()
    with pytest.raises(ConfigError, match="of the same arrays"):
        store.ask("clustering", Question("job"))


def test_what_goes_wrong_is_noted(store: RoundStore) -> None:
    with pytest.raises(ConfigError, match="unknown workload"):
        store.ask("guessing", Question("job"))
    with pytest.raises(ConfigError, match="it has none"):
        store.ask("clustering", Question("job"))
    (handled,) = store.handled()
    assert "it has none" in handled.error


def test_a_cache_too_small_for_a_round_still_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(open_objects(str(tmp_path)), Catalog(":memory:"), lambda: 0.0)
    store = RoundStore(history, Instances(10 * 4096, most=1))
    with caplog.at_level(logging.WARNING):
        updates = fill(store, range(1, 3))
    answer = store.ask("cosine-scheduling", Question("job"))
    assert len(answer.values["cosines"]) == len(updates)
    store.close()


def test_what_was_loaded_ahead_is_not_held_if_it_was_put_anew(
    store: RoundStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(1, 4))
    key = Key("job", 2, "a", UPDATE)
    changed = {"w": np.ones(2000, np.float32)}
    read = History.content

    def put_meanwhile(history: History, entry: Entry) -> memoryview:
        found = read(history, entry)
        if entry.key == key:
            monkeypatch.undo()
            store.put(key, layout.encode(changed))
            store.delete(Key("job", 2, "b", UPDATE))
        return found

    # Work on the first round has the second loaded.
    monkeypatch.setattr(History, "content", put_meanwhile)
    store.ask("robust-mean", Question("job", 1))
    store.settle()
    assert store.get(key) == layout.encode(changed)
    with pytest.raises(KeyError):
        store.get(Key("job", 2, "b", UPDATE))
