"""Photon's client for Flower with something told to go wrong: its SuperNode is killed."""

from __future__ import annotations

import json
import os
import signal
import time
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

VICTIM, ROUND = "client-001", 2


class Killing:
    """Trains, and takes the SuperNode with it in the middle of one round."""

    def __init__(self, client: Client, folder: Path, started: float) -> None:
        self._client, self._folder, self._started = client, folder, started

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        began = time.monotonic()
        if (task.device_id, task.round) == (VICTIM, ROUND):
            # It leads the group that this process is in, as ``deploy`` has started it.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        found = self._client.run(task, parameters)
        seconds = {"made": began - self._started, "trained": time.monotonic() - began}
        line = json.dumps({"round": task.round, "device": task.device_id, **seconds})
        with (self._folder / "seconds.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return found


def _make(context: Context) -> Client:
    started = time.monotonic()
    folder = Path(config_of(context.run_config).run.folder)
    return Killing(make_client(context), folder, started)


client = make_client_app(_make)
