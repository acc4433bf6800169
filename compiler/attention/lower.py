"""The attention wing's front: a problem and a machine in, the best program found out."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hocket.compiler.attention.memory.planner import compact
from hocket.compiler.attention.schedule.dataflows import find_dataflow
from hocket.compiler.attention.search.objective import Latency
from hocket.compiler.attention.search.searcher import Budget, Evaluator
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.simulate import estimate_program
from hocket.hwmodels.verify import verify_program

if TYPE_CHECKING:
    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.search.objective import Objective
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.attention.search.tuning_log import TuningLog
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

_log = logging.getLogger(__name__)

AUTO = "auto"
NATURAL = "hocket"
"""The dataflow that ``auto`` stands for: its space holds what suits a machine with one unit at work
at a time as well as one with two."""

MAX_COMPACT_TASKS = 10_000
"""Longer programs stay in their slots: to place them anew takes longer than to find them."""

MAX_TRIES = 4
"""After so many logged results that turn out not to be true, a search is made anew."""


def lower_attention(
    problem: AttentionProblem,
    machine: HardwareModel,
    *,
    dataflow: str | Dataflow = AUTO,
    searcher: str = "exhaustive",
    objective: Objective | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    verify: bool = False,
    log: TuningLog | None = None,
) -> SearchResult:
    """Return the best program found for an attention problem on a machine.

    Found is a tiling with its order of work, in slots; its buffers are then placed anew in less
    memory, as far as that takes no time on this machine.

    Args:
        problem: What to compute.
        machine: What to compute it on.
        dataflow: Key of ``DATAFLOWS``, or ``auto`` for the one that suits any machine; or one of
            one's own.
        searcher: Key of ``SEARCHERS``.
        objective: What to minimise; cycles, and then energy, by default.
        budget: When to stop searching.
        seed: For searchers that draw at random.
        verify: Whether to check that the program found is well formed.
        log: Where to look for the result of an earlier search, and to write this one's. With a
            result found there only its tiling is built.

    Raises:
        ValueError: No such dataflow or searcher.
        InfeasibleError: Not even the smallest tiling fits the machine.
    """
    chosen = find_dataflow(NATURAL if dataflow == AUTO else dataflow)
    if searcher not in SEARCHERS:
        raise ValueError(f"unknown searcher {searcher!r}; there are {', '.join(SEARCHERS)}")
    space = TilingSpace(problem, machine, chosen)
    objective, budget = objective or Latency(), budget or Budget()
    result = _logged(log, space, objective, budget, searcher, seed) if log is not None else None
    if result is None:
        result = SEARCHERS[searcher].search(space, objective, budget, seed)
        if log is not None:
            log.record(space, objective, budget, result, searcher=searcher, seed=seed)
    result = _compacted(result, machine)
    if verify:
        verify_program(result.best.program, machine)
    return result


def _compacted(result: SearchResult, machine: HardwareModel) -> SearchResult:
    """Return a result whose best program takes less memory, if that can be had without time.

    Only now: slots are known before anything is built, which a search needs, and a program in slots
    depends on no speed. The front and the history are of slots.
    """
    best = result.best
    if not best.estimate.is_simulated or best.program.schedule.num_tasks > MAX_COMPACT_TASKS:
        return result
    program = compact(best.program, machine)
    if program is best.program:
        return result
    estimate, _ = estimate_program(program, machine, best.estimate.bound_cycles)
    return replace(result, best=replace(best, program=program, estimate=estimate))


def _logged(
    log: TuningLog,
    space: TilingSpace,
    objective: Objective,
    budget: Budget,
    searcher: str,
    seed: int,
) -> SearchResult | None:
    """Return the result of an earlier search, None if there is none that is still true."""
    found = log.lookup(space, objective, budget, searcher=searcher, seed=seed)
    for result in itertools.islice(found, MAX_TRIES):
        evaluator = Evaluator(space, objective, budget)
        try:
            estimate = evaluator.evaluate(result.tiling)
        except InfeasibleError as error:
            _log.warning("%s: passed over %s: %s", log.path, result.tiling, error)
            continue
        if math.isclose(estimate.cycles, result.cycles) and math.isclose(
            estimate.joules, result.joules
        ):
            return evaluator.result(
                is_optimal=result.is_optimal,
                stop_reason="taken from the tuning log",
                num_legal=result.num_legal,
            )
        _log.warning(
            "%s: passed over %s: it takes %s, not %g cycles and %g J",
            log.path,
            result.tiling,
            estimate,
            result.cycles,
            result.joules,
        )
    return None
