"""What is kept for good: entries, their descent, and their bytes."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.store import Key
from hocket.fl.store.catalog import MEMORY, Catalog
from hocket.fl.store.history import History
from hocket.fl.store.objects import open_objects
from hocket.fl.store.statistics import sketch, work_out

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = Key("job", 1, "one", "update"), Key("job", 1, "two", "update")
MODEL = Key("job", 1, "server", "model")


class Clock:
    def __init__(self) -> None:
        self.seconds = 4e9

    def __call__(self) -> float:
        return self.seconds


def open_history(folder: Path | str) -> History:
    if folder == MEMORY:
        return History(open_objects("memory://"), Catalog(MEMORY), Clock())
    return History(open_objects(str(folder)), Catalog(f"{folder}/catalog.sqlite"), Clock())


def test_what_is_known_comes_back_after_a_restart(tmp_path: Path) -> None:
    history = open_history(tmp_path)
    arrays = {"w": np.arange(5, dtype=np.float32)}
    history.record_arrays(ONE, arrays, metrics={"loss": 0.5}, provenance={"code": "1.0"})
    entry = history.record_arrays(MODEL, arrays, made_from={ONE: 0.25})
    history.catalog.close()
    again = open_history(tmp_path)
    assert again.catalog.entry(MODEL) == entry
    assert again.catalog.entry(ONE).metrics == {"loss": 0.5}
    assert again.catalog.entry(ONE).provenance == {"code": "1.0"}
    (parent,) = again.catalog.parents(MODEL)
    assert (parent.key, parent.weight) == (ONE, 0.25)
    assert again.catalog.children(ONE) == [MODEL]
    np.testing.assert_array_equal(again.arrays(ONE)["w"], arrays["w"])


def test_entries_are_found_by_what_they_are() -> None:
    history = open_history(MEMORY)
    keys = [
        Key("a", number, device, "update") for number in (1, 2, 10) for device in ("x", "y")
    ] + [Key("b", 1, "x", "model")]
    for key in reversed(keys):
        history.put(key, b"")
    catalog = history.catalog
    assert [entry.key for entry in catalog.entries()] == sorted(keys)
    assert [entry.key for entry in catalog.entries("a", (2, 10), "y")] == [keys[3], keys[5]]
    assert catalog.rounds("a", "update") == [1, 2, 10]
    assert catalog.rounds("a", "update", "z") == []


def test_equal_bytes_are_kept_once_and_garbage_goes(tmp_path: Path) -> None:
    history = open_history(tmp_path)
    history.put(ONE, b"same")
    history.put(TWO, b"same")
    assert len(list(history.objects.listing())) == 1
    history.delete(ONE)
    assert history.collect_garbage(0) == (0, 0)
    history.put(TWO, b"other")
    assert history.collect_garbage(1e10) == (0, 0), "too young"
    assert history.collect_garbage() == (1, 4)
    assert history.get(TWO) == b"other"


def test_bytes_that_are_collected_while_they_are_put_are_put_again() -> None:
    history = open_history(MEMORY)
    history.put(ONE, b"same")
    history.delete(ONE)
    original = Catalog.record

    class Meanwhile(Catalog):
        def record(self, *args: object, **kwargs: object) -> str | None:
            assert history.collect_garbage() == (1, 4)
            return original(self, *args, **kwargs)  # type: ignore[arg-type]

    slow = History(history.objects, Meanwhile(MEMORY), history.now)
    slow.put(TWO, b"same")
    assert slow.get(TWO) == b"same"


def test_only_the_last_rounds_are_kept() -> None:
    history = open_history(MEMORY)
    for number in range(1, 6):
        history.put(Key("job", number, "x", "update"), b"u")
        history.put(Key("job", number, "server", "model"), b"m")
    assert history.keep_rounds("job", 2, kind="update") == 3
    assert history.catalog.rounds("job", "update") == [4, 5]
    assert history.catalog.rounds("job", "model") == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="1 or more"):
        history.keep_rounds("job", 0)


def test_damage_is_found(tmp_path: Path) -> None:
    history = open_history(tmp_path)
    history.put(ONE, b"good")
    history.put(TWO, b"also good")
    assert history.verify() == []
    digest = history.catalog.entry(ONE).digest
    path = tmp_path / "objects" / digest[:2] / digest
    path.write_bytes(b"evil")
    (damage,) = history.verify()
    assert damage.key == ONE
    assert "does not hold what was put there" in damage.reason
    path.unlink()
    with pytest.raises(StoreError, match="is gone"):
        history.get(ONE)
    assert [damage.key for damage in history.verify()] == [ONE]


def test_a_layer_is_read_alone() -> None:
    history = open_history(MEMORY)
    arrays = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array(3)}
    history.record_arrays(ONE, arrays)
    np.testing.assert_array_equal(history.layer(ONE, "w"), arrays["w"])
    with pytest.raises(ConfigError, match=r"no array 'x'; it has n, w"):
        history.layer(ONE, "x")
    history.put(TWO, b"no arrays")
    with pytest.raises(StoreError, match="no object of arrays"):
        history.layer(TWO, "w")


def test_statistics_follow_their_entries() -> None:
    history = open_history(MEMORY)
    one, two = np.array([3, 4], np.float32), np.array([1, 0], np.float32)
    history.record(ONE, b"1", statistics=work_out("one", one, {}, None))
    history.record(TWO, b"2", statistics=work_out("two", two, {"one": one}, None))
    found = history.catalog.products("job", 1, "update", ["one", "two"])
    assert found.tolist() == [[25, 3], [3, 1]]
    sketches = history.catalog.sketches("job", 1, "update", ["two", "one"])
    np.testing.assert_array_equal(sketches, [sketch(two), sketch(one)])
    history.delete(ONE)
    found = history.catalog.products("job", 1, "update", ["one", "two"])
    assert np.isnan(found).tolist() == [[True, True], [True, False]]
    with pytest.raises(KeyError, match="one"):
        history.catalog.sketches("job", 1, "update", ["two", "one"])


def test_a_child_needs_its_parents() -> None:
    history = open_history(MEMORY)
    with pytest.raises(KeyError):
        history.record(MODEL, b"m", made_from={ONE: 1.0})
    assert history.keys() == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries",
        "UPDATE entries SET digest = ''",
        "PRAGMA user_version = 9",
        "ATTACH 'other.sqlite' AS other",
        "CREATE TABLE x (y)",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM entries",
        "nonsense",
    ],
)
def test_questions_in_sql_only_read(statement: str) -> None:
    history = open_history(MEMORY)
    history.put(ONE, b"1")
    with pytest.raises(ConfigError, match="cannot answer"):
        history.catalog.select(statement)
    names, rows = history.catalog.select("SELECT device, num_bytes FROM entries")
    assert (names, rows) == (["device", "num_bytes"], [("one", 1)])
    history.put(TWO, b"2")
    with pytest.raises(ConfigError, match="more than 1 rows"):
        history.catalog.select("SELECT * FROM entries", max_rows=1)


def test_other_files_are_no_catalogs(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"something else entirely, and long enough for a header" * 30)
    with pytest.raises(StoreError, match="is no catalog"):
        Catalog(path)
    path.unlink()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        Catalog(path)


@pytest.mark.parametrize("url", ["ftp://host/x", "", "s3://", "file://host/folder"])
def test_addresses_that_name_nothing_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="want"):
        open_objects(url)
