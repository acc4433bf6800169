"""What every store must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.s3 import s3_server

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.store import FolderStore, Key, MemoryStore, Store
from hocket.fl.store.catalog import Catalog
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import open_objects
from hocket.fl.store.round_store import RoundStore


def open_history(folder: Path) -> History:
    return History(open_objects(str(folder)), Catalog(folder / "catalog.sqlite"), lambda: 0.0)


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "folder": FolderStore,
    "history-memory": lambda folder: History(
        open_objects("memory://"), Catalog(":memory:"), lambda: 0.0
    ),
    "history-folder": open_history,
    "round-store": lambda folder: RoundStore(open_history(folder), Instances(1 << 20)),
}
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)
KEYS = st.builds(Key, NAMES, st.integers(0, 10**9), NAMES, NAMES)


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(params=[*STORES, "history-s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "history-s3":
        url = request.getfixturevalue("s3_url")
        # Each test has a prefix of its own.
        objects = open_objects(url.replace("/store?", f"/{tmp_path.name}?"))
        return History(objects, Catalog(":memory:"), lambda: 4e9)
    return STORES[request.param](tmp_path / "store")


KEY = Key("job", 3, "server", "state")


def test_what_is_put_is_got(store: Store) -> None:
    store.put(KEY, b"one")
    store.put(KEY, b"")
    assert store.get(KEY) == b""
    store.put(KEY, b"two")
    assert store.get(KEY) == b"two"


def test_what_is_not_there_is_a_key_error(store: Store) -> None:
    with pytest.raises(KeyError):
        store.get(KEY)
    store.delete(KEY)
    store.put(KEY, b"one")
    store.delete(KEY)
    with pytest.raises(KeyError):
        store.get(KEY)
    assert store.keys() == []


def test_keys_are_those_that_begin_so_in_order(store: Store) -> None:
    keys = [
        Key("a", 2, "server", "state"),
        Key("a", 10, "server", "state"),
        Key("a", 2, "phone", "update"),
        Key("ab", 1, "server", "state"),
    ]
    for key in reversed(keys):
        store.put(key, str(key).encode())
    assert store.keys() == sorted(keys)
    assert store.keys("a/") == sorted(keys[:3])
    assert store.keys("a/00000002/") == sorted([keys[0], keys[2]])
    assert store.keys("b") == []


@given(entries=st.dictionaries(KEYS, st.binary(max_size=50), max_size=8))
@pytest.mark.parametrize("kind", STORES)
def test_entries_do_not_touch_each_other(
    kind: str, entries: dict[Key, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store: Any = STORES[kind](tmp_path_factory.mktemp("store") / "entries")
    for key, content in entries.items():
        store.put(key, content)
    assert {key: store.get(key) for key in store.keys()} == entries  # noqa: SIM118 - no mapping


@given(key=KEYS)
def test_keys_are_told_by_their_text(key: Key) -> None:
    assert Key.parse(str(key)) == key


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a b", "x" * 101, "é", "a\n"])
def test_names_that_would_leave_the_folder_are_refused(name: str) -> None:
    for job, device, kind in [(name, "d", "k"), ("j", name, "k"), ("j", "d", name)]:
        with pytest.raises(ConfigError, match="want a name"):
            Key(job, 0, device, kind)


def test_a_file_that_was_changed_is_found(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(KEY, b"content")
    path = tmp_path / str(KEY)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreError, match="does not hold what was put there"):
            store.get(KEY)


def test_a_put_that_was_cut_short_leaves_what_was_there(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(KEY, b"content")
    (tmp_path / f"{KEY}").with_name(".state.1234.tmp").write_bytes(b"half of")
    assert store.get(KEY) == b"content"
    assert store.keys() == [KEY]


def test_objects_in_an_object_store_are_read_in_parts_listed_and_deleted(s3_url: str) -> None:
    objects = open_objects(s3_url)
    content = bytes(range(256)) * 100
    digest = objects.put(content)
    assert objects.get(digest) == content
    assert objects.get_range(digest, 250, 260) == content[250:260]
    assert [(each.digest, each.num_bytes) for each in objects.listing()] == [(digest, 25_600)]
    objects.delete(digest)
    objects.delete(digest)
    assert not objects.has(digest)
    for read in (lambda: objects.get(digest), lambda: objects.get_range(digest, 0, 1)):
        with pytest.raises(KeyError):
            read()
    history = History(objects, Catalog(":memory:"), lambda: 4e9)
    history.record_arrays(KEY, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    assert history.layer(KEY, "w").tolist() == [[0, 1, 2], [3, 4, 5]]
    history.delete(KEY)
    assert history.collect_garbage()[0] == 1
