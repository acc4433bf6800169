"""What a simulation found: a record of it, for people, as JSON, and as files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from hocket.compiler.attention.explain import Explanation
    from hocket.compiler.attention.search.searcher import SearchResult
    from hocket.compiler.attention.tiling import Tiling
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.estimate import Estimate
    from hocket.hwmodels.machine import HardwareModel
    from hocket.hwmodels.simulate import Timeline


@dataclass(frozen=True)
class SimulationResult:
    """The best program that a search found for an attention on a machine, in virtual time.

    Attributes:
        problem: What it computes.
        machine: What it runs on.
        search: The program, what it takes, and how it was found.
        searcher: Name of the searcher.
        objective: Name of what was minimised; of ``pareto`` the program is the fastest one.
        search_seconds: How long the search took, by the clock on the wall.
        network: Name of the network that the problem comes from, if any.

    Example:
        >>> result = hocket.simulate("bert-base", "mas-edge")  # doctest: +SKIP
        >>> print(result.explanation)  # doctest: +SKIP
        >>> result.write_html("schedule.html")  # doctest: +SKIP
    """

    problem: AttentionProblem
    machine: HardwareModel
    search: SearchResult
    searcher: str
    objective: str
    search_seconds: float
    network: str | None = None

    @property
    def dataflow(self) -> str:
        """Name of the dataflow."""
        return self.search.dataflow

    @property
    def tiling(self) -> Tiling:
        """The best tiling."""
        return self.search.best.tiling

    @property
    def estimate(self) -> Estimate:
        """What the program takes."""
        return self.search.best.estimate

    @cached_property
    def timeline(self) -> Timeline:
        """The program in virtual time; only its beginning if the estimate is not simulated."""
        from hocket.hwmodels.simulate import simulate

        return simulate(self.search.best.program, self.machine)

    @cached_property
    def explanation(self) -> Explanation:
        """What separates the program from the bound, and what would help."""
        from hocket.compiler.attention.explain import explain_program

        best = self.search.best
        return explain_program(
            best.program, best.estimate, self.problem, self.machine, self.timeline
        )

    @property
    def title(self) -> str:
        """The problem, the machine and the dataflow in a line, as a picture's title."""
        name = self.network or "attention"
        return f"{name} on {self.machine.name}, dataflow {self.dataflow}"

    def facts(self) -> list[tuple[str, str]]:
        """Return the totals for people, as names and values."""
        return [
            *estimate_facts(self.estimate),
            ("problem", str(self.problem)),
            ("tiling", str(self.tiling)),
            ("next lever", self.explanation.next_lever),
        ]

    def write_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the beginning of the schedule, as PNG, SVG or PDF by the file's ending.

        Raises:
            PlotError: matplotlib is not installed.
            ValueError: The file has another ending.
        """
        from hocket.plotting import draw_schedule

        total = self.estimate.cycles
        draw_schedule(self.timeline, path, title=self.title, total_cycles=total)

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as an HTML page to zoom into, with the totals on top."""
        from hocket.gantt.page import write_gantt_html

        write_gantt_html(self.timeline, path, title=self.title, facts=self.facts())

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule in the trace-viewer's JSON form."""
        write_trace(self.timeline, path)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; ``docs/cli.md`` has its keys."""
        figures = {key: figure(self) for key, figure in _FIGURES.items()}
        return {**self._asked(), **figures, "infeasible": None}

    def search_to_json(self) -> dict[str, Any]:
        """Return a JSON object with the front and the history besides."""
        return self.to_json() | {key: figure(self) for key, figure in _SEARCH_FIGURES.items()}

    def _asked(self) -> dict[str, Any]:
        return describe_question(
            self.problem,
            self.machine,
            dataflow=self.dataflow,
            searcher=self.searcher,
            objective=self.objective,
            network=self.network,
        )

    def __str__(self) -> str:
        return f"{self.title}: {self.estimate}; {self.explanation}"


def write_trace(timeline: Timeline, path: str | os.PathLike[str]) -> None:
    """Write a timeline in the trace-viewer's JSON form, whole or not at all."""
    from hocket.hwmodels.trace import trace_events
    from hocket.runtime.files import atomic_file

    text = json.dumps(trace_events(timeline))
    with atomic_file(path) as file:
        file.write(text.encode())


def estimate_facts(estimate: Estimate) -> list[tuple[str, str]]:
    """Return the totals of an estimate for people, as names and values."""
    how = "simulated" if estimate.is_simulated else "extrapolated from the beginning, below"
    return [
        ("cycles", f"{estimate.cycles:,.0f} ({estimate.seconds * 1e3:.4g} ms, {how})"),
        ("of the bound", f"{estimate.of_bound:.3f}x of {estimate.bound_cycles:,.0f}"),
        ("matrix units busy", f"{estimate.matrix_utilization:.1%}"),
        ("vector units busy", f"{estimate.vector_utilization:.1%}"),
        ("DRAM port busy", f"{estimate.dma_utilization:.1%}"),
        ("energy", f"{estimate.joules * 1e3:.4g} mJ"),
        ("DRAM", f"{estimate.dram_bytes:,} bytes"),
        ("on chip at most", f"{estimate.peak_on_chip_bytes:,} bytes"),
    ]


