"""Foreseen errors are one paragraph and status 2; anything else is a bug and shows itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hocket import cli, installation
from hocket.compiler.errors import InfeasibleError
from hocket.hwmodels.errors import TargetError
from hocket.installation import Part
from hocket.runtime.errors import ArtifactError

runner = CliRunner()


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=cli._Group, pretty_exceptions_enable=False)
    app.callback()(cli.configure)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    "error",
    [
        TargetError("no such [machine]"),
        ArtifactError("no such [machine]"),
        InfeasibleError("no such [machine]", ("demand: 2", "bound: 1")),
        FileNotFoundError(2, "no such [machine]", "model.onnx"),
    ],
)
def test_a_foreseen_error_is_a_message_and_status_2(error: Exception) -> None:
    result = runner.invoke(app_that_raises(error), ["fail"])
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert "no such [machine]" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installation, "find_parts", lambda: [Part("fl", "", ("torch",), ())])
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    result = runner.invoke(app_that_raises(missing), ["fail"])
    assert result.exit_code == 2
    said = "error: hocket fail takes torch, which is not installed: pip install 'hocket[fl]'"
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    unknown = ModuleNotFoundError("No module named 'nobodys'", name="nobodys")
    assert runner.invoke(app_that_raises(unknown), ["fail"]).exception is unknown


def test_all_that_commands_take_is_told_by_doctor() -> None:
    assert {extra for extras in cli.EXTRAS.values() for extra in extras} <= set(installation.PARTS)
    commands: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for words in cli.EXTRAS:
        command, *rest = words.split()
        assert command in commands
        assert not rest or rest[0] in commands[command].commands


@pytest.mark.parametrize(
    ("stop", "status"), [(KeyboardInterrupt(), 130), (cli.SignalError(signal.SIGTERM), 143)]
)
def test_what_is_stopped_says_how_to_go_on(stop: BaseException, status: int) -> None:
    app = app_that_raises(stop)
    jobs = typer.Typer()
    app.add_typer(jobs, name="jobs")

    @jobs.command("train")
    def train(resume: bool = False) -> None:
        raise stop

    @jobs.command("show")
    def show() -> None:
        raise stop

    for words in (["fail"], ["jobs", "show"]):
        result = runner.invoke(app, words)
        assert (result.exit_code, result.stderr) == (status, "stopped\n")
    result = runner.invoke(app, ["jobs", "train"])
    assert result.exit_code == status
    assert result.stderr == "stopped; the same command with --resume goes on after what is over\n"


SLEEPER = """
import signal, sys, threading
from hocket import cli, __main__

# Where tests run in the background of a shell, it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

@cli.app.command("sleep")
def sleep() -> None:
    try:
        print("asleep", flush=True)
        threading.Event().wait(600)
    finally:
        print("tidied up", flush=True)

sys.argv = ["hocket", "sleep"]
__main__.main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_after_it_has_tidied_up(number: int, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (status, "tidied up\n", "stopped\n")


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for words in (["compile", "--help"], ["compile", "nö.onnx"]):
        done = subprocess.run(
            [sys.executable, "-m", "hocket", *words],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == (0 if "--help" in words else 2)
        assert b"UnicodeEncodeError" not in done.stderr
        assert done.stdout.isascii()


def test_debug_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_that_raises(TargetError("wrong"))
    assert isinstance(runner.invoke(app, ["--debug", "fail"]).exception, TargetError)
    monkeypatch.setenv("HOCKET_DEBUG", "1")
    assert isinstance(runner.invoke(app, ["fail"]).exception, TargetError)


@pytest.mark.parametrize("error", [ValueError("oops"), KeyError("oops"), AssertionError("oops")])
def test_a_bug_is_not_hidden(error: Exception) -> None:
    assert runner.invoke(app_that_raises(error), ["fail"]).exception is error


def test_a_key_error_reads_as_text() -> None:
    class UnknownNameError(KeyError):
        """As a layer of ours would have it."""

    UnknownNameError.__module__ = "hocket.compiler.errors"
    result = runner.invoke(app_that_raises(UnknownNameError("no 'x'")), ["fail"])
    assert "error: no 'x'" in result.stderr
