"""``hocket inspect``: the attention in a model or module, and what was left to the host."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    parse_dims,
    plain_table,
    print_json,
)

MAX_GANTT_COLUMNS = 120
# What stands to the left of the chart: the core and the unit.
GANTT_MARGIN = 16

_ZIP_START = b"PK"


def inspect_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.onnx|MODULE.hkt", help="A model, or a module.", show_default=False
        ),
    ],
    *,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            "--dim", "-d", metavar="NAME=SIZE", help="Of a model: size of an open dimension."
        ),
    ] = None,
    layer: Annotated[
        int, typer.Option("--layer", min=0, help="Of a module: the layer to show, from 0.")
    ] = 0,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            min=20,
            help="Columns of the text Gantt chart; what the terminal has by default.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Of a module: draw the schedule."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE.json", help="Of a module: the schedule for a trace viewer."
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Show the attention in a model or a compiled module, and what is left to the host and why.

    Of a module also the tilings, the schedule of one layer as a text Gantt chart, and estimates.

    **Examples**

    - `hocket inspect model.onnx`
    - `hocket inspect model.onnx --dim batch=1 --dim seq=512 --json`
    - `hocket inspect model.hkt --layer 2 --plot schedule.png --trace schedule.json`
    """
    if path.is_dir():
        raise IsADirectoryError(21, "this is a folder, not a file", str(path))
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        is_module = path.suffix == ".hkt" or file.read(2) == _ZIP_START
    if is_module:
        _inspect_module(path, layer, width, plot, trace, json_output=json_output)
        return
    if plot or trace:
        raise typer.BadParameter(
            f"{path} is a model; only a compiled module has a schedule, so compile it first",
            param_hint="--plot" if plot else "--trace",
        )
    _inspect_model(path, parse_dims(dim or []), json_output=json_output)


def _inspect_model(path: Path, dims: dict[str, int], *, json_output: bool) -> None:
    from hocket.inspection import inspect_model

    report = inspect_model(path, dims)
    answer = {"path": str(path)} | report.to_json()
    if json_output:
        print_json(answer)
        return
    console = answer_console()
    bound = ", ".join(f"{name}={size}" for name, size in answer["dims"].items())
    if report.assumes_dims:
        console.print(f"[yellow]sizes assumed: {bound}[/] (give others with --dim NAME=SIZE)")
    elif bound:
        console.print(f"with {bound}")
    _print_attention(console, answer["attention"])
    _print_left(console, answer)


def _inspect_module(
    path: Path,
    layer: int,
    width: int | None,
    plot: Path | None,
    trace: Path | None,
    *,
    json_output: bool,
) -> None:
    from hocket.inspection import inspect_artifact
    from hocket.runtime.artifact import load_artifact

    report = inspect_artifact(load_artifact(path))
    layers = report.layers
    if layers and layer >= len(layers):
        raise typer.BadParameter(
            f"there are {len(layers)} layers, from 0 to {len(layers) - 1}", param_hint="--layer"
        )
    if (plot or trace) and not layers:
        raise typer.BadParameter(f"{path} has no attention layer, so no schedule")
    if plot:
        from hocket.plotting import draw_schedule

        draw_schedule(layers[layer].timeline(), plot, title=layers[layer].title)
    if trace:
        layers[layer].write_trace(trace)
    answer = {"path": str(path)} | report.to_json()
    if json_output:
        print_json(answer)
        return
    console = answer_console()
    console.print(str(report.artifact), markup=False)
    _print_attention(console, answer["attention"])
    _print_left(console, answer)
    if layers:
        _print_estimates(console, layers)
        console.print(f"\nschedule of layer {layer}, {layers[layer].name}:", markup=False)
        columns = width or max(min(console.width, MAX_GANTT_COLUMNS) - GANTT_MARGIN, 20)
        console.print(layers[layer].gantt(columns), markup=False, soft_wrap=True)
    console.print(f"digest {answer['digest']}", style="dim", soft_wrap=True)


def _print_attention(console: Any, attention: list[dict[str, Any]]) -> None:
    if not attention:
        console.print("no attention found")
        return
    table = plain_table(
        "#", "batch", "heads", "lengths", "dims", "mask", "type", "form", "attention"
    )
    table.columns[-1].justify = table.columns[-2].justify = "left"
    for index, item in enumerate(attention):
        heads, dims = str(item["query_heads"]), str(item["head_dim"])
        if item["kv_heads"] != item["query_heads"]:
            heads += f" (kv {item['kv_heads']})"
        if item["value_dim"] != item["head_dim"]:
            dims += f"/{item['value_dim']}"
        table.add_row(
            str(index),
            str(item["batch"]),
            heads,
            f"{item['query_length']}x{item['kv_length']}",
            dims,
            item["mask"] + (", causal" if item["is_causal"] else ""),
            item["dtype"],
            item["form"],
            item["name"],
        )
    console.print(table)


def _print_left(console: Any, answer: dict[str, Any]) -> None:
    console.print(
        f"left to the host: {answer['host_nodes']} node(s) in {answer['host_regions']} region(s)"
    )
    for item in answer["not_taken"]:
        console.print(f"  {item['node']} ({item['op']}): {item['reason']}", markup=False)


def _print_estimates(console: Any, layers: Any) -> None:
    table = plain_table(
        "#", "tiling", "cycles", "time", "matrix", "vector", "DMA", "energy", "DRAM", "on chip"
    )
    table.columns[1].justify = "left"
    for index, layer in enumerate(layers):
        estimate = layer.estimate
        table.add_row(
            str(index),
            layer.step.tiling,
            f"{estimate.cycles:,.0f}",
            format_seconds(estimate.seconds),
            f"{estimate.matrix_utilization:.0%}",
            f"{estimate.vector_utilization:.0%}",
            f"{estimate.dma_utilization:.0%}",
            f"{estimate.joules * 1e3:.3g} mJ",
            format_bytes(estimate.dram_bytes),
            format_bytes(estimate.peak_on_chip_bytes),
        )
    console.print()
    console.print(table)
    console.print(
        "simulated on the target's description, not measured; matrix, vector and DMA: share of the "
        "time in which that unit works",
        style="dim",
    )
