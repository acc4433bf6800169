"""One file trains one robust model, to the last bit, on whichever engine it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.prophet_federation import write_prophet

import hocket
from hocket.federation import FederationResult
from hocket.fl.config import load_config

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
    return write_prophet(tmp_path_factory.mktemp("prophet"), rounds=4, section='pool = "cifar"')


@pytest.fixture(scope="module")
def wanted(config: Path) -> FederationResult:
    return hocket.federate(load_config(config, {"federation.folder": "wanted"}))


@pytest.mark.parametrize("engine", ENGINES)
def test_four_rounds_give_one_model(
    engine: str, config: Path, wanted: FederationResult, tmp_path: Path
) -> None:
    """One round trains each of two modules, two between these measure what the first has become."""
    ray = pytest.importorskip("ray")
    ray.shutdown()  # of other tests, with other settings
    overrides = {**ENGINES[engine], "federation.folder": str(tmp_path)}
    found = hocket.federate(load_config(config, overrides))
    assert found.digest == wanted.digest
    assert [report.digest for report in found.reports] == [each.digest for each in wanted.reports]
    for report, like in zip(found.reports, wanted.reports, strict=True):
        assert (report.failures, report.num_updates) == ((), 3)
        assert report.train_metrics == like.train_metrics
    assert found.model.read_bytes() == wanted.model.read_bytes()


def test_the_rounds_train_one_module_after_the_other(wanted: FederationResult) -> None:
    first, scored, measured, second = wanted.reports
    assert first.digest == scored.digest == measured.digest != second.digest
    moved = ["displacement" in each.train_metrics for each in wanted.reports]
    assert moved == [False, False, True, False]
