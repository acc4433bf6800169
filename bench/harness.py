"""What every bench shares: its switches, its table, and a stamp that says what it ran on."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("hocket", "numba", "numpy", "onnx", "onnxruntime")
ROOT = Path(__file__).parent.parent

_MIN_WIDTH, _MAX_WIDTH = 160, 400


@dataclass(frozen=True)
class Choices:
    """The switches every bench has.

    Attributes:
        quick: A short form that ends within a minute.
        json_path: Where to write the result; None for nowhere.
        threads: Thread counts to measure.
    """

    quick: bool
    json_path: Path | None
    threads: tuple[int, ...]


def parse_choices(question: str, switches: tuple[str, ...] = ()) -> tuple[Choices, set[str]]:
    """Read the command line of a bench that answers ``question``.

    Args:
        question: What it answers.
        switches: Further flags it knows.

    Returns:
        The choices every bench has, and which of the further flags are set.
    """
    parser = make_parser(question)
    for switch in switches:
        parser.add_argument(switch, action="append_const", dest="switches", const=switch)
    found = parser.parse_args()
    return choices_of(found), set((getattr(found, "switches", None) or []) if switches else [])


def make_parser(question: str) -> argparse.ArgumentParser:
    """Return a parser of the switches every bench has, for one that adds its own."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a short form, within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="thread counts"
    )
    return parser


def choices_of(found: argparse.Namespace) -> Choices:
    """Return the choices every bench has, as ``make_parser``'s parser found them."""
    return Choices(found.quick, found.json, tuple(found.threads))


def stamp(packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    """Return what a figure depends on besides the code: machine, versions, commit, command.

    Args:
        packages: Those whose versions matter; all must be installed.
    """
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def run_bench(
    question: str,
    columns: dict[str, str],
    measure: Callable[[Choices], list[dict[str, Any]]],
) -> None:
    """Be a bench: read the command line, measure, and ``report`` the rows.

    Args:
        question: What the bench answers.
        columns: As ``report`` takes them.
        measure: Returns the rows.
    """
    choices, _ = parse_choices(question)
    report(question, measure(choices), columns, choices)


def report(
    question: str,
    rows: list[dict[str, Any]],
    columns: dict[str, str],
    choices: Choices,
    *,
    shown: list[dict[str, Any]] | None = None,
    notes: tuple[str, ...] = (),
    about: dict[str, Any] | None = None,
) -> None:
    """Print rows as a table and write them, stamped, where the command line says.

    Args:
        question: Title of the table.
        rows: One dict a row, alike in keys.
        columns: The keys that are shown, each with its format: ``{"ours_ms": ".2f"}``.
        choices: Of the command line.
        shown: Rows to print in place of those that are written.
        notes: Lines below the table.
        about: The stamp; ``stamp()`` by default.
    """
    table = Table(title=question, title_justify="left")
    for key in columns:
        table.add_column(key.replace("_", " "), justify="right", overflow="fold")
    for row in rows if shown is None else shown:
        table.add_row(*(format(row[key], form) for key, form in columns.items()))
    # In a file or a pipe, as wide as it needs to be.
    needed = Console(width=_MAX_WIDTH).measure(table).maximum
    console = Console(width=None if sys.stdout.isatty() else max(needed, _MIN_WIDTH))
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False)
    about = about or stamp()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    console.print(
        f"{about['cpu']}, {about['cores']} cores, load {about['load_average']}; {versions}",
        style="dim",
    )
    if choices.json_path is not None:
        write_rows(question, rows, choices.json_path, about)
        console.print(f"written to {choices.json_path}")


def write_rows(
    question: str, rows: list[dict[str, Any]], path: Path, about: dict[str, Any]
) -> None:
    """Write rows as JSON, all of them or none.

    Args:
        question: Title of the table.
        rows: One dict a row.
        path: The file.
        about: The stamp.
    """
    content = json.dumps({"question": question, "stamp": about, "rows": rows}, indent=1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content + "\n", encoding="utf-8")
    temporary.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that ``write_rows`` wrote; none if there is no such file."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def _cpu_name() -> str:
    from llvmlite.binding import get_host_cpu_name

    from hocket.runtime.cpu import detect_cpu

    return f"{platform.machine()} {get_host_cpu_name()}, {detect_cpu().vector_lanes} lanes"
