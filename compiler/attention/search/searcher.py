"""What every searcher is and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.tiling import Tiling, TilingSpace
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.program import Program


@dataclass(frozen=True)
class Candidate:
    """A tiling with the program it leads to and what that takes."""

    tiling: Tiling
    program: Program
    estimate: Estimate


@dataclass(frozen=True)
class SearchResult:
    """The best candidate, and how it was found.

    Attributes:
        best: The best candidate met.
        dataflow: Name of the dataflow that was searched.
        num_scored: Tilings scored by closed forms.
        num_simulated: Programs built and simulated.
        stop_reason: Why the search stopped, in words.
    """

    best: Candidate
    dataflow: str
    num_scored: int
    num_simulated: int
    stop_reason: str


class Searcher(Protocol):
    """Finds a good program in a space of tilings."""

    def search(
        self,
        space: TilingSpace,
        dataflow: Dataflow,
        objective: Callable[[Estimate], tuple[float, ...]],
        budget: int,
        seed: int,
    ) -> SearchResult:
        """Return the best program found; the same for the same arguments.

        Args:
            space: Candidate tilings of a problem on a machine.
            dataflow: Turns a tiling into a schedule.
            objective: Gives the smallest key to the best estimate.
            budget: Programs that may be simulated; at least one is.
            seed: For searchers that draw at random.

        Raises:
            InfeasibleError: No tiling fits the machine; the report says what is missing.
        """
        ...
