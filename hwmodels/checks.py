"""Checks of what comes from outside, and how errors show it."""

from __future__ import annotations

_MAX_CHARACTERS = 60
_MAX_BITS = 128


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Make sure that a value is an integer in a range; ``True`` is none.

    Raises:
        ValueError: It is not; the message names it and the range.
    """
    if type(value) is int and least <= value and (most is None or value <= most):
        return
    wanted = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
    raise ValueError(f"{name} must be an integer {wanted}, got {shown(value)}")


def shown(value: object) -> str:
    """Return a value for an error, cut short where it is longer than anyone reads."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"an integer of {value.bit_length():,} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits inside, or levels, than Python writes
        return f"one of type {type(value).__name__} that is too large to show"
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."
