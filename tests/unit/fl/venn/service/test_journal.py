"""The file: whose it is, what it holds after a crash, and when it is not believed."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from pathlib import Path

import pytest

from hocket.fl.service.errors import ConflictError, UnknownError
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.service.errors import JournalError
from hocket.fl.venn.service.journal import Journal
from hocket.fl.venn.service.manager import Caller
from hocket.fl.venn.service.operations import AskDevices, CheckIn, CheckIns, Register, Withdraw

ME = Caller("me")


def check_ins(*names: str) -> CheckIns:
    return CheckIns(devices=tuple(CheckIn(device=name) for name in names))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "venn.db"
    journal = Journal(path, POLICIES["venn"])
    journal.perform(1.0, ME, Register(job="a"), "k1")
    journal.perform(2.0, ME, AskDevices(job="a", count=2), "k2")
    journal.perform(3.0, ME, check_ins("d1"), "k3")
    journal.commit()
    journal.abandon()
    return path


def test_what_is_committed_is_there_and_nothing_else(path: Path) -> None:
    journal = Journal(path, POLICIES["venn"])
    answer = json.loads(journal.perform(4.0, ME, check_ins("d2")))
    assert answer["assignments"][0]["assignment"] == 2
    journal.abandon()
    journal = Journal(path, POLICIES["venn"])
    answer = json.loads(journal.perform(5.0, ME, check_ins("d1", "d3")))
    assert [each["assignment"] for each in answer["assignments"]] == [1, 2]
    journal.abandon()


def test_the_same_key_has_the_same_answer_over_a_restart(path: Path) -> None:
    journal = Journal(path, POLICIES["venn"])
    again = json.loads(journal.perform(9.0, ME, check_ins("d1"), "k3"))
    assert again["assignments"][0]["assignment"] == 1
    other = json.loads(journal.perform(9.0, Caller("other"), check_ins("d9"), "k3"))
    assert other["assignments"][0]["assignment"] == 2, "another's keys are others"
    with pytest.raises(ConflictError, match="'k3' was used for something else"):
        journal.perform(9.0, ME, check_ins("d7"), "k3")
    with pytest.raises(UnknownError):
        journal.perform(9.0, ME, Withdraw(job="x"), "k4")
    with pytest.raises(UnknownError):
        journal.perform(9.0, ME, Withdraw(job="x"), "k4")
    journal.abandon()


def test_time_never_goes_back(path: Path) -> None:
    """A machine's clock that was set back may not make deadlines pass twice."""
    journal = Journal(path, POLICIES["venn"])
    journal.perform(1.5, ME, Register(job="b"))
    assert journal.manager.time == 3.0
    journal.abandon()


def test_a_database_has_one_process(path: Path) -> None:
    journal = Journal(path, POLICIES["venn"])
    with pytest.raises(JournalError, match="another process serves it"):
        Journal(path, POLICIES["venn"])
    journal.abandon()
    Journal(path, POLICIES["venn"]).close()


def test_a_database_keeps_its_policy(path: Path) -> None:
    with pytest.raises(JournalError, match="serve it as it was"):
        Journal(path, POLICIES["fifo"])
    with pytest.raises(JournalError, match="serve it as it was"):
        Journal(path, POLICIES["venn"], seed=5)


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(b"something of somebody's, a kilobyte" * 30)
    with pytest.raises(JournalError, match="is no database"):
        Journal(path, POLICIES["venn"])
    assert path.read_bytes() == b"something of somebody's, a kilobyte" * 30
    path = tmp_path / "another.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(JournalError, match="is a database of something else"):
        Journal(path, POLICIES["venn"])
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "no" / "folder.db", POLICIES["venn"])


def test_a_journal_of_another_format_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="has format 99"):
        Journal(path, POLICIES["venn"])


def test_answers_that_do_not_come_out_again_are_not_believed(path: Path) -> None:
    """Where another version decides otherwise, a device could be given twice: it does not start."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE log SET answer = ? WHERE sequence = 3", (b"{}",))
    connection.close()
    with pytest.raises(JournalError, match="operation 3 has another answer than it had"):
        Journal(path, POLICIES["venn"])


def test_a_snapshot_keeps_keys_for_a_day_and_no_more(path: Path) -> None:
    def num_rows() -> int:
        with sqlite3.connect(path) as connection:
            (count,) = connection.execute("SELECT count(*) FROM log").fetchone()
        connection.close()
        return int(count)

    Journal(path, POLICIES["venn"]).close()
    assert num_rows() == 3
    journal = Journal(path, POLICIES["venn"])
    assert journal.num_since_snapshot == 0, "nothing is asked again"
    again = json.loads(journal.perform(9.0, ME, check_ins("d1"), "k3"))
    assert again["assignments"][0]["assignment"] == 1
    journal.perform(86_404.0, ME, Register(job="b"))
    journal.close()
    assert num_rows() == 1
    journal = Journal(path, POLICIES["venn"])
    assert journal.manager.num_jobs == 2
    journal.abandon()


def test_snapshots_come_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "venn.db"
    journal = Journal(path, POLICIES["venn"], snapshot_cost=10)
    for number in range(25):
        journal.perform(float(number), ME, Register(job=f"j{number}"))
        journal.commit()
    assert journal.num_since_snapshot == 5
    journal.abandon()
    journal = Journal(path, POLICIES["venn"])
    assert journal.num_since_snapshot == 5
    assert journal.manager.num_jobs == 25
    journal.abandon()


class Evil:
    """What a pickle may hold that runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-snapshot",)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (pickle.dumps(Evil()), "it holds a posix.mkdir"),
        (
            b"chocket.fl.venn.service.journal\nJournal\n.",
            "it holds a hocket.fl.venn.service.journal",
        ),
        (b"chocket.fl.venn.scheduler\ncheck_admission\n.", "it holds a hocket.fl.venn.scheduler"),
        (b"chocket.fl.venn.supply\nno_such\n.", "no_such"),
        (pickle.dumps(5), "holds a int"),
        (b"", "cannot be read"),
        (b"garbage", "cannot be read"),
    ],
)
def test_a_snapshot_that_holds_something_else_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, wanted: str
) -> None:
    monkeypatch.chdir(path.parent)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO snapshot VALUES (1, ?)", (content,))
    connection.close()
    with pytest.raises(JournalError, match=wanted):
        Journal(path, POLICIES["venn"])
    assert not Path("made-by-a-snapshot").exists()
