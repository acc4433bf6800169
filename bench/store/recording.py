"""What recording adds to real rounds: a federation with ``[store]`` in its file, and without."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from training.federations import models

import hocket
from hocket.fl.core.observers import Silent
from hocket.fl.store.recording import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from hocket.fl.core.types import RoundReport

SIZE, ROUNDS, REPEATS = 8, 9, 5
CONFIG = """\
[federation]
name = "digits"
rounds = {rounds}
folder = "{folder}"

[model]
onnx = "cnn.onnx"
dims = {{ batch = "1..64" }}

[data]
source = "digits"
devices = 10

[training]
epochs = 4
batch-size = 16
learning-rate = 0.1
"""


class _Seconds(Silent):
    """Takes down how long rounds took."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def finished(self, report: RoundReport) -> None:
        self.found.append(report.seconds)


def recording_row(folder: Path) -> dict[str, Any]:
    """Return how long rounds take with and without a store, in turns.

    ``waited_share`` is the part of a round in which it waited for the recorder itself, and
    ``worked_share`` what the recorder took of a core meanwhile: a busy machine blurs them less than
    the difference of two times.
    """
    torch.manual_seed(0)
    models.write_onnx(models.Cnn(SIZE, channels=32), folder / "cnn.onnx", SIZE)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    waited: list[float] = []
    submit = Recorder._submit

    worked: list[float] = []

    def timed(recorder: Recorder, parameters: Any, put: Any) -> None:
        def put_timed() -> None:
            begun = time.thread_time()
            put()
            worked.append(time.thread_time() - begun)

        started = time.perf_counter()
        submit(recorder, parameters, put_timed)
        waited.append(time.perf_counter() - started)

    with mock.patch.object(Recorder, "_submit", timed):
        for repeat in range(REPEATS):
            for is_recorded in (False, True):
                name = f"{repeat}-{is_recorded}"
                text = CONFIG.format(rounds=ROUNDS, folder=name)
                if is_recorded:
                    text += f'\n[store]\naddress = "store-{repeat}"\n'
                path = folder / f"{name}.toml"
                path.write_text(text, encoding="utf-8")
                told = _Seconds()
                hocket.federate(path, observers=[told])
                # The first of them loads and compiles.
                seconds[is_recorded] += told.found[1:]
    plain, recorded = (statistics.median(seconds[each]) for each in (False, True))
    return {
        "part": "recording",
        "rounds": len(seconds[True]),
        "devices": 10,
        "plain_ms": 1e3 * plain,
        "recorded_ms": 1e3 * recorded,
        "slower": recorded / plain - 1,
        "worked_share": sum(worked) / (ROUNDS * REPEATS) / recorded,
        "waited_share": sum(waited) / (ROUNDS * REPEATS) / recorded,
    }
