"""Errors of the service, each with the HTTP status that says the same."""

from __future__ import annotations

from hocket.fl.core.errors import FederationError


class RefusedError(ValueError):
    """A question has no answer, or what is asked for may not be; nothing was changed.

    Attributes:
        status: Of HTTP.
        headers: That go with it.
    """

    status = 400

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}


class UnauthorizedError(RefusedError):
    """There is no token, or none that is known."""

    status = 401


class ForbiddenError(RefusedError):
    """The token is not for this, or the job is another's."""

    status = 403


class UnknownError(RefusedError):
    """There is no such job."""

    status = 404


class SlowError(RefusedError):
    """The question did not come to its end in time."""

    status = 408


class ConflictError(RefusedError):
    """It does not go with what has been said before."""

    status = 409


class TooLargeError(RefusedError):
    """The question is too long."""

    status = 413


class InvalidError(RefusedError):
    """The question is not of the form that it must have, or asks for what cannot be."""

    status = 422


class RateError(RefusedError):
    """The token has been used too often lately."""

    status = 429


class OverloadedError(RefusedError):
    """Too much waits to be written, or the service is stopping."""

    status = 503


REFUSALS: dict[str, type[RefusedError]] = {
    each.__name__: each
    for each in (RefusedError, ForbiddenError, UnknownError, ConflictError, InvalidError)
}
"""What the journal may have to say again, by name."""


class JournalError(FederationError):
    """A database cannot be used, or does not say what it said."""


class ServiceError(FederationError):
    """The service cannot be reached, or refuses what a client asks."""
