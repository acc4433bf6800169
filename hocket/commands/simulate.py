"""``hocket simulate``: one attention on a machine, searched, simulated and explained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands.option_groups import expand_option_groups
from hocket.commands.output_files import ScheduleFiles
from hocket.commands.performance import (
    NOTHING_FITS,
    format_joules,
    format_ratio,
    gantt_columns,
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
    split_names,
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

    from hocket.hwmodels.machine import HardwareModel
    from hocket.simulation_result import SimulationResult

MAX_WRITTEN_LINES = 6


@expand_option_groups
def simulate_command(
    *,
    asked: ProblemOptions,
    dataflow: Annotated[
        str,
        typer.Option(
            "--dataflow",
            metavar="NAME,...|all",
            help=f"How the units share the work: {DATAFLOW_HELP}.",
        ),
    ] = "hocket",
    overrides: OverrideOptions,
    objective: ObjectiveOption = "latency",
    searcher: Annotated[
        str,
        typer.Option(
            "--searcher", metavar="NAME", help=f"How tilings are searched: {SEARCHER_HELP}."
        ),
    ] = "exhaustive",
    budget_tasks: BudgetTasksOption = None,
    seed: SearchSeedOption = 0,
    files: ScheduleFiles,
    json_output: JsonFlag = False,
) -> None:
    """Simulate the best program for one attention on a machine, and say what holds it back.

    No model is needed: the sizes are enough. `--network` takes several names with commas, or `all`,
    and so does `--dataflow`. A dataflow that does not fit the machine is part of the answer; if
    none fits, the exit status is 1.

    **Examples**

    - `hocket simulate --target mas-edge --network bert-base`
    - `hocket simulate -t mas-edge --network bert-base --dataflow all --html schedule.html`
    - `hocket simulate -t mas-edge --problem 32,4096,128 --kv-heads 8 --query-length 1`
    - `hocket simulate -t mas-edge --network all --dataflow mas,flat --vector-cost 128 --json`
    """
    dataflows = _choose_dataflows(dataflow)
    check_searchers([searcher])
    check_objective(objective)
    machine = read_machine(asked, overrides)
    problems = read_problems(asked, overrides, machine)
    jobs = [(name, sizes, flow) for name, sizes in problems for flow in dataflows]
    endings = _endings([(name, flow) for name, _, flow in jobs])
    files.check(endings.values())

    from hocket.compiler.errors import InfeasibleError
    from hocket.simulation import PARETO, search_program
    from hocket.simulation_result import (
        describe_question,
        infeasible_search_to_json,
        infeasible_to_json,
    )

    results: list[SimulationResult] = []
    answers: list[dict[str, Any]] = []
    has_front = objective == PARETO
    with progress_bar("searching") as bar:
        for done, (name, sizes, flow) in enumerate(jobs):
            bar.show(f"{name or 'problem'}, {flow}", done, len(jobs))
            try:
                found = search_program(
                    sizes,
                    machine,
                    dataflow=flow,
                    searcher=searcher,
                    objective=objective,
                    budget_tasks=budget_tasks,
                    seed=seed,
                    network=name,
                )
            except InfeasibleError as error:
                question = describe_question(
                    sizes,
                    machine,
                    dataflow=flow,
                    searcher=searcher,
                    objective=objective,
                    network=name,
                )
                describe = infeasible_search_to_json if has_front else infeasible_to_json
                answers.append(describe(question, error.report or (str(error),)))
                continue
            results.append(found)
            answers.append(found.search_to_json() if has_front else found.to_json())
    written = []
    for result in results:
        written += files.write(result, endings[result.network, result.dataflow])
    if json_output:
        print_json({"results": answers, "written": [str(path) for path in written]})
    else:
        _print_results(results, answers, machine)
        _print_written(written)
    if not results:
        raise typer.Exit(NOTHING_FITS)


def _choose_dataflows(text: str) -> list[str]:
    from hocket.compiler.attention.schedule.dataflows import DATAFLOWS

    if text == ALL:
        return list(DATAFLOWS)[::-1]  # our own first, the plainest last
    names = split_names(text, "--dataflow")
    check_dataflows(names)
    return names


def _endings(asked: list[tuple[str | None, str]]) -> dict[tuple[str | None, str], str]:
    """Return what tells apart the files of several networks and dataflows."""
    num_networks = len({network for network, _ in asked})
    num_dataflows = len({dataflow for _, dataflow in asked})
    endings = {}
    for network, dataflow in asked:
        parts = [network] if network and num_networks > 1 else []
        parts += [dataflow] if num_dataflows > 1 else []
        endings[network, dataflow] = "".join(f"-{part}" for part in parts)
    return endings


def _print_results(
    results: list["SimulationResult"], answers: list[dict[str, Any]], machine: "HardwareModel"
) -> None:
    console = answer_console()
    console.print(str(machine))
    if results:
        _print_table(console, results)
    for result in results:
        start = f"{_name(result.network, result.dataflow)}: " if len(results) > 1 else ""
        console.print(f"{start}{result.explanation}", soft_wrap=True)
    for answer in answers:
        if answer["infeasible"]:
            print_infeasible(console, _name(answer["network"], answer["dataflow"]), answer)
    if len(results) == 1:
        _print_details(console, results[0])


def _print_written(written: list[Path]) -> None:
    console = answer_console()
    for path in written[:MAX_WRITTEN_LINES]:
        console.print(f"written: {path}", soft_wrap=True)
    if len(written) > MAX_WRITTEN_LINES:
        console.print(f"and {len(written) - MAX_WRITTEN_LINES} files more beside them")


def _name(network: str | None, dataflow: str) -> str:
    return f"{network}, {dataflow}" if network else dataflow


def _print_table(console: "Console", results: list["SimulationResult"]) -> None:
    table = plain_table(
        "attention",
        "dataflow",
        "cycles",
        "of bound",
        "time",
        "matrix",
        "vector",
        "DMA",
        "energy",
        "DRAM",
        "on chip",
        "search",
        "",
    )
    table.columns[1].justify = table.columns[-1].justify = "left"
    for result in results:
        estimate, problem = result.estimate, result.problem
        sizes = f"{problem.query_heads}, {problem.kv_length}, {problem.head_dim}"
        extrapolated = "" if estimate.is_simulated else " *"
        table.add_row(
            result.network or sizes,
            result.dataflow,
            f"{estimate.cycles:,.0f}{extrapolated}",
            format_ratio(estimate.of_bound),
            format_seconds(estimate.seconds),
            f"{estimate.matrix_utilization:.0%}",
            f"{estimate.vector_utilization:.0%}",
            f"{estimate.dma_utilization:.0%}",
            format_joules(estimate.joules),
            format_bytes(estimate.dram_bytes),
            format_bytes(estimate.peak_on_chip_bytes),
            format_seconds(result.search_seconds),
            "proved optimal" if result.search.is_optimal else "",
        )
    console.print(table)
    note = "matrix, vector and DMA: share of the time in which that unit works"
    if not all(result.estimate.is_simulated for result in results):
        note += "; *: extrapolated from the beginning of the program"
    console.print(note, style="dim")


def _print_details(console: "Console", result: "SimulationResult") -> None:
    from hocket.hwmodels.trace import opening_gantt

    estimate = result.estimate
    console.print(f"tiling: {result.tiling}", soft_wrap=True)
    losses = "; ".join(str(loss) for loss in result.explanation.losses)
    console.print(
        f"beyond the bound, cycles of the {result.explanation.binding}: {losses or 'nothing'}",
        soft_wrap=True,
    )
    console.print(
        f"energy: {format_joules(estimate.compute_joules)} arithmetic, "
        f"{format_joules(estimate.on_chip_joules)} on-chip memory, "
        f"{format_joules(estimate.dram_joules)} DRAM, "
        f"{format_joules(estimate.leakage_joules)} leakage"
    )
    console.print(f"search: {result.search.stop_reason}")
    console.print()
    chart = opening_gantt(result.timeline, gantt_columns(console), estimate.cycles)
    console.print(chart, soft_wrap=True)
