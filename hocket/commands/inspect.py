"""``hocket inspect``: the attention in a model or module, and what was left to the host."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hocket.commands.option_groups import expand_option_groups
from hocket.commands.output_files import ScheduleFiles
from hocket.commands.performance import format_joules, format_ratio, gantt_columns
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    parse_dims,
    plain_table,
    print_json,
)

_ZIP_START = b"PK"


@expand_option_groups
def inspect_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.onnx|MODULE.hkt|FOLDER",
            help="A model, a module, or the folder of an export.",
            show_default=False,
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
            max=10_000,
            help="Columns of the text Gantt chart; what the terminal has by default.",
            show_default=False,
        ),
    ] = None,
    schedule: ScheduleFiles,
    json_output: JsonFlag = False,
) -> None:
    """Show the attention in a model or a compiled module, and what is left to the host and why.

    Of a module also the tilings and predictions of each layer; and of one layer cycles, memory,
    bandwidth, energy and stalls in full, what to improve next, and the schedule as a text chart;
    the options that write files are for modules, too.

    **Examples**

    - `hocket inspect model.onnx`
    - `hocket inspect model.onnx --dim batch=1 --dim seq=512 --json`
    - `hocket inspect model.hkt --layer 2 --html schedule.html --trace schedule.json`
    - `hocket inspect exported`
    """
    if path.is_dir():
        for option in schedule.given():
            raise typer.BadParameter(f"{path} is an export; inspect its module", param_hint=option)
        _inspect_export(path, json_output=json_output)
        return
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        is_module = path.suffix == ".hkt" or file.read(2) == _ZIP_START
    if is_module:
        schedule.check(inputs=[path])
        _inspect_module(path, layer, width, schedule, json_output=json_output)
        return
    for option in schedule.given():
        raise typer.BadParameter(
            f"{path} is a model; only a compiled module has a schedule, so compile it first",
            param_hint=option,
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
        assumed = (f"sizes assumed: {bound}", "yellow")
        console.print(Text.assemble(assumed, " (give others with --dim NAME=SIZE)"))
    elif bound:
        console.print(f"with {bound}")
    _print_attention(console, answer["attention"])
    _print_left(console, answer)


def _inspect_export(path: Path, *, json_output: bool) -> None:
    from hocket.compiler.export.manifest import load_manifest

    manifest = load_manifest(path)
    if json_output:
        print_json({"path": str(path)} | manifest)
        return
    console = answer_console()
    needs = ", ".join(manifest["features"]) or "nothing that such a machine may lack"
    console.print(
        f"{manifest['model_name']} as {manifest['kind']} for {manifest['cpu']} "
        f"({manifest['machine']}), needing {needs}"
    )
    table = plain_table("#", "lengths", "dims", "heads", "scratch", "time", "attention")
    table.columns[-1].justify = "left"
    for number, item in enumerate(manifest["attention"]):
        sizes, estimate = item["parameters"], item["estimate"]
        table.add_row(
            str(number),
            f"{sizes['query_length']}x{sizes['kv_length']}",
            str(sizes["head_dim"]),
            str(sizes["query_heads"]),
            format_bytes(item["scratch_bytes"]),
            format_seconds(estimate["seconds"]) if estimate else "",
            item["name"],
        )
    console.print(table)
    console.print(f"time: simulated on {manifest['target']}, not measured", style="dim")
    files = plain_table("file", "size", "sha256")
    files.columns[0].justify = files.columns[-1].justify = "left"
    for name, file in manifest["files"].items():
        files.add_row(name, format_bytes(file["bytes"]), file["sha256"][:16])
    console.print(files)
    console.print(f"of module {manifest['module_digest']}", style="dim", soft_wrap=True)


def _inspect_module(
    path: Path,
    layer: int,
    width: int | None,
    schedule: ScheduleFiles,
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
    if schedule.given() and not layers:
        raise typer.BadParameter(f"{path} has no attention layer, so no schedule")
    if layers:
        schedule.write(layers[layer])
    answer = {"path": str(path)} | report.to_json()
    if json_output:
        print_json(answer)
        return
    console = answer_console()
    console.print(str(report.artifact))
    _print_attention(console, answer["attention"])
    _print_left(console, answer)
    if layers:
        _print_estimates(console, report)
        _print_layer(console, layer, layers[layer])
        console.print(f"\nschedule of layer {layer}, {layers[layer].name}:")
        columns = width or gantt_columns(console)
        console.print(layers[layer].gantt(columns), soft_wrap=True)
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
    share = f" ({answer['host_share']:.0%} of all)" if "host_share" in answer else ""
    console.print(
        f"left to the host: {answer['host_nodes']} node(s){share} in "
        f"{answer['host_regions']} region(s)"
    )
    for item in answer["not_taken"]:
        console.print(f"  {item['node']} ({item['op']}): {item['reason']}")


def _print_estimates(console: Any, report: Any) -> None:
    """Print a line for all layers that are alike, and one for all together."""
    table = plain_table(
        "#",
        "dataflow",
        "cycles",
        "of bound",
        "time",
        "matrix",
        "vector",
        "load",
        "store",
        "energy",
        "DRAM",
        "on chip",
        "tiling",
    )
    table.columns[1].justify = table.columns[-1].justify = "left"
    alike: dict[Any, list[int]] = {}
    for index, layer in enumerate(report.layers):
        alike.setdefault((layer.step.program, layer.step.tiling), []).append(index)
    for indices in alike.values():
        layer = report.layers[indices[0]]
        _add_estimate(
            table,
            _ranges(indices),
            layer.step.dataflow,
            layer.estimate,
            layer.step.tiling,
        )
    if len(report.layers) > 1:
        _add_estimate(table, "all", "", report.artifact.estimate, "")
    console.print()
    console.print(table)
    console.print(
        "of one layer each; matrix, vector, load and store: share of the time in which that unit "
        "works; simulated on the target's description, not measured",
        style="dim",
    )


def _add_estimate(table: Any, number: str, dataflow: str, estimate: Any, tiling: str) -> None:
    def share(busy_cycles: float, num_units: int) -> str:
        return f"{busy_cycles / (estimate.cycles * num_units) if estimate.cycles else 0:.0%}"

    table.add_row(
        number,
        dataflow,
        f"{estimate.cycles:,.0f}{'' if estimate.is_simulated else ' *'}",
        format_ratio(estimate.of_bound),
        format_seconds(estimate.seconds),
        share(estimate.matrix_busy_cycles, estimate.num_cores),
        share(estimate.vector_busy_cycles, estimate.num_cores),
        share(estimate.load_busy_cycles, 1),
        share(estimate.store_busy_cycles, 1),
        format_joules(estimate.joules),
        format_bytes(estimate.dram_bytes),
        format_bytes(estimate.peak_on_chip_bytes),
        tiling,
    )


def _ranges(indices: list[int]) -> str:
    """Return ``0-3, 5`` for 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def _print_layer(console: Any, number: int, layer: Any) -> None:
    """Print the predictions for one layer in full: cycles, memory, bandwidth, energy, stalls."""
    estimate, explanation, target = layer.estimate, layer.explanation, layer.artifact.target
    console.print(f"\nlayer {number}, {layer.name}: {explanation}", soft_wrap=True)
    table = plain_table("prediction", "amount", "share", "")
    table.columns[-1].justify = "left"
    cores = estimate.num_cores
    busy = (
        ("matrix units", estimate.matrix_busy_cycles, cores),
        ("vector units", estimate.vector_busy_cycles, cores),
        ("loads", estimate.load_busy_cycles, 1),
        ("stores", estimate.store_busy_cycles, 1),
    )
    stalls = {str(unit): reasons for unit, reasons in layer.timeline().stall_cycles().items()}
    units = ("matrix", "vector", "load", "store")
    for (what, cycles, count), unit in zip(busy, units, strict=True):
        waits = sorted(stalls.get(unit, {}).items(), key=lambda item: -item[1])
        table.add_row(
            f"{what}, busy",
            f"{cycles:,.0f} cycles",
            f"{cycles / (estimate.cycles * count) if estimate.cycles else 0:.1%}",
            "; ".join(f"{stall} {idle:,.0f}" for stall, idle in waits),
        )
    of_bound = format_ratio(estimate.of_bound)
    table.add_row("total", f"{estimate.cycles:,.0f} cycles", of_bound, "of the bound")
    losses = "; ".join(str(loss) for loss in explanation.losses)
    table.add_row("bound", f"{estimate.bound_cycles:,.0f} cycles", "", f"lost beyond it: {losses}")
    on_chip, peak = target.on_chip_memory, estimate.peak_on_chip_bytes
    table.add_row(
        f"{on_chip.name}, peak",
        format_bytes(peak),
        f"{peak / on_chip.capacity_bytes:.1%}",
        f"of {format_bytes(on_chip.capacity_bytes)}",
    )
    moved = layer.moved_bytes()
    bandwidth = target.dma.bandwidth_bytes_per_second
    for what, place in (("read", 0), ("written", 1)):
        counts = {tensor: pair[place] for tensor, pair in moved.items() if pair[place]}
        total = sum(counts.values())
        rate = total / estimate.seconds if estimate.seconds else 0.0
        listed = ", ".join(f"{tensor} {format_bytes(count)}" for tensor, count in counts.items())
        table.add_row(
            f"{target.outer_memory.name}, {what}",
            format_bytes(total),
            f"{rate / bandwidth:.1%}",
            f"{rate / 1e9:.3g} of {bandwidth / 1e9:.3g} GB/s; {listed}",
        )
    energies = (
        ("arithmetic", estimate.compute_joules),
        (on_chip.name, estimate.on_chip_joules),
        (target.outer_memory.name, estimate.dram_joules),
        ("leakage", estimate.leakage_joules),
    )
    for what, joules in energies:
        share = joules / estimate.joules if estimate.joules else 0.0
        table.add_row(f"energy, {what}", format_joules(joules), f"{share:.1%}", "")
    console.print(table)
