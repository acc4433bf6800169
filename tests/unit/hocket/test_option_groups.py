"""Options that are declared once, as fields of a dataclass, and taken by several commands."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from hocket.commands.option_groups import expand_option_groups


@dataclass(frozen=True)
class Size:
    rows: Annotated[int, typer.Option("--rows", "-r", min=1)]
    columns: Annotated[int | None, typer.Option("--columns")] = None


@expand_option_groups
def show(
    *,
    first: Annotated[bool, typer.Option("--first")] = False,
    size: Size,
    last: Annotated[int, typer.Option("--last")] = 7,
) -> None:
    """Show what was given."""
    typer.echo(f"{first} {size} {last}")


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(show)
    result = CliRunner().invoke(app, arguments)
    return result.stdout if result.exit_code == 0 else f"exit {result.exit_code}"


def test_the_fields_stand_in_the_place_of_their_group() -> None:
    assert list(inspect.signature(show).parameters) == ["first", "rows", "columns", "last"]
    assert inspect.getdoc(show) == "Show what was given."


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-r", "2"], "False Size(rows=2, columns=None) 7\n"),
        (
            ["--first", "--rows", "2", "--columns", "3", "--last", "4"],
            "True Size(rows=2, columns=3) 4\n",
        ),
        ([], "exit 2"),
        (["--rows", "0"], "exit 2"),
    ],
)
def test_a_command_gets_its_groups_filled(arguments: list[str], expected: str) -> None:
    assert run(*arguments) == expected
