"""The same federation on any engine ends with the same bits."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from support import flower_apps
from support.federation import Clients

from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Progress
from hocket.fl.core.engine import Engine
from hocket.fl.core.errors import FederationError
from hocket.fl.core.store import FolderStore
from hocket.fl.engines.flower.deployment import DeployedApp, deploy, run_app
from hocket.fl.engines.flower.simulation import FlowerSimulation
from hocket.fl.engines.local import InProcessEngine, ProcessEngine
from hocket.fl.engines.ray import RayEngine

TESTS = str(Path(__file__).parents[2])


def run_on(engine: Engine) -> Progress:
    with closing(engine):
        return flower_apps.run(flower_apps.coordinator(engine))


@pytest.fixture(scope="module")
def wanted() -> Progress:
    return run_on(InProcessEngine(Clients(), WallClock()))


@pytest.fixture(autouse=True)
def importable_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes of Ray and Flower import what is in support."""
    monkeypatch.setenv("PYTHONPATH", TESTS)


def check_same(found: Progress, wanted: Progress) -> None:
    assert found.digest == wanted.digest
    assert found.round == len(found.reports) == 3
    for report, like in zip(found.reports, wanted.reports, strict=True):
        assert (report.failures, report.num_updates) == ((), 6)
        assert report.digest == like.digest
        assert report.train_metrics == like.train_metrics
        assert report.evaluate_metrics == like.evaluate_metrics


def test_training_changes_the_model(wanted: Progress) -> None:
    assert len({report.digest for report in wanted.reports}) == 3
    assert wanted.reports[-1].evaluate_metrics["accuracy"] > 0.5


def test_in_processes(wanted: Progress) -> None:
    check_same(run_on(ProcessEngine(Clients(), 2, WallClock())), wanted)


def test_on_ray(wanted: Progress) -> None:
    import ray

    ray.shutdown()  # of other tests, with another path
    check_same(run_on(RayEngine(Clients(), 2, WallClock())), wanted)


def test_simulated_by_flower_with_fewer_nodes_than_devices(wanted: Progress) -> None:
    import ray

    ray.shutdown()
    check_same(run_on(FlowerSimulation(Clients(), 2, WallClock(), num_nodes=4)), wanted)
    assert not ray.is_initialized()


def test_deployed_by_flower(wanted: Progress, tmp_path: Path) -> None:
    settings = {"folder": str(tmp_path)}
    app = DeployedApp("support.flower_apps:server", "support.flower_apps:client", settings)
    with deploy(flower_apps.NUM_NODES) as address:
        run_app(app, address)
        left = flower_apps.coordinator(
            InProcessEngine(Clients(), WallClock()), FolderStore(tmp_path)
        )
        check_same(left.resume(), wanted)
        failing = DeployedApp("support.flower_apps:failing_server", app.client)
        with pytest.raises(FederationError, match=r"(?s)failed.*the server has no disk left"):
            run_app(failing, address)
    # What SuperLink and SuperNodes have started looks from time to time whether they are there.
    deadline = time.monotonic() + 60
    while left_behind := processes_of(address):
        assert time.monotonic() < deadline, left_behind
        time.sleep(0.1)


def processes_of(address: str) -> list[str]:
    """Return the command lines of processes that were told an address."""
    if not sys.platform.startswith("linux"):
        return []
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue  # it has just ended
        if address in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found
