"""Files that commands write: complained of before the work, and not after it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer


@dataclass(frozen=True)
class ScheduleFiles:
    """As which files to write a schedule."""

    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png|svg|pdf",
            help="Draw the beginning of the schedule.",
            show_default=False,
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE.html",
            help="Write the schedule as a page to zoom into.",
            show_default=False,
        ),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE.json",
            help="Write the schedule for a trace viewer.",
            show_default=False,
        ),
    ] = None

    def given(self) -> dict[str, Path]:
        """Return the files asked for, by option."""
        files = {"--plot": self.plot, "--html": self.html, "--trace": self.trace}
        return {option: path for option, path in files.items() if path is not None}

    def check(self, endings: Iterable[str] = ("",), inputs: Iterable[Path] = ()) -> None:
        """Make sure that all files can be written, and as what their names say.

        Args:
            endings: What ``write`` will be told to put behind the names.
            inputs: Files that are read.

        Raises:
            typer.BadParameter: Two are one, or a picture's ending is not known.
            OSError: One cannot be written.
            PlotError: A picture is asked for, and the library that draws it is not installed.
        """
        for ending in endings:
            check_outputs(
                {option: _with_ending(path, ending) for option, path in self.given().items()},
                inputs,
            )
        if self.plot is not None:
            from hocket.plotting import check_can_draw, picture_format

            try:
                picture_format(self.plot)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--plot") from error
            check_can_draw()

    def write(self, schedule: "Schedule", ending: str = "") -> list[Path]:
        """Write the files asked for, with something behind their names; return their paths."""
        writers: dict[str, Any] = {
            "--plot": schedule.write_plot,
            "--html": schedule.write_html,
            "--trace": schedule.write_trace,
        }
        written = []
        for option, path in self.given().items():
            written.append(_with_ending(path, ending))
            writers[option](written[-1])
        return written


class Schedule(Protocol):
    """What has a schedule to write: a simulation's result, or a layer of a module."""

    def write_plot(self, path: Path) -> None:
        """Draw it."""

    def write_html(self, path: Path) -> None:
        """Write it as a page."""

    def write_trace(self, path: Path) -> None:
        """Write it for a trace viewer."""


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Make sure that files can be written, that no two are one, and that none is read, too.

    Args:
        outputs: Files to write, by the option that names each.
        inputs: Files that are read.

    Raises:
        typer.BadParameter: One is another one.
        OSError: One cannot be written; it names the file.
    """
    from hocket.runtime.files import check_writable

    taken = {os.path.realpath(path): "what is read" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise IsADirectoryError(21, "this is a folder; want a file", str(path))
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(2, "there is no such folder; make it first", str(path))
        place = os.path.realpath(path)
        if place in taken:
            raise typer.BadParameter(
                f"{path} is {taken[place]}, too; give another name", param_hint=option
            )
        taken[place] = f"that of {option}"
        check_writable(path)


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_stem(path.stem + ending) if ending else path
