"""A store of rounds from its address: entries, their catalog, instances as they are asked."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.catalog import Catalog
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import open_objects
from hocket.fl.store.round_store import RoundStore

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOG = "catalog.sqlite"
MEMORY_BYTES = 2 << 30
MAKE_MODEL = "hocket.store_models:make_model"
"""What runs modules, found where it is needed: it loads much."""


@contextlib.contextmanager
def open_history(
    address: str, catalog: Path | None = None, *, must_exist: bool = True
) -> Iterator[History]:
    """Open what is kept, and close it again.

    Args:
        address: A folder, or ``s3://BUCKET/PREFIX?endpoint=URL``.
        catalog: Where it is, if the entries are in no folder.
        must_exist: Whether it is an error if there is none.

    Raises:
        ConfigError: There is no store there, or the address lacks a catalog.
        StoreError: The catalog is none.
    """
    is_remote = "://" in address and not address.startswith("file://")
    if is_remote and catalog is None:
        raise ConfigError(
            f"{address}: entries may be there, but their catalog is a file: name it by --catalog"
        )
    path = catalog or Path(address.removeprefix("file://")) / CATALOG
    if must_exist and not path.is_file():
        raise ConfigError(f"{path}: there is no store here; `hocket store put` makes one")
    opened = Catalog(path)
    try:
        yield History(open_objects(address), opened, time.time)
    finally:
        opened.close()


@contextlib.contextmanager
def open_round_store(
    address: str,
    catalog: Path | None = None,
    memory_bytes: int = MEMORY_BYTES,
    num_instances: int = 2,
    *,
    must_exist: bool = True,
) -> Iterator[RoundStore]:
    """Open a store that answers questions, and close it again.

    Args:
        address, catalog, must_exist: As of ``open_history``.
        memory_bytes: That entries are held in.
        num_instances: Processes at most.
    """
    with open_history(address, catalog, must_exist=must_exist) as history:
        store = RoundStore(
            history, Instances(memory_bytes, most=num_instances, make_model=MAKE_MODEL)
        )
        try:
            yield store
        finally:
            store.close()
