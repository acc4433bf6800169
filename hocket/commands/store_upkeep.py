"""``hocket store serve``, ``token``, ``gc`` and ``verify``: what keeps a store going."""

from typing import Annotated

import typer

from hocket.commands.service_options import (
    CertificateOption,
    HostOption,
    KeyOption,
    PortOption,
    TokensOption,
    pair_of,
    token_command,
)
from hocket.commands.store_options import DEFAULT, CatalogOption, StoreOption, parse_size
from hocket.commands.terminal import JsonFlag, answer_console, print_json

DAMAGED = 1


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``hocket store``."""
    app.command("token")(token_command)
    app.command("serve")(serve_command)
    app.command("gc")(collect_command)
    app.command("verify")(verify_command)


def serve_command(
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8472,
    tokens: TokensOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="That entries are held in.")
    ] = "2GiB",
    instances: Annotated[int, typer.Option("--instances", min=1, help="Processes at most.")] = 2,
    max_body: Annotated[
        str, typer.Option("--max-body", metavar="SIZE", help="Of an entry that is put.")
    ] = "2GiB",
    waiting: Annotated[
        int, typer.Option("--waiting", min=0, help="Requests that may wait; more get status 503.")
    ] = 64,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
) -> None:
    """Keep and answer over HTTP, with a page to look at, until SIGTERM.

    **Examples**

    - `hocket store serve`
    - `hocket store serve --host 0.0.0.0 --tokens tokens.toml --certificate cert.pem --key key.pem`
    """
    from hocket.fl.service.tokens import load_tokens
    from hocket.fl.store.service.app import Limits
    from hocket.fl.store.service.server import serve
    from hocket.store_parts import open_round_store

    pair = pair_of(certificate, key)
    limits = Limits(body_bytes=parse_size(max_body, "--max-body"), waiting=waiting)
    with open_round_store(
        store, catalog, parse_size(memory, "--memory"), instances, must_exist=False
    ) as opened:
        serve(
            opened,
            None if tokens is None else load_tokens(tokens),
            host=host,
            port=port,
            certificate=pair,
            limits=limits,
            ready=lambda url: answer_console().print(f"serving {store} at {url}", soft_wrap=True),
        )


def collect_command(
    *,
    job: Annotated[str | None, typer.Option("--job", help="Whose entries to forget first.")] = None,
    keep_rounds: Annotated[
        int | None, typer.Option("--keep-rounds", min=1, help="Forget all but a job's last rounds.")
    ] = None,
    erase_device: Annotated[
        str | None, typer.Option("--erase-device", help="Forget all that a device sent.")
    ] = None,
    grace_seconds: Annotated[
        float, typer.Option("--grace", min=0, help="Younger objects stay; somebody may be at them.")
    ] = 3600.0,
    store: StoreOption = DEFAULT,
    catalog: CatalogOption = None,
) -> None:
    """Delete the bytes of entries that are forgotten, after forgetting some.

    **Example:** `hocket store gc --job vision --keep-rounds 50`
    """
    from hocket.store_parts import open_history

    if job is None and (keep_rounds is not None or erase_device is not None):
        raise typer.BadParameter(
            "name the job whose entries are to be forgotten", param_hint="--job"
        )
    forgotten = 0
    with open_history(store, catalog) as history:
        if job is not None and keep_rounds is not None:
            forgotten += history.keep_rounds(job, keep_rounds)
        if job is not None and erase_device is not None:
            entries = history.catalog.entries(job=job, device=erase_device)
            forgotten += history.forget([entry.key for entry in entries])
        num_objects, freed = history.collect_garbage(grace_seconds)
    answer_console().print(
        f"{forgotten:,} entries forgotten; {num_objects:,} objects of {freed:,} bytes deleted"
    )


def verify_command(
    *, store: StoreOption = DEFAULT, catalog: CatalogOption = None, json_output: JsonFlag = False
) -> None:
    """Read all bytes and compare them with their digests; ends with 1 if some are damaged."""
    from hocket.store_parts import open_history

    with open_history(store, catalog) as history:
        entries = history.catalog.entries()
        damages = history.verify(entries)
    if json_output:
        print_json(
            {
                "num_entries": len(entries),
                "damaged": {str(damage.key): damage.reason for damage in damages},
            }
        )
    else:
        console = answer_console()
        for damage in damages:
            console.print(f"{damage.key}: {damage.reason}")
        console.print(f"{len(entries):,} entries, {len(damages):,} damaged")
    if damages:
        raise typer.Exit(DAMAGED)
