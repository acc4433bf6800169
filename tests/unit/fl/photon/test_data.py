"""Text on disk: what is written is read, once an epoch by one client, from any place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.corpora import CORPORA, fetch, find_paragraphs, read_documents, read_text
from hocket.fl.photon.shards import HELD_OUT, ShardClients, TokenShards, write_shards
from hocket.fl.photon.tokenizer import load_tokenizer, train_tokenizer

CONTEXT = 8
TEXTS = {
    source: [f"{source} {number} says {'la ' * (number % 7)}again." for number in range(60)]
    for source in ("essays", "kernel", "poems")
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(
        folder, TEXTS, lambda text: list(text.encode()), 257, end_of_text=256, shard_tokens=300
    )


def stream(source: str, part: str) -> list[int]:
    """All tokens of a part, by hand."""
    held = [text for number, text in enumerate(TEXTS[source]) if number % 20 == 19]
    texts = held if part == HELD_OUT else [text for text in TEXTS[source] if text not in held]
    return [token for text in texts for token in [*text.encode(), 256]]


@pytest.mark.parametrize("part", ["train", "held-out"])
@pytest.mark.parametrize("source", TEXTS)
def test_shards_hold_every_token_in_order(shards: TokenShards, source: str, part: str) -> None:
    wanted = stream(source, part)
    found: list[int] = []
    for each in shards.manifest["sources"][source][part]:
        found += np.fromfile(Path(shards.folder) / each["file"], "<u2").tolist()
    assert found == wanted
    assert shards.num_tokens(source, part) == len(wanted)
    shards.check()


def test_sequences_follow_each_other_and_predict_each_token_once(shards: TokenShards) -> None:
    (first, *_) = shards.manifest["sources"]["kernel"]["train"]
    tokens = np.fromfile(Path(shards.folder) / first["file"], "<u2")
    count = (len(tokens) - 1) // CONTEXT
    found = shards.read("kernel", CONTEXT, np.arange(count))
    np.testing.assert_array_equal(found[:, :-1].ravel(), tokens[: count * CONTEXT])
    np.testing.assert_array_equal(found[:, 1:].ravel(), tokens[1 : count * CONTEXT + 1])


def rows(array: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in array)


@pytest.mark.parametrize("by_source", [False, True], ids=["iid", "by-source"])
@pytest.mark.parametrize("num_clients", [1, 2, 3, 5])
def test_an_epoch_of_all_clients_is_every_sequence_once(
    shards: TokenShards, num_clients: int, by_source: bool
) -> None:
    clients = ShardClients(shards, CONTEXT, num_clients, by_source)
    everything = np.concatenate(
        [
            shards.read(source, CONTEXT, np.arange(shards.num_sequences(source, CONTEXT)))
            for source in shards.sources
        ]
    )
    found = []
    for number, name in enumerate(clients.device_ids()):
        size = sum(len(numbers) for _, numbers in clients._owned(number))
        found.append(clients.take(name, 0, size).inputs["ids"])
    assert rows(np.concatenate(found)) == rows(everything[:, :-1])


def test_by_source_each_client_has_its_own_kind(shards: TokenShards) -> None:
    clients = ShardClients(shards, 4, 3, by_source=True)
    for name, source in zip(clients.device_ids(), shards.sources, strict=True):
        text = stream(source, "train")
        every = {tuple(text[n : n + 4]) for n in range(len(text))}
        assert all(tuple(row) in every for row in clients.take(name, 0, 30).inputs["ids"])


@given(st.integers(0, 400), st.integers(0, 60), st.integers(1, 60), st.booleans())
def test_reading_goes_on_at_any_place(
    shards: TokenShards, cursor: int, count: int, more: int, by_source: bool
) -> None:
    clients = ShardClients(shards, CONTEXT, 2, by_source, seed=4)
    whole = clients.take("client-001", cursor, count + more)
    parts = [
        clients.take("client-001", cursor, count),
        clients.take("client-001", cursor + count, more),
    ]
    joined = np.concatenate([part.inputs["ids"] for part in parts])
    np.testing.assert_array_equal(joined, whole.inputs["ids"])
    np.testing.assert_array_equal(whole.inputs["ids"][:, 1:], whole.targets[:, :-1])


def test_epochs_have_other_orders_of_the_same(shards: TokenShards) -> None:
    clients = ShardClients(shards, CONTEXT, 1)
    size = sum(len(numbers) for _, numbers in clients._owned(0))
    first, second = (clients.take("client-000", start, size).targets for start in (0, size))
    assert rows(first) == rows(second)
    assert (first != second).any()


def test_what_is_held_out_nobody_trains_on(shards: TokenShards) -> None:
    clients = ShardClients(shards, CONTEXT, 1)
    total = shards.num_sequences("poems", CONTEXT, HELD_OUT)
    held = clients.held_out("poems")
    text = stream("poems", HELD_OUT)
    np.testing.assert_array_equal(held.inputs["ids"].ravel(), text[: total * CONTEXT])
    few = clients.held_out("poems", 3)
    assert len(few) == 3
    assert set(rows(few.targets)) <= set(rows(held.targets))


def test_a_damaged_shard_is_found(shards: TokenShards, tmp_path: Path) -> None:
    made = write_shards(
        tmp_path, {"a": ["xyz"] * 40}, lambda t: list(t.encode()), 257, end_of_text=0
    )
    path = tmp_path / made.manifest["sources"]["a"]["train"][0]["file"]
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match="damaged"):
        made.check()


def test_folders_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        TokenShards(str(tmp_path)).sources  # noqa: B018
    with pytest.raises(ConfigError, match="documents or more"):
        write_shards(tmp_path, {"a": ["one"]}, lambda t: list(t.encode()), 257, end_of_text=0)
    with pytest.raises(ConfigError, match="below 50"):
        write_shards(tmp_path, {"a": ["one"]}, lambda t: list(t.encode()), 50, end_of_text=0)
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(ConfigError, match="version"):
        TokenShards(str(tmp_path)).sources  # noqa: B018


def test_a_tokenizer_says_any_text_again(tmp_path: Path) -> None:
    made = train_tokenizer((text for texts in TEXTS.values() for text in texts), 300)
    made.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert made.vocabulary == loaded.vocabulary == 300
    for text in (TEXTS["essays"][5], "naïve 日本語 \x00\n\n<tag>", ""):
        assert loaded.decode(made.encode(text)) == text
    # What it has learned makes text shorter than its bytes.
    assert len(made.encode(TEXTS["essays"][5])) < len(TEXTS["essays"][5]) / 2
    assert 0 <= made.end_of_text < 300


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        load_tokenizer(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="above 256"):
        train_tokenizer(["text"], 256)


PROSE = "This is a sentence that is long enough to be taken for prose by anyone."


def test_prose_is_found_and_tables_are_not() -> None:
    text = f"short\n\n{PROSE}\n  goes on.\n \t\n| 1 | 2 | 3 | 4 | {'| 0 ' * 20}\n\n"
    assert list(find_paragraphs(text)) == [f"{PROSE} goes on."]


def test_of_html_what_is_shown_is_read(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        f"<head><style>p {{}}</style></head><p>{PROSE[:20]}<b>{PROSE[20:]}</b></p>"
        f"<script>{PROSE}</script><p>R&amp;D: {PROSE}</p>"
    )
    assert list(find_paragraphs(read_text(page))) == [PROSE, f"R&D: {PROSE}"]


def test_documents_come_in_order_and_paragraphs_once(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/dictd"
    folder.mkdir(parents=True)
    paragraphs = [f"{PROSE} Entry {'x' * (number % 50)}." for number in range(100)]
    (folder / "gcide.dict.dz").write_bytes(gzip.compress("\n\n".join(paragraphs).encode()))
    documents = list(read_documents("dictionary", tmp_path))
    assert "\n\n".join(documents).split("\n\n") == list(dict.fromkeys(paragraphs))
    assert len(documents) == 2


def test_a_corpus_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="essays"):
        fetch("novels", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no apt-get here"):
        fetch("git", tmp_path)
    for tool in ("apt-get", "dpkg-deb"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 100\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(ConfigError, match="cannot download git-doc"):
        fetch("git", tmp_path / "corpora")
    (tmp_path / "corpora" / "git").mkdir()
    assert fetch("git", tmp_path / "corpora") == tmp_path / "corpora" / "git"
    assert set(CORPORA) >= {"essays", "dictionary", "kernel", "python"}
