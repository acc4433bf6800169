"""Why a program takes as long as it does: what separates it from the bound, and what would help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.compiler.attention.advice import advise
from hocket.compiler.attention.bottleneck import double_bottleneck, utilization
from hocket.compiler.attention.bounds import lower_bounds
from hocket.compiler.attention.losses import Cause, LossAnalysis
from hocket.hwmodels.simulate import simulate

if TYPE_CHECKING:
    from hocket.compiler.attention.bottleneck import Resource
    from hocket.compiler.attention.losses import Loss
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.program import Program
    from hocket.hwmodels.simulate import Timeline

AT_THE_BOUND = 1.01
"""Up to this ratio to the bound, only a faster machine is worth naming as the next lever."""


@dataclass(frozen=True)
class Explanation:
    """What separates a program from the bound.

    Attributes:
        cycles: What the program takes.
        bound_cycles: What no program for this problem on this machine beats.
        binding: The resource that gives this bound.
        binding_utilization: Share of the time in which that works, over all cores.
        losses: Parts of the gap, largest first; they add up to it.
        next_lever: What to change first, in words and numbers.
        doubled_bound_cycles: The bound on a machine with twice as much of the binding resource.
    """

    cycles: float
    bound_cycles: float
    binding: Resource
    binding_utilization: float
    losses: tuple[Loss, ...]
    next_lever: str
    doubled_bound_cycles: float

    @property
    def of_bound(self) -> float:
        """Cycles over the bound; 1 is the limit."""
        return self.cycles / self.bound_cycles if self.bound_cycles else 1.0

    def __str__(self) -> str:
        return (
            f"{_ratio(self.of_bound)} of the bound; {self.binding} busy "
            f"{self.binding_utilization:.0%}; next lever: {self.next_lever}"
        )


def explain(result: SearchResult, problem: AttentionProblem, machine: HardwareModel) -> Explanation:
    """Return why the best program of a search takes as long as it does."""
    return explain_program(result.best.program, result.best.estimate, problem, machine)


def explain_program(
    program: Program,
    estimate: Estimate,
    problem: AttentionProblem,
    machine: HardwareModel,
    timeline: Timeline | None = None,
) -> Explanation:
    """Return why a program takes as long as it does.

    Args:
        program: The program; the beginning of it if the estimate is not simulated.
        estimate: What the whole program takes.
        problem: What it computes.
        machine: What it runs on.
        timeline: The program in virtual time, if that is at hand.
    """
    bounds = lower_bounds(problem, machine)
    analysis = LossAnalysis(timeline or simulate(program, machine), estimate, problem, bounds)
    losses = analysis.losses()
    doubled, text = double_bottleneck(problem, machine, bounds)
    named = [loss for loss in losses if loss.cause is not Cause.REST and loss.cycles > 0]
    if named and estimate.cycles > AT_THE_BOUND * bounds.cycles:
        largest = named[0]
        part = largest.cycles / (estimate.cycles - bounds.cycles)
        share = f"{largest.cycles:,.0f} cycles, {part:.0%} of the gap"
        text = f"{largest.cause} ({share}): {advise(largest.cause, analysis)}"
    return Explanation(
        cycles=estimate.cycles,
        bound_cycles=bounds.cycles,
        binding=analysis.binding,
        binding_utilization=utilization(analysis.binding, estimate),
        losses=losses,
        next_lever=text,
        doubled_bound_cycles=doubled.cycles,
    )


def _ratio(ratio: float) -> str:
    """Return a ratio to the bound; close to 1 with one more digit."""
    return f"{ratio:.3f}x" if ratio < AT_THE_BOUND else f"{ratio:.2f}x"
