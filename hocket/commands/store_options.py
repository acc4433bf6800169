"""Options of all commands on a store of rounds."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT = "hocket-store"

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        "-s",
        metavar="FOLDER|s3://...",
        envvar="HOCKET_STORE",
        help="Where it is; s3://BUCKET/PREFIX?endpoint=URL with the usual AWS variables.",
    ),
]
CatalogOption = Annotated[
    Path | None,
    typer.Option("--catalog", metavar="FILE", help="Its catalog, if it is in no folder."),
]


def parse_size(text: str, name: str) -> int:
    """Return a size in bytes, or refuse it in the name of its option."""
    from hocket.fl.core.sections import parse_bytes

    try:
        return parse_bytes(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None
