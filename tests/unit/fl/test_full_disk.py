"""What is kept where there is no room: an error names the file, and what was there is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.full_disk import room_for

from hocket.fl.core.errors import StoreError
from hocket.fl.core.observers import JsonLines
from hocket.fl.core.store import FolderStore, Key
from hocket.fl.core.types import RoundReport
from hocket.fl.photon.tokenizer import train_tokenizer
from hocket.fl.service.tokens import add_token, load_tokens, make_token
from hocket.fl.store.catalog import Catalog
from hocket.fl.store.objects import open_objects

KEY = Key("vision", 1, "server", "state")
ROOM = 64


def test_a_state_that_has_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(KEY, b"before")
    with room_for(ROOM), pytest.raises(OSError, match="state") as caught:
        store.put(KEY, bytes(1000))
    assert caught.value.filename.endswith("state")
    assert store.get(KEY) == b"before"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["state"]


def test_a_line_that_has_no_room_names_its_file(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    report = RoundReport(1, 0, 0, 0, False, {}, {}, "", 0.0, ("no room " * 20,))
    with room_for(ROOM), pytest.raises(OSError, match=r"metrics\.jsonl"):
        lines.finished(report)


def test_a_tokenizer_that_has_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("before")
    tokenizer = train_tokenizer(["some words, and some more words"], 300)
    with room_for(ROOM), pytest.raises(OSError, match=r"tokenizer\.json"):
        tokenizer.save(path)
    assert path.read_text() == "before"
    tokenizer.save(path)
    assert "some" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_token_that_has_no_room_leaves_those_before(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    add_token(path, make_token("first", ("reader",), 1.0)[0])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    before = path.read_bytes()
    second = make_token("second", ("reader",), 1.0)[0]
    with room_for(ROOM), pytest.raises(OSError, match=r"tokens\.toml"):
        add_token(path, second)
    assert path.read_bytes() == before
    add_token(path, second)
    assert path.stat().st_mode & 0o777 == 0o640
    assert set(load_tokens(path)) == {"first", "second"}


def test_an_entry_that_has_no_room_is_told_in_a_sentence(tmp_path: Path) -> None:
    objects = open_objects(str(tmp_path / "kept"))
    with room_for(ROOM), pytest.raises(StoreError, match="kept: cannot be written to") as caught:
        objects.put(bytes(1000))
    assert "\n" not in str(caught.value)
    assert list(objects.listing()) == []


def test_a_catalog_that_has_no_room_is_no_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with room_for(ROOM), pytest.raises(StoreError, match=r"sqlite: cannot be") as caught:
        Catalog(path)
    assert "is no catalog" not in str(caught.value)
    Catalog(path).close()
