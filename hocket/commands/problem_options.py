"""The options of commands that search programs for an attention by its sizes, and their checks.

Names are written out in the help, so that ``--help`` loads nothing heavy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands.terminal import parse_size
from hocket.compiler.problem import MAX_EXTENT
from hocket.hwmodels.checks import shown

if TYPE_CHECKING:
    from hocket.compiler.problem import AttentionProblem
    from hocket.hwmodels.machine import HardwareModel

ALL = "all"

DATAFLOW_HELP = "hocket (our own), mas, fusemax, flat, tileflow, soft_pipe, layerwise"
SEARCHER_HELP = "exhaustive, random, genetic, tree"

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
        max=10**15,
        help="Tasks that all programs simulated in one search may have together.",
        show_default=False,
    ),
]
SearchSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Of searchers that draw at random.")
]


@dataclass(frozen=True)
class ProblemOptions:
    """Which attention on which machine; the attention by name or by sizes."""

    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME|FILE.toml",
            help="The machine; see `hocket targets`.",
            show_default=False,
        ),
    ]
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help="Sizes by name: bert-base, bert-large, bert-small, llama3-8b, t5-mini, vit-b-14, "
            "vit-l-14, vit-h-14, vit-b-16, vit-l-16, vit-h-16, xlm.",
            show_default=False,
        ),
    ] = None
    problem: Annotated[
        str | None,
        typer.Option(
            "--problem",
            metavar="H,N,E",
            help="Sizes in place of a name: heads, rows of query and key, columns of a head.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class OverrideOptions:
    """What is to differ from an attention of the usual shape, and from the machine as it is."""

    causal: Annotated[
        bool, typer.Option("--causal", help="Each row sees only the keys up to its own.")
    ] = False
    kv_heads: Annotated[
        int | None,
        typer.Option(
            "--kv-heads",
            min=1,
            max=MAX_EXTENT,
            help="Heads of key and value; as many as query heads by default.",
            show_default=False,
        ),
    ] = None
    query_length: Annotated[
        int | None,
        typer.Option(
            "--query-length",
            min=1,
            max=MAX_EXTENT,
            help="Rows of the query; N by default, 1 for a decoding step.",
            show_default=False,
        ),
    ] = None
    batch: Annotated[int, typer.Option("--batch", min=1, max=MAX_EXTENT, help="Sequences.")] = 1
    vector_cost: Annotated[
        float | None,
        typer.Option(
            "--vector-cost",
            metavar="C",
            help="Lane-cycles of the whole softmax per score, in place of the machine's.",
            show_default=False,
        ),
    ] = None
    on_chip_bytes: Annotated[
        int | None,
        typer.Option(
            "--on-chip-bytes",
            metavar="N",
            min=1,
            help="Size of the on-chip memory, in place of the machine's.",
            show_default=False,
        ),
    ] = None


def read_problems(
    asked: ProblemOptions, overrides: OverrideOptions, machine: "HardwareModel"
) -> list[tuple[str | None, "AttentionProblem"]]:
    """Return name (None for sizes) and problem of all that was asked for, on a machine.

    Raises:
        typer.BadParameter: Neither or both of ``--network`` and ``--problem`` were given, or what
            was given does not make a problem; the message names the option.
    """
    from hocket.simulation import make_problem

    named = _read_sizes(asked)
    made = []
    for name, (heads, length, head_dim) in named:
        try:
            found = make_problem(
                heads,
                length,
                head_dim,
                batch=overrides.batch,
                kv_heads=overrides.kv_heads,
                query_length=overrides.query_length,
                is_causal=overrides.causal,
                element_bytes=machine.element_bytes,
            )
        except ValueError as error:
            where = f"{name}: " if name else ""
            raise typer.BadParameter(
                f"{where}{error}", param_hint=_hint_of(str(error), asked.problem)
            ) from error
        made.append((name, found))
    return made


def read_machine(asked: ProblemOptions, overrides: OverrideOptions) -> "HardwareModel":
    """Return the machine asked for.

    Raises:
        TargetError: The machine is unknown, or its description wrong.
        typer.BadParameter: ``--vector-cost`` or ``--on-chip-bytes`` is out of range.
    """
    from hocket.hwmodels.loader import load_target
    from hocket.simulation import adapt_machine

    machine = load_target(asked.target)
    changes: dict[str, dict[str, Any]] = {
        "--vector-cost": {"vector_cost": overrides.vector_cost},
        "--on-chip-bytes": {"on_chip_bytes": overrides.on_chip_bytes},
    }
    for option, change in changes.items():
        try:
            machine = adapt_machine(machine, **change)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=option) from error
    return machine


def check_objective(name: str) -> None:
    """Make sure that there is an objective of this name.

    Raises:
        typer.BadParameter: There is none.
    """
    from hocket.compiler.attention.search.objective import OBJECTIVES
    from hocket.simulation import PARETO

    _check_names([name], (*OBJECTIVES, PARETO), "objective", "--objective")


def check_searchers(names: list[str]) -> None:
    """Make sure that there are searchers of these names.

    Raises:
        typer.BadParameter: There are not.
    """
    from hocket.compiler.attention.search.searchers import SEARCHERS

    _check_names(names, tuple(SEARCHERS), "searcher", "--searcher")


def check_dataflows(names: list[str]) -> None:
    """Make sure that there are dataflows of these names.

    Raises:
        typer.BadParameter: There are not.
    """
    from hocket.compiler.attention.schedule.dataflows import DATAFLOWS

    _check_names(names, tuple(DATAFLOWS), "dataflow", "--dataflow")


def split_names(text: str, option: str) -> list[str]:
    """Return the names of a list with commas, each once.

    Raises:
        typer.BadParameter: A name is empty.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise typer.BadParameter(
            f"want names with commas between them, got {text!r}", param_hint=option
        )
    return names


def _check_names(names: list[str], known: tuple[str, ...], what: str, option: str) -> None:
    """Make sure that names are known; the message about one that is not lists those that are."""
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"unknown {what} {name!r}; there are {', '.join(known)}", param_hint=option
            )


def _read_sizes(asked: ProblemOptions) -> list[tuple[str | None, tuple[int, int, int]]]:
    """Return name (None for sizes) and sizes of all that was asked for."""
    from hocket.networks import NETWORKS, network_sizes

    network, problem = asked.network, asked.problem
    if (network is None) == (problem is None):
        raise typer.BadParameter(
            "give one of the two: a network's name, or sizes as in --problem 12,512,64",
            param_hint="--network / --problem",
        )
    if problem is not None:
        return [(None, _parse_sizes(problem))]
    names = list(NETWORKS) if network == ALL else split_names(network or "", "--network")
    try:
        return [(name, network_sizes(name)) for name in names]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from error


def _parse_sizes(text: str) -> tuple[int, int, int]:
    sizes = [parse_size(part.strip(), MAX_EXTENT) for part in text.split(",")]
    if len(sizes) != 3 or None in sizes:
        raise typer.BadParameter(
            "want heads, rows and columns as three positive integers up to "
            f"{MAX_EXTENT:,}, as in 12,512,64; got {shown(text)}",
            param_hint="--problem",
        )
    heads, length, head_dim = (size or 0 for size in sizes)
    return heads, length, head_dim


def _hint_of(message: str, problem: str | None) -> str:
    """Return the option to blame for sizes that do not go together."""
    if "kv_heads" in message:
        return "--kv-heads"
    if "causal" in message:
        return "--query-length"
    return "--problem" if problem is not None else "--network"
