"""``hocket venn serve``, ``token``, ``status`` and ``cancel``: the scheduler as a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_seconds,
    plain_table,
    print_json,
)

if TYPE_CHECKING:
    from hocket.fl.venn.service.answers import JobStatus, Status
    from hocket.fl.venn.service.client import ServiceClient

UrlArgument = Annotated[str, typer.Argument(help="Of the service.", show_default=False)]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="What `hocket venn token` printed; or HOCKET_SERVICE_TOKEN in the environment.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to ``hocket venn``."""
    app.command("serve")(serve_command)
    app.command("token")(token_command)
    app.command("status")(status_command)
    app.command("cancel")(cancel_command)


def serve_command(
    *,
    database: Annotated[
        Path, typer.Option("--database", metavar="FILE", help="SQLite file; made if not there.")
    ],
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME", help="As in docs/venn.md.")
    ] = "venn",
    host: HostOption = "127.0.0.1",
    port: PortOption = 8471,
    tokens: TokensOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what the policy draws.")] = 0,
) -> None:
    """Share devices among jobs, over HTTP, until SIGTERM.

    What was answered is on disk: after a crash, start it again with the same file.

    **Examples**

    - `hocket venn serve --database venn.db`
    - `hocket venn serve --database venn.db --host 0.0.0.0 --tokens tokens.toml`
    """
    from hocket.fl.service.tokens import load_tokens
    from hocket.fl.venn.policies import choose_policies
    from hocket.fl.venn.service.server import serve

    pair = pair_of(certificate, key)
    (chosen,) = choose_policies([policy])
    serve(
        database,
        chosen,
        None if tokens is None else load_tokens(tokens),
        host=host,
        port=port,
        seed=seed,
        certificate=pair,
        ready=lambda url: answer_console().print(f"serving {database} at {url}", soft_wrap=True),
    )


def status_command(
    url: UrlArgument,
    *,
    job: Annotated[str | None, typer.Option("--job", help="This one alone.")] = None,
    token_file: TokenFileOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Show how jobs stand, what they wait for, and the supply of devices.

    **Examples**

    - `hocket venn status http://127.0.0.1:8471 --job keyboard`
    """
    from dataclasses import asdict

    with _client_of(url, token_file) as client:
        status = client.status(job)
    if json_output:
        print_json(asdict(status))
    else:
        _print(status)


def cancel_command(
    url: UrlArgument,
    job: Annotated[str, typer.Argument(help="Which.", show_default=False)],
    *,
    token_file: TokenFileOption = None,
) -> None:
    """End a job whose manager is gone; its devices are free.

    **Examples**

    - `hocket venn cancel http://127.0.0.1:8471 keyboard`
    """
    with _client_of(url, token_file) as client:
        client.finish(job, is_cancelled=True)
    answer_console().print(f"cancelled {job}", soft_wrap=True)


@contextmanager
def _client_of(url: str, token_file: Path | None) -> Iterator["ServiceClient"]:
    from hocket.federation_devices import read_token
    from hocket.fl.venn.service.client import ServiceClient

    client = ServiceClient(url, read_token(token_file), attempts=2)
    try:
        yield client
    finally:
        client.close()


def _print(status: "Status") -> None:
    console = answer_console()
    table = plain_table(
        *("job", "phase", "rounds", "wants", "at work", "answered", "lost", "due in")
    )
    for each in status.jobs:
        table.add_row(
            each.job,
            each.phase,
            f"{each.rounds_done}" + ("" if each.num_rounds is None else f" of {each.num_rounds}"),
            f"{each.wanted} of {each.count}",
            f"{each.at_work}",
            f"{each.answered}",
            f"{each.lost}",
            "-" if each.due_in_seconds is None else format_seconds(each.due_in_seconds),
        )
    console.print(table)
    for each in status.jobs:
        if _is_waiting(each):
            console.print(f"  {each.why}", soft_wrap=True)
    console.print(
        f"policy {status.policy}; {status.check_ins:,} check-ins, {status.given:,} got a job, "
        f"{status.answered:,} have answered, {status.lost:,} were lost, {status.at_work:,} are at "
        f"work; waste {status.waste:.0%}",
        style="dim",
        soft_wrap=True,
    )


def _is_waiting(job: "JobStatus") -> bool:
    return job.phase in {"selecting", "reporting"}
