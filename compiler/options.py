"""What a caller may choose about a compilation, besides the model and the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CompileOptions:
    """Choices of one compilation.

    Attributes:
        num_threads: Threads a session of the compiled module uses unless told otherwise; 0 leaves
            it to the runtime, one a core. For the ``host`` target the plan is made for that many.
        dataflow: Key of ``hocket.compiler.attention.schedule.dataflows.DATAFLOWS``, or ``auto`` for
            the one that suits the machine.
        max_candidates: Tilings that are scheduled and simulated, out of all that are scored.
        seed: Of searchers that draw at random.
        verify: Whether each pass's result is checked before the next one sees it.
    """

    num_threads: int = 0
    dataflow: str = "auto"
    max_candidates: int = 12
    seed: int = 0
    verify: bool = False

    def __post_init__(self) -> None:
        if self.num_threads < 0:
            raise ValueError(f"num_threads must be 0 or more, got {self.num_threads}")
        if self.max_candidates < 1:
            raise ValueError(f"max_candidates must be at least 1, got {self.max_candidates}")
