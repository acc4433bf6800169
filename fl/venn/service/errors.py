"""Errors of the device scheduler's service that are not refusals."""

from __future__ import annotations

from hocket.fl.core.errors import FederationError
from hocket.fl.service.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    RefusedError,
    UnknownError,
)

REFUSALS: dict[str, type[RefusedError]] = {
    each.__name__: each
    for each in (RefusedError, ForbiddenError, UnknownError, ConflictError, InvalidError)
}
"""What the journal may have to say again, by name."""


class JournalError(FederationError):
    """A database cannot be used, or does not say what it said."""


class ServiceError(FederationError):
    """The service cannot be reached, or refuses what a client asks."""
