"""Who may ask: tokens with roles, of which only hashes are kept, and how often each may."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from hocket.fl.core.errors import ConfigError
from hocket.fl.service.errors import ForbiddenError, RateError, UnauthorizedError
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Role = Literal["device", "job", "reader", "writer", "operator"]
"""Of the device scheduler, ``device`` checks in and reports, ``job`` has jobs of its own; of the
store, ``reader`` gets and asks, ``writer`` puts; ``operator`` may do all."""

ROLES: tuple[Role, ...] = get_args(Role)

DEFAULT_RATE = 20_000.0
"""Devices, results or other operations a second for each token."""

BURST_SECONDS = 2.0
"""Of its rate a token may use so much at once."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_NOBODYS_HASH = hashlib.sha256(b"nobody's").hexdigest()


@dataclass(frozen=True)
class Token:
    """What is known of a token.

    Attributes:
        name: Of its holder, who owns the jobs that it registers.
        roles: What it is good for.
        sha256: Of its secret. Secrets are 256 random bits, so a plain hash cannot be guessed back.
        rate: Operations a second.

    Raises:
        ConfigError: One of them is not of its form.
    """

    name: str
    roles: tuple[str, ...]
    sha256: str
    rate: float = DEFAULT_RATE

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"token {self.name!r}: names have letters, digits, - and _")
        if not self.roles or not set(self.roles) <= set(ROLES):
            raise ConfigError(f"token {self.name!r}: want roles of {ROLES}, got {self.roles}")
        if not _HASH.fullmatch(self.sha256):
            raise ConfigError(f"token {self.name!r}: sha256 has no 64 hexadecimal digits")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"token {self.name!r}: rate must be above 0, got {self.rate}")

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.roles)})"

    def needs(self, role: Role) -> None:
        """Check that the token is good for something.

        Raises:
            ForbiddenError: It is not.
        """
        if role not in self.roles and "operator" not in self.roles:
            raise ForbiddenError(f"token {self.name!r} has no role {role!r}")


ANYONE = Token("anyone", ROLES, _NOBODYS_HASH)
"""Whoever asks a service that was started without tokens."""


def make_token(name: str, roles: tuple[str, ...], rate: float = DEFAULT_RATE) -> tuple[Token, str]:
    """Return a new token, and the text by which its holder is known, which nobody else keeps."""
    secret = secrets.token_urlsafe(32)
    token = Token(name, roles, hashlib.sha256(secret.encode()).hexdigest(), rate)
    return token, f"{name}.{secret}"


def load_tokens(path: Path) -> dict[str, Token]:
    """Read a file of tokens.

    Raises:
        ConfigError: It is not of its form.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    tokens = {}
    for name, fields in content.items():
        if not isinstance(fields, dict) or not {"roles", "sha256"} <= set(fields) <= {
            *("roles", "sha256", "rate"),
        }:
            raise ConfigError(f"{path}: [{name}]: want roles, sha256 and perhaps rate")
        try:
            roles, rate = tuple(fields["roles"]), float(fields.get("rate", DEFAULT_RATE))
            tokens[name] = Token(name, roles, str(fields["sha256"]), rate)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
    return tokens


def add_token(path: Path, token: Token) -> None:
    """Write a token at the end of a file, which is made if it is not there, for its owner alone.

    Raises:
        ConfigError: The file has one of this name.
        OSError: It cannot be written; it is as it was.
    """
    before, mode = b"", 0o600
    if path.exists():
        if token.name in load_tokens(path):
            raise ConfigError(f"{path}: has a token {token.name!r} already")
        before, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    roles = ", ".join(f'"{role}"' for role in token.roles)
    section = (
        f'[{token.name}]\nroles = [{roles}]\nsha256 = "{token.sha256}"\nrate = {token.rate}\n\n'
    )
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), mode)
        file.write(before + section.encode())


class Gate:
    """Knows tokens by what is sent, and counts how often each is used.

    Args:
        tokens: By name; None lets anyone do everything.
    """

    def __init__(self, tokens: Mapping[str, Token] | None) -> None:
        self._tokens = tokens
        self._buckets: dict[str, _Bucket] = {}

    @property
    def wants_token(self) -> bool:
        """Whether nobody may ask without one."""
        return self._tokens is not None

    def identify(self, authorization: str | None) -> Token:
        """Return the token of an ``Authorization`` header.

        Raises:
            UnauthorizedError: There is none, or it is not known.
        """
        if self._tokens is None:
            return ANYONE
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthorizedError("want a token", {"WWW-Authenticate": "Bearer"})
        name, _, secret = text.strip().partition(".")
        token = self._tokens.get(name)
        # As much work for names that there are not, and as long for secrets that begin right.
        known = _NOBODYS_HASH if token is None else token.sha256
        found = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
        if not hmac.compare_digest(known, found) or token is None:
            raise UnauthorizedError("the token is not known", {"WWW-Authenticate": "Bearer"})
        return token

    def charge(self, token: Token, cost: float, now: float) -> None:
        """Count what a token is used for.

        Args:
            token: Which.
            cost: Operations.
            now: The time, of any clock that only goes on.

        Raises:
            RateError: It has been used too often; the header says when to come again.
        """
        bucket = self._buckets.get(token.name)
        if bucket is None:
            bucket = self._buckets[token.name] = _Bucket(token.rate * BURST_SECONDS, now)
        bucket.left = min(
            token.rate * BURST_SECONDS, bucket.left + (now - bucket.when) * token.rate
        )
        bucket.when = now
        # A request dearer than any burst goes through once nothing else was asked.
        needed = min(cost, token.rate * BURST_SECONDS)
        if bucket.left < needed:
            wait = (needed - bucket.left) / token.rate
            raise RateError(
                f"token {token.name!r} may do {token.rate:g} operations a second",
                {"Retry-After": f"{math.ceil(wait)}"},
            )
        bucket.left -= needed


@dataclass
class _Bucket:
    left: float
    when: float
