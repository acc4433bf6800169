"""Errors of the compiler. Each extends the nearest builtin, so that callers can catch that."""


class ModelError(ValueError):
    """A model that cannot be compiled: which file or node, what is wrong, how to mend it."""


class DimensionError(ModelError):
    """A dimension of an input that is missing, unknown, or bound to an unusable value."""


class CompileError(RuntimeError):
    """A pass that failed on a checked model; names the pass and chains the cause."""


class ExportError(ValueError):
    """An export that cannot be made: which CPU, module or folder, what is wrong, how to mend it."""


class InfeasibleError(ValueError):
    """A problem that cannot be placed on a machine.

    Attributes:
        report: One line each for the resource, the demand with its terms, the bound, the gap
            and the levers that would close it.
    """

    def __init__(self, message: str, report: tuple[str, ...] = ()) -> None:
        super().__init__("\n  ".join((message, *report)))
        self.report = report
