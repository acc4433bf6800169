"""Who shares devices: this federation alone, or a service that others ask, too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.fl.config import FederationConfig
    from hocket.fl.core.devices import DeviceScheduler

TOKEN_VARIABLE = "HOCKET_SERVICE_TOKEN"  # noqa: S105 - the name of a variable


@contextlib.contextmanager
def device_scheduler(config: FederationConfig) -> Iterator[DeviceScheduler]:
    """Have what a configuration's ``[devices]`` says; its devices are free at the end.

    Args:
        config: Of the federation, which is the job.

    Raises:
        ConfigError: What asks services is not installed, or the token's file cannot be read.
        ServiceError: The service cannot be reached, or refuses the token.
    """
    section = config.devices
    if not section.service:
        yield FifoScheduler()
        return
    with config.naming("devices"):
        try:
            from hocket.fl.venn.service.client import ServiceClient, ServiceScheduler
        except ImportError as error:
            raise ConfigError(f'{error}; pip install "hocket[service]"') from error
        client = ServiceClient(section.service, _read_token(section.token_file))
    scheduler = ServiceScheduler(
        client,
        num_rounds=config.federation.rounds,
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


def _read_token(name: str) -> str:
    if not name:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token-file: {error}") from error
