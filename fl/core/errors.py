"""Errors of the federation."""

from __future__ import annotations


class FederationError(RuntimeError):
    """A federation cannot go on."""


class ConfigError(ValueError):
    """A setting is missing, unknown or out of range; the message names it."""


class UpdateError(ValueError):
    """What a client sent does not fit what it was asked for."""


class StoreError(RuntimeError):
    """What a store holds is not what was put there."""


class CapabilityError(NotImplementedError):
    """A backend is asked for what it cannot do."""
