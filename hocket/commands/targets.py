"""``hocket targets``: the machines one can compile for."""

from typing import Annotated, Any

import typer

from hocket.commands.terminal import JsonFlag, answer_console, plain_table, print_json

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def targets_command(ctx: typer.Context, json_output: JsonFlag = False) -> None:
    """List the machines one can compile for; `targets show NAME` describes one.

    A machine of your own is a TOML file: docs/adding-a-target.md.

    **Examples**

    - `hocket targets`
    - `hocket targets show mas-edge --json`
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
    from hocket.hwmodels.loader import load_target, target_to_dict

    machine = load_target(name)
    fields = target_to_dict(machine)
    if json_output:
        print_json(fields)
        return
    console = answer_console()
    console.print(str(machine), markup=False)
    table = plain_table("key", "value")
    for key, value in _flatten(fields):
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value}")
    console.print(table)


def _flatten(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in fields.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows
