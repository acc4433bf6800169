"""``hocket prophet evaluate``: what a trained model withstands, and how far that is sure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.prophet_federation import write_prophet
from typer.testing import CliRunner, Result

import hocket
from hocket import cli
from hocket.fl.config import load_config

if TYPE_CHECKING:
    from pathlib import Path

runner = CliRunner()
TRAINED = {
    "strategy.rounds-per-stage": 3,
    "strategy.input-radius": 0.1,
    "strategy.fraction-train": 1.0,
    "federation.rounds": 9,
    "federation.evaluate-every": 9,
    "training.max-steps": 16,
}


def evaluate(*arguments: object) -> Result:
    return runner.invoke(
        cli.app, ["prophet", "evaluate", *map(str, arguments)], env={"COLUMNS": "160"}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = write_prophet(tmp_path_factory.mktemp("evaluate"))
    return hocket.federate(load_config(config, TRAINED)).folder


def found_in(result: Result) -> dict[str, Any]:
    assert result.exit_code in (0, 1), result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_run_is_evaluated_on_its_own_data(run: Path) -> None:
    picture = run / "sweep.svg"
    found = found_in(
        evaluate(run, "--attack", "pgd-20,pgd-100,exits,sweep", "--images", 100, "--restarts", 1,
                 "--plot", picture, "--json")
    )  # fmt: skip
    assert (found["num_examples"], found["radius"]) == (100, 0.1)
    assert found["clean"] > 0.6
    assert found["worst"] <= min(found["accuracies"].values())
    assert found["accuracies"]["pgd-20"] < found["clean"]
    assert found["sweep"][0] == {"radius": 0.0, "accuracy": found["clean"]}
    assert found["sweep"][-1]["radius"] == 1.0
    assert found["sweep"][-1]["accuracy"] <= 0.01
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    clients = found["clients"]
    assert len(clients["devices"]) == 6
    assert clients["clean_worst_decile"] == min(e["clean"] for e in clients["devices"].values())
    mean = sum(each["attacked"] for each in clients["devices"].values()) / 6
    assert clients["attacked_mean"] == pytest.approx(mean)
    assert all(check["is_passed"] for check in found["checks"]), found["checks"]


def test_the_answer_is_a_table_without_json(run: Path) -> None:
    result = evaluate(run, "--images", 40, "--restarts", 1, "--radius", 0.05)
    assert result.exit_code == 0, result.stderr
    assert "pgd-20" in result.stdout
    assert "worst tenth" in result.stdout
    assert "ok: many steps break as much as one" in result.stdout


def test_a_module_is_evaluated_on_a_data_set(run: Path) -> None:
    arguments = ["--source", "digits", "--radius", 0.1, "--images", 40, "--json"]
    module = found_in(evaluate(run / "final.hkt", *arguments))
    folder = found_in(evaluate(run, *arguments[2:], "--no-clients"))
    assert module["clients"] is folder["clients"] is None
    assert module["clean"] == folder["clean"]
    assert module["accuracies"] == folder["accuracies"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "magic"], "no attack 'magic'"),
        (["--plot", "p.png"], "draws a sweep"),
        (["--radius", "2"], "radius must be above 0 and at most 1"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], message: str, run: Path) -> None:
    result = evaluate(run, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_folder_without_a_trained_model_is_refused(tmp_path: Path) -> None:
    result = evaluate(tmp_path)
    assert result.exit_code == 2
    assert "no such file; want the folder of a federation that is over" in result.stderr
    (tmp_path / "model.onnx").write_bytes(b"")
    result = evaluate(tmp_path / "model.onnx")
    assert "want --source" in result.stderr
