"""``hocket export``: a compiled module becomes what runs on a device without Python."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    parse_dims,
    plain_table,
    print_json,
)


def export_command(
    module: Annotated[
        Path, typer.Argument(metavar="MODULE.hkt", help="The module.", show_default=False)
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where to write; an export that stands there is replaced.",
            show_default=False,
        ),
    ],
    triple: Annotated[
        str,
        typer.Option(
            "--triple",
            metavar="TRIPLE",
            help="The machine: aarch64-linux-gnu, armv7-linux-gnueabihf, riscv64-linux-gnu or "
            "x86_64-linux-gnu.",
            show_default=False,
        ),
    ],
    cpu: Annotated[
        str,
        typer.Option(
            "--cpu",
            metavar="NAME",
            help="The CPU, cortex-a76 for one; by default the one that the module was compiled "
            "for if it is such a machine, else any of the machine's (on x86-64 any with AVX2).",
            show_default=False,
        ),
    ] = "",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="library|onnxruntime",
            help="A C library with the model's attention, or the model with a library that "
            "onnxruntime loads.",
        ),
    ] = "onnxruntime",
    dim: Annotated[
        list[str] | None,
        typer.Option(
            "--dim",
            "-d",
            metavar="NAME=SIZE",
            help="Size of a dimension that the module leaves open; repeat it.",
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Export a compiled module for a device that has no Python.

    **Examples**

    - `hocket export model.hkt --triple aarch64-linux-gnu --cpu cortex-a76 -o pi5`
    - `hocket export model.hkt --triple aarch64-linux-gnu --format library -o pi5-c`
    - `hocket inspect pi5`
    """
    from hocket.compiler.export.driver import export_artifact
    from hocket.compiler.export.library import KINDS
    from hocket.runtime.artifact import load_artifact

    if form not in KINDS:
        raise typer.BadParameter(f"want one of {', '.join(KINDS)}", param_hint="--format")
    start = time.perf_counter()
    artifact = load_artifact(module)
    dims = parse_dims(dim or [])
    manifest = export_artifact(artifact, output, triple=triple, cpu=cpu, kind=form, dims=dims)
    seconds = time.perf_counter() - start
    if json_output:
        print_json({"folder": str(output), "seconds": seconds} | manifest)
        return
    console = answer_console()
    count = len(manifest["attention"])
    console.print(
        Text.assemble(
            (f"{count} attention layer(s)", "bold"),
            f" exported for {manifest['cpu']} ({manifest['machine']}), needing "
            f"{', '.join(manifest['features']) or 'nothing that such a machine may lack'}",
        )
    )
    if manifest["target"] != manifest["cpu"]:
        console.print(
            f"tiles and estimates are those for {manifest['target']}, which the module was "
            "compiled for (`hocket compile --target`)"
        )
    table = plain_table("file", "size")
    table.columns[0].justify = "left"
    for name, file in manifest["files"].items():
        table.add_row(name, format_bytes(file["bytes"]))
    console.print(table)
    console.print(Text.assemble((str(output), "bold"), f"  in {format_seconds(seconds)}"))
