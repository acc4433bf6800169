"""Who shares devices: this federation alone, or a service that others ask, too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.observers import Silent
from hocket.installation import mend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hocket.fl.config import DevicesSection
    from hocket.fl.core.devices import DeviceScheduler
    from hocket.fl.core.observers import Observer

TOKEN_VARIABLE = "HOCKET_SERVICE_TOKEN"  # noqa: S105 - the name of a variable


@contextlib.contextmanager
def device_scheduler(section: DevicesSection, num_rounds: int) -> Iterator[DeviceScheduler]:
    """Have what a file's ``[devices]`` says; its devices are free at the end.

    Args:
        section: Of the file.
        num_rounds: That the job will have.

    Raises:
        ConfigError: What asks services is not installed, or the token's file cannot be read.
        ServiceError: The service cannot be reached, or refuses the token.
    """
    if not section.service:
        yield FifoScheduler()
        return
    try:
        from hocket.fl.venn.service.client import ServiceClient, ServiceScheduler
    except ImportError as error:
        raise ConfigError(f"{error}; {mend_of('service')}") from error
    client = ServiceClient(section.service, read_token(section.token_file or None))
    scheduler = ServiceScheduler(
        client,
        num_rounds=num_rounds,
        wait_seconds=section.wait_seconds,
        deadline_seconds=section.deadline_seconds,
    )
    try:
        yield scheduler
    except BaseException:
        # The federation's own error matters more; without an answer, the deadline frees devices.
        from hocket.fl.venn.service.errors import ServiceError

        with contextlib.suppress(ServiceError):
            scheduler.close(is_cancelled=True)
        raise
    scheduler.close()


def observers_with(scheduler: DeviceScheduler, observers: Sequence[Observer]) -> Sequence[Observer]:
    """Return observers, and the scheduler if it wants to hear whose updates are in."""
    return [scheduler, *observers] if isinstance(scheduler, Silent) else observers


def read_token(path: str | os.PathLike[str] | None) -> str:
    """Return the token of a file, or of the environment; empty if there is none.

    Raises:
        ConfigError: The file cannot be read.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token cannot be read: {error}") from error
