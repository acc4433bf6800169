"""What is refused over HTTP, with which status, and that nothing comes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.venn_service import URL, HandClock, ServiceHere

from hocket.fl.service.tokens import make_token
from hocket.fl.venn.service import app
from hocket.fl.venn.service.app import ENDPOINTS, MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture
def here(tmp_path: Path) -> Iterator[ServiceHere]:
    here = ServiceHere(tmp_path / "venn.db", clock=HandClock(5.0))
    yield here
    here.stop()


@pytest.fixture
def post(here: ServiceHere) -> Callable[..., httpx.Response]:
    http = here.http()
    return lambda kind, body: http.post(f"/v1/{kind}", json=body)


def error_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    text: str = response.json()["error"]
    return text


@pytest.mark.parametrize(
    ("kind", "body", "wanted"),
    [
        ("register", [1], "body: Input should be an object"),
        ("register", {}, "job: Field required"),
        ("register", {"job": "a", "color": 1}, "color: Extra inputs are not permitted"),
        ("register", {"job": "../../etc/passwd"}, "job: String should match"),
        ("register", {"job": "..%2f"}, "job: String should match"),
        ("register", {"job": "a/b"}, "job: String should match"),
        ("register", {"job": "a\n"}, "job: String should match"),
        ("register", {"job": ""}, "job: String should match"),
        ("register", {"job": "a" * 101}, "job: String should match"),
        ("register", {"job": "a", "num_rounds": "5"}, "num_rounds: Input should be a valid int"),
        ("ask-devices", {"job": "a", "count": 0}, "count: Input should be greater"),
        ("ask-devices", {"job": "a", "count": 1, "minimum": {"m": None}}, "minimum.m: Input"),
        ("ask-devices", {"job": "a", "count": 1, "deadline_seconds": -1}, "deadline_seconds: "),
        ("check-ins", {"devices": []}, "devices: Tuple should have at least 1"),
        ("check-ins", {"devices": [{"device": "a\x00"}]}, "devices.0.device: String should match"),
        ("check-ins", {"devices": [{"device": "d"}] * 1001}, "devices: Tuple should have at most"),
        ("results", {"results": [{"assignment": 0}]}, "results.0.assignment: "),
    ],
)
def test_what_is_not_of_its_form_is_refused(
    post: Callable[..., httpx.Response], kind: str, body: Any, wanted: str
) -> None:
    response = post(kind, body)
    assert response.status_code == 422
    assert error_of(response).startswith(wanted)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"nonsense", b'{"job": "a"', b'{"job": NaN}', b"\xff\xfe", b"[" * 100_000),
        b'{"job": "a", "count": 1, "minimum": {"m": Infinity}}',
    ],
)
def test_what_is_no_json_is_refused(here: ServiceHere, body: bytes) -> None:
    assert here.http().post("/v1/ask-devices", content=body).status_code == 422


def test_bodies_have_a_limit(here: ServiceHere) -> None:
    http = here.http()
    body = b" " * (MAX_BODY_BYTES + 1)
    assert http.post("/v1/check-ins", content=body).status_code == 413
    # Of a body that does not say its length, no more is read either.
    request = httpx.Request("POST", f"{URL}/v1/check-ins", content=iter([body]))
    assert "content-length" not in request.headers
    assert here.handle_request(request).status_code == 413
    lying = {"content-length": "-5"}
    assert http.post("/v1/check-ins", content=b"{}", headers=lying).status_code == 413


def test_bodies_have_a_time(here: ServiceHere, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never_ending() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(app, "BODY_SECONDS", 0.0)
    request = httpx.Request("POST", f"{URL}/v1/register", content=never_ending())
    (response,) = here.together(request)
    assert response.status_code == 408


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/../v1/nothing", 404),
        ("POST", "/v1/%2e%2e/metrics", 404),
        ("GET", "/v1/register", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
    ],
)
def test_there_is_nothing_elsewhere(here: ServiceHere, method: str, path: str, status: int) -> None:
    response = here.http().request(method, path)
    assert response.status_code == status
    error_of(response)


def test_unknown_jobs_and_rounds_are_errors(post: Callable[..., httpx.Response]) -> None:
    bodies = {"ask-devices": {"count": 1}}
    for kind in ("ask-devices", "withdraw", "end-round", "finish", "list-devices", "explain-jobs"):
        response = post(kind, {"job": "nobody", **bodies.get(kind, {})})
        assert response.status_code == 404
        assert error_of(response) == "no job 'nobody' is registered"
    post("register", {"job": "a"})
    response = post("end-round", {"job": "a"})
    assert (response.status_code, error_of(response)) == (409, "job 'a' has no round to end")
    assert post("results", {"results": [{"assignment": 7}]}).json() == {"is_recorded": [False]}


def test_a_key_is_good_for_one_question(here: ServiceHere) -> None:
    http, headers = here.http(), {"Idempotency-Key": "k"}
    assert http.post("/v1/register", json={"job": "a"}, headers=headers).status_code == 200
    other = http.post("/v1/register", json={"job": "b"}, headers=headers)
    assert (other.status_code, error_of(other)) == (409, "key 'k' was used for something else")
    long = http.post("/v1/register", json={"job": "b"}, headers={"Idempotency-Key": "k" * 101})
    assert long.status_code == 422


def test_tokens_say_who_may_what(tmp_path: Path) -> None:
    made = {
        name: make_token(name, roles)
        for name, roles in (
            ("gateway", ("device",)),
            ("jobs", ("job",)),
            ("others", ("job", "device")),
            ("ops", ("operator",)),
        )
    }
    here = ServiceHere(
        tmp_path / "venn.db", tokens={name: each for name, (each, _) in made.items()}
    )
    http = here.http()

    def ask(name: str, kind: str, body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {made[name][1]}"}
        return http.post(f"/v1/{kind}", json=body, headers=headers)

    secret = made["jobs"][1]
    wrong = [
        *(None, "", "Bearer", f"Basic {secret}", "Bearer jobs", f"Bearer {secret}x"),
        *(f"Bearer ops.{secret.split('.')[1]}", "Bearer nobody.x", "Bearer \xe9.\xe9"),
    ]
    for text in wrong:
        headers = {} if text is None else {"Authorization": text.encode("latin-1")}
        response = http.post("/v1/register", content=b"{", headers=headers)
        assert response.status_code == 401, "before the body is read"
        assert response.headers["www-authenticate"] == "Bearer"
    assert ask("gateway", "register", {"job": "a"}).status_code == 403
    assert ask("jobs", "register", {"job": "a"}).status_code == 200
    assert ask("jobs", "ask-devices", {"job": "a", "count": 2}).status_code == 200
    assert ask("jobs", "check-ins", {"devices": [{"device": "d"}]}).status_code == 403
    answer = ask("gateway", "check-ins", {"devices": [{"device": "d"}, {"device": "e"}]})
    first, second = (each["assignment"] for each in answer.json()["assignments"])
    for kind in ("ask-devices", "finish", "register", "list-devices", "explain-jobs", "withdraw"):
        extra = {"count": 1} if kind == "ask-devices" else {}
        response = ask("others", kind, {"job": "a", **extra})
        assert (response.status_code, error_of(response)) == (403, "job 'a' is another's")
    assert ask("others", "explain-jobs", {}).json()["jobs"] == []
    results = {"results": [{"assignment": first}]}
    assert ask("others", "results", results).json() == {"is_recorded": [False]}
    assert ask("gateway", "results", results).json() == {"is_recorded": [True]}
    results = {"results": [{"assignment": second}]}
    assert ask("ops", "results", results).json() == {"is_recorded": [True]}
    assert len(ask("ops", "explain-jobs", {}).json()["jobs"]) == 1
    assert http.get("/metrics").status_code == 401
    here.stop()


def test_a_token_has_its_rate(tmp_path: Path) -> None:
    token, secret = make_token("gateway", ("device",), rate=5.0)
    here = ServiceHere(tmp_path / "venn.db", tokens={"gateway": token})
    http = here.http()
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"devices": [{"device": f"d{number}"} for number in range(10)]}
    assert http.post("/v1/check-ins", json=body, headers=headers).status_code == 200
    for content in (json.dumps(body).encode(), b"nonsense"):
        response = http.post("/v1/check-ins", content=content, headers=headers)
        assert response.status_code == 429, "before it is read"
    assert 1 <= int(response.headers["retry-after"]) <= 2
    here.stop()


def test_what_prometheus_reads(here: ServiceHere, post: Callable[..., httpx.Response]) -> None:
    post("register", {"job": "a"})
    post("ask-devices", {"job": "a", "count": 3})
    post("check-ins", {"devices": [{"device": "d"}, {"device": "e"}]})
    post("register", {})
    text = here.http().get("/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["hocket_venn_requests_total", "/v1/register", "200"] == 1
    assert found["hocket_venn_requests_total", "/v1/register", "422"] == 1
    assert found["hocket_venn_check_ins",] == 2
    assert found["hocket_venn_given",] == 2
    assert found["hocket_venn_wanted",] == 1
    assert found["hocket_venn_jobs",] == 1
    assert found["hocket_venn_commit_seconds_count",] == 3


def test_its_description_holds_for_what_it_says(
    here: ServiceHere, post: Callable[..., httpx.Response]
) -> None:
    """Answers are checked by an independent reader of JSON Schema."""
    description = here.http().get("/openapi.json").json()
    assert len(description["paths"]) == len(ENDPOINTS)

    def check(kind: str, body: Any, *, status: str = "200") -> None:
        path = description["paths"][f"/v1/{kind}"]["post"]
        asked = path["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**asked, "components": description["components"]})
        answered = path["responses"][status]["content"]["application/json"]["schema"]
        answer = post(kind, body).json()
        jsonschema.validate(answer, {**answered, "components": description["components"]})

    check("register", {"job": "a"})
    check("ask-devices", {"job": "a", "count": 3, "minimum": {"memory": 2}})
    check("check-ins", {"devices": [{"device": "d", "attributes": {"memory": 4}}]})
    check("explain-device", {"device": {"device": "e"}})
    check("explain-jobs", {})
    check("list-devices", {"job": "a"})
    check("results", {"results": [{"assignment": 1, "is_success": False}]})
    check("finish", {"job": "b"}, status="default")
    with pytest.raises(jsonschema.ValidationError):
        check("register", {"job": "../x"})
