"""``hocket prophet`` from the outside: what it prints, what it refuses, with which status."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.digits import EXIT_FEATURES, digit_cascade, digit_footprint
from support.prophet_federation import SHORT, write_prophet
from torch import nn
from training.models import export
from typer.testing import CliRunner, Result

from hocket import cli
from hocket.federation import prepare_federation
from hocket.fl.config import load_config
from hocket.fl.core.backend import Span
from hocket.fl.core.sections import parse_bytes

runner = CliRunner()


def prophet(*arguments: object) -> Result:
    return runner.invoke(cli.app, ["prophet", *map(str, arguments)], env={"COLUMNS": "160"})


def found_in(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal_of(*arguments: object) -> str:
    """Return a message on one line; the command must fail for what the caller did wrong."""
    result = prophet(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prophet(tmp_path_factory.mktemp("command"))


@pytest.fixture(scope="module")
def trained(config: Path) -> dict[str, Any]:
    return found_in(prophet("train", config, "--json"))


def test_plan_says_what_modules_take(config: Path) -> None:
    whole = digit_footprint(Span(is_attacked=True)).peak_bytes
    budget = int(0.93 * whole)
    picture = config.parent / "modules.svg"
    found = found_in(
        prophet(
            "plan", config.parent / "digits.onnx", "--memory", f"{budget}B", "--batch-size", 32,
            "--exit-features", EXIT_FEATURES, "--plot", picture, "--json",
        )
    )  # fmt: skip
    cascade = digit_cascade(0.93)
    assert found["whole"]["peak_bytes"] == whole
    assert len(found["modules"]) == len(cascade) == 2
    for number, each in enumerate(found["modules"]):
        footprint = digit_footprint(cascade.piece(number, number).span)
        assert each["peak_bytes"] == footprint.peak_bytes <= budget
        assert each["share"] == pytest.approx(footprint.peak_bytes / whole)
    assert len(found["classes"]) == 10
    for each in found["classes"]:
        assert len(each["modules"]) == 2
        assert max(each["published_modules"]) < each["published_whole"]
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    shown = prophet("plan", config.parent / "digits.onnx", "--memory", f"{budget}B")
    assert shown.exit_code == 2  # batches of 64 do not fit
    assert "the budget is" in shown.stderr


def test_plan_is_a_table_without_json(config: Path) -> None:
    result = prophet("plan", config.parent / "digits.onnx", "--memory", "10MB", "--pool", "caltech")
    assert result.exit_code == 0, result.stderr
    assert "module 0, input to output" in result.stdout
    assert "rtx_4090m" in result.stdout


def test_train_says_what_came_of_it(config: Path, trained: dict[str, Any]) -> None:
    assert trained["method"] == "fedprophet"
    assert [each["round"] for each in trained["rounds"]] == [1, 2, 3, 4]
    assert trained["rounds"][-1]["digest"] == trained["digest"]
    lines = (config.parent / "runs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [
        each["digest"] for each in trained["rounds"]
    ]


def test_a_run_that_is_stopped_goes_on_with_the_same_bits(
    config: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    folder = ["--set", f"federation.folder={tmp_path}"]
    for rounds in (1, 2):
        part = prophet("train", config, "--rounds", rounds, "--resume", *folder)
        assert part.exit_code == 0, part.stderr
    picture = tmp_path / "rounds.png"
    found = found_in(prophet("train", config, "--resume", "--plot", picture, "--json", *folder))
    assert found["digest"] == trained["digest"]
    assert Path(found["module"]).read_bytes() == Path(trained["module"]).read_bytes()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_with_other_settings_is_not_gone_on_with(
    config: Path, trained: dict[str, Any]
) -> None:
    del trained
    message = refusal_of("train", config, "--resume", "--set", "prophet.memory=10MB")
    assert "made with other settings" in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategy.name=magic", "no method 'magic' to withstand attacks"),
        ("strategy.magic=1", "does not take these settings"),
        ("prophet.memory=1kB", "the budget is 1,000; give more memory"),
        ("prophet.memory=much", "want a size such as 60MB"),
        ("prophet.pool=swimming", "'cifar'"),
        ("prophet.magic=1", "there is no such key"),
    ],
)
def test_what_a_file_gets_wrong_is_named(setting: str, message: str, config: Path) -> None:
    assert message in refusal_of("train", config, "--set", setting)


def test_a_file_without_the_section_is_for_another_command(config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8")
    path = tmp_path / "plain.toml"
    path.write_text(text[: text.index("[prophet]")], encoding="utf-8")
    assert "want a section [prophet]" in refusal_of("train", path)


@pytest.mark.parametrize("memory", ["0", "lots", "-1MB"])
def test_memory_has_to_be_a_size(memory: str, config: Path) -> None:
    message = refusal_of("plan", config.parent / "digits.onnx", "--memory", memory)
    assert "--memory" in message


def test_the_guide_s_file_is_one(config: Path, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "fedprophet.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    own = config.read_text(encoding="utf-8")
    path = tmp_path / "guide.toml"
    path.write_text(own[: own.index("[strategy]")] + block, encoding="utf-8")
    loaded = load_config(path, {"model.onnx": str(config.parent / "digits.onnx")})
    strategy: Any = prepare_federation(loaded).strategy
    assert strategy.budget_bytes == 60_000_000
    assert strategy.settings.input_radius == 0.1


def test_sizes_are_read_with_their_units() -> None:
    assert parse_bytes("60MB") == 60_000_000
    assert parse_bytes("1.5 GiB") == 1_610_612_736
    assert parse_bytes("17B") == parse_bytes(17) == 17


def test_a_file_that_is_no_model_is_refused(config: Path) -> None:
    assert "not an ONNX model" in refusal_of("plan", config, "--memory", "1MB")


def test_a_folder_without_a_run_is_not_drawn(tmp_path: Path) -> None:
    said = runner.invoke(cli.app, ["photon", "plot", str(tmp_path)])
    assert said.exit_code == 2
    message = "metrics.jsonl: No such file or directory; want the folder of a run"
    assert message in " ".join(said.stderr.split())


def test_a_budget_that_attacks_on_the_input_do_not_fit_into_is_refused(tmp_path: Path) -> None:
    """A wide layer's optimizer and one image in the convolution before it are more than either."""
    layers = [nn.Conv2d(1, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 10))
    settings = f'{SHORT}attack = "input"\n'
    path = write_prophet(tmp_path, memory='"170kB"', settings=settings)
    exported = export(model, {"pixels": torch.zeros(2, 1, 8, 8)}, is_training=True)
    (tmp_path / "digits.onnx").write_bytes(exported.SerializeToString())
    said = refusal_of("train", path, "--set", "training.batch-size=2")
    assert "module 1" in said
    assert "attacked at the input" in said
    assert "attack 'features'" in said
