"""Why a service has no answer, each reason with the HTTP status that says the same."""

from __future__ import annotations

from typing import ClassVar


class RefusedError(ValueError):
    """A question has no answer, or what is asked for may not be; nothing was changed.

    Attributes:
        status: Of HTTP.
        headers: That go with it.
    """

    status: ClassVar[int] = 400

    def __init_subclass__(cls, status: int) -> None:
        cls.status = status

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}


class UnauthorizedError(RefusedError, status=401):
    """There is no token, or none that is known."""


class ForbiddenError(RefusedError, status=403):
    """The token is not for this, or the job is another's."""


class UnknownError(RefusedError, status=404):
    """There is no such thing."""


class SlowError(RefusedError, status=408):
    """The question did not come to its end in time."""


class ConflictError(RefusedError, status=409):
    """It does not go with what has been said before."""


class TooLargeError(RefusedError, status=413):
    """The question is too long."""


class InvalidError(RefusedError, status=422):
    """The question is not of the form that it must have, or asks for what cannot be."""


class RateError(RefusedError, status=429):
    """The token has been used too often lately."""


class BrokenError(RefusedError, status=500):
    """What is kept was damaged, or the work failed."""


class OverloadedError(RefusedError, status=503):
    """Too much waits, or the service is stopping."""
