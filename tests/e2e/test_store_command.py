"""``hocket store``, as somebody would use it who has files of updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from hocket.cli import app

DEVICES = [f"phone-{place}" for place in range(6)]


def call(*arguments: str) -> Result:
    # Wide, so that no message is broken into lines.
    return CliRunner().invoke(app, ["store", *arguments], env={"COLUMNS": "200"})


def answer(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keep two rounds of a job in which half of the devices go one way, half the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOCKET_STORE", str(tmp_path / "store"))
    rng = np.random.default_rng(0)
    model = rng.normal(size=(50, 20)).astype(np.float32)
    save_file({"w": model}, "model.safetensors")
    assert call("put", "vision/0/server/model", "model.safetensors").exit_code == 0
    kept = {}
    for number in (1, 2):
        for place, device in enumerate(DEVICES):
            way = 0.1 if place < 3 else -0.1
            update = (model + way + 0.1 * rng.normal(size=model.shape)).astype(np.float32)
            save_file({"w": update}, "update.safetensors")
            key = f"vision/{number}/{device}/update"
            result = call("put", key, "update.safetensors", "-m", f"num_examples={place + 1}")
            assert result.exit_code == 0, result.output
            kept[key] = update
    return kept


def test_what_is_put_can_be_listed_asked_and_got(updates: dict[str, Any]) -> None:
    entries = answer("ls", "vision/00000002")["entries"]
    assert [entry["key"] for entry in entries] == [
        f"vision/00000002/{device}/update" for device in DEVICES
    ]
    assert entries[2]["metrics"] == {"num_examples": 3}
    found = answer("run", "clustering", "--job", "vision", "--option", "clusters=2")
    assert found["clusters"] == [DEVICES[:3], DEVICES[3:]]
    assert call("get", "vision/1/phone-3/update", "-o", "got.safetensors").exit_code == 0
    np.testing.assert_array_equal(
        load_file("got.safetensors")["w"], updates["vision/1/phone-3/update"]
    )
    rows = answer("query", "SELECT COUNT(*) AS n FROM entries WHERE kind = 'update'")
    assert rows == {"columns": ["n"], "rows": [[12]]}
    kinds = answer("stats")["kinds"]
    assert [(each["kind"], each["entries"]) for each in kinds] == [("model", 1), ("update", 12)]


def test_models_that_are_made_are_written(updates: dict[str, Any]) -> None:
    arguments = ("run", "robust-mean", "--job", "vision", "--round", "1")
    assert call(*arguments, "-o", "mean.safetensors").exit_code == 0
    wanted = np.median([updates[f"vision/1/{device}/update"] for device in DEVICES], axis=0)
    np.testing.assert_allclose(load_file("mean.safetensors")["w"], wanted, rtol=1e-6)
    refused = call("run", "clustering", "--job", "vision", "-o", "none.safetensors")
    assert refused.exit_code == 2
    assert not Path("none.safetensors").exists()


def test_damage_ends_with_one(updates: dict[str, Any], tmp_path: Path) -> None:
    assert answer("verify") == {"num_entries": 13, "damaged": {}}
    victim = max((tmp_path / "store" / "objects").rglob("*"), key=lambda path: path.is_file())
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    result = call("verify", "--json")
    assert result.exit_code == 1
    (damaged,) = json.loads(result.stdout)["damaged"]
    got = call("get", damaged, "-o", "bad.safetensors")
    assert got.exit_code == 2
    assert "does not hold what was put there" in got.output
    assert not Path("bad.safetensors").exists()


def test_forgetting_frees_room(updates: dict[str, Any]) -> None:
    erased = call("gc", "--job", "vision", "--erase-device", "phone-2", "--grace", "0")
    assert "2 entries forgotten; 2 objects" in erased.stdout
    assert len(answer("ls", "vision/00000001")["entries"]) == 5
    kept = call("gc", "--job", "vision", "--keep-rounds", "1", "--grace", "0")
    assert "6 entries forgotten; 6 objects" in kept.stdout
    assert answer("stats")["num_objects"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "clustering", "--job", "other"), "there are no updates"),
        (("run", "guessing", "--job", "vision"), "unknown workload 'guessing'"),
        (("run", "clustering", "--job", "vision", "--option", "clusters"), "want name=value"),
        (("get", "vision/9/x/update", "-o", "x"), "there is no entry"),
        (("get", "../../etc/passwd", "-o", "x"), "JOB/ROUND/DEVICE/KIND"),
        (("put", "vision/../x/update", "model.safetensors"), "JOB/ROUND/DEVICE/KIND"),
        (("put", "vision/1/../update", "model.safetensors"), "want a name"),
        (("put", "vision/3/x/update", "store/catalog.sqlite"), "is no object of arrays"),
        (("query", "DROP TABLE entries"), "not authorized"),
        (("gc", "--keep-rounds", "1"), "name the job"),
        (("ls", "--store", "elsewhere"), "there is no store here"),
        (("ls", "--store", "s3://bucket"), "name it by --catalog"),
    ],
)
def test_mistakes_are_explained(
    updates: dict[str, Any], arguments: tuple[str, ...], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert answer("verify")["num_entries"] == 13
