"""From a federation's file to a trained module, and to the same one when the process is killed."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.digits_federation import make_module, write_federation

import hocket
from hocket.fl.config import load_config
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.observers import Silent
from hocket.fl.data.sources import load_digits

ROUNDS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file whose federation has been run to its end."""
    path = write_federation(tmp_path_factory.mktemp("federation"), rounds=ROUNDS, learning_rate=0.1)
    path.write_text(path.read_text("utf-8").replace("seed = 3", "seed = 3\ntensorboard = true"))
    return path


@pytest.fixture(scope="module")
def result(config: Path) -> hocket.FederationResult:
    return hocket.federate(config)


def test_it_learns(result: hocket.FederationResult) -> None:
    accuracies = [report.evaluate_metrics["server_accuracy"] for report in result.reports]
    assert len(accuracies) == ROUNDS
    assert accuracies[0] < 0.5
    assert accuracies[-1] > 0.8


def test_the_final_module_has_the_accuracy_reported(result: hocket.FederationResult) -> None:
    digits = load_digits()
    session = hocket.InferenceSession(result.model)
    (scores,) = session.run(None, {"pixels": digits.scaled(digits.test_images[:256])})
    (rest,) = session.run(None, {"pixels": digits.scaled(digits.test_images[256:])})
    found = np.concatenate([scores, rest]).argmax(axis=1) == digits.test_labels
    assert found.mean() == pytest.approx(result.reports[-1].evaluate_metrics["server_accuracy"])


def test_the_final_parameters_are_right_in_torch(result: hocket.FederationResult) -> None:
    torch = pytest.importorskip("torch")
    digits, module = load_digits(), make_module("cnn")
    weights = hocket.load(result.model).artifact.weights
    named = {name: torch.from_numpy(weights[name].copy()) for name in module.state_dict()}
    module.load_state_dict(named)
    pixels = digits.scaled(digits.test_images)
    scores = module(torch.from_numpy(pixels)).detach().numpy()
    accuracy = (scores.argmax(axis=1) == digits.test_labels).mean()
    # An image on the border between classes may fall to either side.
    wanted = result.reports[-1].evaluate_metrics["server_accuracy"]
    assert accuracy == pytest.approx(wanted, abs=1.5 / len(digits.test_labels))


def test_metrics_are_lines_of_json(result: hocket.FederationResult) -> None:
    lines = (result.folder / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, ROUNDS + 1))
    for line, report in zip(lines, result.reports, strict=True):
        found = json.loads(line)
        assert found["digest"] == report.digest
        assert found["evaluate_metrics"] == report.evaluate_metrics
    assert json.loads(lines[-1])["digest"] == result.digest


def test_tensorboard_reads_the_curves(result: hocket.FederationResult) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = module.EventAccumulator(str(result.folder / "tensorboard"))
    curves.Reload()
    for tag, wanted in (
        (
            "evaluate/server_accuracy",
            [r.evaluate_metrics["server_accuracy"] for r in result.reports],
        ),
        ("train/loss", [r.train_metrics["loss"] for r in result.reports]),
        ("round/updates", [r.num_updates for r in result.reports]),
    ):
        events = curves.Scalars(tag)
        assert [event.step for event in events] == list(range(1, ROUNDS + 1))
        np.testing.assert_allclose([event.value for event in events], wanted, rtol=1e-6)


class InterruptionError(Exception):
    """Stands for a process that ends."""


class InterruptAfter(Silent):
    """Raises in a round, when a device has answered or when the round is over."""

    def __init__(self, number: int, *, is_within: bool) -> None:
        self._number, self._is_within, self._round = number, is_within, 0

    def started(self, round_number: int, tasks: Any) -> None:
        self._round = round_number

    def replied(self, reply: Any) -> None:
        if self._is_within and self._round == self._number:
            raise InterruptionError

    def finished(self, report: Any) -> None:
        if not self._is_within and report.round == self._number:
            raise InterruptionError


@pytest.mark.parametrize(
    ("number", "is_within"), list(itertools.product((1, 5, ROUNDS), (True, False)))
)
def test_an_interrupted_federation_ends_with_the_same_bits(
    number: int, is_within: bool, config: Path, result: hocket.FederationResult, tmp_path: Path
) -> None:
    loaded = load_config(config, {"federation.folder": str(tmp_path)})
    with pytest.raises(InterruptionError):
        hocket.federate(loaded, observers=[InterruptAfter(number, is_within=is_within)])
    resumed = hocket.federate(loaded, resume=True)
    assert [report.digest for report in resumed.reports] == [r.digest for r in result.reports]
    assert resumed.model.read_bytes() == result.model.read_bytes()
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [r.digest for r in result.reports]


def command_of(config: Path, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "hocket", "federate", "run", str(config), "--resume"]
    return [*command, "--json", "--set", f"federation.folder={folder}"]


def run_until_killed(config: Path, folder: Path, rounds: int, delay: float) -> int:
    """Run the command, kill it some time after a round is over, and return rounds that are."""
    command = [sys.executable, "-m", "hocket", "federate", "run", str(config), "--resume"]
    command += ["--set", f"federation.folder={folder}"]
    metrics = folder / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and count_lines(metrics) < rounds:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    return count_lines(metrics)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_command_goes_on_with_the_same_bits(
    config: Path, result: hocket.FederationResult, tmp_path: Path
) -> None:
    draw = random.Random(0)
    reached = 0
    for rounds in (2, 6):
        # Anywhere in a round: training, aggregation, or writing what came of it. Where this
        # process is held up meanwhile, the other is done before it is killed: no harm.
        reached = run_until_killed(config, tmp_path, max(rounds, reached), draw.uniform(0, 0.05))
    ended = subprocess.run(
        command_of(config, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["digest"] == result.digest
    assert [each["digest"] for each in found["rounds"]] == [r.digest for r in result.reports]
    assert (tmp_path / "final.hkt").read_bytes() == result.model.read_bytes()


def test_more_rounds_go_on_from_the_last(
    config: Path, result: hocket.FederationResult, tmp_path: Path
) -> None:
    changes = {"federation.folder": str(tmp_path), "federation.rounds": 2}
    hocket.federate(load_config(config, changes))
    longer = hocket.federate(load_config(config, changes | {"federation.rounds": 4}), resume=True)
    assert [r.digest for r in longer.reports] == [r.digest for r in result.reports[:4]]


@pytest.mark.parametrize(
    "change",
    [
        {"training.learning-rate": 0.2},
        {"federation.seed": 4},
        {"data.alpha": 0.4},
        {"strategy.fraction-train": 1.0},
    ],
    ids=str,
)
def test_what_was_made_otherwise_is_not_resumed(
    change: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    changes = {"federation.folder": str(tmp_path), "federation.rounds": 1}
    hocket.federate(load_config(config, changes))
    with pytest.raises(FederationError, match="other settings, data or model"):
        hocket.federate(load_config(config, changes | change), resume=True)


def test_parts_of_ones_own_cannot_be_sent_to_a_superlink(config: Path, tmp_path: Path) -> None:
    from hocket.fl.strategies.averaging import fedavg

    changes = {"engine.name": "flower", "engine.address": "127.0.0.1:9"}
    changes["federation.folder"] = str(tmp_path)
    with pytest.raises(ConfigError, match="engine: address: strategy cannot be sent"):
        hocket.federate(load_config(config, changes), strategy=fedavg())
