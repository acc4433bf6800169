"""``hocket compile``: an ONNX file becomes a compiled module."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hocket.commands.output_files import check_outputs
from hocket.commands.terminal import (
    JsonFlag,
    SeedOption,
    ThreadsOption,
    answer_console,
    format_bytes,
    format_seconds,
    parse_open_dims,
    print_json,
    progress_bar,
)


def compile_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="The model.", show_default=False)
    ],
    *,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", metavar="NAME|FILE.toml", help="The machine; see `hocket targets`."
        ),
    ] = "host",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.hkt",
            help="Where to write; the model's name with .hkt, in this folder, by default.",
        ),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            "--dim",
            "-d",
            metavar="NAME=SIZE",
            help="Size of an open dimension, NAME=LEAST..LARGEST to leave it open, or "
            '"NAME=ONE + OTHER" for one that is a sum of others; repeat it.',
        ),
    ] = None,
    threads: ThreadsOption = 0,
    seed: SeedOption = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each pass's result before the next.")
    ] = False,
    keep_quantization: Annotated[
        bool,
        typer.Option(
            "--keep-quantization",
            help="Leave attention to the host whose scores a quantised model rounds.",
        ),
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Compile an ONNX model for a machine.

    **Examples**

    - `hocket compile model.onnx --dim batch=1 --dim seq=128`
    - `hocket compile model.onnx --dim batch=1..8 --dim seq=1..512`
    - `hocket compile model.onnx --target mas-edge -d batch=1 -d seq=512 -o edge.hkt`
    - `hocket compile model.onnx --target my-device.toml --threads 1 --json`
    """
    from hocket.compiler.attention.search.tuning_log import default_path
    from hocket.compiler.options import CompileOptions
    from hocket.inspection import inspect_artifact
    from hocket.module import compile as compile_module

    path = output or Path(f"{model.stem}.hkt")
    check_outputs({"--output": path}, inputs=[model])
    start = time.perf_counter()
    with progress_bar("compiling") as bar:
        module = compile_module(
            model,
            target,
            parse_open_dims(dim or []),
            options=CompileOptions(
                num_threads=threads,
                seed=seed,
                verify=verify,
                keep_quantization=keep_quantization,
                tuning_log=str(default_path() or ""),
            ),
            progress=bar.show,
        )
        module.save(path)
    seconds = time.perf_counter() - start
    report = inspect_artifact(module.artifact)
    if json_output:
        print_json(
            {"module": str(path), "size_bytes": path.stat().st_size, "seconds": seconds}
            | report.summary()
        )
    else:
        _print_summary(path, seconds, report)


def _print_summary(path: Path, seconds: float, report: Any) -> None:
    console = answer_console()
    console.print(
        Text.assemble(
            (f"{len(report.layers)} attention layer(s)", "bold"),
            f" compiled for {report.target.name}, {report.num_host_nodes} node(s) in "
            f"{len(report.artifact.host_steps)} region(s) left to the host",
        )
    )
    for item in report.artifact.left_to_host:
        console.print(f"  not taken: {item.node} ({item.op}): {item.reason}")
    if report.layers:
        console.print(f"all attention layers: {report.artifact.estimate}")
    size = format_bytes(path.stat().st_size)
    line = Text.assemble((str(path), "bold"), f"  {size}, in {format_seconds(seconds)}")
    console.print(line, soft_wrap=True)
    console.print(f"digest {report.artifact.digest}", style="dim", soft_wrap=True)
