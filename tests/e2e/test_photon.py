"""Photon from a file to a trained model: compiled, federated, killed and resumed."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.photon_text import write_config, write_text
from typer.testing import CliRunner

import hocket
from hocket.cli import app
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.core.parameters import digest_of
from hocket.fl.photon.config import load_photon_config
from hocket.fl.photon.privacy import Privacy
from hocket.photon import photon_clients, train_photon
from hocket.photon_parts import make_backend
from hocket.runtime.artifact import load_artifact


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photon")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    train_photon(write_config(home, "whole"))
    return home / "whole"


def rounds_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_leaves_a_model_that_runs(home: Path, whole: Path) -> None:
    rounds = rounds_of(whole)
    losses = [each["evaluate_metrics"]["server_loss"] for each in rounds]
    assert losses[0] < math.log(128)
    assert losses[2] < losses[1] < losses[0]
    session = hocket.InferenceSession(whole / "final.hkt")
    config = load_photon_config(home / "whole.toml")
    _, clients = photon_clients(config)
    examples = clients.data.held_out("vowels", 4)
    (scores,) = session.run(None, {"ids": examples.inputs["ids"]})
    backend = make_backend(load_artifact(whole / "model.hkt"))
    trained = load_artifact(whole / "final.hkt").weights
    backend.load_parameters({name: trained[name] for name in backend.parameters()})
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    loss = -np.take_along_axis(logs, examples.targets[..., None], axis=-1).mean()
    assert backend.evaluate(examples).metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert digest_of(backend.parameters()) == rounds[-1]["digest"]


def test_bytes_on_the_wire_are_counted(whole: Path) -> None:
    metrics = rounds_of(whole)[-1]["train_metrics"]
    parameters = sum(
        array.size
        for array in make_backend(load_artifact(whole / "model.hkt")).parameters().values()
    )
    assert metrics["downloaded_bytes"] == 3 * 2 * 4 * parameters
    # Four bits and a share of a scale for each, headers, and what fills up the last blocks.
    assert 0.5 < metrics["uploaded_bytes"] / (3 * 2 * parameters) < 1
    assert metrics["tokens"] == 3 * 2 * 4 * 4 * 16
    assert metrics["steps"] == 3 * 4


@pytest.mark.parametrize("moment", ["replied", "finished"])
def test_a_killed_process_is_resumed_with_the_same_bits(
    home: Path, whole: Path, moment: str
) -> None:
    config = write_config(home, f"killed-{moment}")
    script = Path(__file__).with_name("photon_killed.py")
    done = subprocess.run([sys.executable, script, config, moment], check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = train_photon(config, resume=True)
    wanted, found = rounds_of(whole), rounds_of(home / f"killed-{moment}")
    assert [each["digest"] for each in found] == [each["digest"] for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["train_metrics"] == other["train_metrics"]
        assert one["evaluate_metrics"] == other["evaluate_metrics"]
    assert resumed.digest == wanted[-1]["digest"]


@pytest.mark.parametrize("engine", ["local", "ray", "flower"])
def test_other_processes_train_the_same_model(home: Path, whole: Path, engine: str) -> None:
    pytest.importorskip({"ray": "ray", "flower": "flwr"}.get(engine, "numpy"))
    config = write_config(home, engine)
    answer = CliRunner().invoke(
        app,
        [
            *("photon", "train", str(config), "--engine", engine, "--workers", "2"),
            *("--rounds", "2", "--json"),
        ],
    )
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["digest"] == rounds_of(whole)[1]["digest"]


def test_masks_leave_no_trace_in_the_model(home: Path) -> None:
    """They are drawn anew in each run, and the models are the same to the last bit."""
    section = "\n[secure]\nbits = 16\n"
    found = [
        train_photon(write_config(home, name, more=section)) for name in ("masked", "masked-again")
    ]
    assert found[0].digest == found[1].digest
    losses = [each["evaluate_metrics"]["server_loss"] for each in rounds_of(home / "masked")]
    assert losses[2] < losses[1] < losses[0] < math.log(128)


def test_noise_is_told_by_its_epsilon(home: Path) -> None:
    section = '\n[privacy]\nclip-norm = 0.5\nnoise-multiplier = 2.0\nnoise-by = "clients"\n'
    both = section + "\n[secure]\nbits = 32\n"
    found = [train_photon(write_config(home, name, more=both)) for name in ("noisy", "noisier")]
    assert found[0].digest != found[1].digest
    spent = [each["train_metrics"]["epsilon"] for each in rounds_of(home / "noisy")]
    assert spent[0] < spent[1] < spent[2]
    assert spent[2] == pytest.approx(Privacy(0.5, 2.0).epsilon(3), rel=1e-6)
    assert "loss" not in rounds_of(home / "noisy")[0]["train_metrics"]
    with pytest.raises(ConfigError, match="sums must be secret"):
        train_photon(write_config(home, "open", more=section))


def test_nodes_of_two_machines_train(home: Path) -> None:
    """Each reads twice the text, and its link is passed once."""
    curves = ("rounds = 3", "rounds = 3\ntensorboard = true")
    found = train_photon(write_config(home, "nodes", curves, more="\n[node]\nmachines = 2\n"))
    assert list((home / "nodes" / "tensorboard").glob("events.out.tfevents.*"))
    assert found.ledger.tokens == 3 * 2 * 2 * 4 * 4 * 16
    losses = [each["evaluate_metrics"]["server_loss"] for each in rounds_of(home / "nodes")]
    assert losses[2] < losses[1] < losses[0] < math.log(128)


def test_a_run_goes_on_for_more_rounds(home: Path, whole: Path) -> None:
    train_photon(write_config(home, "longer", ("rounds = 3", "rounds = 2")))
    found = train_photon(write_config(home, "longer"), resume=True)
    assert found.digest == rounds_of(whole)[-1]["digest"]


def test_other_settings_are_not_resumed(home: Path, whole: Path) -> None:
    changed = write_config(home, "whole", ("learning-rate = 0.01", "learning-rate = 0.02"))
    with pytest.raises(FederationError, match="other settings"):
        train_photon(changed, resume=True)
    write_config(home, "whole")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("local-steps = 4", "local-step = 4"), "training.local-step: there is no such key"),
        (('"diloco"', '"sgd"'), "no optimizer 'sgd'"),
        (('"int4"', '"int2"'), "server.scheme"),
        (("layers = 1\n", 'size = "1M"\n'), "give no others"),
        (("local-batch = 4", "local-batch = 40"), "local_batch"),
        (('folder = "shards"', 'folder = "none"'), "no such file"),
    ],
    ids=["key", "optimizer", "scheme", "size", "batch", "data"],
)
def test_files_that_make_no_sense_are_refused(
    home: Path, change: tuple[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        train_photon(write_config(home, "refused", change))
