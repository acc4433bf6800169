"""One attention on a machine, without a model: the problem, the machine, and the search."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.checks import check_integer, shown
from hocket.hwmodels.machine import RANGES
from hocket.networks import network_sizes
from hocket.simulation_result import SimulationResult

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.compiler.attention.schedule.dataflows import Dataflow
    from hocket.compiler.attention.search.searcher import Budget, SearchResult
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

    Problem = AttentionProblem | Sequence[int] | str

PARETO = "pareto"
"""The objective that asks for the whole front between fewest cycles and fewest joules."""

DEFAULT_DATAFLOW = "hocket"
DEFAULT_SEARCHER = "exhaustive"
DEFAULT_OBJECTIVE = "latency"

MAX_BUDGET_TASKS = 10**15
"""More than any search could spend."""

_SOFTMAX_STEPS = (
    "max_lane_cycles",
    "subtract_lane_cycles",
    "exp_lane_cycles",
    "sum_lane_cycles",
    "divide_lane_cycles",
)


def simulate(
    problem: Problem,
    target: str | os.PathLike[str] | HardwareModel,
    *,
    dataflow: str | Dataflow = DEFAULT_DATAFLOW,
    searcher: str = DEFAULT_SEARCHER,
    objective: str = DEFAULT_OBJECTIVE,
    budget_tasks: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    batch: int = 1,
    kv_heads: int | None = None,
    query_length: int | None = None,
    is_causal: bool = False,
    vector_cost: float | None = None,
    on_chip_bytes: int | None = None,
) -> SimulationResult:
    """Search the best program for one attention on a machine, and simulate it.

    Args:
        problem: An ``AttentionProblem``; or heads, rows and columns of a head, as in
            ``(12, 512, 64)``; or the name of a network, as in ``"bert-base"``.
        target: Name of a built-in machine, path of a TOML file that describes one, or a machine.
        dataflow: Which one, as in ``hocket simulate --help``, or a ``Dataflow`` of one's own
            (``hocket.compiler.attention.schedule.dataflows``); Hocket's by default.
        searcher: How tilings are searched, as in ``hocket search --help``.
        objective: ``latency``, ``energy``, or ``pareto`` for the front between the two.
        budget_tasks: Tasks that all programs simulated in the search may have together.
        budget_seconds: Time for the search; the result then depends on how fast this computer is.
        seed: Of searchers that draw at random.
        batch, kv_heads, query_length, is_causal: Of a problem given by sizes or name; as many
            key-value heads as heads, and as many query rows as keys, by default.
        vector_cost: Lane-cycles of the whole softmax per score, in place of the machine's.
        on_chip_bytes: Size of the on-chip memory, in place of the machine's.

    Raises:
        ValueError: A name is unknown, or an argument of a wrong kind or out of range; the message
            names it.
        TargetError: The machine is unknown, or its description wrong.
        InfeasibleError: The problem does not fit the machine in any tiling of the dataflow.
    """
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.loader import load_target
    from hocket.hwmodels.machine import HardwareModel

    machine = target if isinstance(target, HardwareModel) else load_target(str(target))
    machine = adapt_machine(machine, vector_cost=vector_cost, on_chip_bytes=on_chip_bytes)
    sizes: dict[str, Any] = {
        "batch": batch,
        "kv_heads": kv_heads,
        "query_length": query_length,
        "is_causal": is_causal,
    }
    network = problem if isinstance(problem, str) else None
    if isinstance(problem, AttentionProblem):
        if sizes != {"batch": 1, "kv_heads": None, "query_length": None, "is_causal": False}:
            raise ValueError("an AttentionProblem has its sizes in it; change them there")
    else:
        sizes["element_bytes"] = machine.element_bytes
        problem = make_problem(*_three_sizes(problem), **sizes)
    return search_program(
        problem,
        machine,
        dataflow=dataflow,
        searcher=searcher,
        objective=objective,
        budget_tasks=budget_tasks,
        budget_seconds=budget_seconds,
        seed=seed,
        network=network,
    )


def _three_sizes(problem: object) -> Sequence[int]:
    """Return the heads, rows and columns that a caller gives, by name or as three sizes."""
    if isinstance(problem, str):
        return network_sizes(problem)
    if not isinstance(problem, tuple | list) or len(problem) != 3:
        raise ValueError(
            "problem: want heads, rows and columns of a head, as in (12, 512, 64), the name of a "
            f"network, or an AttentionProblem; got {shown(problem)}"
        )
    return problem


def make_problem(
    heads: int,
    length: int,
    head_dim: int,
    *,
    batch: int = 1,
    kv_heads: int | None = None,
    query_length: int | None = None,
    is_causal: bool = False,
    element_bytes: int = 2,
) -> AttentionProblem:
    """Return an attention problem of the usual shape.

    Args:
        heads: Query heads.
        length: Rows of key and value, and of the query unless ``query_length`` is given.
        head_dim: Columns of query, key, value and output.
        batch: Number of sequences.
        kv_heads: Heads of key and value; as many as query heads by default.
        query_length: Rows of the query; 1 for a decoding step.
        is_causal: Whether each row sees only the keys up to its own.
        element_bytes: Of the machine's tensors; decides how the element type is called.

    Raises:
        ValueError: A size is out of range, or the sizes do not go together.
    """
    from hocket.compiler.problem import MAX_EXTENT, AttentionProblem
    from hocket.hwmodels.dtypes import DType

    rows = length if query_length is None else query_length
    kv_heads = heads if kv_heads is None else kv_heads
    given = {
        "heads": heads,
        "length": length,
        "head_dim": head_dim,
        "batch": batch,
        "kv_heads": kv_heads,
        "query_length": rows,
    }
    for name, size in given.items():
        check_integer(name, size, 1, MAX_EXTENT)
    if type(is_causal) is not bool:
        raise ValueError(f"is_causal must be True or False, got {shown(is_causal)}")
    if is_causal and rows < length:
        raise ValueError(
            f"{rows} query rows and {length} keys do not go with a causal mask, which counts from "
            "the first key, so that the last keys would never be seen; a decoding step sees all "
            "keys and needs no mask"
        )
    return AttentionProblem(
        batch=batch,
        query_heads=heads,
        kv_heads=kv_heads,
        query_length=rows,
        kv_length=length,
        head_dim=head_dim,
        value_dim=head_dim,
        dtype=DType.FLOAT32 if element_bytes >= DType.FLOAT32.itemsize else DType.FLOAT16,
        scale=head_dim**-0.5,
        is_causal=is_causal,
    )


def adapt_machine(
    machine: HardwareModel, *, vector_cost: float | None = None, on_chip_bytes: int | None = None
) -> HardwareModel:
    """Return a machine with another cost of softmax, or another size of on-chip memory.

    Args:
        machine: The machine.
        vector_cost: Lane-cycles of all five steps of softmax per score; the steps keep their shares
            of it, and have equal ones on a machine where they cost nothing.
        on_chip_bytes: Capacity of the on-chip memory.

    Raises:
        ValueError: A figure is out of range.
    """
    if vector_cost is not None:
        if not _is_above_0(vector_cost):
            raise ValueError(f"vector_cost must be a number above 0, got {shown(vector_cost)}")
        unit = machine.vector_unit
        total = unit.softmax_lane_cycles
        steps: dict[str, Any] = {
            name: vector_cost * (getattr(unit, name) / total if total else 1 / len(_SOFTMAX_STEPS))
            for name in _SOFTMAX_STEPS
        }
        machine = dataclasses.replace(machine, vector_unit=dataclasses.replace(unit, **steps))
    if on_chip_bytes is not None:
        least, most = RANGES["capacity_bytes"]
        check_integer("on_chip_bytes", on_chip_bytes, int(least), int(most))
        memory = dataclasses.replace(machine.on_chip_memory, capacity_bytes=on_chip_bytes)
        machine = dataclasses.replace(machine, on_chip_memory=memory)
    return machine


def search_program(
    problem: AttentionProblem,
    machine: HardwareModel,
    *,
    dataflow: str | Dataflow = DEFAULT_DATAFLOW,
    searcher: str = DEFAULT_SEARCHER,
    objective: str = DEFAULT_OBJECTIVE,
    budget_tasks: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    network: str | None = None,
) -> SimulationResult:
    """Search the best program for a problem on a machine; see ``simulate``.

    Raises:
        ValueError: No such dataflow, searcher or objective, or a budget or seed out of range.
        InfeasibleError: The problem does not fit the machine in any tiling of the dataflow.
    """
    from hocket.compiler.attention.lower import AUTO, lower_attention
    from hocket.compiler.attention.schedule.dataflows import DATAFLOWS, Dataflow
    from hocket.compiler.attention.search.objective import OBJECTIVES
    from hocket.compiler.attention.search.searcher import Budget
    from hocket.compiler.attention.search.searchers import SEARCHERS

    if not isinstance(dataflow, Dataflow):
        _check_name("dataflow", dataflow, (AUTO, *DATAFLOWS))
    _check_name("searcher", searcher, tuple(SEARCHERS))
    _check_name("objective", objective, (*OBJECTIVES, PARETO))
    tasks = Budget().tasks if budget_tasks is None else budget_tasks
    check_integer("budget_tasks", tasks, 1, MAX_BUDGET_TASKS)
    check_integer("seed", seed, 0)
    if budget_seconds is not None and not _is_above_0(budget_seconds):
        raise ValueError(f"budget_seconds must be a number above 0, got {shown(budget_seconds)}")
    ends = list(OBJECTIVES.values()) if objective == PARETO else [OBJECTIVES[objective]]
    seconds = None if budget_seconds is None else budget_seconds / len(ends)
    budget = _budget(max(tasks // len(ends), 1), seconds)
    start = time.perf_counter()
    results = [
        lower_attention(
            problem,
            machine,
            dataflow=dataflow,
            searcher=searcher,
            objective=end,
            budget=budget,
            seed=seed,
        )
        for end in ends
    ]
    return SimulationResult(
        problem=problem,
        machine=machine,
        search=join_searches(results),
        searcher=searcher,
        objective=objective,
        search_seconds=time.perf_counter() - start,
        network=network,
    )


def join_searches(results: list[SearchResult]) -> SearchResult:
    """Return one result for searches of one space: the first one's best, and the common front."""
    from hocket.compiler.attention.search.searcher import pareto_front

    first = results[0]
    if len(results) == 1:
        return first
    return dataclasses.replace(
        first,
        num_evaluated=sum(result.num_evaluated for result in results),
        num_tasks=sum(result.num_tasks for result in results),
        is_optimal=all(result.is_optimal for result in results),
        stop_reason="; then ".join(dict.fromkeys(result.stop_reason for result in results)),
        front=pareto_front(pair for result in results for pair in result.front),
    )


def _check_name(what: str, name: object, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {shown(name)}; there are {', '.join(known)}")


def _is_above_0(value: object) -> bool:
    """Return whether something is a finite number above 0."""
    return type(value) in (int, float) and 0 < float(value) < math.inf  # type: ignore[arg-type]


def _budget(tasks: int, seconds: float | None) -> Budget:
    from hocket.compiler.attention.search.searcher import Budget

    if seconds is None:
        return Budget(tasks=tasks)
    return Budget(tasks=tasks, seconds=seconds, clock=time.perf_counter)
