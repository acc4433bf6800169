"""Errors of floor 1. Each extends the nearest builtin, so that callers can catch that."""


class TargetError(ValueError):
    """A machine description that cannot be used: which key, what is wrong, how to mend it."""


class ProgramError(ValueError):
    """A schedule or program that breaks a rule of the machine's language."""
