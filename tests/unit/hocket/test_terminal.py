from __future__ import annotations

import io
import json
import math

import pytest
import typer
from rich.console import Console

from hocket.commands import terminal
from hocket.commands.photon_rounds import Teller
from hocket.commands.terminal import (
    answer_console,
    format_bytes,
    format_seconds,
    parse_dims,
    parse_pairs,
    plain_table,
    print_json,
    progress_bar,
)
from hocket.fl.core.types import RoundReport

ODD = "x[/foo] [red]y[/red] [bold] :smile: \\[z] [link=a]b"


def test_pairs_split_at_the_last_sign() -> None:
    assert parse_pairs(["a=1", "b=c=d.npy"], "--input") == {"a": "1", "b=c": "d.npy"}


@pytest.mark.parametrize("text", ["a", "=1", "a=", ""])
def test_a_text_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="want name=value"):
        parse_pairs([text], "--input")


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="'a' is given twice"):
        parse_pairs(["a=1", "a=2"], "--input")


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "many", "9" * 5000, "2147483648"])
def test_a_size_that_is_no_positive_integer_is_refused(size: str) -> None:
    with pytest.raises(typer.BadParameter, match="positive integer"):
        parse_dims([f"batch={size}"])


def test_dims_are_read() -> None:
    dims = parse_dims(["batch=1", "ids:1=128", "long=2147483647", "odd=" + "0" * 5000 + "7"])
    assert dims == {"batch": 1, "ids:1": 128, "long": 2147483647, "odd": 7}


def test_json_holds_no_number_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": -math.inf, "e": True}})
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert answer == {"a": None, "b": [None, 1.5], "c": {"d": None, "e": True}}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_440_000, "1.44 MB"), (5e12, "5e+03 GB")],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_bytes_that_were_not_measured() -> None:
    assert format_bytes(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (0.0, "0 us")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_text_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come from users and files; nothing in them is an order to the terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    console = answer_console()
    console.print(ODD)
    console.print(ODD, style="bold")
    table = plain_table(ODD, "other", title=ODD)
    table.add_row(ODD, ODD)
    console.print(table)
    assert capsys.readouterr().out.count(ODD) == 6  # the title, too


def test_steps_of_a_bar_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, markup=False, emoji=False)
    monkeypatch.setattr(terminal, "log_console", lambda: console)
    with progress_bar(ODD) as bar:
        bar.show(ODD, 1, 2)
    assert file.getvalue().count(ODD) >= 2


def test_a_round_of_photon_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    metrics = {"loss": 2.0, "server_perplexity": 8.0, "tokens": 100.0}
    failure = "a sentence that is longer than the terminal is wide, as some of them are"
    report = RoundReport(1, 2, 1, 1, True, metrics, metrics, "", 1.0, (failure,))
    Teller(4).finished(report)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("round 1/4")
    assert second.strip() == failure
