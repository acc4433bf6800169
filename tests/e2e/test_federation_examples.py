"""The guide to federations and its examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hocket.fl.config import load_config
from hocket.fl.core.errors import ConfigError
from hocket.fl.data.sources import load_fashion_mnist

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "federated.md").read_text("utf-8")


def has_fashion_mnist() -> bool:
    try:
        load_fashion_mnist()
    except ConfigError:
        return False
    return True


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def run(folder: Path, *arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    make_model, use, own = blocks_of("python")
    config, classes = blocks_of("toml")
    path = tmp_path / "federation.toml"
    path.write_text(config, encoding="utf-8")
    run(tmp_path, "-c", make_model)
    said = run(tmp_path, "-c", use)
    digest = said.split()[-1]
    found = json.loads(run(tmp_path, "-m", "hocket", "federate", "run", path, "--json"))
    assert found["digest"] == digest
    assert found["rounds"][-1]["evaluate_metrics"]["server_accuracy"] > 0.7
    listed = set(re.findall(r"^\| `([\w.]+)/?` \|", GUIDE, re.MULTILINE))
    left = {each.name for each in (tmp_path / "runs" / "digits").iterdir()}
    assert left == listed - {"tensorboard"}
    (tmp_path / "my_module.py").write_text(own, encoding="utf-8")
    command = ("-m", "hocket", "federate", "run", path, "--json", "--rounds=2")
    again = run(tmp_path, *command, "--set", "strategy.name=my_module:MedianOfDevices")
    assert json.loads(again)["digest"] != digest
    path.write_text(f"{config}\n{classes}", encoding="utf-8")
    plan = json.loads(run(tmp_path, "-m", "hocket", "federate", "plan", path, "--json"))
    assert [each["name"] for each in plan["classes"]] == ["phone", "sensor"]


def test_the_guide_has_every_key() -> None:
    config = load_config(ROOT / "examples" / "own_strategy.toml")
    for section in ("federation", "engine", "model", "data", "training"):
        row = re.search(rf"^\| `\[{section}\]` \|.*$", GUIDE, re.MULTILINE)
        assert row is not None
        for name in type(getattr(config, section)).model_fields:
            assert f"`{name.replace('_', '-')}`" in row[0], f"{section}.{name}"


def test_a_strategy_and_a_backend_of_ones_own(tmp_path: Path) -> None:
    said = run(tmp_path, ROOT / "examples" / "own_strategy.py")
    accuracies = [float(found) for found in re.findall(r"accuracy (\d\.\d+)", said)]
    assert len(accuracies) == 4
    assert accuracies[-1] > 0.75
    path = ROOT / "examples" / "own_strategy.toml"
    changes = ("--set", f"federation.folder={tmp_path}", "--workers=2", "--json")
    found = json.loads(run(tmp_path, "-m", "hocket", "federate", "run", path, *changes))
    assert found["digest"].startswith(said.split()[-1])


def test_a_robust_model_of_small_devices(tmp_path: Path) -> None:
    said = run(tmp_path, ROOT / "examples" / "fedprophet.py")
    whole, *modules = [int(found) for found in re.findall(r": (\d+) kB", said)]
    assert len(modules) == 3
    assert max(modules) <= 300 < whole
    attacked = dict(re.findall(r"^(\w+): .*, (\d\.\d+) attacked$", said, re.MULTILINE))
    assert float(attacked["fedprophet"]) > float(attacked["undefended"]) + 0.03


@pytest.mark.skipif(not has_fashion_mnist(), reason="needs Fashion-MNIST: make data")
@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_federations_of_fashion_mnist(model: str, tmp_path: Path) -> None:
    folder = ROOT / "examples" / "federation"
    run(tmp_path, folder / "make_models.py", tmp_path)
    config = folder / f"fashion-mnist-{model}.toml"
    path = tmp_path / config.name
    path.write_text(config.read_text("utf-8"), encoding="utf-8")
    changes = ("--rounds=1", "--set", "training.max-steps=2", "--json")
    found = json.loads(run(tmp_path, "-m", "hocket", "federate", "run", path, *changes))
    assert found["rounds"][0]["num_updates"] == 10
    plan = json.loads(run(tmp_path, "-m", "hocket", "federate", "plan", path, "--json"))
    assert sum(each["num_devices"] for each in plan["classes"]) == 100
