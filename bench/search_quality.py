"""How good is what each searcher finds, for the same number of tasks simulated?

Cycles of the best program found over the lower bound, so 1 is the limit. Searchers that draw at
random are run from several seeds; the table has the median. Simulated, so the same on any machine.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from harness import Choices, run_bench
from workloads import WORKLOADS, attention

from hocket.compiler.attention.lower import NATURAL
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.search.objective import Latency
from hocket.compiler.attention.search.searcher import Budget
from hocket.compiler.attention.search.searchers import SEARCHERS
from hocket.compiler.attention.search.space import TilingSpace
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from hocket.compiler.attention.search.searcher import SearchResult

CASES = (
    ("BERT-Base", "mas-edge", False),
    ("T5-Mini", "mas-edge", False),
    ("ViT-H/16", "mas-edge", False),
    ("Llama3-8B", "davinci-lite", True),
    ("BERT-Base", "davinci-tiny", True),
)
"""Network, target, and whether attention is causal; the last two are short of memory."""

QUICK = (CASES[1], CASES[4])
BUDGETS = (30_000, 300_000, 3_000_000)
QUICK_BUDGETS = (30_000, 300_000)
SEEDS = 5
QUICK_SEEDS = 3
SEEDLESS = ("exhaustive",)

COLUMNS = {"network": "", "target": "", "is_causal": "", "budget_tasks": ","} | dict.fromkeys(
    SEARCHERS, ".3f"
)


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return one row a case and budget."""
    rows = []
    for network, target, is_causal in QUICK if choices.quick else CASES:
        space = make_space(network, target, is_causal=is_causal)
        for tasks in QUICK_BUDGETS if choices.quick else BUDGETS:
            row: dict[str, Any] = {
                "network": network,
                "target": target,
                "is_causal": is_causal,
                "budget_tasks": tasks,
            }
            for name in SEARCHERS:
                results = run(name, space, tasks, QUICK_SEEDS if choices.quick else SEEDS)
                of_bound = [result.best.estimate.of_bound for result in results]
                row[name] = median(of_bound)
                row[f"{name}_best"], row[f"{name}_worst"] = min(of_bound), max(of_bound)
                row[f"{name}_evaluated"] = median(result.num_evaluated for result in results)
            rows.append(row)
    return rows


def make_space(network: str, target: str, *, is_causal: bool) -> TilingSpace:
    """Return the space of our own dataflow for a network's attention on a machine."""
    problem = attention(*WORKLOADS[network], is_causal=is_causal)
    return TilingSpace(problem, load_target(target), DATAFLOWS[NATURAL])


def run(name: str, space: TilingSpace, tasks: int, num_seeds: int) -> list[SearchResult]:
    """Return what a searcher finds from each seed within a budget."""
    seeds = range(1 if name in SEEDLESS else num_seeds)
    budget = Budget(evaluations=1 << 40, tasks=tasks)
    return [SEARCHERS[name].search(space, Latency(), budget, seed) for seed in seeds]


if __name__ == "__main__":
    run_bench(
        "cycles of the best program found, over the bound, by tasks simulated (median)",
        COLUMNS,
        measure,
    )
