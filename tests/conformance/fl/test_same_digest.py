"""One file gives one model, to the last bit, on whichever engine it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.digits_federation import write_federation

import hocket
from hocket.federation import FederationResult
from hocket.fl.config import load_config

ENGINES = {
    "processes": {"engine.workers": 2},
    "ray": {"engine.name": "ray", "engine.workers": 2},
    "simulated by Flower": {"engine.name": "flower", "engine.workers": 2},
    "deployed by Flower": {
        "engine.name": "flower",
        "engine.workers": 2,
        "engine.address": "loopback",
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_federation(tmp_path_factory.mktemp("federation"), "vit", rounds=2)
    # Flower starts a process for each of a round's two clients.
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("devices = 6", "devices = 4"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wanted(config: Path) -> FederationResult:
    return hocket.federate(load_config(config, {"federation.folder": "wanted"}))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_file_gives_one_model(
    engine: str, config: Path, wanted: FederationResult, tmp_path: Path
) -> None:
    if "ray" in engine or "Flower" in engine:
        ray = pytest.importorskip("ray")
        ray.shutdown()  # of other tests, with other settings
    overrides = {**ENGINES[engine], "federation.folder": str(tmp_path)}
    found = hocket.federate(load_config(config, overrides))
    assert found.digest == wanted.digest
    assert found.artifact_digest == wanted.artifact_digest
    assert len(found.reports) == len(wanted.reports) == 2
    for report, like in zip(found.reports, wanted.reports, strict=True):
        assert (report.failures, report.num_updates) == ((), 2)
        assert report.digest == like.digest
        assert report.train_metrics == like.train_metrics
        assert report.evaluate_metrics == like.evaluate_metrics
    assert found.model.read_bytes() == wanted.model.read_bytes()


def test_rounds_change_the_model(wanted: FederationResult) -> None:
    assert len({report.digest for report in wanted.reports}) == 2


def test_another_seed_gives_another_model(
    config: Path, wanted: FederationResult, tmp_path: Path
) -> None:
    overrides = {"federation.seed": 4, "federation.folder": str(tmp_path)}
    assert hocket.federate(load_config(config, overrides)).digest != wanted.digest
