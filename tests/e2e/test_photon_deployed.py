"""Photon on a real SuperLink with SuperNodes, over TLS; one node is killed in a round."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.photon_flower import ROUND, VICTIM
from support.photon_text import write_config, write_text

from hocket.fl.core.client import Client, ClientFactory
from hocket.fl.core.clock import WallClock
from hocket.fl.core.observers import Silent
from hocket.fl.core.parameters import Parameters
from hocket.fl.core.types import ClientTask, ClientUpdate, RoundReport
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.config import load_photon_config
from hocket.photon import photon_clients, train_photon
from hocket.photon_launch import run_deployed

CHANGES = (
    ("rounds = 3", "rounds = 2"),
    # After a round of one client alone, another kind of text points elsewhere.
    ('scheme = "int4"', 'scheme = "int4"\nmin-cosine = -1.0'),
)
TESTS = str(Path(__file__).parents[1])


@dataclasses.dataclass(frozen=True)
class Failing:
    """Makes clients of which one fails in one round."""

    made: ClientFactory

    def device_ids(self) -> list[str]:
        return self.made.device_ids()

    def __call__(self) -> Client:
        client = self.made()

        class Failed:
            def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
                if (task.device_id, task.round) == (VICTIM, ROUND):
                    raise RuntimeError("killed")
                return client.run(task, parameters)

        return Failed()


class Told(Silent):
    def __init__(self) -> None:
        self.rounds: list[RoundReport] = []

    def finished(self, report: RoundReport) -> None:
        self.rounds.append(report)


def test_a_killed_supernode_costs_its_round_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is that of a run in this process whose client failed in the same round."""
    pytest.importorskip("flwr")
    monkeypatch.setenv("PYTHONPATH", TESTS)
    write_text(tmp_path)
    config = load_photon_config(write_config(tmp_path, "here", *CHANGES))
    _, clients = photon_clients(config)
    with contextlib.closing(InProcessEngine(Failing(clients), WallClock())) as engine:
        wanted = train_photon(config, engine=engine)
    section = '\n[engine]\nname = "flower"\nworkers = 2\naddress = "loopback"\n'
    config = load_photon_config(write_config(tmp_path, "deployed", *CHANGES, more=section))
    # The module is compiled once.
    (tmp_path / "deployed").mkdir()
    for name in ("model.hkt", "model.hkt.json"):
        shutil.copy(tmp_path / "here" / name, tmp_path / "deployed" / name)
    told = Told()
    run_deployed(config, [told], client="support.photon_flower:client")
    assert [report.round for report in told.rounds] == [1, 2]
    assert [report.num_updates for report in told.rounds] == [1, 2]
    assert "its node is gone" in told.rounds[ROUND - 1].failures[0]
    assert [report.digest for report in told.rounds] == [each.digest for each in wanted.reports]
    for report, like in zip(told.rounds, wanted.reports, strict=True):
        assert report.evaluate_metrics == like.evaluate_metrics
        assert report.train_metrics == like.train_metrics
    # By processes of their own, the last one's text and state on disk.
    lines = (tmp_path / "deployed" / "answered.jsonl").read_text().splitlines()
    assert sorted(map(json.loads, lines)) == [[1, "client-000"], [2, "client-000"], [2, VICTIM]]
