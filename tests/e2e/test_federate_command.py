"""``hocket federate`` from the outside: what it prints, what it refuses, with which status."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.digits_federation import write_federation
from typer.testing import CliRunner, Result

from hocket import cli

runner = CliRunner()


def federate(*arguments: object) -> Result:
    # Wide enough for tables not to break headings, whatever terminal the tests run in.
    wide = {"COLUMNS": "160"}
    return runner.invoke(cli.app, ["federate", *map(str, arguments)], env=wide)


def found_in(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal_of(*arguments: object) -> str:
    """Return a message on one line; the command must fail for what the caller did wrong."""
    result = federate(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_federation(tmp_path_factory.mktemp("command"))


def test_run_says_what_came_of_it(config: Path) -> None:
    found = found_in(federate("run", config, "--json"))
    assert set(found) == {
        "config", "folder", "module", "digest", "artifact_digest", "engine", "rounds"
    }  # fmt: skip
    assert found["engine"] == "local"
    assert [each["round"] for each in found["rounds"]] == [1, 2, 3]
    assert found["rounds"][-1]["digest"] == found["digest"]
    assert set(found["rounds"][0]) == {
        "round", "num_tasks", "num_updates", "num_failures", "has_quorum", "train_metrics",
        "evaluate_metrics", "digest", "seconds", "exchange_seconds", "failures",
    }  # fmt: skip
    assert Path(found["module"]) == config.parent / "runs" / "final.hkt"
    again = federate("run", config)
    assert again.exit_code == 0
    assert found["digest"] in again.stdout
    assert "server accuracy" in again.stdout


def test_options_and_set_take_the_place_of_the_file(config: Path, tmp_path: Path) -> None:
    found = found_in(
        federate("run", config, "--rounds", 1, "--json", "--set", "training.learning-rate=0.01")
    )
    assert len(found["rounds"]) == 1
    other = found_in(
        federate("run", config, "--rounds=1", "--json", "--set", f"federation.folder={tmp_path}")
    )
    assert found["digest"] != other["digest"]
    assert other["folder"] == str(tmp_path)
    more = federate("run", config, "--rounds=2", "--resume", "--json", "--set",
                    f"federation.folder={tmp_path}")  # fmt: skip
    assert found_in(more)["rounds"][0]["digest"] == other["digest"]


def test_plan_says_what_it_takes(config: Path) -> None:
    found = found_in(federate("plan", config, "--rounds", 7, "--json"))
    assert set(found) == {
        "rounds", "devices_per_round", "download_bytes", "upload_bytes", "round_seconds",
        "total_bytes", "total_seconds", "fits", "classes",
    }  # fmt: skip
    assert (found["rounds"], found["devices_per_round"], found["fits"]) == (7, 3, True)
    (only,) = found["classes"]
    assert (only["name"], only["num_devices"], only["fits"]) == ("any", 6, True)
    assert only["footprint"]["peak_bytes"] > found["download_bytes"] > 0
    shown = federate("plan", config)
    assert shown.exit_code == 0
    assert "3 round(s) of 3 device(s)" in shown.stdout


def test_plan_of_what_fits_nowhere_has_status_1(tmp_path: Path) -> None:
    more = '\n[[device-classes]]\nname = "sensor"\ntarget = "mas-edge"\nmemory-bytes = 1000\n'
    result = federate("plan", write_federation(tmp_path, more=more))
    assert result.exit_code == 1
    assert "sensor has 1,000; try smaller batches" in " ".join(result.stdout.split())


def test_run_in_which_nobody_answers_has_status_1(tmp_path: Path) -> None:
    result = federate(
        "run", write_federation(tmp_path, rounds=1), "--set", "training.learning-rate=1e30"
    )
    assert result.exit_code == 1
    assert "(no quorum)" in result.stdout
    assert "lower the learning rate" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.epoch=3"], "training.epoch: there is no such key"),
        (["--set", "training.epochs=0"], "training.epochs: input should be greater than or equal"),
        (["--set", "training.optimizer=lion"], "training.optimizer: input should be 'sgd'"),
        (["--set", "training.batch-size=9999"], "training: batch_size must be at most"),
        (["--set", "data.source=imagenet"], "data: no data set 'imagenet'; there are digits"),
        (["--set", "data.input=image"], "data: input: the model has no input 'image'; it has"),
        (["--set", "model.output=logits"], "model: the model has no output 'logits'"),
        (["--set", "model.frozen=['head.wait']"], "model: frozen: no weight is like 'head.wait'"),
        (["--set", "strategy.name=fedsgd"], "strategy: name: no strategy 'fedsgd'; there are"),
        (["--set", "strategy.name=mine:make"], "strategy.name: cannot load 'mine:make'"),
        (["--set", "strategy.fraction=0.1"], "strategy: fedavg does not take these settings"),
        (["--set", "federation.clock=simulated"], "federation.clock: simulated time wants"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_errors_name_the_file_and_the_key(arguments: list[str], message: str, config: Path) -> None:
    for command in ("run", "plan"):
        said = refusal_of(command, config, *arguments)
        assert message in said
        assert "federation.toml" in said


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "no such file" in refusal_of("run", tmp_path / "missing.toml")
    (tmp_path / "broken.toml").write_text("[federation\n")
    assert "broken.toml: cannot be read" in refusal_of("run", tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    assert "empty.toml: model: it is missing" in refusal_of("run", tmp_path / "empty.toml")
    assert "want SECTION.KEY=VALUE" in refusal_of("run", tmp_path / "a.toml", "--set", "rounds=3")


def test_a_strategy_beside_the_file(tmp_path: Path) -> None:
    write_federation(tmp_path)
    (tmp_path / "beside_the_file.py").write_text(
        textwrap.dedent(
            """
            from hocket.fl.strategies.averaging import fedavg

            def make_strategy(**settings):
                return fedavg(**settings)
            """
        )
    )
    changes = ["--rounds=1", "--json", "--set", "strategy.name=beside_the_file:make_strategy"]
    found = found_in(federate("run", tmp_path / "federation.toml", *changes))
    assert len(found["rounds"]) == 1
