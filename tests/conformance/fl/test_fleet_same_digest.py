"""A fleet comes to the same, to the last bit, wherever its devices' work is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hocket.fleet.config import load_fleet_config
from hocket.fleet.run import prepare_fleet, run_fleet

ROOT = Path(__file__).parents[3]
FLEET = ROOT / "examples" / "fleet"
TEXT = """
[fleet]
seed = 1

[population]
devices = 6
seed = 1

[[classes]]
name = "tablet"
target = "mas-edge"
failure-rate = 0.1

[store]
memory = "8MB"

[[jobs]]
federation = "{folder}/prophet.toml"
devices = 2
settings = {{ {vision} }}

[[jobs]]
name = "words"
photon = "{folder}/words.toml"
texts = ["{docs}/venn*.md"]
devices = 2
settings = {{ {words} }}

[[requests]]
workload = "clustering"
job = "words"
"""

VISION = {
    "model.onnx": '"vit-digits.onnx"',
    "data.source": '"digits"',
    "data.partitioning": '"iid"',
    "federation.rounds": 2,
    "federation.evaluate-every": 1,
    "strategy.warm-up": 0,
    "training.max-steps": 2,
}
WORDS = {
    "run.rounds": 2,
    "model.layers": 1,
    "model.width": 24,
    "model.context": 16,
    "training.local-steps": 2,
    "data.held-out": 4,
}
ENGINES = {
    "processes": {"engine.workers": 2},
    "ray": {"engine.name": "ray", "engine.workers": 2},
    "simulated by Flower": {"engine.name": "flower", "engine.workers": 2},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    vision, words = (
        ", ".join(f'"{key}" = {value}' for key, value in each.items()) for each in (VISION, WORDS)
    )
    text = TEXT.format(folder=FLEET, docs="docs", vision=vision, words=words)
    path.write_text(text, encoding="utf-8")
    (path.parent / "docs").symlink_to(ROOT / "docs")
    return path


def result_of(config: Path, folder: Path, engine: dict[str, object]) -> dict[str, Any]:
    overrides = {"fleet.folder": str(folder), **engine}
    run_fleet(prepare_fleet(load_fleet_config(config, overrides)))
    found: dict[str, Any] = json.loads((folder / "fleet.json").read_text(encoding="utf-8"))
    del found["measured"]
    return found


@pytest.fixture(scope="module")
def wanted(config: Path) -> dict[str, Any]:
    return result_of(config, config.with_name("wanted"), {})


@pytest.mark.parametrize("engine", ENGINES)
def test_one_file_gives_one_fleet(
    engine: str, config: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    if engine != "processes":
        ray = pytest.importorskip("ray")
        ray.shutdown()  # of other tests, with other settings
    assert result_of(config, tmp_path / "fleet", ENGINES[engine]) == wanted
    digests = {each["digest"] for job in wanted["jobs"].values() for each in job["rounds"]}
    assert len(digests) == 4
