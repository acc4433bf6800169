from __future__ import annotations

import json
import math

import pytest
import typer

from hocket.commands.terminal import (
    format_bytes,
    format_seconds,
    parse_dims,
    parse_pairs,
    print_json,
)


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
