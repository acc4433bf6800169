"""The store's service as a real process, asked by a client that is not ours, and its page."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save
from support.browser import find_browser, open_page
from support.store_service import store_service
from typer.testing import CliRunner

from hocket.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICES = [f"phone-{place}" for place in range(4)]
UPDATES = np.random.default_rng(0).standard_normal((4, 5000)).astype(np.float32)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with store_service(tmp_path_factory.mktemp("served") / "store") as (url, _):
        fill(httpx.Client(base_url=url, timeout=60))
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def fill(client: httpx.Client) -> None:
    for device, update in zip(DEVICES, UPDATES, strict=True):
        about = {"metrics": {"num_examples": 10}, "provenance": {"code": "1.2"}}
        answer = client.put(
            f"/v1/entries/vision/1/{device}/update",
            content=save({"w": update}),
            headers={"hocket-about": json.dumps(about)},
        )
        assert answer.status_code == 201, answer.text


def test_what_is_put_is_got_listed_and_asked(http: httpx.Client) -> None:
    got = http.get("/v1/entries/vision/1/phone-2/update")
    np.testing.assert_array_equal(load(got.content)["w"], UPDATES[2])
    listed = http.get("/v1/entries", params={"prefix": "vision/00000001/phone-2"}).json()
    (entry,) = listed["entries"]
    assert got.headers["etag"] == f'"{entry["digest"]}"'
    assert (entry["metrics"], entry["provenance"]) == ({"num_examples": 10}, {"code": "1.2"})
    rows = http.post("/v1/query", json={"statement": "SELECT COUNT(*) FROM entries"}).json()
    assert rows["rows"][0][0] >= 4
    found = http.post("/v1/run/cosine-scheduling", json={"job": "vision"}).json()
    mean = UPDATES.mean(axis=0)
    for device, update in zip(DEVICES, UPDATES, strict=True):
        wanted = update @ mean / np.linalg.norm(update) / np.linalg.norm(mean)
        assert found["values"]["cosines"][device] == pytest.approx(float(wanted), abs=1e-4)
    model = http.post("/v1/run/robust-mean?model", json={"job": "vision"})
    np.testing.assert_allclose(load(model.content)["w"], np.median(UPDATES, axis=0), atol=1e-6)
    stats = http.get("/v1/stats").json()
    assert stats["workloads"]["robust-mean"]["hit_rate"] == 1
    assert stats["cost"]["a_month"]["total"] > 0


def test_bodies_are_sent_and_got_in_parts(http: httpx.Client) -> None:
    content = np.random.default_rng(1).bytes(5 << 20)
    parts = (content[start : start + 70_000] for start in range(0, len(content), 70_000))
    put = http.put("/v1/entries/vision/1/server/notes", content=parts)
    assert put.status_code == 201
    with http.stream("GET", "/v1/entries/vision/1/server/notes") as answer:
        assert answer.headers["content-length"] == str(len(content))
        assert b"".join(answer.iter_bytes()) == content
    empty = http.put("/v1/entries/vision/1/server/empty", content=b"")
    assert empty.json()["num_bytes"] == 0
    assert http.get("/v1/entries/vision/1/server/empty").content == b""


def test_a_layer_is_got_alone_and_entries_are_forgotten(http: httpx.Client) -> None:
    arrays = {"a": np.arange(5.0), "b": np.ones((2, 3), np.float32)}
    path = "/v1/entries/other/7/server/model"
    assert http.put(path, content=save(arrays)).status_code == 201
    layer = http.get(path, params={"layer": "a"})
    assert {name: each.tolist() for name, each in load(layer.content).items()} == {
        "a": [0, 1, 2, 3, 4]
    }
    assert http.get(path, params={"layer": "c"}).status_code == 422
    assert http.post("/v1/verify").json() == {"damaged": {}}
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == 404
    collected = http.post("/v1/gc", json={"grace_seconds": 0}).json()
    assert collected["objects"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/entries/vision/1/nobody/update", 404),
        ("GET", "/v1/entries/%2e%2e/1/phone-1/update", 422),
        ("GET", "/v1/entries/vision/1/..%2f..%2fcatalog.sqlite/update", 404),
        ("GET", "/v1/entries/vision/one/phone-1/update", 422),
        ("GET", "/v1/entries/vision/99999999999/phone-1/update", 422),
        ("PUT", "/v1/entries/vision/1/.hidden/update", 422),
        ("PUT", "/v1/entries/vision/1/phone-1/update", 500),
        ("POST", "/v1/run/guessing", 422),
        ("POST", "/v1/query", 422),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/dashboard.py", 404),
        ("PATCH", "/v1/entries", 405),
    ],
)
def test_what_cannot_be_is_refused(http: httpx.Client, method: str, path: str, status: int) -> None:
    body = b'{"job": "vision"}' if method == "POST" else b"no safetensors"
    answer = http.request(method, path, content=body if method != "GET" else None)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}


def test_sql_changes_nothing(http: httpx.Client) -> None:
    answer = http.post("/v1/query", json={"statement": "DELETE FROM entries"})
    assert (answer.status_code, "not authorized" in answer.text) == (422, True)
    assert http.get("/v1/entries/vision/1/phone-0/update").status_code == 200


def test_tokens_say_who_may_what(tmp_path: Path) -> None:
    tokens = str(tmp_path / "tokens.toml")
    texts = {}
    for role in ("reader", "writer", "operator"):
        made = CliRunner().invoke(app, ["store", "token", role, "--role", role, "--tokens", tokens])
        assert made.exit_code == 0, made.output
        texts[role] = made.stdout.split()[0]
    options = ("--tokens", tokens, "--max-body", "1MB")
    with store_service(tmp_path / "store", *options) as (url, _), httpx.Client(timeout=60) as http:

        def status(method: str, path: str, who: str, **settings: Any) -> int:
            headers = {"Authorization": f"Bearer {texts.get(who, who)}"} if who else {}
            return http.request(method, f"{url}{path}", headers=headers, **settings).status_code

        entry = "/v1/entries/vision/1/phone-1/notes"
        for who, wanted in (("", 401), ("reader.guess", 401), ("reader", 403), ("writer", 201)):
            assert status("PUT", entry, who, content=b"content") == wanted
        for who, wanted in (("", 401), ("writer", 403), ("reader", 200), ("operator", 200)):
            assert status("GET", entry, who) == wanted
        assert status("GET", "/v1/stats", "") == 401
        assert status("POST", "/v1/gc", "writer") == 403
        assert status("DELETE", entry, "reader") == 403
        # What is too long is refused by what it says, and where it says nothing, by what comes.
        assert status("PUT", entry, "writer", content=b"x" * 1_000_001) == 413
        assert status("PUT", entry, "writer", content=iter([b"x" * 600_000] * 2)) == 413
        assert status("GET", entry, "reader") == 200
        assert status("GET", "/", "") == 200
        assert http.get(f"{url}/healthz").json()["wants_token"] is True
        _look_with_token(url, texts["reader"], tmp_path)


def test_what_waits_too_long_is_turned_away_and_what_was_begun_is_ended(tmp_path: Path) -> None:
    with store_service(tmp_path / "store", "--waiting", "0") as (url, process):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        # Senders that have begun take all places, and keep them until they are through.
        senders = []
        for number in range(8):
            sender = socket.create_connection(address, timeout=60)
            head = f"PUT /v1/entries/vision/1/d{number}/notes HTTP/1.1\r\nHost: store\r\n"
            sender.sendall(f"{head}Content-Length: 6\r\nConnection: close\r\n\r\nabc".encode())
            senders.append(sender)
        with httpx.Client(base_url=url, timeout=60) as http:
            while http.get("/v1/stats").json()["service"]["at_work"] < 8:
                pass
            refused = http.get("/v1/entries/vision/1/d0/notes")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert http.get("/v1/stats").json()["service"]["refused"] == 1
            # Told to stop, it first ends what was begun.
            process.send_signal(signal.SIGTERM)
            for sender in senders:
                sender.sendall(b"def")
                assert sender.recv(12) == b"HTTP/1.1 201"
                sender.close()
        assert process.wait(60) == 0
    with store_service(tmp_path / "store") as (url, _), httpx.Client(base_url=url) as http:
        assert http.get("/v1/entries/vision/1/d7/notes").content == b"abcdef"


def test_killed_under_load_no_acknowledged_put_is_lost(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    enough = threading.Event()

    def put(url: str, sender: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            for number in range(10_000):
                path = f"/v1/entries/load/{number}/d{sender}/notes"
                content = f"{sender} {number}".encode() * 1000
                try:
                    answer = http.put(path, content=content)
                except httpx.TransportError:
                    return
                assert answer.status_code == 201
                acknowledged[path] = content
                if len(acknowledged) >= 20:
                    enough.set()

    with store_service(tmp_path / "store") as (url, process):
        threads = [threading.Thread(target=put, args=(url, sender)) for sender in range(3)]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        process.kill()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= 20
    with (
        store_service(tmp_path / "store") as (url, _),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        for path, content in acknowledged.items():
            assert http.get(path).content == content
        assert http.post("/v1/verify").json() == {"damaged": {}}


BROWSER = find_browser()
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="there is no Chromium: `make browser` says how to get one"
)
IS_SHOWN = "document.getElementById('main')?.hidden === false"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_the_page_shows_how_the_store_does(
    http: httpx.Client, url: str, tmp_path: Path, width: int, is_dark: bool
) -> None:
    assert BROWSER is not None
    http.post("/v1/run/robust-mean", json={"job": "vision"})
    http.post("/v1/run/clustering", json={"job": "vision"})
    with open_page(BROWSER, tmp_path / "profile") as page:
        page.open(f"{url}/", width, is_dark=is_dark)
        page.wait_for(IS_SHOWN)
        shown = page.evaluate("document.body.innerText")
        stats = http.get("/v1/stats").json()
        for text in ("of entries read were in memory", "robust-mean", "clustering", "USD"):
            assert text in shown
        assert page.evaluate("document.getElementById('hit-rate').textContent").endswith("\u00a0%")
        alive = page.evaluate("document.getElementById('instances').textContent")
        assert alive == str(stats["instances"]["num_instances"])
        bars = page.evaluate("document.querySelectorAll('#chart rect').length")
        assert 2 <= bars <= stats["requests"]["count"]
        # Nothing sticks out or comes from elsewhere, and letters stand out from their ground.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sources = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
        assert all(source.startswith(url) for source in sources)
        assert page.evaluate(_CONTRAST) >= 4.5
        page.screenshot(tmp_path / "page.png")
        assert page.errors == []


_CONTRAST = """(() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255);
    const [r, g, b] = parts.map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratios = [...document.querySelectorAll('.tile span, .tile b, dt, dd, .workload b')].map(
    (each) => {
      const card = each.closest('.tile, section');
      const [a, b] = [getComputedStyle(each).color, getComputedStyle(card).backgroundColor]
        .map(light).sort();
      return (b + 0.05) / (a + 0.05);
    });
  return Math.min(...ratios);
})()"""


def _look_with_token(url: str, token: str, folder: Path) -> None:
    if BROWSER is None:
        return
    with open_page(BROWSER, folder / "profile") as page:
        page.open(f"{url}/", 390)
        page.wait_for("document.getElementById('ask')?.hidden === false")
        assert page.evaluate("document.getElementById('main').hidden")
        page.evaluate(f"document.getElementById('token').value = {json.dumps(token)}")
        page.evaluate("document.querySelector('#ask button').click()")
        page.wait_for(IS_SHOWN)
        assert page.errors == []
