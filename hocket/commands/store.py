"""``hocket store``: every update of every round, kept and asked."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands import store_upkeep
from hocket.commands.store_options import DEFAULT, CatalogOption, StoreOption
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    parse_pairs,
    plain_table,
    print_json,
)

if TYPE_CHECKING:
    from hocket.fl.store.workloads.workload import Option

app = typer.Typer(no_args_is_help=True, help="Keep every update of every round, and ask of them.")

KeyArgument = Annotated[
    str, typer.Argument(metavar="JOB/ROUND/DEVICE/KIND", help="What it is; see `hocket store ls`.")
]


@app.command("put")
def put_command(
    key: KeyArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors, or any other bytes.")],
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", metavar="NAME=NUMBER", help="Of the update; repeat it."),
    ] = None,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
) -> None:
    """Keep a file. An update or a model (`.../update`, `.../model`) must be safetensors.

    **Example:** `hocket store put vision/3/phone-1/update update.safetensors -m num_examples=120`
    """
    from hocket.fl.store import layout
    from hocket.fl.store.access import MODEL, UPDATE
    from hocket.store_parts import open_round_store

    wanted, content = _key(key), file.read_bytes()
    metrics = {
        name: _number(text, name) for name, text in parse_pairs(metric or [], "--metric").items()
    }
    with open_round_store(store, catalog, must_exist=False) as opened:
        if wanted.kind in (UPDATE, MODEL):
            entry = opened.ingest(wanted, layout.view(content, str(file)), metrics)
        else:
            entry = opened.history.record(wanted, content, metrics)
    answer_console().print(f"{entry.key}  {entry.num_bytes:,} bytes  {entry.digest}")


@app.command("get")
def get_command(
    key: KeyArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="To be written.")],
    layer: Annotated[
        str | None, typer.Option("--layer", help="Only this array; little else is read.")
    ] = None,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
) -> None:
    """Write an entry to a file, once its bytes have been checked."""
    from hocket.fl.store import layout
    from hocket.runtime.files import atomic_file
    from hocket.store_parts import open_history

    wanted = _key(key)
    with open_history(store, catalog) as history:
        try:
            content = (
                history.get(wanted)
                if layer is None
                else layout.encode({layer: history.layer(wanted, layer)})
            )
        except KeyError:
            raise typer.BadParameter(f"there is no entry {wanted}; see `hocket store ls`") from None
    with atomic_file(output) as file:
        file.write(content)


@app.command("ls")
def list_command(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so.")
    ] = "",
    *,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
    json_output: JsonFlag = False,
) -> None:
    """List entries."""
    from hocket.store_parts import open_history

    with open_history(store, catalog) as history:
        entries = [history.catalog.entry(key) for key in history.keys(prefix)]
    if json_output:
        print_json(
            {
                "entries": [
                    {
                        "key": str(entry.key),
                        "num_bytes": entry.num_bytes,
                        "digest": entry.digest,
                        "metrics": dict(entry.metrics),
                        "provenance": dict(entry.provenance),
                    }
                    for entry in entries
                ]
            }
        )
        return
    table = plain_table("key", "bytes", "digest", "metrics")
    table.columns[3].justify = "left"
    for entry in entries:
        metrics = " ".join(f"{name}={value:.4g}" for name, value in entry.metrics.items())
        table.add_row(str(entry.key), f"{entry.num_bytes:,}", entry.digest[:12], metrics)
    answer_console().print(table)


@app.command("query")
def query_command(
    statement: Annotated[
        str,
        typer.Argument(metavar="SELECT...", help="Over entries, lineage, statistics, products."),
    ],
    *,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Answer a question in SQL, which can only read.

    **Example:** `hocket store query "SELECT device, COUNT(*) FROM entries GROUP BY device"`
    """
    from hocket.store_parts import open_history

    with open_history(store, catalog) as history:
        names, rows = history.catalog.select(statement)
    shown = [
        [f"{len(cell)} bytes" if isinstance(cell, bytes) else cell for cell in row] for row in rows
    ]
    if json_output:
        print_json({"columns": names, "rows": shown})
        return
    table = plain_table(*names)
    for row in shown:
        table.add_row(*(str(cell) for cell in row))
    answer_console().print(table)


