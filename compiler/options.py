"""What a caller may choose about a compilation, besides the model and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hocket.compiler.attention.schedule.dataflows import Dataflow


@dataclass(frozen=True)
class CompileOptions:
    """Choices of one compilation.

    Attributes:
        num_threads: Threads a session of the compiled module uses unless told otherwise; 0 leaves
            it to the runtime, one a core. For the ``host`` target the plan is made for that many.
        dataflow: Key of ``hocket.compiler.attention.schedule.dataflows.DATAFLOWS``, or ``auto`` for
            the one that suits any machine; or a dataflow of one's own.
        searcher: Key of ``hocket.compiler.attention.search.searchers.SEARCHERS``.
        objective: Key of ``hocket.compiler.attention.search.objective.OBJECTIVES``.
        search_tasks: Tasks that the programs simulated during one search may have together.
        seed: Of searchers that draw at random.
        verify: Whether each pass's result is checked before the next one sees it.
        keep_quantization: Whether an attention whose scores or probabilities a quantised model
            rounds to few bits stays with the host, which rounds them, too. Kernels do not: their
            result is closer to that of the model before it was quantised.
        tuning_log: File in which results of searches are kept and looked up; empty for none. Where
            the command line has it, ``search.tuning_log.default_path`` says.
    """

    num_threads: int = 0
    dataflow: str | Dataflow = "auto"
    searcher: str = "exhaustive"
    objective: str = "latency"
    search_tasks: int = 1_000_000
    seed: int = 0
    verify: bool = False
    keep_quantization: bool = False
    tuning_log: str = ""

    def __post_init__(self) -> None:
        if self.num_threads < 0:
            raise ValueError(f"num_threads must be 0 or more, got {self.num_threads}")
        if self.search_tasks < 1:
            raise ValueError(f"search_tasks must be at least 1, got {self.search_tasks}")
