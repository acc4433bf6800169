"""``hocket simulate``: one attention on a machine, searched, simulated and explained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from collections.abc import Callable

NOTHING_FITS = 1
ALL = "all"
MAX_WRITTEN_LINES = 6

MAX_GANTT_COLUMNS = 120
# What stands to the left of the chart: the core and the unit.
GANTT_MARGIN = 16

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE.toml",
        help="The machine; see `hocket targets`.",
        show_default=False,
    ),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="NAME",
        help="Sizes by name: bert-base, bert-large, bert-small, llama3-8b, t5-mini, vit-b-14, "
        "vit-l-14, vit-h-14, vit-b-16, vit-l-16, vit-h-16, xlm.",
        show_default=False,
    ),
]
ProblemOption = Annotated[
    str | None,
    typer.Option(
        "--problem",
        metavar="H,N,E",
        help="Sizes in place of a name: heads, rows of query and key, columns of a head.",
        show_default=False,
    ),
]
CausalFlag = Annotated[
    bool, typer.Option("--causal", help="Each row sees only the keys up to its own.")
]
KvHeadsOption = Annotated[
    int | None,
    typer.Option(
        "--kv-heads",
        min=1,
        help="Heads of key and value; as many as query heads by default.",
        show_default=False,
    ),
]
QueryLengthOption = Annotated[
    int | None,
    typer.Option(
        "--query-length",
        min=1,
        help="Rows of the query; N by default, 1 for a decoding step.",
        show_default=False,
    ),
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Sequences.")]
VectorCostOption = Annotated[
    float | None,
    typer.Option(
        "--vector-cost",
        metavar="C",
        help="Lane-cycles of the whole softmax per score, in place of the machine's.",
        show_default=False,
    ),
]
OnChipOption = Annotated[
    int | None,
    typer.Option(
        "--on-chip-bytes",
        metavar="N",
        min=1,
        help="Size of the on-chip memory, in place of the machine's.",
        show_default=False,
    ),
]
ObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="NAME",
        help="What to minimise: latency, energy, or pareto for the front between the two.",
    ),
]
BudgetTasksOption = Annotated[
    int | None,
    typer.Option(
        "--budget-tasks",
        metavar="N",
        min=1,
        help="Tasks that all programs simulated in one search may have together.",
        show_default=False,
    ),
]
SearchSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Of searchers that draw at random.")
]
DATAFLOW_HELP = "hocket (our own), mas, fusemax, flat, tileflow, soft_pipe, layerwise"
SEARCHER_HELP = "exhaustive, random, genetic, tree"


def simulate_command(
    *,
    target: TargetOption,
    network: NetworkOption = None,
    problem: ProblemOption = None,
    dataflow: Annotated[
        str,
        typer.Option(
            "--dataflow",
            metavar="NAME,...|all",
            help=f"How the units share the work: {DATAFLOW_HELP}.",
        ),
    ] = "hocket",
    causal: CausalFlag = False,
    kv_heads: KvHeadsOption = None,
    query_length: QueryLengthOption = None,
    batch: BatchOption = 1,
    vector_cost: VectorCostOption = None,
    on_chip_bytes: OnChipOption = None,
    objective: ObjectiveOption = "latency",
    searcher: Annotated[
        str,
        typer.Option(
            "--searcher", metavar="NAME", help=f"How tilings are searched: {SEARCHER_HELP}."
        ),
    ] = "exhaustive",
    budget_tasks: BudgetTasksOption = None,
    seed: SearchSeedOption = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the beginning of the schedule; of several results each has a file.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="The schedule, to zoom into."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE.json", help="The schedule for a trace viewer."),
    ] = None,
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
    problems = read_problems(
        network,
        problem,
        batch=batch,
        kv_heads=kv_heads,
        query_length=query_length,
        is_causal=causal,
        target=target,
    )
    machine = read_machine(target, vector_cost, on_chip_bytes)
    _check_files(plot, html, trace)

    from hocket.compiler.errors import InfeasibleError
    from hocket.simulation import infeasible_to_json, search_program

    results: list[Any] = []
    answers: list[dict[str, Any]] = []
    jobs = [(name, sizes, flow) for name, sizes in problems for flow in dataflows]
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
                lines = error.report or (str(error),)
                answers.append(infeasible_to_json(sizes, machine, flow, lines, name))
                continue
            results.append(found)
            answers.append(found.to_json() if objective != "pareto" else found.search_to_json())
    written = _write_files(results, plot, html, trace)
    if json_output:
        print_json({"results": answers, "written": [str(path) for path in written]})
    else:
        _print_results(results, answers, machine)
        _print_written(written)
    if not results:
        raise typer.Exit(NOTHING_FITS)


def read_problems(
    network: str | None, problem: str | None, *, target: str, **sizes: Any
) -> list[tuple[str | None, Any]]:
    """Return name (None for sizes) and problem of all that was asked for.

    Raises:
        typer.BadParameter: Neither or both of ``--network`` and ``--problem`` were given, or what
            was given does not make a problem; the message names the option.
    """
    from hocket.hwmodels.loader import load_target
    from hocket.networks import NETWORKS, network_sizes
    from hocket.simulation import make_problem

    if (network is None) == (problem is None):
        raise typer.BadParameter(
            "give one of the two: a network's name, or sizes as in --problem 12,512,64",
            param_hint="--network / --problem",
        )
    named: list[tuple[str | None, tuple[int, int, int]]]
    if problem is not None:
        named = [(None, _parse_sizes(problem))]
    else:
        names = list(NETWORKS) if network == ALL else _split(network or "", "--network")
        try:
            named = [(name, network_sizes(name)) for name in names]
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--network") from error
    element_bytes = load_target(target).element_bytes
    made = []
    for name, (heads, length, head_dim) in named:
        try:
            found = make_problem(heads, length, head_dim, element_bytes=element_bytes, **sizes)
        except ValueError as error:
            where = f"{name}: " if name else ""
            raise typer.BadParameter(
                f"{where}{error}", param_hint=_hint_of(str(error), problem)
            ) from error
        made.append((name, found))
    return made


def read_machine(target: str, vector_cost: float | None, on_chip_bytes: int | None) -> Any:
    """Return the machine asked for.

    Raises:
        TargetError: The machine is unknown, or its description wrong.
        typer.BadParameter: ``--vector-cost`` is out of range.
    """
    from hocket.hwmodels.loader import load_target
    from hocket.simulation import adapt_machine

    machine = load_target(target)
    try:
        return adapt_machine(machine, vector_cost=vector_cost, on_chip_bytes=on_chip_bytes)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--vector-cost") from error


def check_objective(name: str) -> None:
    """Make sure that there is an objective of this name.

    Raises:
        typer.BadParameter: There is none.
    """
    from hocket.compiler.attention.search.objective import OBJECTIVES
    from hocket.simulation import PARETO

    check_names([name], (*OBJECTIVES, PARETO), "objective", "--objective")


def check_searchers(names: list[str]) -> None:
    """Make sure that there are searchers of these names.

    Raises:
        typer.BadParameter: There are not.
    """
    from hocket.compiler.attention.search.searchers import SEARCHERS

    check_names(names, tuple(SEARCHERS), "searcher", "--searcher")


def check_dataflows(names: list[str]) -> None:
    """Make sure that there are dataflows of these names.

    Raises:
        typer.BadParameter: There are not.
    """
    from hocket.compiler.attention.schedule.dataflows import DATAFLOWS

    check_names(names, tuple(DATAFLOWS), "dataflow", "--dataflow")


def check_names(names: list[str], known: tuple[str, ...], what: str, option: str) -> None:
    """Make sure that names are known.

    Raises:
        typer.BadParameter: One is not; the message lists those that are.
    """
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"unknown {what} {name!r}; there are {', '.join(known)}", param_hint=option
            )


def format_ratio(ratio: float) -> str:
    """Return a ratio to the bound, ``1.04x``; with one more digit where that shows."""
    return f"{ratio:.3f}x" if ratio < 1.1 else f"{ratio:.2f}x"


def format_joules(joules: float) -> str:
    """Return an energy for people, ``2.26 mJ``."""
    for factor, unit in ((1, "J"), (1e3, "mJ"), (1e6, "uJ")):
        if joules * factor >= 1 or unit == "uJ":
            return f"{joules * factor:.4g} {unit}"
    raise AssertionError("unreachable")


def _choose_dataflows(text: str) -> list[str]:
    from hocket.compiler.attention.schedule.dataflows import DATAFLOWS

    if text == ALL:
        return list(DATAFLOWS)[::-1]  # our own first, the plainest last
    names = _split(text, "--dataflow")
    check_dataflows(names)
    return names


def _split(text: str, option: str) -> list[str]:
    """Return the names of a list with commas, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise typer.BadParameter(
            f"want names with commas between them, got {text!r}", param_hint=option
        )
    return names