def infeasible_to_json(question: Mapping[str, Any], lines: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON object of a problem that fits the machine in no tiling of a dataflow.

    It has the keys of a result, with null for every figure.

    Args:
        question: What was asked, see ``describe_question``.
        lines: Why it does not fit.
    """
    return {**question, **dict.fromkeys(_FIGURES), "infeasible": list(lines)}


def infeasible_search_to_json(
    question: Mapping[str, Any], lines: tuple[str, ...]
) -> dict[str, Any]:
    """Return the same with the keys of ``SimulationResult.search_to_json``."""
    return infeasible_to_json(question, lines) | dict.fromkeys(_SEARCH_FIGURES)


def describe_question(
    problem: AttentionProblem,
    machine: HardwareModel,
    *,
    dataflow: str,
    searcher: str,
    objective: str,
    network: str | None = None,
) -> dict[str, Any]:
    """Return what a result answers, as a JSON object."""
    return {
        "network": network,
        "problem": {
            "batch": problem.batch,
            "query_heads": problem.query_heads,
            "kv_heads": problem.kv_heads,
            "query_length": problem.query_length,
            "kv_length": problem.kv_length,
            "head_dim": problem.head_dim,
            "value_dim": problem.value_dim,
            "dtype": str(problem.dtype),
            "mask": str(problem.mask),
            "is_causal": problem.is_causal,
            "scale": problem.scale,
        },
        "target": machine.name,
        "vector_cost": machine.vector_unit.softmax_lane_cycles,
        "on_chip_bytes": machine.on_chip_memory.capacity_bytes,
        "dataflow": dataflow,
        "searcher": searcher,
        "objective": objective,
    }


def tiling_to_json(tiling: Tiling) -> dict[str, Any]:
    """Return a tiling as a JSON object."""
    fields = dataclasses.asdict(tiling)
    return {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in fields.items()
    }


def stalls_to_json(timeline: Timeline) -> Mapping[str, Mapping[str, float]]:
    """Return the idle cycles before tasks by unit and reason, over all cores."""
    return {
        str(unit): {str(stall): cycles for stall, cycles in reasons.items()}
        for unit, reasons in timeline.stall_cycles().items()
    }


def _front_to_json(result: SimulationResult) -> list[dict[str, Any]]:
    return [
        {
            "cycles": estimate.cycles,
            "energy_joules": estimate.joules,
            "peak_on_chip_bytes": estimate.peak_on_chip_bytes,
            "dram_bytes": estimate.dram_bytes,
            "tiling": tiling_to_json(tiling),
        }
        for tiling, estimate in result.search.front
    ]


def _history_to_json(result: SimulationResult) -> list[dict[str, Any]]:
    return [
        {"evaluations": evaluations, "cycles": cycles}
        for evaluations, cycles in result.search.history
    ]


def _reload_bytes(result: SimulationResult) -> int | None:
    return result.search.best.plan.reload_bytes if result.estimate.is_simulated else None


def _losses_to_json(result: SimulationResult) -> dict[str, float]:
    return {str(loss.cause): loss.cycles for loss in result.explanation.losses}


# The figures of a result, by key; where nothing fits they are null.
_FIGURES: dict[str, Callable[[SimulationResult], Any]] = {
    "tiling": lambda result: tiling_to_json(result.tiling),
    "cycles": lambda result: result.estimate.cycles,
    "seconds": lambda result: result.estimate.seconds,
    "bound_cycles": lambda result: result.estimate.bound_cycles,
    "of_bound": lambda result: result.estimate.of_bound,
    "binding": lambda result: str(result.explanation.binding),
    "doubled_bound_cycles": lambda result: result.explanation.doubled_bound_cycles,
    "energy_joules": lambda result: result.estimate.joules,
    "compute_joules": lambda result: result.estimate.compute_joules,
    "on_chip_joules": lambda result: result.estimate.on_chip_joules,
    "dram_joules": lambda result: result.estimate.dram_joules,
    "leakage_joules": lambda result: result.estimate.leakage_joules,
    "dram_bytes": lambda result: result.estimate.dram_bytes,
    "dram_bytes_by_tensor": lambda result: dict(result.estimate.dram_bytes_by_tensor),
    "reload_bytes": _reload_bytes,
    "matrix_utilization": lambda result: result.estimate.matrix_utilization,
    "vector_utilization": lambda result: result.estimate.vector_utilization,
    "dma_utilization": lambda result: result.estimate.dma_utilization,
    "peak_on_chip_bytes": lambda result: result.estimate.peak_on_chip_bytes,
    "stalls": lambda result: stalls_to_json(result.timeline),
    "losses": _losses_to_json,
    "next_lever": lambda result: result.explanation.next_lever,
    "is_simulated": lambda result: result.estimate.is_simulated,
    "is_optimal": lambda result: bool(result.search.is_optimal),
    "num_legal": lambda result: result.search.num_legal,
    "num_evaluated": lambda result: result.search.num_evaluated,
    "num_tasks": lambda result: result.search.num_tasks,
    "stop_reason": lambda result: result.search.stop_reason,
    "search_seconds": lambda result: result.search_seconds,
}
_SEARCH_FIGURES: dict[str, Callable[[SimulationResult], Any]] = {
    "front": _front_to_json,
    "history": _history_to_json,
}
