"""``hocket doctor``: what this machine and installation are, and what is amiss."""

from dataclasses import asdict
from typing import Any

import typer
from rich.text import Text

from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    plain_table,
    print_json,
)

NOT_OK = 1


def doctor_command(json_output: JsonFlag = False) -> None:
    """Show versions, CPU, threads, caches, and which parts of Hocket can be used.

    The exit status is 1 if something is amiss; a part that is not installed is not.

    **Examples**

    - `hocket doctor`
    - `hocket doctor --json | python -m json.tool`
    """
    from hocket.diagnosis import diagnose

    found = diagnose()
    if json_output:
        print_json(_to_json(found))
    else:
        _print_tables(found)
    if found.problems:
        raise typer.Exit(NOT_OK)


def _to_json(found: Any) -> dict[str, Any]:
    return {
        "ok": not found.problems,
        "problems": list(found.problems),
        "versions": found.versions,
        "system": found.system,
        "cpu": {
            "name": found.cpu_name,
            "vector_lanes": found.vector_lanes,
            "num_vector_registers": found.num_vector_registers,
            "features": list(found.cpu_features),
        },
        "threads": {
            "num_cores": found.num_cores,
            "num_usable_cores": found.num_usable_cores,
            "variables": found.thread_variables,
        },
        "caches": [asdict(cache) | {"path": str(cache.path)} for cache in found.caches],
        "numpy_blas": found.numpy_blas,
        "parts": [asdict(part) | {"is_ready": part.is_ready} for part in found.parts],
        "advice": list(found.advice),
    }


def _print_tables(found: Any) -> None:
    table = plain_table("what", "found")
    table.columns[1].justify = "left"
    for name, version in found.versions.items():
        table.add_row(name, version or Text("not installed", "dim"))
    table.add_row("system", found.system)
    table.add_row(
        "cpu",
        f"{found.cpu_name}: {found.vector_lanes} float32 lanes, "
        f"{found.num_vector_registers} vector registers",
    )
    table.add_row("cpu features", " ".join(found.cpu_features))
    table.add_row("cores", f"{found.num_usable_cores} usable of {found.num_cores}")
    for name, value in found.thread_variables.items():
        table.add_row(name, value)
    for cache in found.caches:
        use = f"{cache.num_entries:,} files, {format_bytes(cache.size_bytes)}"
        table.add_row(f"{cache.name} cache", f"{cache.path} ({use})")
    table.add_row("numpy BLAS", found.numpy_blas)
    console = answer_console()
    console.print(table)
    parts = plain_table("part", "for", "")
    for column in parts.columns[1:]:
        column.justify = "left"
    for part in found.parts:
        lacking = ", ".join((*part.missing, *part.unfit))
        state = Text("ready", "green") if part.is_ready else f"lacks {lacking}: {part.mend}"
        parts.add_row(part.extra or "hocket", part.purpose, state)
    console.print()
    console.print(parts)
    for advice in found.advice:
        console.print(Text.assemble(("note:", "yellow"), " ", advice))
    for problem in found.problems:
        console.print(Text.assemble(("amiss:", "bold red"), " ", problem))
    if not found.problems:
        console.print("nothing amiss", style="green")