def _parse_sizes(text: str) -> tuple[int, int, int]:
    parts = [part.strip() for part in text.split(",")]
    is_good = len(parts) == 3 and all(
        part.isascii() and part.isdecimal() and int(part) >= 1 for part in parts
    )
    if not is_good:
        raise typer.BadParameter(
            f"want heads, rows and columns as three positive integers, as in 12,512,64; "
            f"got {text!r}",
            param_hint="--problem",
        )
    heads, length, head_dim = map(int, parts)
    return heads, length, head_dim


def _hint_of(message: str, problem: str | None) -> str:
    """Return the option to blame for sizes that do not go together."""
    if "kv_heads" in message:
        return "--kv-heads"
    if "causal" in message:
        return "--query-length"
    return "--problem" if problem is not None else "--network"


def _check_files(plot: Path | None, html: Path | None, trace: Path | None) -> None:
    """Complain of what cannot be written before the search, not after it."""
    for path, option in ((plot, "--plot"), (html, "--html"), (trace, "--trace")):
        if path is None:
            continue
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder; want a file", param_hint=option)
        if not path.absolute().parent.is_dir():
            raise typer.BadParameter(
                f"there is no folder {path.parent}; make it first", param_hint=option
            )
    if plot is not None:
        from hocket.plotting import check_can_draw

        check_can_draw()


