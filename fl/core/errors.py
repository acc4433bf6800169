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


class BudgetError(MemoryError):
    """Training takes more memory than a device may give it.

    Attributes:
        measured_bytes: Of all that was alive when it was stopped.
        budget_bytes: The most there may be.
    """

    def __init__(self, measured_bytes: int, budget_bytes: int, what: str = "training") -> None:
        super().__init__(measured_bytes, budget_bytes, what)
        self.measured_bytes, self.budget_bytes, self.what = measured_bytes, budget_bytes, what

    def __str__(self) -> str:
        return (
            f"{self.what} holds {self.measured_bytes:,} bytes, measured, and may hold "
            f"{self.budget_bytes:,}; cut the model for less memory, or train smaller batches"
        )
