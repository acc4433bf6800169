"""What the commands share of the terminal: answers go to stdout, everything else to stderr."""

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hocket.hwmodels.checks import shown

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Answer with one JSON object on stdout (see docs/cli.md).")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, help="Threads; 0 for one a core.", show_default=True)
]
SizesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        "-d",
        metavar="NAME=SIZE",
        help="Size of a dimension that the module leaves open; repeat it.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random inputs.")]
ArtifactArgument = Annotated[
    Path,
    typer.Argument(metavar="MODULE.hkt", help="A compiled module.", show_default=False),
]
AgainstOption = Annotated[
    Path,
    typer.Option(
        "--against",
        metavar="MODEL.onnx",
        help="The ONNX file it was compiled from.",
        show_default=False,
    ),
]


# A sum of dimensions, at least one of which has a name.
_SUM = re.compile(r"(?=.*[A-Za-z_])[\w.]+(\s*[+-]\s*[\w.]+)+")

# Largest size of a model's dimension.
MAX_DIM = 2**31 - 1

# Where stdout is a file or a pipe: wide enough that tables keep one line a row.
PIPE_COLUMNS = 160


def answer_console() -> Console:
    """Return the console for answers, on stdout; see ``log_console``."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS
    return console


def log_console() -> Console:
    """Return the console for progress and messages, on stderr.

    Text is shown as it is, in tables, too, whatever brackets and colons it has: names come from
    users and from files. What is to have a style is a ``rich.text.Text``.
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(answer: dict[str, Any]) -> None:
    """Write one JSON object to stdout; numbers that JSON lacks (NaN, infinities) become null."""
    json.dump(_finite(answer), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def plain_table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table: the first column on the left, the others on the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
    return table


@contextlib.contextmanager
def progress_bar(description: str, total: float | None = None) -> Iterator["Bar"]:
    """Show a bar on stderr while the block runs; nothing where stderr is no terminal."""
    console = log_console()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield Bar(progress, progress.add_task(description, total=total, step=""))


class Bar:
    """A progress bar in use."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def show(self, step: str, done: float, total: float) -> None:
        """Say what is going on, and how much of how much is done."""
        self._progress.update(self._task, step=step, completed=done, total=total)


def parse_pairs(texts: list[str], option: str) -> dict[str, str]:
    """Split ``name=value`` texts.

    Raises:
        typer.BadParameter: A text has no name or no value, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        # At the last sign: names of inputs may hold one, sizes and files hardly do.
        name, _, value = text.rpartition("=")
        if not name or not value:
            raise typer.BadParameter(f"want name=value, got {text!r}", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def parse_dims(texts: list[str]) -> dict[str, int]:
    """Read ``--dim name=size`` texts.

    Raises:
        typer.BadParameter: A size is not a positive integer, or out of all range.
    """
    dims = {}
    for name, value in parse_pairs(texts, "--dim").items():
        size = parse_size(value, MAX_DIM)
        if size is None:
            raise typer.BadParameter(
                f"the size of {name!r} must be a positive integer up to {MAX_DIM:,}, "
                f"got {shown(value)}",
                param_hint="--dim",
            )
        dims[name] = size
    return dims


def parse_open_dims(texts: list[str]) -> dict[str, int | str | tuple[int, int]]:
    """Read ``--dim name=size``, ``--dim name=least..largest`` and ``--dim "name=one + other"``.

    Raises:
        typer.BadParameter: A size is not a positive integer, or out of all range.
    """
    dims: dict[str, int | str | tuple[int, int]] = {}
    for name, value in parse_pairs(texts, "--dim").items():
        if _SUM.fullmatch(value):
            dims[name] = value
            continue
        least, dots, largest = value.partition("..")
        if not dots:
            dims |= parse_dims([f"{name}={value}"])
            continue
        span = parse_size(least, MAX_DIM), parse_size(largest, MAX_DIM)
        if span[0] is None or span[1] is None or span[0] > span[1]:
            raise typer.BadParameter(
                f"the sizes of {name!r} must be two positive integers up to {MAX_DIM:,}, the least "
                f"and the largest, as in 1..512, got {shown(value)}",
                param_hint="--dim",
            )
        dims[name] = (span[0], span[1])
    return dims


def parse_size(text: str, most: int) -> int | None:
    """Return a positive integer of decimal digits; None if it is none, or more than ``most``."""
    if not (text.isascii() and text.isdecimal()):
        return None
    # Python reads, and shows, only so many digits.
    digits = text.lstrip("0")
    size = int(digits) if 0 < len(digits) <= len(str(most)) else 0
    return size if 1 <= size <= most else None


def format_bytes(count: float | None) -> str:
    """Return a byte count for people, ``1.4 MB``."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """Return a time for people, ``1.4 ms``."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError("unreachable")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
