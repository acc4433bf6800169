"""``hocket targets``: the machines one can compile for."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hocket.commands.output_files import check_outputs
from hocket.commands.terminal import (
    JsonFlag,
    ThreadsOption,
    answer_console,
    format_seconds,
    plain_table,
    print_json,
    progress_bar,
)

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def targets_command(ctx: typer.Context, json_output: JsonFlag = False) -> None:
    """List the machines one can compile for; `targets show NAME` describes one.

    A machine of your own is a TOML file: docs/adding-a-target.md. `targets calibrate` writes one
    for the CPU of this computer.

    **Examples**

    - `hocket targets`
    - `hocket targets show mas-edge --json`
    - `hocket targets calibrate -o mine.toml`
    """
    if ctx.invoked_subcommand is not None:
        return
    from hocket.hwmodels.loader import list_targets, load_target

    machines = [load_target(name) for name in list_targets()]
    if json_output:
        print_json(
            {
                "targets": [
                    {"name": machine.name, "description": machine.description}
                    for machine in machines
                ]
            }
        )
        return
    table = plain_table("target", "description")
    table.columns[1].justify = "left"
    for machine in machines:
        table.add_row(machine.name, machine.description)
    answer_console().print(table)


@app.command("show")
def show_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE.toml", help="A built-in machine, or a file.")
    ],
    json_output: JsonFlag = False,
) -> None:
    """Describe one machine, every figure with its unit."""
    from hocket.hwmodels.loader import figures_by_path, load_target, target_to_dict

    machine = load_target(name)
    if json_output:
        print_json(target_to_dict(machine))
        return
    console = answer_console()
    console.print(str(machine))
    table = plain_table("key", "value")
    for key, value in figures_by_path(machine).items():
        table.add_row(key, _format_figure(value))
    console.print(table)


@app.command("calibrate")
def calibrate_command(
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.toml", help="Where to write.")
    ] = Path("host-calibrated.toml"),
    threads: ThreadsOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A second in place of a few, and less exact.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Measure the CPU of this computer, and write a target file for it.

    The target bears the name of the file. Let nothing else run meanwhile.

    **Examples**

    - `hocket targets calibrate`
    - `hocket targets calibrate -o mine.toml --threads 1 && hocket compile m.onnx -t mine.toml`
    """
    if output.suffix != ".toml":
        raise typer.BadParameter(
            f"want a name that ends in .toml, got {output}", param_hint="--output"
        )
    check_outputs({"--output": output})
    from hocket.calibration.measure import measure
    from hocket.calibration.target import calibrate, write_target

    start = time.perf_counter()
    with progress_bar("measuring") as bar:
        measurements = measure(threads, is_quick=quick, progress=bar.show)
    calibration = calibrate(measurements, output.stem)
    write_target(calibration, output)
    answer = {
        "target": str(output),
        "name": calibration.machine.name,
        "threads": measurements.num_cores,
        "seconds": time.perf_counter() - start,
        "figures": _compare_figures(calibration),
    }
    if json_output:
        print_json(answer)
    else:
        _print_calibration(answer)


def _compare_figures(calibration: Any) -> dict[str, dict[str, float]]:
    from hocket.hwmodels.loader import figures_by_path

    measured = figures_by_path(calibration.machine)
    built_in = figures_by_path(calibration.base)
    return {
        key: {"measured": measured[key], "host": built_in[key]} for key in calibration.measured_keys
    }


def _print_calibration(answer: dict[str, Any]) -> None:
    table = plain_table("key", "measured", "built-in host")
    for key, figures in answer["figures"].items():
        table.add_row(key, _format_figure(figures["measured"]), _format_figure(figures["host"]))
    console = answer_console()
    console.print(table)
    console.print(
        f"{answer['threads']} thread(s) measured in {format_seconds(answer['seconds'])}; "
        f"compile for it with --target {answer['target']}",
        soft_wrap=True,
    )


def _format_figure(value: Any) -> str:
    """Return a figure as people read it: 4,194,304, 24,000,000,000.0, 0.5, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int | float) else str(value)