def _write_files(
    results: list[Any], plot: Path | None, html: Path | None, trace: Path | None
) -> list[Path]:
    networks = {result.network for result in results}
    dataflows = {result.dataflow for result in results}
    written = []
    for result in results:
        parts = [result.network] if len(networks) > 1 else []
        parts += [result.dataflow] if len(dataflows) > 1 else []
        jobs: list[tuple[Path | None, Callable[[Path], None]]] = [
            (plot, result.write_plot),
            (html, result.write_html),
            (trace, result.write_trace),
        ]
        for path, write in jobs:
            if path is not None:
                own = path.with_stem("-".join((path.stem, *parts)))
                write(own)
                written.append(own)
    return written


def _print_results(results: list[Any], answers: list[dict[str, Any]], machine: Any) -> None:
    console = answer_console()
    console.print(str(machine), markup=False)
    if results:
        _print_table(console, results)
    for result in results:
        start = f"{_name(result.network, result.dataflow)}: " if len(results) > 1 else ""
        console.print(f"{start}{result.explanation}", markup=False, soft_wrap=True)
    for answer in answers:
        if answer["infeasible"]:
            console.print(
                f"{_name(answer['network'], answer['dataflow'])} does not fit {answer['target']}:",
                style="yellow",
            )
            for line in answer["infeasible"]:
                console.print(f"  {line}", markup=False, soft_wrap=True)
    if len(results) == 1:
        _print_details(console, results[0])


def _print_written(written: list[Path]) -> None:
    console = answer_console()
    for path in written[:MAX_WRITTEN_LINES]:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    if len(written) > MAX_WRITTEN_LINES:
        console.print(f"and {len(written) - MAX_WRITTEN_LINES} files more beside them")


def _name(network: str | None, dataflow: str) -> str:
    return f"{network}, {dataflow}" if network else dataflow


def _print_table(console: Any, results: list[Any]) -> None:
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


def _print_details(console: Any, result: Any) -> None:
    from hocket.hwmodels.trace import opening_gantt

    estimate = result.estimate
    console.print(f"tiling: {result.tiling}", markup=False, soft_wrap=True)
    losses = "; ".join(str(loss) for loss in result.explanation.losses)
    console.print(
        f"beyond the bound, cycles of the {result.explanation.binding}: {losses or 'nothing'}",
        markup=False,
        soft_wrap=True,
    )
    console.print(
        f"energy: {format_joules(estimate.compute_joules)} arithmetic, "
        f"{format_joules(estimate.on_chip_joules)} on-chip memory, "
        f"{format_joules(estimate.dram_joules)} DRAM, "
        f"{format_joules(estimate.leakage_joules)} leakage"
    )
    console.print(f"search: {result.search.stop_reason}", markup=False)
    columns = max(min(console.width, MAX_GANTT_COLUMNS) - GANTT_MARGIN, 20)
    console.print()
    chart = opening_gantt(result.timeline, columns, estimate.cycles)
    console.print(chart, markup=False, soft_wrap=True)
