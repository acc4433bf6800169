"""What the section ``[store]`` of a federation's file says: every round is recorded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.installation import mend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hocket.fl.core.sections import StoreSection
    from hocket.fl.core.strategy import Strategy
    from hocket.fl.store.recording import Recorder


@contextlib.contextmanager
def recorder_of(
    section: StoreSection, job: str, provenance: Mapping[str, str]
) -> Iterator[Recorder | None]:
    """Have a recorder, and wait at the end until all is put; None where the file has no store.

    Args:
        section: Of the file.
        job: The federation's name in the store.
        provenance: Words for every entry.

    Raises:
        ConfigError: The address lacks a catalog, or what keeps stores is not installed.
        StoreError: An entry could not be put.
    """
    if not section.address:
        yield None
        return
    try:
        from hocket.fl.store.recording import Recorder
        from hocket.store_parts import open_round_store
    except ImportError as error:
        raise ConfigError(f"[store]: {error}; {mend_of('store')}") from error
    catalog = Path(section.catalog) if section.catalog else None
    with (
        open_round_store(section.address, catalog, must_exist=False) as store,
        contextlib.closing(Recorder(store, job, provenance)) as recorder,
    ):
        yield recorder


def recorded(strategy: Strategy, recorder: Recorder | None) -> Strategy:
    """Return a strategy whose rounds are recorded, if there is a recorder."""
    if recorder is None:
        return strategy
    from hocket.fl.store.recording import Recorded

    return Recorded(strategy, recorder)
