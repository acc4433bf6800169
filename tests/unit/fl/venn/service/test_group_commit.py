"""Many questions, one write; and what happens when there is no write."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.venn_service import URL, HandClock, ServiceHere

from hocket.fl.venn.service import group_commit
from hocket.fl.venn.service.journal import Journal
from hocket.fl.venn.service.manager import ResourceManager


def question(kind: str, body: Any) -> httpx.Request:
    return httpx.Request("POST", f"{URL}/v1/{kind}", json=body)


def test_what_comes_together_is_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []
    commit = Journal.commit
    monkeypatch.setattr(Journal, "commit", lambda self: (commits.append(1), commit(self)))
    here = ServiceHere(tmp_path / "venn.db")
    answers = here.together(*(question("register", {"job": f"j{n}"}) for n in range(50)))
    assert [each.status_code for each in answers] == [200] * 50
    # The first may be on its way before the others are there.
    assert len(commits) <= 2
    here.stop()


def test_one_device_that_comes_twice_at_once_is_given_once(tmp_path: Path) -> None:
    here = ServiceHere(tmp_path / "venn.db")
    here.client().register("a")
    here.http().post("/v1/ask-devices", json={"job": "a", "count": 100})
    body = {"devices": [{"device": "d"}, {"device": "d"}]}
    answers = here.together(*(question("check-ins", body) for _ in range(20)))
    told = [each.json()["assignments"] for each in answers]
    assert {each["assignment"] for pair in told for each in pair} == {1}
    here.stop()


def test_more_than_can_wait_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_PENDING", 10)
    here = ServiceHere(tmp_path / "venn.db")
    answers = here.together(*(question("register", {"job": f"j{n}"}) for n in range(50)))
    statuses = [each.status_code for each in answers]
    assert set(statuses) == {200, 503}
    turned_away = [each for each in answers if each.status_code == 503]
    assert all(each.headers["retry-after"] == "1" for each in turned_away)
    admitted = {
        each["job"] for each in here.http().post("/v1/explain-jobs", json={}).json()["jobs"]
    }
    assert admitted == {f"j{n}" for n, status in enumerate(statuses) if status == 200}
    here.stop()


def test_nothing_is_answered_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "venn.db"
    here = ServiceHere(path)
    http = here.http()
    assert http.post("/v1/register", json={"job": "a"}).status_code == 200

    def fail(self: Journal) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", fail)
        assert http.post("/v1/register", json={"job": "b"}).status_code == 503
    assert http.post("/v1/register", json={"job": "c"}).status_code == 503, "memory is ahead"
    assert http.get("/healthz").status_code == 503
    assert here.has_failed
    here.stop()
    here = ServiceHere(path)
    assert [each.job for each in here.client().status().jobs] == ["a"]
    here.stop()


def test_an_error_that_nobody_foresaw_stops_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has left in memory is not kept, however good the order in which it ends."""
    here = ServiceHere(tmp_path / "venn.db")
    here.client().register("a")

    def fail(self: ResourceManager, *_: object) -> None:
        self._jobs.clear()
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(ResourceManager, "perform", fail)
        assert here.http().post("/v1/register", json={"job": "b"}).status_code == 503
    assert here.has_failed
    here.stop()
    here = ServiceHere(tmp_path / "venn.db")
    assert [each.job for each in here.client().status().jobs] == ["a"]
    here.stop()


def test_deadlines_pass_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "TICK_SECONDS", 0.0)
    clock = HandClock(100.0)
    here = ServiceHere(tmp_path / "venn.db", clock=clock)
    client = here.client()
    client.register("a")
    here.http().post("/v1/ask-devices", json={"job": "a", "count": 1, "deadline_seconds": 10})
    here.http().post("/v1/check-ins", json={"devices": [{"device": "d"}]})
    assert here.journal.manager.num_at_work == 1
    clock.time = 111.0
    for _ in range(20):
        here.http().get("/healthz")
    assert here.journal.manager.num_at_work == 0
    here.stop()
