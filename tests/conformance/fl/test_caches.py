"""What every serverless cache must do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.ray_cluster import share_cluster

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import UPDATE
from hocket.fl.store.catalog import Catalog
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import open_objects
from hocket.fl.store.round_store import RoundStore
from hocket.fl.store.workloads.workload import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hocket.fl.store.cache import Cache

KEYS = [Key("job", 1, f"d{place}", UPDATE) for place in range(5)]
FACTS: dict[str, Any] = {"round": 1, "devices": [], "rule": "median", "trimmed": 0}
Restore = "Callable[[Key], bytes | memoryview]"


def processes(restore: Any) -> Cache:
    return Instances(20 << 20, most=2)


def ray_actors(restore: Any, replicas: int = 1) -> Cache:
    from hocket.fl.store.ray_instances import RayInstances

    share_cluster()
    return RayInstances(20 << 20, restore, num_functions=2, replicas=replicas)


CACHES: dict[str, Callable[[Any], Cache]] = {"processes": processes, "ray": ray_actors}
# Actors start slowly, so what kills none shares them.
KILLED = {**CACHES, "ray": lambda restore: ray_actors(restore, 2)}


def content_of(number: float, size: int = 10_000) -> bytes:
    return layout.encode({"w": np.full(size, number, np.float32)})


def kept(key: Key) -> bytes:
    """Return what is kept for good of a key."""
    return content_of(KEYS.index(key))


def unreadable(key: Key) -> bytes:
    raise AssertionError(f"{key} is held")


@pytest.fixture(scope="module", params=CACHES)
def shared(request: pytest.FixtureRequest) -> Iterator[Cache]:
    made = CACHES[request.param](kept)
    yield made
    made.close()


@pytest.fixture
def cache(shared: Cache) -> Iterator[Cache]:
    yield shared
    for key in KEYS:
        shared.drop(key)


@pytest.fixture(params=KILLED)
def mortal(request: pytest.FixtureRequest) -> Iterator[Cache]:
    made = KILLED[request.param](kept)
    yield made
    made.close()


def kill_all(cache: Cache) -> None:
    for victim in cache.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def test_work_runs_on_what_is_held_and_what_is_read(cache: Cache) -> None:
    for key in KEYS[:3]:
        assert cache.hold(key, kept(key))
    read = []

    def from_disk(key: Key) -> bytes:
        read.append(key)
        return content_of(100.0)

    answer = cache.run("robust-mean", FACTS, KEYS, from_disk)
    assert read == KEYS[3:]
    assert np.asarray(answer.arrays["w"]).tolist() == [2.0] * 10_000
    assert answer.values["rule"] == "median"
    assert not cache.holds(KEYS[3]), "it was read for one request"


def test_what_is_held_is_what_is_read_and_dropped(cache: Cache) -> None:
    cache.hold(KEYS[0], content_of(7))
    cache.hold(KEYS[0], content_of(8, 100))
    with cache.reading(KEYS) as found:
        assert {key: bytes(each) for key, each in found.items()} == {KEYS[0]: content_of(8, 100)}
        assert all(each.readonly for each in found.values())
        cache.drop(KEYS[0])
        assert bytes(found[KEYS[0]]) == content_of(8, 100)
    with cache.reading(KEYS) as found:
        assert not found
    assert cache.usage().held_bytes == 0


def test_requests_survive_instances_killed_at_work(mortal: Cache) -> None:
    for key in KEYS:
        assert mortal.hold(key, kept(key))
    answers: list[float] = []
    answered = threading.Condition()

    def ask() -> None:
        for _ in range(8):
            answer = mortal.run("robust-mean", FACTS, KEYS, kept)
            with answered:
                answers.append(float(np.asarray(answer.arrays["w"]).sum()))
                answered.notify_all()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for due in (3, 9):
        with answered:
            assert answered.wait_for(lambda due=due: len(answers) >= due, timeout=300)
        kill_all(mortal)
    for thread in threads:
        thread.join()
    assert answers == [20_000.0] * 16
    assert all(mortal.holds(key) for key in KEYS)
    assert mortal.usage().num_lost >= 2


def test_errors_of_the_work_come_back_and_nobody_dies_of_them(cache: Cache) -> None:
    cache.hold(KEYS[0], kept(KEYS[0]))
    with pytest.raises(ConfigError, match="are not those of"):
        cache.run("robust-mean", FACTS, KEYS[:2], lambda _: content_of(1, 7))
    with pytest.raises(StoreError, match="no object of arrays"):
        cache.run("robust-mean", FACTS, KEYS[:2], lambda _: b"damaged")
    assert cache.usage().num_lost == 0


def test_what_does_not_fit_is_not_held(cache: Cache) -> None:
    assert not cache.hold(KEYS[0], bytes(21 << 20))
    assert not cache.holds(KEYS[0])


@pytest.mark.parametrize("name", CACHES)
def test_a_store_over_it_answers_while_instances_are_killed(name: str, tmp_path: Path) -> None:
    history = History(open_objects(str(tmp_path)), Catalog(":memory:"), lambda: 0.0)
    store = RoundStore(history, CACHES[name](history.view))
    rng = np.random.default_rng(0)
    wanted = {}
    for number in (1, 2, 3):
        updates = rng.standard_normal((4, 3000)).astype(np.float32)
        for place, update in enumerate(updates):
            store.ingest(Key("job", number, f"d{place}", UPDATE), {"w": update})
        wanted[number] = np.median(updates, axis=0)
    for step in range(9):
        number = step % 3 + 1
        answer = store.ask("robust-mean", Question("job", number))
        np.testing.assert_allclose(answer.arrays["w"], wanted[number], rtol=1e-5, atol=1e-6)
        if step == 4:
            kill_all(store.instances)
    assert not any(handled.error for handled in store.handled())
    assert history.verify() == []
    store.close()
