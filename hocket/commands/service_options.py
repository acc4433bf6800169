"""What services have in common on the command line: where they listen, and tokens."""

from pathlib import Path
from typing import Annotated

import typer

from hocket.commands.terminal import answer_console, log_console

TokensOption = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="FILE", help="Who may ask; without, this machine alone may."),
]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen at.")]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any that is free.")
]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="For HTTPS, with --key.")
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Of the certificate.")
]


def token_command(
    name: Annotated[str, typer.Argument(help="Of the holder.", show_default=False)],
    *,
    tokens: Annotated[
        Path, typer.Option("--tokens", metavar="FILE", help="To add it to; made if not there.")
    ],
    role: Annotated[
        list[str],
        typer.Option(
            "--role",
            help="device or job of the scheduler, reader or writer of the store, operator; "
            "repeat it.",
        ),
    ],
    rate: Annotated[
        float | None, typer.Option("--rate", help="Devices or other operations a second.")
    ] = None,
) -> None:
    """Make a token, add its hash to a file, and print it: nobody can do so again.

    **Examples**

    - `hocket venn token gateway-1 --role device --tokens tokens.toml`
    - `hocket store token dashboard --role reader --tokens tokens.toml`
    """
    from hocket.fl.service.tokens import DEFAULT_RATE, add_token, make_token

    token, text = make_token(name, tuple(role), DEFAULT_RATE if rate is None else rate)
    add_token(tokens, token)
    answer_console().print(text, soft_wrap=True)
    log_console().print(f"added {token} to {tokens}; restart the service to use it", style="dim")


def pair_of(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Return a certificate and its key, or None without.

    Raises:
        BadParameter: There is one without the other.
    """
    if (certificate is None) != (key is None):
        raise typer.BadParameter("want --certificate and --key, or neither")
    return None if certificate is None or key is None else (certificate, key)
