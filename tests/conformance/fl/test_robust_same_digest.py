"""One file trains one robust model, to the last bit, on whichever engine it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.prophet_federation import SHORT, write_prophet

import hocket
from hocket.federation import FederationResult
from hocket.fl.config import load_config
from hocket.runtime.artifact import load_artifact

ENGINES = {
    "ray": {"engine.name": "ray", "engine.workers": 1},
    # One SuperNode: Flower starts a process for each message.
    "deployed by Flower": {
        "engine.name": "flower",
        "engine.workers": 1,
        "engine.address": "loopback",
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SHORT.replace("rounds-per-stage = 1", "rounds-per-stage = 2")
    folder = tmp_path_factory.mktemp("prophet")
    path = write_prophet(folder, rounds=3, settings=settings, section='pool = "cifar"')
    # As few devices as have one among them that can train the second module.
    text = path.read_text(encoding="utf-8").replace("devices = 6", "devices = 4")
    path.write_text(text.replace("fraction-train = 0.5", "fraction-train = 1.0"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wanted(config: Path) -> FederationResult:
    return hocket.federate(load_config(config, {"federation.folder": "wanted"}))


@pytest.mark.parametrize("engine", ENGINES)
def test_three_rounds_give_one_model(
    engine: str, config: Path, wanted: FederationResult, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray")
    ray.shutdown()  # of other tests, with other settings
    overrides = {**ENGINES[engine], "federation.folder": str(tmp_path)}
    found = hocket.federate(load_config(config, overrides))
    assert found.digest == wanted.digest
    assert [report.digest for report in found.reports] == [each.digest for each in wanted.reports]
    for report, like in zip(found.reports, wanted.reports, strict=True):
        assert (report.failures, report.num_updates) == ((), 4)
        assert report.train_metrics == like.train_metrics
    assert found.model.read_bytes() == wanted.model.read_bytes()


def test_two_rounds_train_and_one_scores(wanted: FederationResult) -> None:
    first, second, scored = wanted.reports
    assert first.digest != second.digest == scored.digest
    # Some devices have memory and time for the second module, too, and train both.
    start = load_artifact(wanted.folder / "model.hkt").weights["head.weight"]
    end = load_artifact(wanted.folder / "final.hkt").weights["head.weight"]
    assert (start != end).any()
