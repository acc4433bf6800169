"""``hocket search``: how searchers fare on one attention, and all the good tilings they found."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands.option_groups import expand_option_groups
from hocket.commands.performance import (
    NOTHING_FITS,
    format_joules,
    format_ratio,
    print_infeasible,
)
from hocket.commands.problem_options import (
    ALL,
    DATAFLOW_HELP,
    SEARCHER_HELP,
    BudgetTasksOption,
    ObjectiveOption,
    OverrideOptions,
    ProblemOptions,
    SearchSeedOption,
    check_dataflows,
    check_objective,
    check_searchers,
    read_machine,
    read_problems,
)
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from rich.console import Console

    from hocket.simulation_result import SimulationResult

# Lines of the tables for people; JSON has all.
MAX_FRONT_LINES = 12
MAX_HISTORY_LINES = 12


@expand_option_groups
def search_command(
    *,
    asked: ProblemOptions,
    dataflow: Annotated[
        str,
        typer.Option(
            "--dataflow", metavar="NAME", help=f"How the units share the work: {DATAFLOW_HELP}."
        ),
    ] = "hocket",
    searcher: Annotated[
        str,
        typer.Option(
            "--searcher",
            metavar="NAME,...|all",
            help=f"How tilings are searched: {SEARCHER_HELP}.",
        ),
    ] = "exhaustive",
    objective: ObjectiveOption = "latency",
    overrides: OverrideOptions,
    budget_tasks: BudgetTasksOption = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            "--budget-seconds",
            metavar="S",
            help="Time for each search; what is found then depends on this computer.",
            show_default=False,
        ),
    ] = None,
    seed: SearchSeedOption = 0,
    json_output: JsonFlag = False,
) -> None:
    """Search the tilings of one attention on a machine, and compare searchers.

    Shows the best tiling, the front between fewest cycles and fewest joules, how the best got
    better over the search, and whether it was proved to be optimal.

    **Examples**

    - `hocket search --target mas-edge --network bert-base`
    - `hocket search -t mas-edge --network bert-base --searcher all --budget-tasks 100000`
    - `hocket search -t mas-edge --problem 8,512,64 --objective pareto --budget-seconds 5 --json`
    """
    check_dataflows([dataflow])
    check_objective(objective)
    searchers = _choose_searchers(searcher)
    if budget_seconds is not None and not 0 < budget_seconds < float("inf"):
        raise typer.BadParameter(
            f"want a number of seconds above 0, got {budget_seconds}", param_hint="--budget-seconds"
        )
    machine = read_machine(asked, overrides)
    problems = read_problems(asked, overrides, machine)
    if len(problems) > 1:
        raise typer.BadParameter(
            "a search takes one network; `hocket simulate` takes several", param_hint="--network"
        )

    from hocket.compiler.errors import InfeasibleError
    from hocket.simulation import search_program
    from hocket.simulation_result import describe_question, infeasible_search_to_json

    ((name, sizes),) = problems
    results: list[SimulationResult] = []
    with progress_bar("searching") as bar:
        for done, each in enumerate(searchers):
            bar.show(each, done, len(searchers))
            try:
                results.append(
                    search_program(
                        sizes,
                        machine,
                        dataflow=dataflow,
                        searcher=each,
                        objective=objective,
                        budget_tasks=budget_tasks,
                        budget_seconds=budget_seconds,
                        seed=seed,
                        network=name,
                    )
                )
            except InfeasibleError as error:
                # What does not fit, fits for no searcher.
                question = describe_question(
                    sizes,
                    machine,
                    dataflow=dataflow,
                    searcher=each,
                    objective=objective,
                    network=name,
                )
                lines = error.report or (str(error),)
                _print_infeasible(infeasible_search_to_json(question, lines), json_output)
                raise typer.Exit(NOTHING_FITS) from None
    best = min(results, key=_rank)
    if json_output:
        print_json(
            {
                "results": [result.search_to_json() for result in results],
                "best_searcher": best.searcher,
            }
        )
    else:
        _print_results(results, best)


def _choose_searchers(text: str) -> list[str]:
    from hocket.compiler.attention.search.searchers import SEARCHERS

    names = list(SEARCHERS) if text == ALL else [part.strip() for part in text.split(",")]
    check_searchers(names)
    return list(dict.fromkeys(names))


def _rank(result: "SimulationResult") -> tuple[float, ...]:
    """Return a key that is smaller for a better result."""
    from hocket.compiler.attention.search.objective import OBJECTIVES
    from hocket.simulation import PARETO

    chosen = "latency" if result.objective == PARETO else result.objective
    return OBJECTIVES[chosen].key(result.estimate)


def _print_infeasible(answer: dict[str, Any], json_output: bool) -> None:
    if json_output:
        print_json({"results": [answer], "best_searcher": None})
        return
    print_infeasible(answer_console(), answer["dataflow"], answer)


def _print_results(results: list["SimulationResult"], best: "SimulationResult") -> None:
    console = answer_console()
    console.print(f"{best.title}: {best.problem}", soft_wrap=True)
    _print_searchers(console, results)
    console.print(f"\nbest, by {best.searcher}: {best.tiling}", soft_wrap=True)
    console.print(str(best.estimate), soft_wrap=True)
    console.print(str(best.explanation), soft_wrap=True)
    for result in results:
        console.print(f"{result.searcher}: {result.search.stop_reason}", style="dim")
    _print_front(console, best)
    for result in results:
        _print_history(console, result)


def _print_searchers(console: "Console", results: list["SimulationResult"]) -> None:
    table = plain_table(
        "searcher", "cycles", "of bound", "energy", "evaluated", "of tilings", "tasks", "time", ""
    )
    table.columns[-1].justify = "left"
    for result in results:
        search, estimate = result.search, result.estimate
        table.add_row(
            result.searcher,
            f"{estimate.cycles:,.0f}",
            format_ratio(estimate.of_bound),
            format_joules(estimate.joules),
            f"{search.num_evaluated:,}",
            f"{search.num_legal:,}",
            f"{search.num_tasks:,}",
            format_seconds(result.search_seconds),
            "proved optimal" if search.is_optimal else "",
        )
    console.print(table)


def _print_front(console: "Console", result: "SimulationResult") -> None:
    front = result.search.front
    shown = _thin(list(front), MAX_FRONT_LINES)
    console.print(
        f"\nfront of cycles and energy met by {result.searcher}: {len(front)} tilings"
        + (f", {len(shown)} shown" if len(shown) < len(front) else "")
    )
    table = plain_table("cycles", "of bound", "energy", "DRAM", "on chip", "tiling")
    table.columns[-1].justify = "left"
    for tiling, estimate in shown:
        table.add_row(
            f"{estimate.cycles:,.0f}",
            format_ratio(estimate.of_bound),
            format_joules(estimate.joules),
            format_bytes(estimate.dram_bytes),
            format_bytes(estimate.peak_on_chip_bytes),
            str(tiling),
        )
    console.print(table)


def _print_history(console: "Console", result: "SimulationResult") -> None:
    history = list(result.search.history)
    bound = result.estimate.bound_cycles
    parts = [
        f"{count:,}: {format_ratio(cycles / bound) if bound else f'{cycles:,.0f}'}"
        for count, cycles in _thin(history, MAX_HISTORY_LINES)
    ]
    console.print(
        f"{result.searcher}, best after so many evaluations (of the bound): {', '.join(parts)}",
        soft_wrap=True,
    )


def _thin(items: list[Any], most: int) -> list[Any]:
    """Return at most so many items, evenly spread; the first and the last stay."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