@app.command("workloads")
def workloads_command(*, json_output: JsonFlag = False) -> None:
    """List what can be asked, with the class of FLStore that each is of."""
    from hocket.fl.store.workloads import WORKLOADS

    if json_output:
        print_json(
            {
                name: {"class": str(each.access), "about": each.about}
                for name, each in WORKLOADS.items()
            }
        )
        return
    table = plain_table("workload", "class", "tells")
    table.columns[2].justify = "left"
    for name, each in WORKLOADS.items():
        table.add_row(name, str(each.access), each.about)
    answer_console().print(table)


@app.command("run")
def run_command(
    workload: Annotated[str, typer.Argument(help="Which; see `hocket store workloads`.")],
    *,
    job: Annotated[str, typer.Option("--job", help="Of which federation.")],
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, help="Of which round; the newest by default.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Of which device.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of the workload; repeat it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A model that was made: safetensors."),
    ] = None,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Ask of updates: who is like whom, who stands out, who contributed what.

    **Examples**

    - `hocket store run clustering --job vision --option clusters=4`
    - `hocket store run unlearning --job vision --device phone-7 -o without.safetensors`
    """
    from hocket.fl.store import layout
    from hocket.fl.store.workloads.workload import Question
    from hocket.runtime.files import atomic_file
    from hocket.store_parts import open_round_store

    options = {name: _value(text) for name, text in parse_pairs(option or [], "--option").items()}
    with open_round_store(store, catalog) as opened:
        answer = opened.ask(workload, Question(job, round_number, device, options))
    if answer.arrays and output is not None:
        with atomic_file(output) as file:
            file.write(layout.encode(answer.arrays))
    elif output is not None:
        raise typer.BadParameter(f"{workload} makes no model", param_hint="--output")
    if json_output:
        print_json(dict(answer.values))
        return
    table = plain_table("", "")
    table.columns[1].justify = "left"
    for name, value in answer.values.items():
        table.add_row(name, _shown(value))
    answer_console().print(table)
    if answer.arrays and output is None:
        typer.echo("it made a model, which --output FILE would write", err=True)


@app.command("stats")
def stats_command(
    *, store: StoreOption = DEFAULT, catalog: CatalogOption = None, json_output: JsonFlag = False
) -> None:
    """Tell how much is kept, by job and kind."""
    from hocket.store_parts import open_history

    with open_history(store, catalog) as history:
        names, rows = history.catalog.select(
            "SELECT job, kind, COUNT(*) AS entries, COUNT(DISTINCT device) AS devices, "
            "MIN(round) AS first_round, MAX(round) AS last_round, SUM(num_bytes) AS bytes "
            "FROM entries GROUP BY job, kind ORDER BY job, kind"
        )
        listed = list(history.objects.listing())
    kept = sum(each.num_bytes for each in listed)
    if json_output:
        print_json(
            {
                "kinds": [dict(zip(names, row, strict=True)) for row in rows],
                "num_objects": len(listed),
                "object_bytes": kept,
            }
        )
        return
    table = plain_table(*(name.replace("_", " ") for name in names))
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    console = answer_console()
    console.print(table)
    console.print(f"{len(listed):,} objects of {kept:,} bytes; equal entries are kept once")


store_upkeep.add_commands(app)


def _key(text: str) -> Any:
    from hocket.fl.core.store import Key

    parts = text.split("/")
    if len(parts) == 4 and parts[1].isdecimal():
        return Key(parts[0], int(parts[1]), parts[2], parts[3])
    return Key.parse(text)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"want a number for {name}, got {text!r}") from None


def _value(text: str) -> "Option":
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return os.linesep.join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        mark = os.linesep if any(isinstance(each, dict | list) for each in value) else ", "
        return mark.join(_shown(each) for each in value)
    return str(value)
