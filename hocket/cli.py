"""The ``hocket`` command: one subcommand a file of ``hocket.commands``, put together here.

Exit status: 0 for done, 1 for "the answer is no" (``verify`` past tolerance, ``simulate`` where
nothing fits), 2 for a wrong use or a bad input. An error that Hocket foresees is one paragraph on
stderr; ``--debug`` shows where it came from. Any other exception is a bug in Hocket and shows its
traceback. 130 and 143 are said of a command that Ctrl-C or SIGTERM ended.
"""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from hocket.commands import (
    bench,
    compile,  # noqa: A004
    doctor,
    export,
    federate,
    fleet,
    inspect,
    photon,
    prophet,
    report,
    run,
    search,
    simulate,
    store,
    targets,
    venn,
    verify,
)
from hocket.commands.terminal import log_console

BAD_INPUT = 2
SIGNALLED = 128  # and the number of the signal, as shells have it

EXTRAS = {
    "export": ("export",),
    "federate": ("fl",),
    "fleet": ("photon", "store"),
    "photon": ("photon",),
    "prophet": ("fl",),
    "store": ("store",),
    "store serve": ("store", "service"),
    "venn": ("service",),
}
"""What commands take that not all of Hocket does."""


class SignalError(KeyboardInterrupt):
    """A signal has come that ends the command, as Ctrl-C does.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class _Asked:
    """A command as it was asked for: its words, such as ``store serve``, and its options."""

    words: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()


class _Group(TyperGroup):
    """Turns errors that Hocket foresees, and signals, into a message and a status."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        inner = getattr(command, "commands", {}).get(rest[0]) if rest else None
        words = (name or "",) if inner is None else (name or "", rest[0])
        params = [] if command is None else (inner or command).params
        ctx.obj = _Asked(words, frozenset(each.name or "" for each in params))
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as caught:
            number = caught.number if isinstance(caught, SignalError) else signal.SIGINT
            mend = "; the same command with --resume goes on after what is over"
            can_resume = "resume" in (ctx.obj or _Asked()).options
            log_console().print(f"stopped{mend if can_resume else ''}", soft_wrap=True)
            raise typer.Exit(SIGNALLED + number) from caught
        except Exception as caught:
            error = _explained(caught, ctx.obj or _Asked())
            _suggest_once(error)
            if not is_foreseen(error) or _wants_debug(ctx):
                raise
            console = log_console()
            text = Text.assemble(("error:", "bold red"), " ", _message(error))
            console.print(text, soft_wrap=True)
            if error.__cause__ is not None:
                console.print("(--debug before the command shows where it came from)", style="dim")
            raise typer.Exit(BAD_INPUT) from error


def _explained(error: Exception, asked: _Asked) -> Exception:
    # What is missing of an extra is no bug, wherever it was wanted first.
    if not isinstance(error, ModuleNotFoundError):
        return error
    from hocket.installation import missing_package

    words = " ".join(asked.words)
    extras = EXTRAS.get(words) or EXTRAS.get(words.split(" ")[0], ())
    return missing_package(error, f"hocket {words}".strip(), extras) or error


def _suggest_once(error: Exception) -> None:
    # Typer writes what may have been meant into the message, and newer Clicks do so again.
    if getattr(error, "possibilities", None) and "Did you mean" in getattr(error, "message", ""):
        error.possibilities = None  # type: ignore[attr-defined]


def is_foreseen(error: BaseException) -> bool:
    """Whether an exception is one that a Hocket layer raises for what it was given."""
    if isinstance(error, BrokenPipeError):
        return False  # nobody reads on: typer ends the command in silence
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] == "hocket"


def _message(error: Exception) -> str:
    # The text of a KeyError is the repr of its argument.
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _wants_debug(ctx: Any) -> bool:
    return bool(ctx.params.get("debug")) or os.environ.get("HOCKET_DEBUG") == "1"


app = typer.Typer(
    name="hocket",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Start here: `hocket compile model.onnx --dim batch=1 --dim seq=128`, then "
        "`hocket verify model.hkt --against model.onnx`."
    ),
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from hocket import __version__

        sys.stdout.write(f"hocket {__version__}\n")
        raise typer.Exit


@app.callback()
def configure(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on stderr what is being done.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; also HOCKET_DEBUG=1.")
    ] = False,
) -> None:
    """Compile ONNX attention models for edge devices, and run, check and measure the result."""
    del version
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("hocket").setLevel(level)


app.command("compile")(compile.compile_command)
app.command("export")(export.export_command)
app.command("run")(run.run_command)
app.command("verify")(verify.verify_command)
app.command("bench")(bench.bench_command)
app.command("inspect")(inspect.inspect_command)
app.command("report")(report.report_command)
app.command("simulate")(simulate.simulate_command)
app.command("search")(search.search_command)
app.add_typer(targets.app, name="targets")
app.add_typer(federate.app, name="federate")
app.add_typer(venn.app, name="venn")
app.add_typer(store.app, name="store")
app.add_typer(prophet.app, name="prophet")
app.add_typer(photon.app, name="photon")
app.add_typer(fleet.app, name="fleet")
app.command("doctor")(doctor.doctor_command)
