"""Tokens: what is kept of them, which are refused, and how often each may be used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hocket.fl.core.errors import ConfigError
from hocket.fl.service.errors import RateError, UnauthorizedError
from hocket.fl.service.tokens import Gate, Token, add_token, load_tokens, make_token


def test_a_token_is_known_by_its_text_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    made = {}
    for name in ("a", "b"):
        token, text = make_token(name, ("device", "job"), rate=12.5)
        add_token(path, token)
        made[text] = token
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_text("utf-8")
    gate = Gate(load_tokens(path))
    for text, token in made.items():
        secret = text.partition(".")[2]
        assert secret not in content
        assert hashlib.sha256(secret.encode()).hexdigest() in content
        assert gate.identify(f"Bearer {text}") == token
        assert gate.identify(f"bearer  {text} ") == token
        with pytest.raises(UnauthorizedError):
            gate.identify(f"Bearer {text[:-1]}")
    with pytest.raises(ConfigError, match="has a token 'a' already"):
        add_token(path, make_token("a", ("device",))[0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[a]\nroles = ['device']", "want roles, sha256"),
        ("[a]\nroles = ['device']\nsha256 = 'x'\nsecret = 'y'", "want roles, sha256"),
        ("[a]\nroles = ['king']\nsha256 = '" + "0" * 64 + "'", "want roles of"),
        ("[a]\nroles = []\nsha256 = '" + "0" * 64 + "'", "want roles of"),
        ("[a]\nroles = ['job']\nsha256 = 'secret'", "no 64 hexadecimal digits"),
        ("[a]\nroles = ['job']\nrate = 0\nsha256 = '" + "0" * 64 + "'", "rate must be above 0"),
        ("['a b']\nroles = ['job']\nsha256 = '" + "0" * 64 + "'", "names have letters"),
        ("a = 5", "want roles, sha256"),
        ("[a", "cannot be read"),
    ],
)
def test_a_file_that_is_not_of_its_form_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=wanted):
        load_tokens(path)


def test_a_rate_holds_over_time() -> None:
    """Over any time, no more than the burst and what the rate gives."""
    token = Token("a", ("device",), "0" * 64, rate=10.0)
    gate = Gate({"a": token})
    admitted, now = 0, 100.0
    waits = set()
    for _ in range(1000):
        now += 0.01
        try:
            gate.charge(token, 1, now)
            admitted += 1
        except RateError as error:
            waits.add(error.headers["Retry-After"])
    assert waits == {"1"}
    assert admitted in {119, 120}, "20 at once, and 10 a second for ten seconds"
    # Dearer than any burst: once the token has rested.
    gate.charge(token, 1000, now + 100)
    with pytest.raises(RateError):
        gate.charge(token, 1, now + 100)
