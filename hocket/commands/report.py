"""``hocket report``: a compiled module as a page that needs no network."""

from pathlib import Path
from typing import Annotated

import typer

from hocket.commands.output_files import check_outputs
from hocket.commands.terminal import ArtifactArgument, answer_console


def report_command(
    module: ArtifactArgument,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="The page; beside the module by default.",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        int, typer.Option("--layer", min=0, help="Whose schedule and tilings are shown, from 0.")
    ] = 0,
) -> None:
    """Write what was compiled, and what it is predicted to take, as one HTML page.

    The page has each layer's cycles, energy and memory, the schedule of one layer to zoom into, the
    roofline of the machine, and a map of the tilings there are. It loads nothing.

    **Examples**

    - `hocket report model.hkt`
    - `hocket report model.hkt --layer 3 -o report.html`
    """
    from hocket.inspection import inspect_artifact
    from hocket.report.module_report import module_report
    from hocket.runtime.artifact import load_artifact
    from hocket.runtime.files import atomic_file

    path = output or module.with_suffix(".html")
    check_outputs({"--output": path}, [module])
    report = inspect_artifact(load_artifact(module))
    if report.layers and layer >= len(report.layers):
        raise typer.BadParameter(
            f"there are {len(report.layers)} layers, from 0 to {len(report.layers) - 1}",
            param_hint="--layer",
        )
    page = module_report(report, layer)
    with atomic_file(path) as file:
        file.write(page.encode())
    answer_console().print(f"{path}: {len(page):,} bytes", soft_wrap=True)
