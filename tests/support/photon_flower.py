"""Photon's client for Flower with something told to go wrong: its SuperNode is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.engines.flower.client import make_client_app
from hocket.photon_app import make_client
from hocket.photon_launch import config_of

if TYPE_CHECKING:
    from flwr.app import Context

    from hocket.fl.core.client import Client
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, ClientUpdate

VICTIM, ROUND = "client-001", 1


class Killing:
    """Trains, and takes the SuperNode with it in the middle of one round."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client, self._folder = client, folder

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        if (task.device_id, task.round) == (VICTIM, ROUND):
            # It leads the group that this process is in, as ``deploy`` has started it.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        found = self._client.run(task, parameters)
        with (self._folder / "answered.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps([task.round, task.device_id]) + "\n")
        return found


def _make(context: Context) -> Client:
    folder = Path(config_of(context.run_config).run.folder)
    return Killing(make_client(context), folder)


client = make_client_app(_make)
